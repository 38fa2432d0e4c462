"""Evaluation of a UniVL-DR run: retrieval of a split's relevant documents."""

import random
from dataclasses import replace

import numpy as np
import torch

from ..data.retrieval_set import RetrievalSet
from ..encoding.encoder import Encoder
from ..evaluation.systems.base import BOTH
from ..evaluation.universal import RetrievalTask, dense_system, setting_figures
from .documents import Documents


class RetrievalJudge:
    """Ranks all documents of both kinds for each query, and measures the rankings.

    Args:
        retrieval (`RetrievalSet`): the set.
        documents (`Documents`): its documents.
        split: split of the queries.
        processor: processor of the models.
        images: image documents to tensors, as `Encoder.encode_documents` takes it.
        max_documents (*optional*): searches what is relevant to the split and other documents drawn at random, up to
            that many in all, which is quicker and easier; the whole corpus by default.
        least_score: relevant documents of a lower score count as not relevant, here and in training.
        seed: seed of the draw.
        precision: data type of autocast.

    Raises:
        ValueError: the split has no query with a relevant document.
    """

    def __init__(
        self,
        retrieval: RetrievalSet,
        documents: Documents,
        split: str,
        processor,
        images,
        max_documents: "int | None" = None,
        least_score: int = 1,
        seed: int = 0,
        precision: "torch.dtype | None" = None,
    ):
        self.processor, self.images, self.split, self.precision = processor, images, split, precision
        task = RetrievalTask.from_set(retrieval, split, least_score)
        chosen = self._chosen(task, max_documents, seed)
        self.documents = [documents[number] for number in chosen]
        column = {number: place for place, number in enumerate(chosen)}
        self.task = replace(
            task,
            doc_ids=[document.doc_id for document in self.documents],
            doc_texts=[document.text for document in self.documents],
            doc_images=[document.image for document in self.documents],
            is_image=task.is_image[chosen],
            relevance=[{column[n]: grade for n, grade in grades.items()} for grades in task.relevance],
            excluded=[
                np.array([column[n] for n in each.tolist() if n in column], dtype=int) for each in task.excluded
            ],
        )

    @staticmethod
    def _chosen(task: RetrievalTask, most: "int | None", seed: int) -> "list[int]":
        everything = range(len(task.doc_ids))
        if most is None or most >= len(everything):
            return list(everything)
        wanted = {number for grades in task.relevance for number in grades}
        others = [number for number in everything if number not in wanted]
        return sorted(wanted | set(random.Random(seed).sample(others, max(most - len(wanted), 0))))

    def embed(self, model) -> torch.Tensor:
        """Returns the vectors of `documents` `(documents, width)`."""
        return self._encoder(model).encode_documents(self.documents, self.images)

    def _encoder(self, model) -> Encoder:
        return Encoder(model, self.processor, self.precision, progress=True)

    def __call__(self, model, vectors: "torch.Tensor | None" = None) -> "dict[str, float]":
        """Returns means in percent over the queries: `mrr_10`, `ndcg_10`, `recall_100` and the others of
        `metrics.MEASURES`, and `images_10`, the share of images among the first ten. Documents are embedded unless
        their vectors are given."""
        vectors = self.embed(model) if vectors is None else vectors
        queries = self._encoder(model).encode_queries(self.task.query_texts)
        found = setting_figures(dense_system(queries.numpy(), vectors.numpy(), self.task.is_image), self.task, (BOTH,))
        return {
            measure.removeprefix(f"{BOTH} ").replace("@", "_"): float(np.nanmean(values))
            for measure, values in found.values.items()
        }
