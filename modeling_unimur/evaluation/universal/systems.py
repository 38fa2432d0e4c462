"""Systems over one index of texts and images, and systems that combine others."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import numpy as np

from ...index.hybrid import FUSED_DEPTH, check_hybrid, fuse_scores
from ...index.second_stage import RERANK_TOP_K, Candidate, Reranker, order
from ..evaluator import Encoded
from ..metrics import rank
from ..systems.base import BOTH, KINDS, Gallery
from ..systems.baselines import BM25
from .task import RetrievalTask

# Documents of each kind that are merged; the released code retrieves as many.
MERGED_DEPTH = 100
# Names of rows.
FUSION, ORACLE, HYBRID = "BM25 & {}", "BM25 & {}, oracle modality", "{} + BM25 (hybrid)"
SECOND_STAGE = "{} + second stage"


def dense_system(queries: np.ndarray, documents: np.ndarray, is_image: np.ndarray) -> Encoded:
    """Ranks by inner products of queries `(queries, width)` and documents `(documents, width)`, unit vectors as a
    rule. `is_image` `(documents,)` tells which documents are images.
    """
    return Encoded(None, queries, {BOTH: documents}, is_image=is_image)


def bm25_system(query_texts: Sequence[str], document_texts: Sequence[str], is_image: np.ndarray) -> Encoded:
    """Ranks by BM25 over one index of texts and captions; images (`is_image`, `(documents,)`) are found by their
    captions. A document that shares no word with the query is not returned.

    Raises:
        ImportError: without `bm25s`.
    """
    system = BM25(matches_only=True)
    messages = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in query_texts]
    documents = system.encode_candidates(Gallery(texts=list(document_texts)), "text")
    return Encoded(system, system.encode_queries(messages), {BOTH: documents}, is_image=is_image)


class Combined(Encoded):
    """A system that is made of others over the same queries and documents; `combined` gives all its scores."""

    def __init__(self, one: Encoded):
        super().__init__(None, one.queries, {BOTH: None}, is_image=one.is_image)

    def combined(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """Returns scores `(rows, documents)`."""
        raise NotImplementedError

    def scores(self, kind: str, rows: np.ndarray, candidates: np.ndarray | None = None) -> np.ndarray:
        found = self.combined(kind, rows)
        return found if candidates is None else found[:, candidates]


class DivideAndConquer(Combined):
    """Merges the rankings of one system for texts and one for images by reciprocal rank (UniVL-DR's divide and
    conquer): the first text, the first image, the second text and so on."""

    def __init__(self, texts: Encoded, images: Encoded):
        super().__init__(images)
        self.parts = dict(zip(KINDS, (texts, images), strict=True))

    def combined(self, kind: str, rows: np.ndarray) -> np.ndarray:
        merged = np.full((len(rows), len(self.is_image)), -np.inf, dtype=np.float64)
        for number, own in enumerate(KINDS):
            ranking = rank(self.parts[own].scores(own, rows), MERGED_DEPTH) if kind in (own, BOTH) else ()
            for row, documents in enumerate(ranking):
                documents = documents[documents >= 0]
                # Of equal ranks the text comes first.
                merged[row, documents] = 1 / (np.arange(len(documents)) + 1 + 1e-6 * number)
        return merged


class OracleModality(Combined):
    """Ranks only the kinds of documents that are relevant, which it is told: whether texts, whether images
    `(queries, 2)`."""

    def __init__(self, system: Encoded, relevant_kinds: np.ndarray):
        super().__init__(system)
        self.whole, self.relevant_kinds = system, relevant_kinds

    def combined(self, kind: str, rows: np.ndarray) -> np.ndarray:
        told = self.relevant_kinds[rows]
        allowed = np.where(self.is_image[None, :], told[:, 1:], told[:, :1])
        return np.where(allowed, self.whole.scores(kind, rows), -np.inf)


class Hybrid(Combined):
    """Hybrid search as an index does it (`index.hybrid.search`): the `FUSED_DEPTH` best by a dense system and the
    `FUSED_DEPTH` best by BM25 are fused, and no other document is returned.

    Args:
        dense, sparse: a dense system and BM25 over the same queries and documents.
        weight: weight of BM25 from 0 to 1, or `"rrf"`.

    Raises:
        ValueError: neither of them.
    """

    def __init__(self, dense: Encoded, sparse: Encoded, weight: float | str):
        super().__init__(dense)
        self.dense, self.sparse, self.weight = dense, sparse, check_hybrid(weight)

    def combined(self, kind: str, rows: np.ndarray) -> np.ndarray:
        dense, sparse = self.dense.scores(kind, rows), self.sparse.scores(kind, rows)
        found = np.full(dense.shape, -np.inf)
        best = zip(rank(dense, FUSED_DEPTH), rank(np.where(sparse > 0, sparse, -np.inf), FUSED_DEPTH), strict=True)
        for row, rankings in enumerate(best):
            # Unique, and the best by cosine first, as `index.hybrid.candidates` lists them.
            documents = np.array(list(dict.fromkeys(np.concatenate(rankings).tolist())), np.int64)
            documents = documents[(documents >= 0) & ~np.isneginf(dense[row, documents])]
            words = np.maximum(sparse[row, documents], 0.0)
            places, scores = fuse_scores(dense[row, documents].astype(np.float64), words, self.weight)
            # Equal scores are told apart, so that their order stays that of the fusion.
            for before, place in itertools.pairwise(places):
                scores[place] = min(scores[place], np.nextafter(scores[before], -np.inf))
            found[row, documents[places]] = scores[places]
        return found


class SecondStage(Combined):
    """Reorders the best documents of another system by a reranker; the other documents stay behind them.

    Args:
        first: the first stage, one index of texts and images.
        reranker: a second stage, see `modeling_unimur.index.second_stage`.
        task: the task with the queries and documents.
        top_k: number of documents of a query that are rescored.
        weight: weight of the reranker's scores beside those of the first stage, both scaled to 0 to 1 over the
            rescored documents of a query; infinity for the reranker's alone.
    """

    def __init__(
        self,
        first: Encoded,
        reranker: Reranker,
        task: RetrievalTask,
        top_k: int = RERANK_TOP_K,
        weight: float = math.inf,
    ):
        super().__init__(first)
        self.first, self.reranker, self.task, self.top_k, self.weight = first, reranker, task, top_k, weight
        self._known: dict[tuple[int, int], float] = {}

    def weighted(self, weight: float) -> SecondStage:
        """The same with another weight; nothing is read again."""
        other = copy.copy(self)
        other.weight = weight
        return other

    def combined(self, kind: str, rows: np.ndarray) -> np.ndarray:
        found = np.array(self.first.scores(kind, rows), dtype=np.float64)
        for place, row in enumerate(rows):
            found[place, self.task.excluded[row]] = -np.inf
        best = [ranking[ranking >= 0] for ranking in rank(found, self.top_k)]
        self._read([(row, doc) for row, docs in zip(rows.tolist(), best, strict=True) for doc in docs.tolist()])
        for place, (row, documents) in enumerate(zip(rows.tolist(), best, strict=True)):
            scores = np.array([self._known[row, document] for document in documents.tolist()])
            if np.isfinite(self.weight):
                scores = _scaled(found[place, documents]) + self.weight * _scaled(scores)
            # Above whatever the first stage gives to the others.
            above = found[place, documents].max(initial=0.0) + np.arange(len(documents), 0, -1)
            found[place, documents[order(scores)]] = above
        return found

    def _read(self, places: Sequence[tuple[int, int]]) -> None:
        """Scores what has none yet; settings and weights rescore the same documents."""
        new = [place for place in dict.fromkeys(places) if place not in self._known]
        texts, images = self.task.doc_texts, self.task.doc_images
        pairs = [(self.task.query_texts[row], Candidate(texts[doc], images[doc] or None)) for row, doc in new]
        if pairs:
            self._known.update(zip(new, np.asarray(self.reranker.scores(pairs)).tolist(), strict=True))


def _scaled(scores: np.ndarray) -> np.ndarray:
    """Scales scores from 0, the lowest, to 1; NaN stays."""
    low, high = (np.nanmin(scores), np.nanmax(scores)) if np.isfinite(scores).any() else (0.0, 0.0)
    return (scores - low) / (high - low if high > low else 1.0)
