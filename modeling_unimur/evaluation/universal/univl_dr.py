"""UniVL-DR's evaluation: a model beside BM25, their fusion, the oracle of modality, the hybrid; in three settings."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence

import numpy as np

from ...index.second_stage import Reranker
from ..evaluator import Encoded
from ..report import TaskResult
from .encoding import DualEncoder, EncodedDocuments, encode_documents, encode_queries, unit
from .evaluate import setting_figures
from .modality_gap import MeanSubtraction, draw_modality_gap, modality_gap
from .second_stage import SECOND_STAGE, SecondStage
from .systems import DivideAndConquer, Hybrid, OracleModality, bm25_system, dense_system
from .task import SETTINGS, RetrievalTask
from .tuning import Choice, choose_calibration, choose_hybrid_weight, choose_image_weight

FUSION, ORACLE, HYBRID = "BM25 & {}", "BM25 & {}, oracle modality", "{} + BM25 (hybrid)"
TRUNCATED = "{}, first {} numbers"
CALIBRATIONS = ("off", "on", "dev")


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
    dev: RetrievalTask | None = None,
    settings: Sequence[str] = SETTINGS,
    calibration: str = "off",
    image_weight: float | str | None = None,
    baselines: bool = True,
    gap_plot: str | os.PathLike | None = None,
    progress: bool = False,
    reranker: Reranker | None = None,
    truncate_dims: Sequence[int] = (),
) -> TaskResult:
    """All encoders, BM25 and what is made of it with the first encoder.

    Args:
        task: queries and documents.
        encoders: by the names of their rows, such as `encoding.encoder.Encoder`s; an untrained one is CLIP zero-shot.
        data: what identifies the set, such as `path` and `split`.
        seed: of the intervals.
        dev: development split on which the hybrid's weight, and what is asked for below, are chosen.
        settings: of `text`, `image`, `both`.
        calibration: `off`; `on`: each kind's mean is subtracted (`modality_gap.MeanSubtraction`); `dev`: where that
            helps on the development split.
        image_weight: None keeps the model's own fusion; a number weighs the images in the sum; `dev` chooses it on
            the development split, and warns where captions alone are better.
        baselines: whether to run BM25 and what is made with it.
        gap_plot: a file for the drawing of the modality gap of the first encoder.
        progress: whether to show bars.
        reranker: a second stage for one more row: the hybrid of the first encoder rescored, or that encoder itself
            where there is no hybrid.
        truncate_dims: widths for one more row each of every encoder: the first so many numbers of its vectors.

    Returns:
        `TaskResult`: measures are called `both mrr@10`, those of one kind of query `both mrr@10, image`;
        `both images@10` is the percentage of images among a query's first ten documents. Its `data` have the
        `modality_gap` of the first encoder, and what was `chosen` on dev with the MRR@10 that was `tried`.

    Raises:
        ValueError: an unknown setting or choice; or something to be chosen without a development split.
        ImportError: BM25 without `bm25s`, a plot without matplotlib.
    """
    if calibration not in CALIBRATIONS:
        raise ValueError(f"calibration={calibration!r}: choose from {', '.join(CALIBRATIONS)}.")
    if dev is None and "dev" in (calibration, image_weight):
        raise ValueError("Something is to be chosen on the development split, and dev is None: name one.")
    if isinstance(image_weight, str) and image_weight != "dev":
        raise ValueError(f"image_weight={image_weight!r}: a number, 'dev', or None.")
    systems: dict[str, Encoded] = {}
    extra: dict[str, Encoded] = {}
    digest = hashlib.sha256()
    for column in (task.query_ids, task.query_texts, task.doc_ids, task.doc_texts):
        digest.update(repr(list(column)).encode("utf-8", "surrogatepass"))
    about: dict = {**data, "digest": digest.hexdigest()[:16], "documents": len(task.doc_ids)}
    seconds: dict[str, float] = {}
    for name, encoder in encoders.items():
        start = time.perf_counter()
        space = Space.of(encoder, task, dev)
        chosen, tried = space.tune(image_weight, calibration)
        systems[name] = space.system()
        extra |= {TRUNCATED.format(name, dim): space.system(dim) for dim in truncate_dims}
        if len(systems) == 1:
            if baselines:
                found, weight = with_bm25(name, space)
                extra |= found
                if weight is not None:
                    chosen["hybrid weight"], tried["hybrid weight"] = weight.value, weight.tried
            if chosen:
                about |= {"chosen": chosen, "tried": tried}
            if task.is_image.any() and not task.is_image.all():
                about["modality_gap"] = modality_gap(space.documents, task.is_image)
                if gap_plot is not None:
                    draw_modality_gap(space.documents, task.is_image, space.queries, gap_plot, title=name)
        seconds[name] = round(time.perf_counter() - start, 3)
    if reranker is not None:
        name = next((name for name, system in extra.items() if isinstance(system, Hybrid)), next(iter(systems)))
        extra[SECOND_STAGE.format(name)] = SecondStage((systems | extra)[name], reranker, task)
    figures = {}
    for name, system in (systems | extra).items():
        start = time.perf_counter()
        figures[name] = setting_figures(system, task, settings, f"Searching, {name}" if progress else None)
        spent = seconds.get(name, 0.0) + time.perf_counter() - start
        figures[name].about["seconds"] = round(spent, 3)
    ids, measured = np.array(task.query_ids), next(iter(figures.values())).values
    if reranker is not None:
        about["not rescored"] = dict(reranker.skipped)
    main = tuple(name for s in SETTINGS for m in _MAIN if (name := f"{s} {m}") in measured)
    notes = list(_NOTES)
    if chosen := about.get("chosen"):
        notes.append(
            "Chosen on the development split: " + ", ".join(f"{name} {value}" for name, value in chosen.items()) + "."
        )
    return TaskResult("webqa", about, ids, ids, figures, notes, main, seed)


class Space:
    """Vectors of one encoder for a task, and for its development split.

    Args:
        encoder: what made them.
        task, dev: the splits; they share the corpus.
        encoded: the corpus, images and captions apart.
        queries, dev_queries (`(queries, width)`): unit vectors.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        task: RetrievalTask,
        dev: RetrievalTask | None,
        encoded: EncodedDocuments,
        queries: np.ndarray,
        dev_queries: np.ndarray | None,
    ):
        self.encoder, self.task, self.dev, self.encoded = encoder, task, dev, encoded
        self.queries, self.dev_queries = queries, dev_queries
        self.documents: np.ndarray = encoded.fused(encoder)

    @classmethod
    def of(cls, encoder: DualEncoder, task: RetrievalTask, dev: RetrievalTask | None = None) -> Space:
        """Encodes everything, each document once."""
        dev_queries = None if dev is None else encode_queries(encoder, dev)
        return cls(encoder, task, dev, encode_documents(encoder, task), encode_queries(encoder, task), dev_queries)

    def tune(self, image_weight: float | str | None = None, calibration: str = "off") -> tuple[dict, dict]:
        """Sets the images' weight and the calibration, as `universal_result` takes them.

        Returns:
            what was chosen, and the development split's MRR@10 of what was tried.

        Raises:
            ValueError: a weight for a model that does not sum.
        """
        chosen, tried = {}, {}
        model = getattr(self.encoder, "model", None)
        config = getattr(model, "config", None)
        if image_weight is not None and getattr(config, "fusion", "sum") != "sum":
            raise ValueError(f"image_weight belongs to the sum; this model's fusion is {config.fusion!r}.")
        if image_weight == "dev":
            learned = getattr(getattr(model, "fusion", None), "image_weight", None)
            current = float(getattr(config, "image_weight", 1.0) if learned is None else learned.detach())
            choice = choose_image_weight(self.dev_queries, self.encoded, self.dev, current)
            self.documents = self.encoded.weighted(choice.value)
            chosen["image weight"], tried["image weight"] = choice.value, choice.tried
        elif image_weight is not None:
            self.documents = self.encoded.weighted(float(image_weight))
        # A mean of unlabelled queries: of the development split where there is one.
        asked = self.queries if self.dev_queries is None else self.dev_queries
        if calibration == "on":
            self._calibrate(MeanSubtraction.fit(asked, self.documents, self.task.is_image))
        elif calibration == "dev":
            means, found = choose_calibration(asked, self.documents, self.dev)
            chosen["mean subtraction"], tried["mean subtraction"] = means is not None, found
            if means is not None:
                self._calibrate(means)
        return chosen, tried

    def _calibrate(self, means: MeanSubtraction) -> None:
        self.documents = means.documents_of(self.documents, self.task.is_image)
        self.queries = means.queries_of(self.queries)
        if self.dev_queries is not None:
            self.dev_queries = means.queries_of(self.dev_queries)

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


def with_bm25(name: str, space: Space) -> tuple[dict[str, Encoded], Choice | None]:
    """BM25, its fusion with a dense system (BM25 finds texts, the dense system images), the fusion and the dense
    system with an oracle of the modality, and the hybrid with the weight that dev chooses.

    Args:
        name: of the dense system.
        space: in which it searches.

    Returns:
        the systems by the names of their rows, and the choice of the hybrid's weight; without a development split
        there is no hybrid, and None.
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
    weight = choose_hybrid_weight(
        dense_system(space.dev_queries, space.documents, task.is_image),
        bm25_system(space.dev.query_texts, space.dev.doc_texts, task.is_image),
        space.dev,
    )
    return found | {HYBRID.format(name): Hybrid(dense, sparse, weight.value)}, weight


__all__ = ["CALIBRATIONS", "Space", "universal_result", "with_bm25"]
