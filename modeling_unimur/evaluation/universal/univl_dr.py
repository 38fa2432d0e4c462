"""UniVL-DR's evaluation: a model beside BM25, their fusion, the oracle of modality, the hybrid; in three settings."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping, Sequence

import numpy as np

from ...encoding.context import with_context
from ...index.second_stage import Reranker
from ..evaluator import Encoded
from ..report import TaskResult
from .encoding import DualEncoder, encode_documents, encode_queries, unit
from .evaluate import Choice, choose_hybrid_weight, setting_figures
from .systems import (
    FUSION,
    HYBRID,
    ORACLE,
    SECOND_STAGE,
    DivideAndConquer,
    Hybrid,
    OracleModality,
    SecondStage,
    bm25_system,
    dense_system,
)
from .task import SETTINGS, RetrievalTask

# Weights of an image's context that are tried on a development split.
CONTEXT_WEIGHTS = (0.0, 0.2, 0.35, 0.5, 0.8)
TRUNCATED = "{}, first {} numbers"
_MAIN = ("mrr@10", "ndcg@10", "recall@20", "recall@100")
_NOTES = (
    "Settings: texts alone, images alone, one index of both; a query counts in those that can answer it. Means over "
    "queries in percent, an empty ranking counts 0.",
    "The others are those of UniVL-DR's paper: BM25 over texts and captions, BM25 for texts joined with the first "
    "model for images, and both when an oracle tells what kind answers the query.",
)


def universal_result(
    task: RetrievalTask,
    encoders: Mapping[str, DualEncoder],
    data: Mapping[str, object],
    seed: int = 0,
    reranker: Reranker | None = None,
    truncate_dims: Sequence[int] = (),
) -> TaskResult:
    """Measures all encoders, BM25 and what is made of it with the first encoder.

    Args:
        task: queries and documents.
        encoders: by the names of their rows, such as `encoding.encoder.Encoder`s; an untrained one is CLIP zero-shot.
        data: what identifies the set, such as `path` and `split`.
        seed: seed of the intervals.
        reranker: a second stage for one more row: the first encoder rescored.
        truncate_dims: widths for one more row each of every encoder: the first so many numbers of its vectors.

    Returns:
        `TaskResult`: measures as of `setting_figures`. Its `data` have the `modality_gap` of the first encoder: the
            distance between the mean text and the mean image, both of unit vectors (Liang et al., NeurIPS 2022).

    Raises:
        ValueError: a truncated width that is none.
        ImportError: bm25s is not installed.
    """
    systems: dict[str, Encoded] = {}
    extra: dict[str, Encoded] = {}
    digest = hashlib.sha256()
    for column in (task.query_ids, task.query_texts, task.doc_ids, task.doc_texts):
        digest.update(repr(list(column)).encode("utf-8", "surrogatepass"))
    about: dict = {**data, "digest": digest.hexdigest()[:16], "documents": len(task.doc_ids)}
    seconds: dict[str, float] = {}
    for name, encoder in encoders.items():
        start = time.perf_counter()
        space = Space(encoder, task)
        systems[name] = space.system()
        extra |= {TRUNCATED.format(name, dim): space.system(dim) for dim in truncate_dims}
        if len(systems) == 1:
            extra |= with_bm25(name, space)[0]
            if task.is_image.any() and not task.is_image.all():
                texts, images = (space.documents[kind].mean(axis=0) for kind in (~task.is_image, task.is_image))
                about["modality_gap"] = float(np.linalg.norm(images - texts))
        seconds[name] = round(time.perf_counter() - start, 3)
    if reranker is not None:
        name = next(iter(systems))
        extra[SECOND_STAGE.format(name)] = SecondStage(systems[name], reranker, task)
    figures = {}
    for name, system in (systems | extra).items():
        start = time.perf_counter()
        figures[name] = setting_figures(system, task)
        spent = seconds.get(name, 0.0) + time.perf_counter() - start
        figures[name].about["seconds"] = round(spent, 3)
    ids, measured = np.array(task.query_ids), next(iter(figures.values())).values
    if reranker is not None:
        about["not rescored"] = dict(reranker.skipped)
    main = tuple(name for s in SETTINGS for m in _MAIN if (name := f"{s} {m}") in measured)
    return TaskResult("webqa", about, ids, ids, figures, list(_NOTES), main, seed)


class Space:
    """Vectors of one encoder for a task, and for its development split; each document is encoded once.

    Args:
        encoder: what makes them.
        task, dev: the splits; they share the corpus.

    Attributes:
        encoded: the corpus, images and captions apart.
        documents (`(documents, width)`), queries, dev_queries (`(queries, width)`): unit vectors.
    """

    def __init__(self, encoder: DualEncoder, task: RetrievalTask, dev: RetrievalTask | None = None):
        self.encoder, self.task, self.dev = encoder, task, dev
        self.dev_queries = None if dev is None else encode_queries(encoder, dev)
        self.encoded, self.queries = encode_documents(encoder, task), encode_queries(encoder, task)
        self.documents: np.ndarray = self.encoded.fused(encoder)

    def system(self, truncate_dim: int | None = None) -> Encoded:
        """Search in this space, or with the first `truncate_dim` numbers of its vectors.

        Raises:
            ValueError: its vectors have fewer numbers.
        """
        width = self.queries.shape[1]
        if truncate_dim is not None and not 1 <= truncate_dim <= width:
            raise ValueError(f"truncate_dim must be from 1 to {width}, the width of the vectors, got {truncate_dim}.")
        both = (self.queries, self.documents)
        queries, documents = both if truncate_dim is None else (unit(one[:, :truncate_dim]) for one in both)
        return dense_system(queries, documents, self.task.is_image)

    def in_context(self, weight: float) -> Space:
        """The same space with the texts of its group in each image (`encoding.context`); nothing is encoded again."""
        other, task = copy.copy(self), self.task
        other.documents = with_context(self.documents, task.is_image, task.doc_groups, weight)
        return other

    def hybrid_weight(self) -> Choice:
        """BM25's weight beside this space that is best on the development split."""
        dev = self.dev
        dense = dense_system(self.dev_queries, self.documents, dev.is_image)
        return choose_hybrid_weight(dense, bm25_system(dev.query_texts, dev.doc_texts, dev.is_image), dev)


