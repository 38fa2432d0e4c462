"""Batches of queries and documents, every document encoded once."""

from collections import Counter

import torch

from .documents import Documents
from .negatives import Sampler


class QueryCollator:
    """Stacks rows of `QueryRows` into the arguments of `UniVLDRModel.forward`.

    Args:
        processor (`UniVLDRProcessor`): of the model.
        documents (`Documents`): by number.
        pictures: image documents to tensors (`DecodedImages`, `PooledImages`); None where the model's fusion reads
            captions alone.
        sampler (`Sampler`): what candidates are.
        mask_known: whether a query's further right documents, and those of a positive's group, are no negatives where
            the batch's documents are candidates. False is the released code, which also lists a document once for
            every query that brought it.
        false_negative_threshold (*optional*): cosine with the positive from which on a document is no negative.
        max_tokens (*optional*): longest query, text and caption, where shorter ones than the processor's are enough.
    """

    def __init__(
        self,
        processor,
        documents: Documents,
        pictures,
        sampler: Sampler,
        mask_known: bool = True,
        false_negative_threshold: "float | None" = None,
        max_tokens: "int | None" = None,
    ):
        self.processor, self.documents, self.pictures = processor, documents, pictures
        self.sampler, self.mask_known, self.threshold = sampler, mask_known, false_negative_threshold
        limit = processor.max_target_tokens
        self.limits = {} if max_tokens is None else {"max_length": min(max_tokens, limit)}

    def __call__(self, rows: "list[dict]") -> dict:
        brought = Counter(number for row in rows for number in (row["positive"], *row["negatives"]))
        texts = [number for number in brought if self.documents.kinds[number] == "text"]
        images = [number for number in brought if self.documents.kinds[number] == "image"]
        order = [*texts, *images]
        place = {number: column for column, number in enumerate(order)}
        batch = dict(
            self.processor.process_queries([row["text"] for row in rows], **self.limits)
        )  # first: its rows are counted
        if texts:
            batch.update(self._prefixed("text", [self.documents.texts[number] for number in texts]))
        if images:
            shown = [self.documents[number] for number in images]
            words = self.processor.process_captions([document.text for document in shown], **self.limits)
            mask = words.pop("caption_mask", None)
            batch.update({f"caption_{name}": value for name, value in words.items()})
            batch.update({} if mask is None else {"caption_mask": mask})
            batch.update({} if self.pictures is None else self.pictures(shown))
        batch["positives"] = torch.tensor([place[row["positive"]] for row in rows])
        batch["candidates"] = self._candidates(rows, order, place, brought)
        if self.sampler.in_batch:
            batch["document_ids"] = torch.tensor(order)
            batch["known_ids"] = self._known(rows)
        if self.threshold is not None:
            batch["false_negative_threshold"] = self.threshold
        return batch

    def _prefixed(self, name: str, texts: "list[str]") -> dict:
        return {f"{name}_{key}": value for key, value in self.processor.process_texts(texts, **self.limits).items()}

    def _candidates(self, rows, order, place, brought) -> torch.Tensor:
        if not self.sampler.in_batch:
            counts = torch.zeros(len(rows), len(order))
            for number, row in enumerate(rows):
                counts[number, [place[doc] for doc in (row["positive"], *row["negatives"])]] = 1
            return counts
        if not self.mask_known:
            return torch.tensor([[float(brought[doc]) for doc in order]] * len(rows))
        counts = torch.ones(len(rows), len(order))
        groups = [self.documents.groups[doc] for doc in order]
        for number, row in enumerate(rows):
            group = self.documents.groups[row["positive"]]
            alike = [c for c, doc in enumerate(order) if doc in row["known"] or (group and groups[c] == group)]
            counts[number, alike] = 0
            counts[number, place[row["positive"]]] = 1
            for doc in row["negatives"]:
                counts[number, place[doc]] = 1
        return counts

    def _known(self, rows) -> torch.Tensor:
        """What other ranks' documents are compared with."""
        known = [sorted(row["known"]) if self.mask_known else [] for row in rows]
        most = max(1, *map(len, known))
        return torch.tensor([[*numbers, *[-1] * (most - len(numbers))] for numbers in known])


__all__ = ["QueryCollator"]
