"""Queries of a retrieval set with a positive and hard negatives, drawn again in every epoch; and their batches."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.retrieval_set import RetrievalSet
from .distillation import Teacher
from .documents import Documents

SAMPLERS = ("in_batch", "balanced", "unbalanced", "image_only", "text_only", "hard_in_batch")


@dataclass(frozen=True)
class Sampler:
    """One way to choose candidates.

    Args:
        name: the candidates of a query. `in_batch` (UniVL-DR's stage 1): the positives of the batch. `balanced` (its
            stage 2): the positive, and `images` and `texts` hard negatives. If there are too few of one kind, more of
            the other are taken. `unbalanced`: the same number of negatives, of any kind. `image_only`, `text_only`:
            the same number of negatives, of one kind. `hard_in_batch` (MARVEL): as `balanced`, with all documents of
            the batch as candidates of every query.
        images, texts: number of hard negatives of each kind for a query (both 1 in the paper).

    Raises:
        ValueError: another name, or numbers below 0 or both 0.
    """

    name: str = "balanced"
    images: int = 1
    texts: int = 1

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"sampler must be one of {SAMPLERS}, got {self.name!r}.")
        if self.images < 0 or self.texts < 0 or (self.hard and not self.images + self.texts):
            raise ValueError(
                f"The sampler {self.name} draws {self.images} image and {self.texts} text negatives: both must be "
                "non-negative integers, and not both 0."
            )

    @property
    def hard(self) -> bool:
        """Whether it draws hard negatives."""
        return self.name != "in_batch"

    @property
    def in_batch(self) -> bool:
        """Whether the batch's documents are candidates of every query."""
        return self.name in ("in_batch", "hard_in_batch")

    def draw(self, images: Sequence[str], texts: Sequence[str], rng: random.Random) -> list[str]:
        """Chooses among a query's hard negatives of each kind; fewer than asked where there are not as many."""
        if not self.hard:
            return []
        total = self.images + self.texts
        pools = {"unbalanced": [*images, *texts], "image_only": images, "text_only": texts}
        if self.name in pools:
            return _some(pools[self.name], total, rng)
        images, texts = _some(images, total, rng), _some(texts, total, rng)
        missing_images, missing_texts = max(self.images - len(images), 0), max(self.texts - len(texts), 0)
        return images[: self.images + missing_texts] + texts[: self.texts + missing_images]


