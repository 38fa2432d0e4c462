"""Rescores a system's texts and images with one another, as `retriever(..., coherent=True)` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...memory_index import DEPTH, Coherence, cosines
from .base import KINDS, Gallery, Messages, System, Weights


def coherent_scores(
    coherence: Coherence, scores: Mapping[str, np.ndarray], vectors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns one query's scores of all its candidates, in any order, as those of its coherent reply.

    The first of each kind are rescored; the others keep their order and stand behind them.

    Args:
        coherence: the weights.
        scores: kind -> `(candidates,)`, cosines; minus infinity for a candidate that cannot be read.
        vectors: kind -> `(candidates, width)`.

    Returns:
        kind -> `(candidates,)`; the given scores where the weight is 0 or one kind has no candidate.
    """
    found = {kind: np.array(scores[kind], dtype=np.float64) for kind in KINDS}
    first = {}
    for kind, row in found.items():
        order = np.argsort(-row, kind="stable")[:DEPTH]
        first[kind] = order[np.isfinite(row[order])]
    if not coherence.weight or not all(map(len, first.values())):
        return found
    agreement = cosines(*(vectors[kind][first[kind]] for kind in KINDS))
    rescored = coherence.scores(*(found[kind][first[kind]] for kind in KINDS), agreement)
    for kind, new in zip(KINDS, rescored, strict=True):
        # Nobody behind the first was higher than the last of them; cosines are at most 2 apart.
        found[kind] += new.min() - 1 - found[kind][first[kind][-1]]
        found[kind][first[kind]] = new
    return found


class CoherentReply(System):
    """Returns another system's rankings as coherent replies.

    Args:
        base: with vectors of both kinds, whose scores are cosines.
        coherence: the weights; those of the base by default.
    """

    has_vectors = False

    def __init__(self, base: System, coherence: Coherence | None = None):
        self.base, self.votes = base, coherence or base.coherence or Coherence()
        self.name = coherent_name(base.name)
        self.sees = f"as {base.name}; its first {DEPTH} texts and images vote on one another"

    def encode_candidates(self, gallery: Gallery, kind: str) -> np.ndarray:
        return np.asarray(self.base.encode_candidates(gallery, kind))

    def encode_queries(self, dialogues: Sequence[Messages]) -> Any:
        return self.base.encode_queries(dialogues)

    def scores(self, queries: Any, candidates: Mapping[str, Any], kind: str) -> np.ndarray:
        queries = np.stack([np.asarray(query) for query in queries])
        if not all(len(candidates.get(each, ())) for each in KINDS):
            return self.base.scores(queries, candidates, kind)
        columns = [self.base.scores(queries, candidates, each) for each in KINDS]
        return np.stack(
            [
                coherent_scores(self.votes, dict(zip(KINDS, rows, strict=True)), candidates)[kind]
                for rows in zip(*columns, strict=True)
            ]
        )

    def weights(self) -> Weights:
        return self.base.weights()


def coherent_name(name: str) -> str:
    """Returns the name of a system's coherent replies."""
    return f"{name}, coherent reply"
