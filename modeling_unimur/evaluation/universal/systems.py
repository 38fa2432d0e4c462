"""Systems: each scores all documents for a query; a document that it does not return scores minus infinity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ..metrics import rank
from ..systems.base import Gallery
from ..systems.bm25 import BM25

# Documents of each kind that are merged; the released code retrieves as many.
MERGED_DEPTH = 100


class UniversalSystem(ABC):
    """One way to search texts and images.

    Attributes:
        name: its row of a table.
    """

    name: str

    @abstractmethod
    def scores(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Scores of some queries.

        Args:
            rows (`(queries,)`): numbers of queries.
            candidates (`(documents,)`): which documents are searched; scores of others are not looked at.

        Returns:
            `(queries, documents)`: higher is better, minus infinity where a document is not returned.
        """


class DenseSystem(UniversalSystem):
    """Inner products with vectors: any encoder, trained or not.

    Args:
        name: of the row.
        queries (`(queries, width)`), documents (`(documents, width)`): vectors, unit ones as a rule.

    Raises:
        ValueError: vectors of different widths.
    """

    def __init__(self, name: str, queries: np.ndarray, documents: np.ndarray):
        if queries.shape[1] != documents.shape[1]:
            raise ValueError(f"{name}: queries of width {queries.shape[1]}, documents of {documents.shape[1]}.")
        self.name, self.queries, self.documents = name, queries, documents

    def scores(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        return self.queries[rows] @ self.documents.T


class BM25System(UniversalSystem):
    """BM25 (`systems.bm25`) over one index of texts and captions: images are found by their captions.

    A document that shares no word with the query is not returned.

    Args:
        query_texts, document_texts: in the order of their tables.
        name: of the row.

    Raises:
        ImportError: without `bm25s`.
    """

    def __init__(self, query_texts: Sequence[str], document_texts: Sequence[str], name: str = "BM25"):
        self.name, self.bm25 = name, BM25()
        self.documents = {"text": self.bm25.encode_candidates(Gallery(texts=list(document_texts)), "text")}
        messages = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in query_texts]
        self.queries = self.bm25.encode_queries(messages)

    def scores(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        found = self.bm25.scores([self.queries[row] for row in rows], self.documents, "text")
        return np.where(found > 0, found, -np.inf)


class DivideAndConquer(UniversalSystem):
    """One system for texts and one for images, each with its own ranking, merged by the reciprocals of the ranks
    (UniVL-DR's divide and conquer): the first text, the first image, the second text and so on.

    Args:
        texts, images: the systems.
        is_image (`(documents,)`): which documents are images.
        name: of the row.
        depth: length of either ranking.
    """

    def __init__(
        self,
        texts: UniversalSystem,
        images: UniversalSystem,
        is_image: np.ndarray,
        name: str,
        depth: int = MERGED_DEPTH,
    ):
        self.parts, self.is_image, self.name, self.depth = (texts, images), is_image, name, depth

    def scores(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        merged = np.full((len(rows), len(self.is_image)), -np.inf, dtype=np.float64)
        for number, (system, shown) in enumerate(zip(self.parts, (False, True), strict=True)):
            own = candidates & (self.is_image == shown)
            found = np.where(own, system.scores(rows, own), -np.inf)
            ranking = rank(found, self.depth)
            for row, documents in enumerate(ranking):
                documents = documents[documents >= 0]
                # Of equal ranks the text comes first.
                merged[row, documents] = 1 / (np.arange(len(documents)) + 1 + 1e-6 * number)
        return merged


class OracleModality(UniversalSystem):
    """A system that is told which kinds of documents are relevant, and returns no others.

    Args:
        system: the system.
        is_image (`(documents,)`): which documents are images.
        relevant_kinds (`(queries, 2)`): whether texts, whether images are relevant.
        name: of the row.
    """

    def __init__(self, system: UniversalSystem, is_image: np.ndarray, relevant_kinds: np.ndarray, name: str):
        self.system, self.is_image, self.relevant_kinds, self.name = system, is_image, relevant_kinds, name

    def scores(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        found = self.system.scores(rows, candidates)
        told = self.relevant_kinds[rows]
        allowed = np.where(self.is_image[None, :], told[:, 1:], told[:, :1])
        return np.where(allowed, found, -np.inf)


class Hybrid(UniversalSystem):
    """Dense score plus weighted BM25, whose best score of each query counts 1.

    Args:
        dense, sparse: the systems; what the sparse one does not return has 0 of it.
        weight: of the sparse one; infinity leaves the dense one to order what has equal sparse scores.
        name: of the row.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(self, dense: UniversalSystem, sparse: UniversalSystem, weight: float, name: str = "hybrid"):
        if not weight >= 0:
            raise ValueError(f"A hybrid's weight is at least 0, not {weight}.")
        self.dense, self.sparse, self.weight, self.name = dense, sparse, weight, name

    def scores(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        sparse = self.sparse.scores(rows, candidates)
        sparse = np.where(candidates & np.isfinite(sparse), sparse, 0.0)
        best = sparse.max(axis=1, keepdims=True, initial=0.0)
        sparse = np.divide(sparse, best, out=np.zeros_like(sparse), where=best > 0)
        dense = self.dense.scores(rows, candidates)
        return dense * 1e-6 + sparse if np.isinf(self.weight) else dense + self.weight * sparse


__all__ = [
    "MERGED_DEPTH",
    "BM25System",
    "DenseSystem",
    "DivideAndConquer",
    "Hybrid",
    "OracleModality",
    "UniversalSystem",
]
