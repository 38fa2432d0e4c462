"""Selection of the adapted heads: a separate split selects them, held-out items evaluate them.

With the encoder of the index at hand, its own query of a dialogue is the anchor of the heads; then the weights of the
two are chosen as well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..configuration_unimur import UniMuRConfig
from ..evaluation.metrics import first_right_ranks, recall_at
from ..modeling_unimur import UniMuRModel, UniMuRQueryAnchor
from ..processing_unimur import UniMuRProcessor, anchor_words
from .adapt_contexts import Groups, judging_contexts
from .collators import turn_messages
from .dev_sets import DevSet
from .precomputed import PrecomputedCorpus
from .query_anchor_fit import QuerySet, fit_weights, merit_of
from .readout_fit import RidgeMap, set_readout
from .text_encoders import TextSpace

_CUTOFFS = (1, 10)
# Queries that are scored against all candidates at a time.
_CHUNK = 64
# Candidates of a set that chooses, at most: the right ones and others that are drawn.
_MOST_CANDIDATES = 10_000


# -- recalls ----------------------------------------------------------------------------------------------------------
def held_out_sets(index: PrecomputedCorpus, groups: Groups, held_out: Sequence[int], seed: int) -> list[DevSet]:
    """Builds the sets that look for an item among all items of its kind: by its held-out text, and by a dialogue
    around that text."""
    sets = []
    owners = np.full(len(index.items), -1)
    for kind in groups.rows:
        for group, rows in enumerate(groups.rows[kind]):
            owners[rows] = group
    for kind in groups.rows:
        rows, chosen = index.rows(kind), [group for group in held_out if groups.rows[kind][group]]
        if not chosen:
            continue
        for name, spoken in ((f"text_to_{kind}", False), (f"dialogue_to_{kind}", True)):
            contexts = judging_contexts(groups, chosen, spoken, seed)
            sets.append(
                DevSet(name, contexts, np.array(chosen), kind, index.vectors[torch.from_numpy(rows)], owners[rows])
            )
    return sets


def ranks_of(queries: torch.Tensor, dev: DevSet, score: Callable | None = None) -> np.ndarray:
    """Return the ranks `(contexts,)` of the first relevant candidates, starting at 1.

    Args:
        queries (`(contexts, width)`): of the contexts of the set.
        dev: candidates are compared by the product, unless `score` says otherwise.
        score (*optional*): queries and candidates to scores `(queries, candidates)`.
    """
    score = score or (lambda some, candidates: some @ candidates.T)
    ranks = [
        first_right_ranks(
            score(queries[start : start + _CHUNK], dev.candidates).numpy(),
            dev.ids[start : start + _CHUNK],
            dev.candidate_ids,
        )
        for start in range(0, len(queries), _CHUNK)
    ]
    return np.concatenate(ranks)


def recall_of(queries: torch.Tensor, dev: DevSet, score: Callable | None = None) -> dict[str, float]:
    """Return the recalls in percent, `r1` and `r10`. The arguments are those of `ranks_of`."""
    return recall_at(ranks_of(queries, dev, score), _CUTOFFS)


def chance(dev: DevSet) -> dict[str, float]:
    """Return the expected recalls of a random order."""
    total, right = len(dev.candidates), Counter(dev.candidate_ids.tolist())
    found = {}
    for cutoff in _CUTOFFS:
        shown = min(cutoff, total)
        missed = [math.comb(total - right[group], shown) / math.comb(total, shown) for group in dev.ids.tolist()]
        found[f"r{cutoff}"] = 100 * (1 - float(np.mean(missed)))
    return found


def own_metric_score(raw: torch.Tensor, metric: str | None) -> Callable:
    """Returns the score of an index that keeps lengths: the inner product, or minus the distance for the metric `l2`.

    Args:
        raw (`(candidates, width)`): the vectors as they were stored, in the order of the set's candidates.
        metric: `inner_product` or `l2`; inner product where it is not known.
    """
    if metric == "l2":
        return lambda queries, _: -torch.cdist(queries, raw)
    return lambda queries, _: queries @ raw.T


# -- the anchor -------------------------------------------------------------------------------------------------------
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
        weights: weights of the whole dialogue, the last turn and the readout, by their names in `UniMuRQueryAnchor`.
        merit: mean reciprocal rank in percent, by `merit_of` over the sets that choose.
        by_set: the same of each set.
    """

    weights: dict[str, float]
    merit: float
    by_set: dict[str, float]


