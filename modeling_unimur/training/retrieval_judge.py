"""Evaluation of a UniVL-DR run: retrieval of a split's relevant documents."""

import logging
import random

import numpy as np
import torch

from ..data.retrieval_set import RetrievalSet
from ..encoding.encoder import Encoder
from ..evaluation.systems.base import BOTH
from ..evaluation.universal import RetrievalTask, dense_system, setting_figures
from .documents import Documents

logger = logging.getLogger(__name__)


class RetrievalJudge:
    """Ranks all documents of both kinds for each query, and measures the rankings.

    Args:
        retrieval (`RetrievalSet`): the set.
        documents (`Documents`): of it.
        split: whose queries.
        processor: of the models.
        pictures: image documents to tensors, as `Encoder.encode_documents` takes it.
        max_documents (*optional*): searches what is relevant to the split and other documents drawn at random, up to
            that many in all, which is quicker and easier; the whole corpus by default.
        least_score: relevant documents of a lower score count as not relevant, here and in training.
        seed: of the draw.
        precision: of autocast.

    Raises:
        ValueError: the split has no query with a relevant document.
    """

    def __init__(
        self,
        retrieval: RetrievalSet,
        documents: Documents,
        split: str,
        processor,
        pictures,
        max_documents: "int | None" = None,
        least_score: int = 1,
        seed: int = 0,
        precision: "torch.dtype | None" = None,
    ):
        self.processor, self.pictures, self.split, self.precision = processor, pictures, split, precision
        numbers, relevant = documents.numbers, retrieval.relevant(split)
        grades = {
            query: {numbers[doc]: score for doc, score in docs.items() if doc in numbers and score >= least_score}
            for query, docs in relevant.items()
        }
        table = retrieval.queries[split]
        asked = [
            (query, text) for query, text in zip(table["query_id"], table["text"], strict=True) if grades.get(query)
        ]
        if not asked:
            raise ValueError(f"No query of the split {split!r} has a relevant document in the corpus.")
        chosen = sorted(self._chosen(grades, documents.corpus_size, max_documents, seed))
        self.documents = [documents[number] for number in chosen]
        column, excluded = {number: place for place, number in enumerate(chosen)}, retrieval.excluded(split)
        self.task = RetrievalTask(
            query_ids=[query for query, _ in asked],
            query_texts=[text for _, text in asked],
            query_kinds=[""] * len(asked),
            doc_ids=[document.doc_id for document in self.documents],
            doc_texts=[document.text for document in self.documents],
            doc_images=[document.image for document in self.documents],
            is_image=np.array([document.kind == "image" for document in self.documents], dtype=bool),
            relevance=[{column[n]: score for n, score in grades[query].items()} for query, _ in asked],
            excluded=[
                np.array(
                    [column[n] for doc in excluded.get(query, ()) if (n := numbers.get(doc)) in column], dtype=int
                )
                for query, _ in asked
            ],
        )

    @staticmethod
    def _chosen(grades, corpus_size: int, most: "int | None", seed: int) -> "set[int]":
        if most is None or most >= corpus_size:
            return set(range(corpus_size))
        wanted = {number for docs in grades.values() for number in docs}
        others = [number for number in range(corpus_size) if number not in wanted]
        return wanted | set(random.Random(seed).sample(others, max(most - len(wanted), 0)))

    def embed(self, model) -> torch.Tensor:
        """Vectors of `documents` `(documents, width)`."""
        return self._encoder(model).encode_documents(self.documents, self.pictures)

    def _encoder(self, model) -> Encoder:
        return Encoder(model, self.processor, self.precision, progress=True)

    def __call__(self, model, vectors: "torch.Tensor | None" = None) -> "dict[str, float]":
        """Means in percent over the queries: `mrr_10`, `ndcg_10`, `recall_100` and the others of
        `metrics.MEASURES`; and `images_10`, the share of images among the first ten; of vectors that were computed
        before, if given."""
        vectors = self.embed(model) if vectors is None else vectors
        queries = self._encoder(model).encode_queries(self.task.query_texts)
        found = setting_figures(dense_system(queries.numpy(), vectors.numpy(), self.task.is_image), self.task, (BOTH,))
        return {
            measure.removeprefix(f"{BOTH} ").replace("@", "_"): float(np.nanmean(values))
            for measure, values in found.values.items()
        }


__all__ = ["RetrievalJudge"]
