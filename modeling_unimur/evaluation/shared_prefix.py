"""Contexts that begin alike run through the language model once.

The turns of a dialogue, or a hundred answers to one question, share nearly all of their tokens. A *stream* of tokens
runs once, into a key-value cache; every *branch* is a few tokens that follow the stream up to some place, and all
branches run together, each seeing the stream up to its place and itself. A causal model computes the same numbers as
for each context on its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import DynamicCache

from ..readout_unimur import FrozenReader, cache_of


@dataclass
class Branch:
    """Tokens that follow the first `fork` tokens of a stream; `row` is the caller's number."""

    row: int
    fork: int
    tokens: list[int]


@dataclass
class Stream:
    """Tokens with branches; `skipped` pictures of the dialogue do not stand in it, as it is cut in front."""

    tokens: list[int]
    skipped: int = 0
    branches: list[Branch] = field(default_factory=list)


@dataclass
class Prefix:
    """What `read_streams` leaves: last hidden states `(streams, tokens, width)`, keys and values of every layer, and
    the column of each stream's first token."""

    hidden: torch.Tensor
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]
    starts: list[int]


def plan_streams(
    rows: Sequence[Sequence[int]], skipped: Sequence[int], last: int, image_token: int | None
) -> list[Stream]:
    """Puts contexts together that begin alike.

    Args:
        rows: the tokens of whole contexts.
        skipped: pictures of the dialogue that each has lost in front.
        last: tokens at the end of each that always are a branch (readout prompt and [RET]).
        image_token: placeholder of a picture, which stands in streams alone.

    Returns:
        Streams, in whose branches each context is one.
    """
    streams: list[Stream] = []
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        row = list(rows[number])
        body = row[: len(row) - last]
        for stream in streams:
            fork = _alike(stream.tokens, body)
            # Where less than half is shared, or a picture would stand in the branch, a stream of its own is better.
            if stream.skipped == skipped[number] and 2 * fork >= len(body) and image_token not in row[fork:]:
                stream.branches.append(Branch(number, fork, row[fork:]))
                break
        else:
            streams.append(Stream(body, skipped[number], [Branch(number, len(body), row[len(body) :])]))
    return streams


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


