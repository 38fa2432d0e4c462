"""Embeds all contexts of a dialogue in one pass over their shared prefix.

The turns of a dialogue, or a hundred answers to one question, share nearly all of their tokens. A *stream* runs once,
into a prefix cache; every *branch* is a few tokens that follow the stream up to some place, and all branches run
together, each seeing the stream up to its place and itself. A causal model computes the same numbers as for each
context on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from ..prefix_cache import ContextReader, Extended, FrozenDecoder, PrefixCache, common_length, group_by_length

# Streams that run together, and tokens of theirs with padding: enough to keep one core busy, little memory.
_STREAMS, _TOKENS = 8, 4096
# Contexts that run together from their start (FROMAGe's script: 20), and whose queries are anchored together.
_ANEW, _ANCHORED = 20, 64


@dataclass
class Branch:
    """Places that follow the first `fork` places of a stream; `row` is the caller's number."""

    row: int
    fork: int
    places: list


@dataclass
class Stream:
    """Places, as `ContextReader` reads them, and the branches that follow some of them."""

    places: list
    branches: list[Branch]


def plan_streams(rows: Sequence[list], last: int) -> list[Stream]:
    """Groups contexts (rows of places) that share a prefix into streams, in whose branches each context is one. The
    `last` places of each always are a branch (readout prompt and [RET]); images stand in streams alone."""
    streams: list[Stream] = []
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        row = rows[number]
        body = row[: len(row) - last]
        for stream in streams:
            fork = common_length(stream.places, body)
            # Where less than half is shared, or an image would stand in the branch, a stream of its own is better.
            if 2 * fork >= len(body) and not any(isinstance(place, tuple) for place in row[fork:]):
                stream.branches.append(Branch(number, fork, row[fork:]))
                break
        else:
            streams.append(Stream(body, [Branch(number, len(body), row[len(body) :])]))
    return streams


class BranchingDecoder(FrozenDecoder):
    """A frozen decoder that continues many parts of a prefix together, which models without positions cannot."""

    purpose = "share"

    def branch(self, embeds: torch.Tensor, prefix: PrefixCache, forks: torch.Tensor, owners: torch.Tensor) -> Extended:
        """Runs several continuations of each row together. Each of them sees its row up to some place, and itself.

        Args:
            embeds (`(batch, tokens, width)`): the continuations of a row one after the other, padded on the right.
            prefix: one row each.
            forks (`(batch, tokens)`): how many tokens of the row the input vector sees.
            owners (`(batch, tokens)`): number of the continuation that it belongs to.
        """
        columns = torch.arange(prefix.mask.shape[1], device=forks.device)
        starts = (prefix.mask == 0).sum(dim=1)[:, None, None]
        seen = (columns >= starts) & (columns < starts + forks[:, :, None])
        own = (owners[:, :, None] == owners[:, None, :]).tril()
        hidden = ~torch.cat([seen, own], dim=2)[:, None]
        mask = embeds.new_zeros(hidden.shape).masked_fill(hidden, torch.finfo(embeds.dtype).min)
        return self.extend(embeds, mask, prefix, positions=forks + own.sum(dim=2) - 1)

    def try_prefix(self, prefix: PrefixCache, rest: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        if not self.supports_prefix_cache:
            raise ValueError("its cache cannot be cut")
        forks = mask[:, :6].sum(dim=1, keepdim=True).expand(2, 6)
        owners = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2, device=rest.device)
        return self.branch(torch.cat([rest.flip(1), rest], dim=1), prefix, forks, owners).states


