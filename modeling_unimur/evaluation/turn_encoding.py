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
class Branch:
    """Tokens that follow the first `fork` tokens of a stream; `row` is the caller's number."""

    row: int
    fork: int
    tokens: list[int]


@dataclass
class Stream:
    """Tokens with branches; `skipped` images of the dialogue do not stand in it, as it is cut in front."""

    tokens: list[int]
    skipped: int = 0
    branches: list[Branch] = field(default_factory=list)
    images: list = field(default_factory=list)


@dataclass
class Context:
    """A dialogue as tokens; keys of the images in them, how many do not fit, and the messages."""

    tokens: list[int]
    images: list
    skipped: int
    messages: list[dict]


def plan_streams(
    rows: Sequence[Sequence[int]], skipped: Sequence[int], last: int, image_token: int | None
) -> list[Stream]:
    """Puts contexts together that begin alike.

    Args:
        rows: the tokens of whole contexts.
        skipped: images of the dialogue that each has lost in front.
        last: tokens at the end of each that always are a branch (readout prompt and [RET]).
        image_token: placeholder of an image, which stands in streams alone.

    Returns:
        Streams, in whose branches each context is one.
    """
    streams: list[Stream] = []
    for number in sorted(range(len(rows)), key=lambda number: -len(rows[number])):
        row = list(rows[number])
        body = row[: len(row) - last]
        for stream in streams:
            pairs = enumerate(zip(stream.tokens, body, strict=False))
            fork = next((at for at, (one, other) in pairs if one != other), min(len(stream.tokens), len(body)))
            # Where less than half is shared, or an image would stand in the branch, a stream of its own is better.
            if stream.skipped == skipped[number] and 2 * fork >= len(body) and image_token not in row[fork:]:
                stream.branches.append(Branch(number, fork, row[fork:]))
                break
        else:
            streams.append(Stream(body, skipped[number], [Branch(number, len(body), row[len(body) :])]))
    return streams


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
        contexts = [self.read(context, number) for number, group in enumerate(groups) for context in group]
        found = torch.empty(len(contexts), self.model.config.embedding_width)
        likely = torch.full((len(contexts),), torch.nan)
        streams: list[Stream] = []
        if self.shares:
            start = 0
            for group in groups:
                streams += self.plan(contexts, range(start, start + len(group)), self.processor.readout_length)
                start += len(group)
            for batch in _buckets(streams):
                rows, vectors, said = self._unify(batch, ret)
                found[rows] = vectors.float().cpu()
                if ret:
                    likely[rows] = said.cpu()
        else:
            streams = [Stream(c.tokens, 0, [Branch(n, 0, [])], c.images) for n, c in enumerate(contexts)]
            for batch in _buckets(streams):
                ids, mask = self.pad([stream.tokens for stream in batch])
                vectors = self.model.get_readout_features(ids, mask, self.features(batch))
                found[[stream.branches[0].row for stream in batch]] = vectors.float().cpu()
        return self._anchored(found, contexts), likely

    # -- the pieces, which rank answers too --------------------------------------------------------------------------
    @property
    def shares(self) -> bool:
        """Whether contexts share what they have in common."""
        return self.share and self.model.frozen_decoder.supports("branch")

    def read(self, context: Sequence[dict], number: int) -> Context:
        """A context that errors call by its dialogue's number."""
        messages, images = read_conversation(list(context), f"Dialogue {number}", load=self.images.read)
        rows, (lost,) = self.processor.tokenize([self.processor.render(messages)], keep="latest")
        return Context(rows["input_ids"][0], images[lost:], lost, messages)

    def plan(self, contexts: Sequence[Context], members: Sequence[int], last: int, cut: int = 0) -> list[Stream]:
        """Streams of those contexts whose numbers are given, without so many tokens at their ends."""
        some = [contexts[number] for number in members]
        rows = [context.tokens[: len(context.tokens) - cut] for context in some]
        streams = plan_streams(rows, [context.skipped for context in some], last, self.processor.image_token_id)
        for stream in streams:
            stream.images = some[stream.branches[0].row].images
            for branch in stream.branches:
                branch.row = members[branch.row]
        return streams

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask `(rows, tokens)`, padded on the left."""
        device = self.model.device
        ids = [torch.tensor(row, device=device) for row in rows]
        mask = [torch.ones_like(row) for row in ids]
        return pad_sequence(ids, True, padding_side="left"), pad_sequence(mask, True, padding_side="left")

    def features(self, streams: Sequence[Stream]) -> torch.Tensor | None:
        """What the language model reads of the streams' images `(images, visual_width)`."""
        found = self.images.get([key for stream in streams for key in stream.images])
        return None if found is None else found.to(self.model.device)

    def run_streams(self, streams: Sequence[Stream]) -> PrefixCache:
        """Runs streams together."""
        ids, mask = self.pad([stream.tokens for stream in streams])
        return self.model.frozen_decoder.build(self.model.get_inputs_embeds(ids, self.features(streams)), mask)

    def run_branches(self, prefix: PrefixCache, branches: Sequence[Sequence[Branch]]) -> Extended:
        """Runs the branches of every stream together; their tokens stand one after the other, padded on the right."""
        device = self.model.device
        columns = [
            [(token, branch.fork, number) for number, branch in enumerate(row) for token in branch.tokens]
            for row in branches
        ]
        padded = pad_sequence([torch.tensor(row, device=device) for row in columns], True, padding_value=-1)
        ids, forks, owners = padded.unbind(-1)
        embeds = self.model.get_inputs_embeds(ids.clamp(min=0))
        return self.model.frozen_decoder.branch(embeds, prefix, forks.clamp(min=0), owners)

    def _unify(self, streams: Sequence[Stream], ret: bool) -> tuple[list[int], torch.Tensor, torch.Tensor | None]:
        """Numbers of the contexts that the branches stand for, their readouts, and the logarithm of how likely the
        language model says [RET] where it stands."""
        prefix = self.run_streams(streams)
        found = self.run_branches(prefix, [stream.branches for stream in streams])
        last = self.model.config.num_ret_tokens
        numbers, rows, ends, before = [], [], [], []
        for row, stream in enumerate(streams):
            end = 0
            for branch in stream.branches:
                start, end = end, end + len(branch.tokens)
                numbers.append(branch.row)
                rows.append(row)
                ends.append(list(range(end - last, end)))
                if end - last > start:
                    before.append(found.hidden[row, end - last - 1])
                else:  # [RET] follows the stream itself
                    before.append(prefix.hidden[row, branch.fork - len(stream.tokens) - 1])
        picked = [state[torch.tensor(rows)[:, None], torch.tensor(ends)] for state in found.states]
        likely = None
        if ret:
            likely = self.model.get_vocabulary_logits(torch.stack(before), ret=True).log_softmax(dim=-1)[:, -1]
        return numbers, self.model.unify(picked), likely

    def _anchored(self, readouts: torch.Tensor, contexts: Sequence[Context]) -> torch.Tensor:
        """The queries of contexts whose readouts `(contexts, width)` are known."""
        if self.model.config.query_anchor == "none":
            return readouts
        device, parts = self.model.device, []
        for first in range(0, len(contexts), _ANCHORED):
            some = contexts[first : first + _ANCHORED]
            counts = torch.tensor([[len(context.tokens), len(context.images)] for context in some], device=device).T
            features = self.features([Stream([], images=context.images) for context in some])
            anchors = self.processor.process_anchors([context.messages for context in some])
            anchors = {name: value.to(device) for name, value in anchors.items()}
            readout = readouts[first : first + _ANCHORED].to(device, self.model.dtype)
            parts.append(self.model.anchor_queries(readout, *counts, features, **anchors).query.float().cpu())
        return torch.cat(parts) if parts else readouts


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