def _some(items: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """The first of the shuffled items."""
    return rng.sample(list(items), min(count, len(items)))


logger = logging.getLogger(__name__)

# Query -> hard negatives among the images and among the texts, the most similar first.
Mined = Mapping[str, "tuple[list[str], list[str]]"]


class QueryRows(Dataset):
    """One row per query.

    A positive is drawn among the query's images, if it has any, else among its texts (UniVL-DR). Draws depend on
    the seed, the epoch and the row alone, so that a resumed run draws the same.

    Args:
        retrieval (`RetrievalSet`): the set.
        documents (`Documents`): its documents.
        split: split of the queries, or several splits, of which those that the set lacks are ignored.
        sampler (`Sampler`): which negatives are drawn.
        mined: hard negatives by query; queries without any are left out when the sampler needs some.
        seed: seed of the draws.
        least_score: lowest score of a positive. Documents with a lower score are neither positives nor negatives.
        without: ids of queries that are left out.

    Raises:
        ValueError: no row is left.
    """

    def __init__(
        self,
        retrieval: RetrievalSet,
        documents: Documents,
        split: str | Sequence[str] = "train",
        sampler: Sampler | None = None,
        mined: Mined | None = None,
        seed: int = 0,
        least_score: int = 1,
        without: Container[str] = (),
    ):
        self.documents, self.sampler, self.seed = documents, sampler or Sampler("in_batch"), seed
        self.without = without
        self.mined: Mined = mined or {}
        self.epoch = 0
        self.queries: list[str] = []
        self.texts: list[str] = []
        self.positives: list[list[int]] = []
        self.right: list[frozenset[int]] = []
        self.known: list[frozenset[int]] = []
        lost: dict[str, int] = defaultdict(int)
        splits = (split,) if isinstance(split, str) else split
        for name in splits:
            if name in retrieval.queries:
                self._add_split(retrieval, name, least_score, lost)
        self.rows = list(range(len(self.queries)))
        if self.sampler.hard:
            self.use_mined(self.mined)
        for reason, count in lost.items():
            logger.warning("%d queries of %s left out: %s", count, ", ".join(splits), reason)
        if not self.rows:
            raise ValueError(f"No query of the split {', '.join(splits)} is left to train on.")

    def _add_split(self, retrieval: RetrievalSet, split: str, least_score: int, lost: dict[str, int]) -> None:
        documents, table = self.documents, retrieval.queries[split]
        relevant, excluded = retrieval.relevant(split), retrieval.excluded(split)
        for query, text in zip(table["query_id"], table["text"], strict=True):
            scores = {
                documents.numbers[doc]: s for doc, s in relevant.get(query, {}).items() if doc in documents.numbers
            }
            right = [number for number, score in scores.items() if score >= least_score]
            shown = [number for number in right if documents.kinds[number] == "image"]
            others = {documents.numbers[doc] for doc in excluded.get(query, ()) if doc in documents.numbers}
            if query in self.without:
                continue
            if not text.strip() or not right:
                lost["without a positive" if not right else "empty"] += 1
            else:
                self.queries.append(query)
                self.texts.append(text)
                self.positives.append(shown or right)
                self.right.append(frozenset(scores))
                self.known.append(frozenset(scores) | others)

    def use_mined(self, mined: Mined) -> None:
        """Takes other hard negatives from now on; queries that have none are left out.

        Raises:
            ValueError: no query has any, or one is of a document that is not there.
        """
        numbers = self.documents.numbers
        lost = next((doc for kinds in mined.values() for docs in kinds for doc in docs if doc not in numbers), None)
        if lost is not None:
            raise ValueError(f"The hard negative {lost!r} is not a document of this set: mine this set's.")
        self.mined = mined
        # An epoch's number of rows stays, since a run's length depends on it.
        kept = [row for row, query in enumerate(self.queries) if any(map(len, mined.get(query, ((), ()))))]
        if not kept:
            raise ValueError("No query has hard negatives: mine them first, or mine more (data.mining_depth).")
        if len(kept) < len(self.queries):
            logger.warning("%d queries left out: without hard negatives", len(self.queries) - len(kept))
        self._length = getattr(self, "_length", len(kept))
        self.rows = [kept[place % len(kept)] for place in range(self._length)]

    def draw(self, epoch: int) -> None:
        """Lets the rows of another epoch be drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict:
        row = self.rows[place]
        rng = random.Random(f"{self.seed}/{self.epoch}/{row}")
        positive = rng.choice(self.positives[row])
        images, texts = self.mined.get(self.queries[row], ((), ()))
        drawn = [self.documents.numbers[doc] for doc in self.sampler.draw(images, texts, rng)]
        return {
            "query": self.queries[row],
            "text": self.texts[row],
            "positive": positive,
            "negatives": [number for number in drawn if number not in self.known[row]],
            "known": self.known[row],
        }


class QueryCollator:
    """Stacks rows of `QueryRows` into the arguments of `UniVLDRModel.forward`.

    Args:
        processor (`UniVLDRProcessor`): processor of the model.
        documents (`Documents`): by number.
        images: image documents to tensors (`DecodedImages`, `PooledImages`); None where the model's fusion reads
            captions alone.
        sampler (`Sampler`): what candidates are.
        mask_known: whether a query's further right documents, and those of a positive's group, are no negatives where
            the batch's documents are candidates. False is the released code, which also lists a document once for
            every query that brought it.
        false_negative_threshold (*optional*): cosine with the positive from which on a document is no negative.
        max_tokens (*optional*): longest query, text and caption, where shorter ones than the processor's are enough.
        teacher (*optional*): scores of the candidates, which become `teacher_scores`; NaN for other documents.
    """

    def __init__(
        self,
        processor,
        documents: Documents,
        images,
        sampler: Sampler,
        mask_known: bool = True,
        false_negative_threshold: float | None = None,
        max_tokens: int | None = None,
        teacher: Teacher | None = None,
    ):
        self.processor, self.documents, self.images = processor, documents, images
        self.sampler, self.mask_known, self.threshold = sampler, mask_known, false_negative_threshold
        self.teacher = teacher
        limit = processor.max_target_tokens
        self.limits = {} if max_tokens is None else {"max_length": min(max_tokens, limit)}

    def __call__(self, rows: list[dict]) -> dict:
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
            batch.update({} if self.images is None else self.images(shown))
        batch["positives"] = torch.tensor([place[row["positive"]] for row in rows])
        batch["candidates"] = self._candidates(rows, order, place, brought)
        if self.teacher is not None:
            chosen = batch["candidates"].numpy() > 0
            scores = np.where(chosen, self.teacher(rows, order, chosen), np.nan)
            batch["teacher_scores"] = torch.from_numpy(scores.astype(np.float32))
        if self.sampler.in_batch:
            batch["document_ids"] = torch.tensor(order)
            batch["known_ids"] = self._known(rows)
        if self.threshold is not None:
            batch["false_negative_threshold"] = self.threshold
        return batch

    def _prefixed(self, name: str, texts: list[str]) -> dict:
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