class TurnEncoder:
    """Embeds the contexts of dialogues. Images are embedded once, however many contexts show them.

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): a pair.
        share: whether contexts share what they have in common, as far as the language model can; False runs each anew,
            for comparison.
    """

    def __init__(self, model, processor, share: bool = True):
        self.model, self.processor, self.share = model, processor, share
        self.reader = ContextReader(model, processor)
        self.decoder = BranchingDecoder(model.language_model, model.config.ret_layers, model.frozen_decoder.supported)

    @property
    def shares(self) -> bool:
        """Whether contexts share what they have in common."""
        return self.share and self.decoder.supports()

    def encode(self, groups: Sequence[Sequence[Sequence[dict]]]) -> torch.Tensor:
        """Returns unit vectors `(contexts, width)`, dialogue by dialogue.

        Args:
            groups: for each dialogue its contexts, such as all beginnings of it; a context is a list of chat messages.

        Raises:
            ValueError, FileNotFoundError: naming the dialogue and turn that is wrong, or the image.
        """
        return self._encode(groups, False)[0]

    def encode_with_ret(self, groups: Sequence[Sequence[Sequence[dict]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the vectors, and the log-probability of [RET] at the end of each context `(contexts,)`. It is
        meaningful for models that were trained to say [RET] (FROMAGe's next-token loss)."""
        return self._encode(groups, True)

    @torch.inference_mode()
    def _encode(self, groups, ret: bool) -> tuple[torch.Tensor, torch.Tensor]:
        contexts: list[tuple[list, list[dict]]] = []
        streams: list[Stream] = []
        for number, group in enumerate(groups):
            some = [self.reader.read(context, number, allow_urls=False) for context in group]
            for stream in plan_streams([places for places, _ in some], self.processor.readout_length):
                for branch in stream.branches:
                    branch.row += len(contexts)
                streams.append(stream)
            contexts += some
        vectors = torch.empty(len(contexts), self.model.config.embedding_width)
        likely, last = torch.empty(len(contexts)), self.model.config.num_ret_tokens
        for batch in _buckets(streams):
            rows, states, hidden = zip(*self.run(batch), strict=True)
            layers = [torch.stack([state[-last:] for state in layer]) for layer in zip(*states, strict=True)]
            vectors[list(rows)] = self.model.heads.unify(layers).float().cpu()
            if ret:
                before = torch.stack([state[-last - 1] for state in hidden])
                logits = self.model.get_vocabulary_logits(before, ret=True)
                likely[list(rows)] = logits.log_softmax(dim=-1)[:, -1].cpu()
        return self._anchored(vectors, contexts), likely

    def build(self, streams: Sequence[Stream]) -> PrefixCache | None:
        """Builds the prefix cache of several streams; None if contexts do not share prefixes."""
        return self.decoder.build(*self.reader.inputs([s.places for s in streams])) if self.shares else None

    def run(
        self, streams: Sequence[Stream], prefix: PrefixCache | None = None
    ) -> Iterator[tuple[int, list[torch.Tensor], torch.Tensor]]:
        """Runs the branches of streams together, over a prefix of `build` cut to the streams' places if one is given.

        Returns:
            For each branch its `row`; hidden states `(places, width)` of each layer that is read; and the last ones
                `(1 + places, width)`, which begin with the place before the branch.
        """
        prefix = self.build(streams) if prefix is None else prefix
        if prefix is None:
            yield from self._run_anew(streams)
            return
        columns = [
            [(token, branch.fork, number) for number, branch in enumerate(stream.branches) for token in branch.places]
            for stream in streams
        ]
        found = Extended([], prefix.hidden[:, :0], None)
        if any(columns):
            ids = [torch.tensor(row, dtype=torch.long, device=self.model.device) for row in columns]
            ids, forks, owners = pad_sequence(ids, True, padding_value=-1).unbind(-1)
            embeds = self.model.get_inputs_embeds(ids.clamp(min=0))
            found = self.decoder.branch(embeds, prefix, forks.clamp(min=0), owners)
        for row, stream in enumerate(streams):
            end = 0
            for branch in stream.branches:
                start, end = end, end + len(branch.places)
                before = prefix.hidden[row, branch.fork - len(stream.places) - 1]
                hidden = torch.cat([before[None], found.hidden[row, start:end]])
                yield branch.row, [state[row, start:end] for state in found.states], hidden

    def _run_anew(self, streams: Sequence[Stream]) -> Iterator[tuple[int, list[torch.Tensor], torch.Tensor]]:
        jobs = [(stream.places[: branch.fork], branch) for stream in streams for branch in stream.branches]
        jobs.sort(key=lambda job: len(job[0]) + len(job[1].places))
        for first in range(0, len(jobs), _ANEW):
            some = jobs[first : first + _ANEW]
            embeds, mask = self.reader.inputs([[*lead, *branch.places] for lead, branch in some])
            for rows in group_by_length(mask):
                width = int(mask[rows].sum(dim=1).max())
                found = self.decoder.extend(embeds[rows, -width:], mask[rows, -width:])
                for place, number in enumerate(rows.tolist()):
                    branch = some[number][1]
                    start = width - len(branch.places)
                    states = [state[place, start:].clone() for state in found.states]
                    yield branch.row, states, found.hidden[place, start - 1 :].clone()

    def _anchored(self, readouts: torch.Tensor, contexts: Sequence[tuple[list, list[dict]]]) -> torch.Tensor:
        """Adds the query anchor to the readouts `(contexts, width)` of contexts."""
        if self.model.config.query_anchor == "none":
            return readouts
        device, parts = self.model.device, []
        for first in range(0, len(contexts), _ANCHORED):
            rows, messages = zip(*contexts[first : first + _ANCHORED], strict=True)
            counts = torch.tensor([[len(row), len(self.reader.images(row))] for row in rows], device=device).T
            anchors = {name: value.to(device) for name, value in self.processor.process_anchors(messages).items()}
            readout = readouts[first : first + _ANCHORED].to(device, self.model.dtype)
            found = self.model.anchor_queries(readout, *counts, self.reader.features(rows), **anchors)
            parts.append(found.pooler_output.float().cpu())
        return torch.cat(parts) if parts else readouts


def _buckets(streams: list[Stream]) -> Iterator[list[Stream]]:
    """Yields streams of similar length, as many as may run together."""
    batch: list[Stream] = []
    for stream in sorted(streams, key=lambda stream: len(stream.places)):
        if batch and (len(batch) == _STREAMS or (len(batch) + 1) * len(stream.places) > _TOKENS):
            yield batch
            batch = []
        batch.append(stream)
    if batch:
        yield batch
