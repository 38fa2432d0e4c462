"""The coherent reply: the texts and the images that one dialogue finds are rescored by how well they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .vector_index import Hit

# So many of each list vote, and so many are rescored (more, where more are asked for).
DEPTH = 50


class Pair(NamedTuple):
    """A text and an image of one reply."""

    score: float
    text: Hit
    image: Hit


@dataclass(frozen=True)
class Coherence:
    """How strongly the texts and the images of a reply vote on one another.

    ```
    score(image) = cos(query, image) + weight              * sum_t softmax(cos(query, t) / temperature) * cos(t, image)
    score(text)  = cos(query, text)  + weight * text_share * sum_i softmax(cos(query, i) / temperature) * cos(text, i)
    ```

    The sums run over the first `DEPTH` texts `t` and images `i` by their cosines with the query.

    Args:
        weight: of the vote; 0 leaves two independent rankings.
        text_share: of the weight where images vote on texts; 1 treats both directions alike.
        temperature: of the softmax: a low one lets the first few vote alone.

    Raises:
        ValueError: a weight or a share below 0, or a temperature that is not above 0.
    """

    weight: float = 1.0
    text_share: float = 0.25
    temperature: float = 0.02

    def __post_init__(self):
        for name, least in (("weight", "at least 0"), ("text_share", "at least 0"), ("temperature", "above 0")):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
            if not number or value < 0 or (value == 0 and name == "temperature"):
                raise ValueError(f"coherence_{name} must be a number {least}, got {value!r:.60}.")

    @classmethod
    def of(cls, config) -> Coherence:
        """That of a model's configuration (`coherence_weight`, `coherence_text_share`, `coherence_temperature`)."""
        given = {name: getattr(config, f"coherence_{name}", None) for name in ("weight", "text_share", "temperature")}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def scores(self, texts: np.ndarray, images: np.ndarray, agreement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The new scores of one query's texts and images.

        Args:
            texts (`(texts,)`), images (`(images,)`): their cosines with the query, best first.
            agreement (`(texts, images)`): their cosines with each other.

        Returns:
            `(texts,)` and `(images,)`, float64. Where one list is empty, the other keeps its scores.
        """
        texts, images = np.asarray(texts, np.float64), np.asarray(images, np.float64)
        if not (len(texts) and len(images)):
            return texts, images
        return (
            texts + self.weight * self.text_share * (agreement[:, :DEPTH] @ self._votes(images)),
            images + self.weight * (self._votes(texts) @ agreement[:DEPTH]),
        )

    def _votes(self, scores: np.ndarray) -> np.ndarray:
        """The softmax of the first `DEPTH` scores, which are the best."""
        votes = np.exp((scores[:DEPTH] - scores[0]) / self.temperature)
        return votes / votes.sum()

    def rescore(self, texts: Sequence[Hit], images: Sequence[Hit]) -> tuple[list[Hit], list[Hit]]:
        """Ranks one query's hits again; of equal scores the one that stood first stays first.

        Args:
            texts, images: with their vectors, best first by their cosines.

        Returns:
            Texts and images whose `score` is the new one and whose `cosine` is that with the query. Where one list is
            empty or the weight is 0, the hits as they are.
        """
        if not (self.weight and texts and images):
            return list(texts), list(images)
        cosines = [[hit.score for hit in hits] for hits in (texts, images)]
        found = self.scores(*cosines, agreement(texts, images))
        return tuple(_ranked(hits, scores) for hits, scores in zip((texts, images), found, strict=True))

    def pairs(self, texts: Sequence[Hit], images: Sequence[Hit], top_k: int) -> list[Pair]:
        """The best pairs of one query's first `DEPTH` texts and images, by the sum of both scores and `weight` times
        the cosine of the two.

        Args:
            texts, images: with their vectors, best first, as the index finds them or as `rescore` ranks them.
            top_k: how many.
        """
        texts, images = texts[:DEPTH], images[:DEPTH]
        if not (texts and images):
            return []
        text_scores, image_scores = (np.array([hit.score for hit in hits], np.float64) for hits in (texts, images))
        totals = text_scores[:, None] + image_scores + self.weight * agreement(texts, images)
        best = np.argsort(-totals, axis=None, kind="stable")[:top_k]
        places = zip(*np.unravel_index(best, totals.shape), strict=True)
        return [Pair(float(totals[row, column]), texts[row], images[column]) for row, column in places]


def agreement(texts: Sequence[Hit], images: Sequence[Hit]) -> np.ndarray:
    """Cosines `(texts, images)` of hits that have their vectors, float64."""
    return cosines(*(np.stack([hit.vector for hit in hits]) for hits in (texts, images)))


def cosines(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cosines of two matrices' rows, float64. What codes of an index decode to is not of length 1."""
    lengths = [np.sqrt(np.einsum("ij,ij->i", one, one, dtype=np.float64)) for one in (rows, columns)]
    return (rows @ columns.T) / np.maximum(np.multiply.outer(*lengths), 1e-12)


def _ranked(hits: Sequence[Hit], scores: np.ndarray) -> list[Hit]:
    order = np.argsort(-scores, kind="stable").tolist()
    found = ((hits[place], float(scores[place])) for place in order)
    return [Hit(hit.id, score, hit.kind, hit.payload, hit.score, hit.vector) for hit, score in found]


__all__ = ["DEPTH", "Coherence", "Pair", "agreement", "cosines"]