class AnchorChoice:
    """Chooses among readouts, each with weights from a grid that holds the encoder alone.

    Args:
        space: space of the encoder. It runs once over all contexts, here.
        config: configuration of the model.
        choosing: sets that choose.
        judging: sets that only judge.
    """

    def __init__(self, space: TextSpace, config: UniMuRConfig, choosing: Sequence[DevSet], judging: Sequence[DevSet]):
        self.space, self.choosing = space, [_fewer_candidates(dev) for dev in choosing]
        vectors = _own_vectors(space, [dev.contexts for dev in (*choosing, *judging)])
        self._own, self._judged = vectors[: len(choosing)], vectors[len(choosing) :]
        self.anchor = UniMuRQueryAnchor(config)
        for tensor, value in self.anchor.initial_values():  # that of images, in no set that chooses, stays
            tensor.data.fill_(value)
        self.choices: dict[str, Choice] = {}

    def offer(self, name: str, readouts: Sequence[torch.Tensor]) -> None:
        """Fits the weights of one readout.

        Args:
            name: name of the readout.
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
        """The name of the best readout with its weights. It is never below the encoder alone."""
        names = [name for name in self.choices if name != "encoder"]
        return max(names, key=lambda name: self.choices[name].merit)

    def own_queries(self) -> list[torch.Tensor]:
        """Returns the encoder's queries of the sets that judge: its vectors of the whole dialogues."""
        return [own[:, 0] for own in self._judged]

    @torch.no_grad()
    def queries(self, readouts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the anchored queries of the sets that judge, by the best choice.

        Args:
            readouts (each `(contexts, width)`): those of the best readout.
        """
        self._set(self.choices[self.best].weights)
        sets = [(readout, own[:, 0], own[:, 1]) for readout, own in zip(readouts, self._judged, strict=True)]
        return [
            self.anchor(*some, torch.zeros_like(some[0]), torch.zeros(len(some[0]), 3)).pooler_output for some in sets
        ]

    def report(self) -> dict:
        """Returns the best choice for `results.json`."""
        best, alone = self.choices[self.best], self.choices["encoder"]
        sets = {name: {"encoder": alone.by_set[name], "anchored": best.by_set[name]} for name in best.by_set}
        return {"readout": self.best, **best.weights, "revision": self.space.revision, "chosen_on": sets}

    def install(self, model, processor) -> None:
        """Gives the model and the processor the anchor of the best choice; both name the encoder."""
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
        by_set = {some.name: some.mrr(self.anchor(*some.inputs).pooler_output) for some in sets}
        weights = {name: round(float(getattr(self.anchor, name)), 6) for name in names}
        return Choice(weights, merit_of(list(by_set.values())), by_set)


def _own_vectors(space: TextSpace, several: list[list[list[str]]]) -> list[torch.Tensor]:
    """Encodes whole dialogues and last turns, `(contexts, 2, width)` for each list of contexts; each text is encoded
    once."""
    pairs = [[anchor_words(turn_messages(turns)) for turns in contexts] for contexts in several]
    distinct = list(dict.fromkeys(text for some in pairs for pair in some for text in pair))
    places = {text: number for number, text in enumerate(distinct)}
    vectors = space.encode_queries(distinct, desc="The encoder's own queries")
    return [vectors[torch.tensor([[places[text] for text in pair] for pair in some])] for some in pairs]


def _fewer_candidates(dev: DevSet) -> DevSet:
    """Keeps all relevant candidates and a limited number of others, so that selection takes seconds on a large
    index."""
    if len(dev.candidates) <= _MOST_CANDIDATES:
        return dev
    right = np.isin(dev.candidate_ids, dev.ids)
    others = np.random.default_rng(0).permutation(np.flatnonzero(~right))
    rows = np.sort(np.concatenate([np.flatnonzero(right), others[: max(_MOST_CANDIDATES - right.sum(), 0)]]))
    return replace(dev, candidates=dev.candidates[torch.from_numpy(rows)], candidate_ids=dev.candidate_ids[rows])


# -- the choice -------------------------------------------------------------------------------------------------------
class Selection:
    """Fitted readouts: their queries on the sets that judge, and the choice among them. The language model reads the
    contexts of all sets once, here.

    Without an encoder the mean of the recalls at 1 and 10 over the sets that choose decides. `merits` has the figures
    that decide, by the readouts' names.

    Args:
        model, processor: the model whose heads are fitted; `install` changes both.
        read: contexts as turns to hidden states at [RET] `(contexts, layers * width)`.
        judging: sets that only judge.
        choosing: sets that choose.
        space (*optional*): space of the encoder.
    """

    def __init__(
        self,
        model: UniMuRModel,
        processor: UniMuRProcessor,
        read: Callable[[list[list[str]]], torch.Tensor],
        judging: Sequence[DevSet],
        choosing: Sequence[DevSet],
        space: TextSpace | None = None,
    ):
        self.model, self.processor = model, processor
        self.judging, self.choosing = judging, choosing
        self._judging_states, self._choosing_states = ([read(dev.contexts) for dev in s] for s in (judging, choosing))
        self.anchors = None if space is None else AnchorChoice(space, model.config, choosing, judging)
        self.queries: dict[str, list[torch.Tensor]] = {}
        self.merits: dict[str, float] = {}
        self._readouts: dict[str, RidgeMap] = {}

    def judge(self, name: str, readout: RidgeMap) -> None:
        """Evaluate a readout without making it a candidate."""
        self.queries[name] = [readout.queries(states) for states in self._judging_states]

    def offer(self, name: str, readout: RidgeMap) -> None:
        """Evaluate a readout and make it a candidate."""
        self.judge(name, readout)
        self._readouts[name] = readout
        found = [readout.queries(states) for states in self._choosing_states]
        if self.anchors is not None:
            self.anchors.offer(name, found)
            self.merits = {name: choice.merit for name, choice in self.anchors.choices.items()}
        else:
            recalls = [recall_of(queries, dev) for queries, dev in zip(found, self.choosing, strict=True)]
            self.merits[name] = float(np.mean([sum(recall.values()) / len(recall) for recall in recalls]))

    def install(self) -> str:
        """Set the model's readout to the best one, and give model and processor the anchor.

        Returns:
            `str`: the readout; or `anchored`, or `encoder` where neither the last turn nor a readout got a weight.
        """
        best = max(self._readouts, key=self.merits.__getitem__)
        set_readout(self.model, self._readouts[best])
        if self.anchors is None:
            return best
        self.queries["encoder"] = self.anchors.own_queries()
        self.queries["anchored"] = self.anchors.queries(self.queries[best])
        self.anchors.install(self.model, self.processor)
        weights = self.anchors.choices[best].weights
        return "encoder" if weights["last_weight"] == weights["readout_weight"] == 0 else "anchored"
