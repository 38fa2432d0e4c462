"""All contexts of a dialogue as unified embeddings, in one pass over what they share.

The turns of a dialogue, or a hundred answers to one question, share nearly all of their tokens. A *stream* of tokens
runs once, into a prefix cache; every *branch* is a few tokens that follow the stream up to some place, and all
branches run together, each seeing the stream up to its place and itself. A causal model computes the same numbers as
for each context on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from ..conversation import read_conversation
from ..prefix_cache import Extended, ImageFeatures, PrefixCache

# Streams that run together, and tokens of theirs with padding: enough to keep one core busy, little memory.
_STREAMS, _TOKENS = 8, 4096
# Contexts whose queries are anchored together.
_ANCHORED = 64


@dataclass
class Context:
    """A dialogue as tokens; keys of the images in them, how many do not fit, and the messages."""

    tokens: list[int]
    images: list = field(default_factory=list)
    skipped: int = 0
    messages: list[dict] = field(default_factory=list)


@dataclass
class Branch:
    """Tokens that follow the first `fork` tokens of a stream; `row` is the number of their context."""

    row: int
    fork: int
    tokens: list[int]


@dataclass
class Stream:
    """Tokens with branches, and the images in them."""

    tokens: list[int]
    images: list
    branches: list[Branch]


def plan_streams(contexts: Sequence[Context], last: int, image_token: int | None, start: int = 0) -> list[Stream]:
    """Puts contexts together that begin alike.

    Args:
        contexts: to put together.
        last: tokens at the end of each that always are a branch (readout prompt and [RET]).
        image_token: placeholder of an image, which stands in streams alone.
        start: number of the first context.

    Returns:
        Streams, in whose branches each context is one.
    """
    streams: list[tuple[Stream, int]] = []
    for number, context in sorted(enumerate(contexts, start), key=lambda pair: -len(pair[1].tokens)):
        row, end = context.tokens, len(context.tokens) - last
        for stream, skipped in streams:
            most = min(len(stream.tokens), end)
            fork = next((place for place in range(most) if stream.tokens[place] != row[place]), most)
            # Where less than half is shared, or an image would stand in the branch, a stream of its own is better.
            if skipped == context.skipped and 2 * fork >= end and image_token not in row[fork:]:
                stream.branches.append(Branch(number, fork, row[fork:]))
                break
        else:
            streams.append((Stream(row[:end], context.images, [Branch(number, end, row[end:])]), context.skipped))
    return [stream for stream, _ in streams]


class TurnEncoder:
    """Embeds the contexts of dialogues. Images are embedded once, however many contexts show them.

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): a pair.
        share: whether contexts share what they have in common; False runs each anew, for comparison. Language models
            that cannot share (see `FrozenDecoder.supports`) run each anew in any case.
    """

    def __init__(self, model, processor, share: bool = True):
        self.model, self.processor, self.share = model, processor, share
        self.images = ImageFeatures(model, processor)

    @torch.inference_mode()
    def encode(self, groups: Sequence[Sequence[Sequence[dict]]]) -> torch.Tensor:
        """Unit vectors `(contexts, width)`, group by group.

        Args:
            groups: for each dialogue its contexts, such as all beginnings of it; a context is a list of chat messages.

        Raises:
            ValueError, FileNotFoundError: naming the dialogue and turn that is wrong, or the image.
        """
        return self._encode(groups, False)[0]

    @torch.inference_mode()
    def encode_with_ret(self, groups: Sequence[Sequence[Sequence[dict]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and how likely the language model says [RET] at the end of each context: the logarithm of its
        probability `(contexts,)`. It means something for models that were trained to say it (FROMAGe's next-token
        loss). NaN for language models that cannot share prefixes."""
        return self._encode(groups, True)

    def _encode(self, groups, ret: bool) -> tuple[torch.Tensor, torch.Tensor]:
        contexts: list[Context] = []
        streams: list[Stream] = []
        for number, group in enumerate(groups):
            read = [self.read(context, number) for context in group]
            if self.shares:
                last, image = self.processor.readout_length, self.processor.image_token_id
                streams += plan_streams(read, last, image, len(contexts))
            else:
                numbered = enumerate(read, len(contexts))
                streams += [Stream(context.tokens, context.images, [Branch(at, 0, [])]) for at, context in numbered]
            contexts += read
        found = torch.empty(len(contexts), self.model.config.embedding_width)
        likely = torch.full((len(contexts),), torch.nan)
        for batch in _buckets(streams):
            rows = [branch.row for stream in batch for branch in stream.branches]
            if self.shares:
                vectors, before = self._unify(batch)
                if ret:
                    logits = self.model.get_vocabulary_logits(before, ret=True)
                    likely[rows] = logits.log_softmax(dim=-1)[:, -1].cpu()
            else:
                ids, mask = self.pad([stream.tokens for stream in batch])
                vectors = self.model.get_readout_features(ids, mask, self.features(batch))
            found[rows] = vectors.float().cpu()
        return self._anchored(found, contexts), likely

    def _unify(self, streams: Sequence[Stream]) -> tuple[torch.Tensor, torch.Tensor]:
        """Readouts of the contexts that the branches stand for, and the last hidden states before [RET]."""
        prefix = self.run_streams(streams)
        found = self.run_branches(prefix, [stream.branches for stream in streams])
        last, places, before = self.model.config.num_ret_tokens, [], []
        for row, stream in enumerate(streams):
            end = 0
            for branch in stream.branches:
                start, end = end, end + len(branch.tokens)
                places.append((row, range(end - last, end)))
                if end - last > start:
                    before.append(found.hidden[row, end - last - 1])
                else:  # [RET] follows the stream itself
                    before.append(prefix.hidden[row, branch.fork - len(stream.tokens) - 1])
        picked = [torch.stack([state[row, list(part)] for row, part in places]) for state in found.states]
        return self.model.unify(picked), torch.stack(before)

    def _anchored(self, readouts: torch.Tensor, contexts: Sequence[Context]) -> torch.Tensor:
        """The queries of contexts whose readouts `(contexts, width)` are known."""
        if self.model.config.query_anchor == "none":
            return readouts
        device, parts = self.model.device, []
        for first in range(0, len(contexts), _ANCHORED):
            some = contexts[first : first + _ANCHORED]
            counts = torch.tensor([[len(context.tokens), len(context.images)] for context in some], device=device).T
            anchors = self.processor.process_anchors([context.messages for context in some])
            anchors = {name: value.to(device) for name, value in anchors.items()}
            readout = readouts[first : first + _ANCHORED].to(device, self.model.dtype)
            query = self.model.anchor_queries(readout, *counts, self.features(some), **anchors).query
            parts.append(query.float().cpu())
        return torch.cat(parts) if parts else readouts

    # -- what ranking answers takes as well ---------------------------------------------------------------------------
    @property
    def shares(self) -> bool:
        """Whether contexts share what they have in common."""
        return self.share and self.model.frozen_decoder.supports("branch")

    def read(self, context: Sequence[dict], number: int) -> Context:
        """A context that errors call by its dialogue's number."""
        messages, images = read_conversation(list(context), f"Dialogue {number}", load=self.images.read)
        rows, (lost,) = self.processor.tokenize([self.processor.render(messages)], keep="latest")
        return Context(rows["input_ids"][0], images[lost:], lost, messages)

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask `(rows, tokens)`, padded on the left."""
        ids = [torch.tensor(row, device=self.model.device) for row in rows]
        padded = [pad_sequence(part, True, padding_side="left") for part in (ids, [row * 0 + 1 for row in ids])]
        return padded[0], padded[1]

    def features(self, shown: Sequence[Stream | Context]) -> torch.Tensor | None:
        """What the language model reads of images `(images, visual_width)`."""
        found = self.images.get([key for some in shown for key in some.images])
        return None if found is None else found.to(self.model.device)

    def run_streams(self, streams: Sequence[Stream]) -> PrefixCache:
        """Runs streams together."""
        ids, mask = self.pad([stream.tokens for stream in streams])
        return self.model.frozen_decoder.build(self.model.get_inputs_embeds(ids, self.features(streams)), mask)

    def run_branches(self, prefix: PrefixCache, branches: Sequence[Sequence[Branch]]) -> Extended:
        """Runs the branches of every stream together; their tokens stand one after the other, padded on the right."""
        rows = [
            [(token, branch.fork, number) for number, branch in enumerate(row) for token in branch.tokens]
            for row in branches
        ]
        rows = [torch.tensor(row, device=self.model.device) for row in rows]
        ids, forks, owners = pad_sequence(rows, True, padding_value=-1).unbind(-1)
        embeds = self.model.get_inputs_embeds(ids.clamp(min=0))
        return self.model.frozen_decoder.branch(embeds, prefix, forks.clamp(min=0), owners)


def _buckets(streams: list[Stream]) -> Iterator[list[Stream]]:
    """Streams of like length, as many as may run together."""
    batch: list[Stream] = []
    for stream in sorted(streams, key=lambda stream: len(stream.tokens)):
        if batch and (len(batch) == _STREAMS or (len(batch) + 1) * len(stream.tokens) > _TOKENS):
            yield batch
            batch = []
        batch.append(stream)
    if batch:
        yield batch


__all__ = ["Branch", "Context", "Stream", "TurnEncoder", "plan_streams"]
