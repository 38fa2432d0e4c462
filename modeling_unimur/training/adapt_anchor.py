"""The encoder's own query of a dialogue as the anchor of adapted heads: which readout corrects it, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..anchor_inputs_unimur import anchor_words
from ..configuration_unimur import UniMuRConfig
from ..modeling_unimur import UniMuRQueryAnchor
from .adapt_judge import ranks_of
from .collators import turn_messages
from .dev_sets import DevSet
from .query_anchor_fit import QuerySet, fit_weights
from .text_encoders import TextSpace

# Candidates of a set that chooses, at most: the right ones and others that are drawn.
_MOST_CANDIDATES = 10_000


class PoolQueries(QuerySet):
    """The contexts of a development set, ranked among its candidates.

    Args:
        pool: the set.
        readout (`(contexts, width)`): what the language model reads of them.
        own (`(contexts, 2, width)`): the encoder's vectors of the whole dialogues and of their last turns.
    """

    def __init__(self, pool: DevSet, readout: torch.Tensor, own: torch.Tensor):
        right = torch.tensor([int(np.flatnonzero(pool.candidate_ids == owner)[0]) for owner in pool.ids])
        # No image is in these contexts, and without a gate nothing asks for statistics.
        image, statistics = torch.zeros_like(readout), torch.zeros(len(readout), 3)
        groups = torch.from_numpy(np.asarray(pool.ids))
        super().__init__(pool.name, readout, own[:, 0], own[:, 1], image, statistics, pool.candidates[right], groups)
        self.pool = pool

    def mrr(self, queries: torch.Tensor) -> float:
        return 100 * float(np.mean(1 / ranks_of(queries.float(), self.pool)))


@dataclass
class Choice:
    """A readout with its weights.

    Args:
        weights: of the whole dialogue, the last turn and the readout, by their names in `UniMuRQueryAnchor`.
        merit: mean reciprocal rank in percent, the mean over the sets that choose.
        by_set: the same of each set.
    """

    weights: dict[str, float]
    merit: float
    by_set: dict[str, float]


class AnchorChoice:
    """Chooses among readouts, each with weights from a grid that holds the encoder alone.

    Args:
        space: of the encoder. It runs once over all contexts, here.
        config: of the model.
        choosing: sets that choose.
        judging: sets that only judge.
    """

    def __init__(self, space: TextSpace, config: UniMuRConfig, choosing: Sequence[DevSet], judging: Sequence[DevSet]):
        self.space, self.choosing = space, [_fewer_candidates(dev) for dev in choosing]
        vectors = _own_vectors(space, [dev.contexts for dev in (*choosing, *judging)])
        self._own, self._judged = vectors[: len(choosing)], vectors[len(choosing) :]
        self.anchor = UniMuRQueryAnchor(config)
        self.choices: dict[str, Choice] = {}

    def offer(self, name: str, readouts: Sequence[torch.Tensor]) -> None:
        """Fits the weights of one readout.

        Args:
            name: of the readout.
            readouts (each `(contexts, width)`): of the contexts of the sets that choose.
        """
        sets = [PoolQueries(*some) for some in zip(self.choosing, readouts, self._own, strict=True)]
        if not self.choices:
            self._set({"whole_weight": 1.0, "last_weight": 0.0, "readout_weight": 0.0})
            self.choices["encoder"] = self._chosen(sets)
        fit_weights(self.anchor, sets, no_set_below=True)
        self.choices[name] = self._chosen(sets)

    @property
    def best(self) -> str:
        """The readout that, with its weights, is best; it is never below the encoder alone."""
        names = [name for name in self.choices if name != "encoder"]
        return max(names, key=lambda name: self.choices[name].merit)

    @property
    def is_encoder_alone(self) -> bool:
        """Whether neither the last turn nor a readout was worth a weight."""
        weights = self.choices[self.best].weights
        return weights["last_weight"] == weights["readout_weight"] == 0

    def own_queries(self) -> list[torch.Tensor]:
        """The encoder's queries of the sets that judge: its vectors of the whole dialogues."""
        return [own[:, 0] for own in self._judged]

    @torch.no_grad()
    def queries(self, readouts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The anchored queries of the sets that judge, by the best choice.

        Args:
            readouts (each `(contexts, width)`): those of the best readout.
        """
        self._set(self.choices[self.best].weights)
        sets = [(readout, own[:, 0], own[:, 1]) for readout, own in zip(readouts, self._judged, strict=True)]
        return [self.anchor(*some, torch.zeros_like(some[0]), torch.zeros(len(some[0]), 3)).query for some in sets]

    def report(self) -> dict:
        """The best choice for `results.json`."""
        best, alone = self.choices[self.best], self.choices["encoder"]
        sets = {name: {"encoder": alone.by_set[name], "anchored": best.by_set[name]} for name in best.by_set}
        return {"readout": self.best, **best.weights, "revision": self.space.revision, "chosen_on": sets}

    def install(self, model, processor) -> None:
        """Gives a model and its processor the anchor, by the best choice; they name the encoder."""
        self._set(self.choices[self.best].weights)
        model.heads.query_anchor = self.anchor.to(model.device)
        named = {"anchor_base_model": self.space.name, "anchor_base_revision": self.space.revision}
        for owner in (model.config, processor):
            for name, value in {"query_anchor": "encoder", **named}.items():
                setattr(owner, name, value)

    @torch.no_grad()
    def _set(self, weights: dict[str, float]) -> None:
        for name, value in weights.items():
            getattr(self.anchor, name).fill_(value)

    @torch.no_grad()
    def _chosen(self, sets: list[PoolQueries]) -> Choice:
        names = ("whole_weight", "last_weight", "readout_weight")
        by_set = {some.name: some.mrr(self.anchor(*some.inputs).query) for some in sets}
        weights = {name: round(float(getattr(self.anchor, name)), 6) for name in names}
        return Choice(weights, float(np.mean(list(by_set.values()))), by_set)


def _own_vectors(space: TextSpace, several: list[list[list[str]]]) -> list[torch.Tensor]:
    """For each list of contexts `(contexts, 2, width)`, whole dialogues and last turns; each text runs once."""
    pairs = [[anchor_words(turn_messages(turns)) for turns in contexts] for contexts in several]
    distinct = list(dict.fromkeys(text for some in pairs for pair in some for text in pair))
    places = {text: number for number, text in enumerate(distinct)}
    vectors = space(distinct, query=True, desc="The encoder's own queries")
    return [vectors[torch.tensor([[places[text] for text in pair] for pair in some])] for some in pairs]


def _fewer_candidates(dev: DevSet) -> DevSet:
    """The set with all right candidates and so many others that choosing takes seconds on a large index too."""
    if len(dev.candidates) <= _MOST_CANDIDATES:
        return dev
    right = np.isin(dev.candidate_ids, dev.ids)
    others = np.random.default_rng(0).permutation(np.flatnonzero(~right))
    rows = np.sort(np.concatenate([np.flatnonzero(right), others[: max(_MOST_CANDIDATES - right.sum(), 0)]]))
    return replace(dev, candidates=dev.candidates[torch.from_numpy(rows)], candidate_ids=dev.candidate_ids[rows])


__all__ = ["AnchorChoice", "Choice", "PoolQueries"]
