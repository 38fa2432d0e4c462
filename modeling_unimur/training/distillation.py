"""Distillation of a teacher's scores of queries and documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..contrastive_loss import sum_over_prefixes
from ..data.json_lines import read_rows
from ..evaluation.evaluator import Encoded
from ..evaluation.systems.base import BOTH
from ..index.second_stage import Candidate, Reranker
from .documents import Documents

LOSSES = ("kl", "margin_mse")
# The teacher that is the model itself before it is trained.
START = "start"
_COLUMNS = ("query_id", "doc_id", "score")

Teacher = Callable[[Sequence[dict], Sequence[int], np.ndarray], np.ndarray]
"""Rows of `QueryRows`, documents by number, and where they are candidates `(queries, documents)`, to scores of that
shape; NaN where the teacher has none."""


@dataclass(frozen=True)
class Distillation:
    """The option `data.distillation` of a recipe.

    Args:
        teacher: where the scores come from: `start`, the model before training; a file `.parquet` or `.jsonl` of
            `query_id, doc_id, score`; or a model of sentence-transformers, by name or folder: a `CrossEncoder`, a
            `MultiVectorEncoder`, or a `SentenceTransformer`, which reads texts and captions.
        loss: `kl`, the divergence of the student's distribution over the candidates from the teacher's; or
            `margin_mse`, the squared difference of the margins between the positive and each other candidate.
        weight: weight of this loss beside the contrastive one.
        temperature: temperature that the student's cosines are divided by in `kl`.
        teacher_temperature (*optional*): temperature of the teacher's scores; `temperature` by default. Token vectors
            (MaxSim) give sums of cosines, which need a higher one.
        bm25: weight of BM25 scores that are added to the cosines of `start` or of a `SentenceTransformer`. They are
            scaled such that the best score of a query is 1.

    Raises:
        ValueError: if the loss is unknown, or a number is not positive.
    """

    teacher: str
    loss: str = "kl"
    weight: float = 1.0
    temperature: float = 0.05
    teacher_temperature: float | None = None
    bm25: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"distillation: loss must be one of {LOSSES}, got {self.loss!r}.")
        least = {"weight": self.weight, "temperature": self.temperature, "teacher_temperature": self.teacher_warmth}
        for name, value in least.items():
            if not value > 0:
                raise ValueError(f"distillation: {name} must be above 0, got {value}.")
        if not self.bm25 >= 0:
            raise ValueError(f"distillation: bm25 must not be negative, got {self.bm25}.")

    @property
    def teacher_warmth(self) -> float:
        """The teacher's temperature."""
        return self.temperature if self.teacher_temperature is None else self.teacher_temperature

    def __call__(
        self, queries: torch.Tensor, documents: torch.Tensor, teacher: torch.Tensor, positives: torch.Tensor, config
    ) -> torch.Tensor:
        """Computes the loss, without its weight, summed over the prefixes of `config.matryoshka_dims`.

        Args:
            queries (`(queries, width)`), documents (`(documents, width)`): the student's unit vectors.
            teacher (`(queries, documents)`): scores; NaN where a document is no candidate or has none.
            positives (`(queries,)`): row of each query's right document.
            config (`UniVLDRConfig`): configuration of the student.
        """

        def loss(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
            with torch.autocast(queries.device.type, enabled=False):
                scores = queries.float() @ documents.float().T
                if self.loss == "margin_mse":
                    return margin_mse_loss(scores, teacher, positives)
                return kl_loss(scores / self.temperature, teacher / self.teacher_warmth)

        return sum_over_prefixes(loss, (queries, documents), config)


def kl_loss(scores: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL divergence of softmaxes over the documents, from the teacher's to the student's; the mean over the queries
    with two scores or more. sentence-transformers' `DistillKLDivLoss` multiplies it by the squared temperature.

    Args:
        scores, teacher (`(queries, documents)`): divided by their temperatures; NaN where the teacher has no score.
    """
    known = ~teacher.isnan()
    rows = known.sum(dim=1) > 1
    scores, teacher, known = scores[rows], teacher[rows].to(scores.dtype), known[rows]
    lowest = torch.finfo(scores.dtype).min
    ours = F.log_softmax(scores.masked_fill(~known, lowest), dim=1)
    theirs = F.softmax(teacher.masked_fill(~known, lowest), dim=1)
    return F.kl_div(ours, theirs, reduction="sum") / max(len(scores), 1)


def margin_mse_loss(scores: torch.Tensor, teacher: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean squared difference between the student's and the teacher's margins of the positive over each other
    document (Hofstaetter et al., 2020; sentence-transformers' `MarginMSELoss`).

    Args:
        scores, teacher (`(queries, documents)`): NaN where the teacher has no score.
        positives (`(queries,)`): row of each query's right document.
    """
    own = positives[:, None]
    teacher = teacher.to(scores.dtype)
    wanted = teacher.gather(1, own) - teacher
    known = ~wanted.isnan() & ~F.one_hot(positives, scores.shape[1]).bool()
    margins = scores.gather(1, own) - scores
    return (margins - wanted)[known].square().sum() / known.sum().clamp(min=1)


# -- teachers ---------------------------------------------------------------------------------------------------------
class SystemTeacher:
    """Vectors of the corpus, or vectors and BM25: cosines plus BM25 by its best score of the query. Unlike a hybrid
    search it scores every document, not only the best, and keeps the scale of the cosines, on which the temperature
    depends.

    Args:
        system: over the documents of the corpus; `system.scores(BOTH, rows)` are its scores.
        queries: ids of its queries.
        words (*optional*): BM25 over the same queries and documents.
        bm25: its weight.
    """

    def __init__(self, system: Encoded, queries: Sequence[str], words: Encoded | None = None, bm25: float = 0.0):
        self.system, self.places = system, {query: place for place, query in enumerate(queries)}
        self.words, self.bm25 = words, bm25

    def __call__(self, rows: Sequence[dict], numbers: Sequence[int], candidates: np.ndarray) -> np.ndarray:
        places = np.array([self.places[row["query"]] for row in rows])
        scores = self.system.scores(BOTH, places)
        if self.words is not None:
            shared = np.maximum(self.words.scores(BOTH, places), 0.0)
            best = shared.max(axis=1, keepdims=True, initial=0.0)
            scores = scores + self.bm25 * np.divide(shared, best, out=np.zeros_like(shared), where=best > 0)
        return scores[:, np.asarray(numbers)]


class PairTeacher:
    """A second stage, which reads each candidate with the query.

    Args:
        reranker: a second stage, see `index.second_stage`.
        documents: the numbered documents.
    """

    def __init__(self, reranker: Reranker, documents: Documents):
        self.reranker, self.documents = reranker, documents

    def __call__(self, rows: Sequence[dict], numbers: Sequence[int], candidates: np.ndarray) -> np.ndarray:
        found = np.full(candidates.shape, np.nan)
        shown = [Candidate(one.text, one.image or None) for one in (self.documents[number] for number in numbers)]
        places = np.argwhere(candidates)
        pairs = [(rows[query]["text"], shown[document]) for query, document in places]
        found[tuple(places.T)] = self.reranker.scores(pairs)
        return found


class FileTeacher:
    """Looks up scores that were computed before.

    Args:
        scores: `(query_id, doc_id)` to score.
        documents: the numbered documents.
    """

    def __init__(self, scores: Mapping[tuple[str, str], float], documents: Documents):
        self.scores, self.documents = scores, documents

    def __call__(self, rows: Sequence[dict], numbers: Sequence[int], candidates: np.ndarray) -> np.ndarray:
        ids = [self.documents.ids[number] for number in numbers]
        return np.array([[self.scores.get((row["query"], doc), np.nan) for doc in ids] for row in rows])


def read_scores(path: str | os.PathLike) -> dict[tuple[str, str], float]:
    """Reads scores from a file `.parquet` or `.jsonl` of `query_id, doc_id, score`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There are no scores of a teacher in {path}: write query_id, doc_id, score there.")
    try:
        return {(row["query_id"], row["doc_id"]): float(row["score"]) for row in read_rows(path)}
    except KeyError as error:
        raise ValueError(
            f"{path} has no column {error}: the scores of a teacher need {', '.join(_COLUMNS)}."
        ) from error