def choose_weights(spaces: Sequence[Space]) -> dict[str, float]:
    """Chooses weights that serve several corpora, by the mean MRR@10 over their development splits; among equals the
    lowest. A choice on the few questions of one corpus is noisy.

    Returns:
        `dict`: the weight of BM25 in a hybrid (`weight`), that of images' contexts (`context_weight`), and that of
            BM25 beside such a context (`context_hybrid_weight`).
    """
    grid: dict[tuple[float, float], float] = {}
    for context in CONTEXT_WEIGHTS if any(any(space.task.doc_groups) for space in spaces) else (0.0,):
        tried = [space.in_context(context).hybrid_weight().tried for space in spaces]
        grid |= {(context, weight): float(np.mean([one[weight] for one in tried])) for weight in tried[0]}
    alone = max((weight for context, weight in grid if context == 0), key=lambda weight: grid[0.0, weight])
    context, beside = max(grid, key=grid.get)
    return {"weight": alone, "context_weight": context, "context_hybrid_weight": beside}


def with_bm25(name: str, space: Space) -> tuple[dict[str, Encoded], Choice | None]:
    """BM25, its fusion with a dense system (BM25 finds texts, the dense system images), the fusion and the dense
    system with an oracle of the modality, and the hybrid with the weight that dev chooses.

    Returns:
        the systems by the names of their rows, and the choice of the hybrid's weight; without a development split
            there is
            no hybrid, and None.
    """
    task, dense = space.task, space.system()
    sparse = bm25_system(task.query_texts, task.doc_texts, task.is_image)
    fusion, kinds = DivideAndConquer(sparse, dense), task.relevant_kinds()
    found: dict[str, Encoded] = {
        "BM25": sparse,
        FUSION.format(name): fusion,
        ORACLE.format(name): OracleModality(fusion, kinds),
        f"{name}, oracle modality": OracleModality(dense, kinds),
    }
    if space.dev is None:
        return found, None
    weight = space.hybrid_weight()
    return found | {HYBRID.format(name): Hybrid(dense, sparse, weight.value)}, weight
