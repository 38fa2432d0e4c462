"""Mining of hard negatives: documents that a trained model ranks high and that are not relevant."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.json_lines import read_rows, write_json_lines
from ..encoding.encoder import Encoder
from ..index.second_stage import Candidate, open_reranker
from .documents import Documents
from .query_rows import Mined, QueryRows

logger = logging.getLogger(__name__)

# Queries and vectors that are compared at a time: 100 MB of scores.
_CHUNK, _BLOCK = 512, 50_000


@dataclass(frozen=True)
class MiningOptions:
    """Which documents of a search are hard negatives.

    Args:
        depth: number of ranks that are searched. All documents that are not dropped are kept (100 in the released
            code).
        joint: whether to search one ranking of texts and images, as the released code does. Otherwise each kind has
            a ranking of that depth.
        keep (*optional*): maximum number of negatives of each kind (50 in the released variant by kind).
        drop_same_text: whether to drop documents with the same words as a right one.
        drop_same_group: whether to drop documents of the group (section or figure) of a right one.
        max_similarity (*optional*): cosine with a right document from which a document is dropped.
        reranker (*optional*): a second stage, by name or as `open_reranker` takes it, which drops documents that it
            considers right. A reranker that was trained on these queries has learned their negatives: use another.
        max_score, absolute_margin, relative_margin (*optional*): limits above which the reranker considers a document
            right, see `score_limit`. The names are those of sentence-transformers' `mine_hard_negatives`.

    Raises:
        ValueError: if the depth is below 1, or there is a margin without a reranker.
    """

    depth: int = 100
    joint: bool = True
    keep: int | None = None
    drop_same_text: bool = True
    drop_same_group: bool = True
    max_similarity: float | None = None
    reranker: Any = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None

    def __post_init__(self) -> None:
        if self.depth < 1 or (self.keep is not None and self.keep < 1):
            raise ValueError(
                f"The depth and the number to keep of mining must be positive, got {self.depth} and {self.keep}."
            )
        margins = (self.max_score, self.absolute_margin, self.relative_margin)
        if self.reranker is None and margins != (None, None, None):
            raise ValueError("max_score, absolute_margin and relative_margin belong to a reranker: name one.")

    def score_limit(self, right: np.ndarray) -> float:
        """The reranker's score above which a document counts as right: the least of `max_score`, the best right
        document's score minus `absolute_margin`, and that minus `relative_margin` of its magnitude. Without any of
        the three it is the best right document's score.

        sentence-transformers takes the worst right document. A right section has passages that answer nothing, beside
        which everything would be right.

        Args:
            right: scores of the right documents, NaN where there is none.
        """
        best = float(np.nanmax(right)) if np.isfinite(right).any() else math.inf
        limits = [
            self.max_score,
            None if self.absolute_margin is None else best - self.absolute_margin,
            None if self.relative_margin is None else best - abs(best) * self.relative_margin,
        ]
        return min((limit for limit in limits if limit is not None and not math.isnan(limit)), default=best)


def mine_vectors(
    queries: torch.Tensor,
    vectors: torch.Tensor,
    kinds: Sequence[str],
    right: Sequence[Sequence[int]],
    options: MiningOptions | None = None,
    texts: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    report: Counter | None = None,
    judge: Callable[[int, list[int]], np.ndarray] | None = None,
    known: Sequence[Collection[int]] | None = None,
) -> list[dict[str, list[int]]]:
    """Searches exactly and drops what is right or nearly so.

    Args:
        queries (`(queries, width)`), vectors (`(documents, width)`): unit vectors; the search is on the queries'
            device, where a block of the vectors lies at a time.
        kinds: `"text"` or `"image"` of each document.
        right: numbers of each query's right documents, which others are compared with.
        options (`MiningOptions`, *optional*): what is dropped.
        texts, groups (*optional*): text and group of each document; without them nothing is dropped for them.
        report (`Counter`, *optional*): takes what was dropped, by reason.
        judge (*optional*): scores of documents for a query, by their numbers; those that score above
            `MiningOptions.score_limit` are dropped.
        known (*optional*): for each query, the right documents and all others that are not negatives; `right` by
            default.

    Returns:
        For each query `{"image": numbers, "text": numbers}`, the most similar first.
    """
    options, report = options or MiningOptions(), Counter() if report is None else report
    if not len(queries):
        return []
    everything = torch.arange(len(vectors))
    searched = [everything]
    if not options.joint:
        is_image = torch.tensor([kind == "image" for kind in kinds], dtype=torch.bool)
        searched = [everything[~is_image], everything[is_image]]
    ranked = torch.cat([_best(queries, vectors, among, options.depth) for among in searched], dim=1).tolist()
    keys = None if texts is None or not options.drop_same_text else [" ".join(t.casefold().split()) for t in texts]
    groups = groups if options.drop_same_group else None
    found: list[dict[str, list[int]]] = []
    for query, numbers in enumerate(ranked):
        own, no_negatives = right[query], set(right[query] if known is None else known[query])
        kept = _kept(numbers, own, no_negatives, vectors, options, keys, groups, report)
        if judge is not None and kept:
            limit = options.score_limit(judge(query, list(own)))
            scores = judge(query, kept).tolist()
            report["right by the reranker"] += sum(score > limit for score in scores)
            kept = [number for number, score in zip(kept, scores, strict=True) if not score > limit]
        found.append({kind: [n for n in kept if kinds[n] == kind][: options.keep] for kind in ("image", "text")})
    return found


@torch.no_grad()
def _best(queries: torch.Tensor, vectors: torch.Tensor, among: torch.Tensor, depth: int) -> torch.Tensor:
    """Places in `vectors` of the most similar of those at the places `among`, `(queries, depth or fewer)`, best
    first. Each block of vectors is read once."""
    depth = min(depth, len(among))
    scores = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in tqdm(range(0, len(among), _BLOCK), desc="Mining", leave=False):
        numbers = among[start : start + _BLOCK]
        block = vectors[numbers].to(queries.device)
        merged = []
        for first in range(0, len(queries), _CHUNK):
            rows = slice(first, first + _CHUNK)
            new = (queries[rows] @ block.T).topk(min(depth, len(block)))
            both = torch.cat([scores[rows], new.values], dim=1)
            seen = torch.cat([places[rows], numbers.to(queries.device)[new.indices]], dim=1)
            best = both.topk(min(depth, both.shape[1]))
            merged.append((best.values, seen.gather(1, best.indices)))
        scores, places = (torch.cat(parts) for parts in zip(*merged, strict=True))
    return places.cpu()


def _kept(ranked, right, known, vectors, options, keys, groups, report) -> list[int]:
    right_keys = {keys[number] for number in right} - {""} if keys is not None else set()
    right_groups = {groups[number] for number in right} - {""} if groups is not None else set()
    alike: set[int] = set()
    if options.max_similarity is not None and right and ranked:
        cosines = (vectors[ranked] @ vectors[list(right)].T).amax(dim=1)
        alike = {
            number for number, value in zip(ranked, cosines.tolist(), strict=True) if value >= options.max_similarity
        }
    kept = []
    for number in ranked:
        if number in known:
            report["right"] += 1
        elif right_keys and keys[number] in right_keys:
            report["of a right one's words"] += 1
        elif right_groups and groups[number] in right_groups:
            report["of a right one's group"] += 1
        elif number in alike:
            report["too similar to a right one"] += 1
        else:
            kept.append(number)
    return kept


def mine_rows(
    model,
    processor,
    rows: QueryRows,
    documents: Documents,
    images,
    options: MiningOptions | None = None,
    precision: torch.dtype | None = None,
) -> Mined:
    """Hard negatives of all queries of `QueryRows`, by the model as it stands, over the whole corpus.

    Args:
        model (`UniVLDRModel`), processor (`UniVLDRProcessor`): model and processor that encode.
        rows (`QueryRows`): rows of the queries.
        documents (`Documents`): documents of the set.
        images: as in `QueryCollator`.
        options (`MiningOptions`, *optional*): what is dropped.
        precision: data type of autocast.
    """
    reranker = None if options is None or options.reranker is None else open_reranker(options.reranker)
    encoder = Encoder(model, processor, precision, progress=True)
    vectors, queries = encoder.encode_documents(list(documents), images), encoder.encode_queries(rows.texts)
    report: Counter = Counter()

    def judge(query: int, numbers: list[int]) -> np.ndarray:
        found = (documents[number] for number in numbers)
        return reranker.scores([(rows.texts[query], Candidate(one.text, one.image or None)) for one in found])

    found = mine_vectors(
        queries.to(model.device),
        vectors,
        documents.kinds,
        [sorted(right) for right in rows.right],
        options,
        documents.texts,
        documents.groups,
        report,
        None if reranker is None else judge,
        rows.known,
    )
    if unread := getattr(reranker, "skipped", None):
        logger.warning("Documents that the reranker could not read: %s", dict(unread))
    mined = {
        query: tuple([documents.ids[number] for number in row[kind]] for kind in ("image", "text"))
        for query, row in zip(rows.queries, found, strict=True)
    }
    sizes = [sum(map(len, pair)) for pair in mined.values()]
    logger.info(
        "Mined %d negatives for %d queries, %d of which have none; dropped: %s",
        sum(sizes), len(sizes), sizes.count(0), dict(report) or "none",
    )  # fmt: skip
    return mined


# -- files ----------------------------------------------------------------------------------------------------------
def write_mined(mined: Mined, path: str | os.PathLike) -> None:
    """Writes a table `query_id, image, text` of hard negatives as `.parquet` or `.jsonl`.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    rows = [{"query_id": query, "image": images, "text": texts} for query, (images, texts) in mined.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        write_json_lines(path, rows)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids = pa.list_(pa.string())
        schema = pa.schema({"query_id": pa.string(), "image": ids, "text": ids})
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
    else:
        raise ValueError(f"{path}: hard negatives are written as .parquet or .jsonl.")


def read_mined(path: str | os.PathLike) -> Mined:
    """Reads what `write_mined` wrote.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a damaged file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There are no hard negatives in {path}: mine them first (`unimur mine`).")
    try:
        return {row["query_id"]: (list(row["image"]), list(row["text"])) for row in read_rows(path)}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} contains no table query_id, image, text of hard negatives: {error!r}") from error


def mined_of(table: Dataset) -> Mined:
    """Hard negatives out of a retrieval set's table of them."""
    return dict(zip(table["query_id"][:], zip(table["image"][:], table["text"][:], strict=True), strict=True))
