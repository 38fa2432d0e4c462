"""Assigns whole chapters to the splits train, validation and test."""

from __future__ import annotations

from collections import Counter, defaultdict

from .documents import Manual
from .queries import Query

# The test split is large enough for narrow paired intervals over a few hundred queries.
SHARES = {"train": 0.55, "validation": 0.15, "test": 0.30}
# Shares in a manual that is never trained on, in the same proportion.
UNSEEN_SHARES = {"train": 0.0, "validation": 1 / 3, "test": 2 / 3}


def split_chapters(manual: Manual, queries: list[Query]) -> dict[str, str]:
    """Returns the split of each chapter, chosen such that the shares hold approximately for each kind of query.

    Chapters with the most queries are assigned first, each to the split that brings the shares closest to their
    targets. A chapter without queries is assigned to the first split with a share.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for query in queries:
        chapters = {manual.documents[doc].chapter for doc in query.relevant}
        if len(chapters) == 1:
            counts[chapters.pop()][query.kind] += 1
    totals = sum(counts.values(), Counter())
    shares = SHARES if manual.description.is_trained_on else UNSEEN_SHARES
    shares = {split: share for split, share in shares.items() if share}
    placed = {split: Counter() for split in shares}

    def distance(chapter: str, split: str) -> float:
        return sum(
            ((placed[name][kind] + (counts[chapter][kind] if name == split else 0)) / total - share) ** 2
            for name, share in shares.items()
            for kind, total in totals.items()
        )

    chosen = dict.fromkeys(sorted({document.chapter for document in manual.documents.values()}), next(iter(shares)))
    for chapter in sorted(counts, key=lambda chapter: (-counts[chapter].total(), chapter)):
        chosen[chapter] = min(shares, key=lambda split: distance(chapter, split))
        placed[chosen[chapter]] += counts[chapter]
    return chosen


def query_split(manual: Manual, query: Query, split_of: dict[str, str]) -> str | None:
    """Returns the split of all relevant documents of a query, or None if they are in several splits."""
    splits = {split_of[manual.documents[doc].chapter] for doc in query.relevant}
    return splits.pop() if len(splits) == 1 else None