class SharedPrefix:
    """Runs streams and their branches through a model's frozen language model.

    Args:
        model (`UniMuRModel`): whose language model, [RET] vectors and maps are used.
    """

    def __init__(self, model):
        self.model, self.layers = model, model.config.ret_layers
        self.reader = FrozenReader(model.language_model, self.layers)
        self._works: bool | None = None

    @property
    def works(self) -> bool:
        """Whether the language model gives the same numbers this way: not with sliding windows, recurrent states or
        distances in place of positions. Found out once, by trying."""
        if self._works is None:
            reason = "its cache cannot be cut"
            self._works = self.reader.joins_caches
            if self._works:
                try:
                    self._works, reason = self._agrees(), "its shared and its plain result differ"
                except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                    self._works, reason = False, str(error).split("\n")[0]
            if not self._works:
                warnings.warn(
                    f"{type(self.model.language_model).__name__} cannot share prefixes ({reason}); each context runs "
                    "on its own: the same numbers, slower.",
                    stacklevel=2,
                )
        return self._works

    @torch.inference_mode()
    def _agrees(self) -> bool:
        ret = self.model.config.ret_token_ids
        table = self.model.get_input_embeddings().num_embeddings
        rows = [[(7 * place + 3) % table for place in range(length)] + ret for length in (9, 5)]
        streams = plan_streams(rows, [0, 0], len(ret), None)
        found, _ = self.unify(streams, None)
        width = len(rows[0])
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        plain = self.model.get_readout_features(ids, mask)
        cosines = [(found[number] * plain[number]).sum() for number in range(len(rows))]
        return all(float(cosine) > self.model._least_cosine() for cosine in cosines)

    def read_streams(self, streams: Sequence[Stream], features: torch.Tensor | None) -> Prefix:
        """Runs streams, padded on the left to the longest.

        Args:
            streams: to run together.
            features (`(pictures, visual_width)`): of their pictures in reading order; None without any.
        """
        width = max(len(stream.tokens) for stream in streams)
        starts = [width - len(stream.tokens) for stream in streams]
        device = self.model.device
        pairs = list(zip(streams, starts, strict=True))
        ids = torch.tensor([[0] * start + stream.tokens for stream, start in pairs], device=device)
        mask = torch.tensor([[0] * start + [1] * (width - start) for start in starts], device=device)
        embeds = self.model._embed_tokens(ids, features)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        out = self.reader.run(embeds, mask, positions, use_cache=True)
        layers = [(layer.keys, layer.values) for layer in cache_of(out).layers]
        return Prefix(out.last_hidden_state, layers, starts)

    def read_branches(
        self, prefix: Prefix, branches: Sequence[Sequence[Branch]], end: int | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Runs the branches of every stream together.

        Args:
            prefix: of the streams.
            branches: of each stream; their tokens stand one after the other.
            end: the cache is cut to so many tokens, where no branch needs more of a single stream.

        Returns:
            For each of the model's readout layers `(streams, tokens, width)`, padded on the right; and the last hidden
            states of that shape.
        """
        keep = slice(None, end)
        before = prefix.keys_values[0][0][:, :, keep].shape[2]
        width = max(sum(len(branch.tokens) for branch in row) for row in branches)
        ids = torch.zeros(len(branches), width, dtype=torch.long)
        positions, forks = torch.zeros_like(ids), torch.zeros_like(ids)
        owners = torch.full_like(ids, -1)
        for number, row in enumerate(branches):
            place = 0
            for owner, branch in enumerate(row):
                part = slice(place, place + len(branch.tokens))
                ids[number, part] = torch.tensor(branch.tokens)
                positions[number, part] = branch.fork + torch.arange(len(branch.tokens))
                forks[number, part], owners[number, part] = branch.fork, owner
                place = part.stop
        starts, columns = torch.tensor(prefix.starts)[:, None, None], torch.arange(before)
        seen = (columns >= starts) & (columns < starts + forks[:, :, None])
        own = (owners[:, :, None] == owners[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
        device = self.model.device
        embeds = self.model._embed_tokens(ids.to(device), None)
        allowed = torch.cat([seen, own], dim=2)[:, None].to(device)
        mask = torch.zeros(allowed.shape, dtype=embeds.dtype, device=device)
        mask.masked_fill_(~allowed, torch.finfo(embeds.dtype).min)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefix.keys_values):
            cache.update(keys[:, :, keep], values[:, :, keep], layer)
        out = self.reader.run(
            embeds, mask, positions.to(device), cache, use_cache=True, output_hidden_states=self.layers != [-1]
        )
        last = out.last_hidden_state
        return [last if layer == -1 else out.hidden_states[layer] for layer in self.layers], last

    @torch.inference_mode()
    def unify(
        self, streams: Sequence[Stream], features: torch.Tensor | None, ret: bool = False
    ) -> tuple[dict[int, torch.Tensor], dict[int, float]]:
        """Readouts of the contexts that the branches stand for, by their numbers: their unified embeddings, before
        any anchor.

        Args:
            streams: to run together; every branch ends with [RET].
            features: as in `read_streams`.
            ret: whether to find as well how likely the language model says [RET] where it stands.

        Returns:
            The readouts, and the logarithms of that likelihood, which are none without `ret`.
        """
        prefix = self.read_streams(streams, features)
        states, hidden = self.read_branches(prefix, [stream.branches for stream in streams])
        last = self.model.config.num_ret_tokens
        numbers, places, before = [], [], []
        for row, stream in enumerate(streams):
            end = 0
            for branch in stream.branches:
                start, end = end, end + len(branch.tokens)
                numbers.append(branch.row)
                places.append((row, range(end - last, end)))
                if end - last > start:
                    before.append(hidden[row, end - last - 1])
                else:  # [RET] follows the stream itself
                    before.append(prefix.hidden[row, prefix.starts[row] + branch.fork - 1])
        picked = [torch.stack([state[row, list(part)] for row, part in places]) for state in states]
        likely = self._ret_log_probability(torch.stack(before)).tolist() if ret else []
        found = dict(zip(numbers, self.model.heads.unify(picked), strict=True))
        return found, dict(zip(numbers, likely, strict=False))

    def _ret_log_probability(self, states: torch.Tensor) -> torch.Tensor:
        """Of [RET] as one more word of the vocabulary, as the next-token loss of contexts has it."""
        head, softcap = self.model.get_output_embeddings(), self.model._softcap
        rows = torch.cat([head.weight, self.model.heads.ret_embedding[:1].to(head.weight)])
        logits = states @ rows.T
        if getattr(head, "bias", None) is not None:
            logits[:, :-1] += head.bias
        logits = logits.float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return logits[:, -1] - logits.logsumexp(dim=-1)


__all__ = ["Branch", "Prefix", "SharedPrefix", "Stream", "plan_streams"]
