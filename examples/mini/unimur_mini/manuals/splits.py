"""Whole chapters to train, validation and test."""

from __future__ import annotations

from collections import Counter, defaultdict

from .documents import Manual
from .queries import Query

# Half for training; enough for testing that paired intervals of some hundred queries stay narrow.
SHARES = {"train": 0.55, "validation": 0.15, "test": 0.30}
# Of a manual that is never trained on; the same proportion.
UNSEEN_SHARES = {"train": 0.0, "validation": 1 / 3, "test": 2 / 3}


def split_chapters(manual: Manual, queries: list[Query]) -> dict[str, str]:
    """Chapter -> split, so that each kind of query has about its share in each split. The chapters with the most
    queries are placed first, each where the shares come out nearest; one without queries goes to the first split
    that has a share."""
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
    """The split of all the query's relevant documents; None where they are in several."""
    splits = {split_of[manual.documents[doc].chapter] for doc in query.relevant}
    return splits.pop() if len(splits) == 1 else None
