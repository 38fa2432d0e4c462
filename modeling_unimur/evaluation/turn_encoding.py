"""All contexts of a dialogue as unified embeddings, in one pass over what they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL import Image

from ..conversation import read_conversation
from ..image_loading import load_image
from .shared_prefix import SharedPrefix, Stream, plan_streams

# Streams that run together, and tokens of theirs with padding: enough to keep one core busy, little memory.
_STREAMS, _TOKENS = 8, 4096
# Contexts whose queries are anchored together.
_ANCHORED = 64
_PICTURES = 16
_PLACEHOLDER = Image.new("RGB", (1, 1))
_SOURCES = ("image", "path", "url", "base64")


class TurnEncoder:
    """Embeds the contexts of dialogues.

    Pictures that are named by a path are embedded once, however many contexts show them.

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): a pair.
        share: whether contexts share what they have in common; False runs each anew, for comparison. Models that
            cannot share (see `SharedPrefix.works`) run each anew in any case.
    """

    def __init__(self, model, processor, share: bool = True):
        self.model, self.processor = model, processor
        self._prefix = SharedPrefix(model) if share else None
        self._pictures: dict[str, torch.Tensor] = {}

    @torch.inference_mode()
    def encode(self, groups: Sequence[Sequence[Sequence[dict]]]) -> torch.Tensor:
        """Unit vectors `(contexts, width)`, group by group.

        Args:
            groups: for each dialogue its contexts, such as all beginnings of it; a context is a list of chat messages.

        Raises:
            ValueError, FileNotFoundError: naming the dialogue and turn that is wrong, or the picture.
        """
        return self._encode(groups, False)[0]

    @torch.inference_mode()
    def encode_with_ret(self, groups: Sequence[Sequence[Sequence[dict]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and how likely the language model says [RET] at the end of each context: the logarithm of its
        probability `(contexts,)`. It means something for models that were trained to say it (FROMAGe's next-token
        loss). NaN for language models that cannot share prefixes."""
        return self._encode(groups, True)

    def _encode(self, groups, ret: bool) -> tuple[torch.Tensor, torch.Tensor]:
        read = [self._read(context, number) for number, group in enumerate(groups) for context in group]
        found = torch.empty(len(read), self.model.config.embedding_width)
        likely = torch.full((len(read),), torch.nan)
        share = self._prefix is not None and self._prefix.works
        jobs: list[tuple[Stream, list]] = []
        start = 0
        for group in groups:
            members = range(start, start + len(group))
            start += len(group)
            if share:
                rows, skipped = [read[number][0] for number in members], [read[number][2] for number in members]
                for stream in plan_streams(
                    rows, skipped, self.processor._suffix_length, self.processor.image_token_id
                ):
                    owner = members[stream.branches[0].row]
                    for branch in stream.branches:
                        branch.row = members[branch.row]
                    jobs.append((stream, read[owner][1]))
            else:
                jobs += [(Stream(list(read[number][0]), branches=[]), read[number][1]) for number in members]
        if not share:
            return self._anchored(self._each(jobs, found), read), likely
        for batch in _buckets(jobs):
            features = self._features([source for _, sources in batch for source in sources])
            vectors, said = self._prefix.unify([stream for stream, _ in batch], features, ret)
            for number, vector in vectors.items():
                found[number] = vector.float().cpu()
            for number, value in said.items():
                likely[number] = value
        return self._anchored(found, read), likely

    def _anchored(self, readouts: torch.Tensor, read: list) -> torch.Tensor:
        """The queries of contexts whose readouts `(contexts, width)` are known."""
        if self.model.config.query_anchor == "none":
            return readouts
        device, parts = self.model.device, []
        for first in range(0, len(read), _ANCHORED):
            some = read[first : first + _ANCHORED]
            counts = torch.tensor([[len(tokens), len(sources)] for tokens, sources, *_ in some], device=device).T
            features = self._features([source for _, sources, *_ in some for source in sources])
            anchors = self.processor.process_anchors([messages for *_, messages in some])
            anchors = {name: value.to(device) for name, value in anchors.items()}
            readout = readouts[first : first + _ANCHORED].to(device, self.model.dtype)
            parts.append(self.model.anchor_queries(readout, *counts, features, **anchors).query.float().cpu())
        return torch.cat(parts) if parts else readouts

    def _each(self, jobs: list[tuple[Stream, list]], found: torch.Tensor) -> torch.Tensor:
        order = sorted(range(len(jobs)), key=lambda number: len(jobs[number][0].tokens))
        for first in range(0, len(order), _STREAMS):
            numbers = order[first : first + _STREAMS]
            width = len(jobs[numbers[-1]][0].tokens)
            gaps = [width - len(jobs[number][0].tokens) for number in numbers]
            rows = [[0] * gap + jobs[number][0].tokens for number, gap in zip(numbers, gaps, strict=True)]
            ids = torch.tensor(rows, device=self.model.device)
            mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps], device=self.model.device)
            features = self._features([source for number in numbers for source in jobs[number][1]])
            found[numbers] = self.model.get_readout_features(ids, mask, features).float().cpu()
        return found

    def _read(self, context: Sequence[dict], number: int) -> tuple[list[int], list, int, list[dict]]:
        """Tokens of a context, its pictures' sources, how many of them do not fit, and its messages."""
        sources: list = []
        messages, _ = read_conversation(
            [_without_pictures(message, sources) for message in context], f"Dialogue {number}"
        )
        batch = self.processor.process_rendered([self.processor.render(messages)], keep="latest")
        tokens = batch["input_ids"][0].tolist()
        kept = tokens.count(self.processor.image_token_id) // self.processor.num_visual_tokens
        return tokens, sources[len(sources) - kept :], len(sources) - kept, messages

    def _features(self, sources: Sequence) -> torch.Tensor | None:
        """What the language model reads of pictures `(pictures, visual_width)`."""
        if not sources:
            return None
        missing = list(dict.fromkeys(source for source in sources if isinstance(source, str)))
        missing = [source for source in missing if source not in self._pictures]
        for first in range(0, len(missing), _PICTURES):
            part = missing[first : first + _PICTURES]
            self._pictures.update(zip(part, self._embed(part), strict=True))
        rows = [self._pictures[s] if isinstance(s, str) else self._embed([s])[0] for s in sources]
        return torch.stack(rows).to(self.model.device)

    def _embed(self, sources: list) -> torch.Tensor:
        batch = self.processor.process_images([load_image(source) for source in sources]).to(self.model.device)
        return self.model._visual_choice(*self.model.encode_images(**batch)).cpu()


def _without_pictures(message: dict, sources: list) -> dict:
    """The message with a placeholder for each picture, whose source is added to a list."""
    if not isinstance(message.get("content"), (list, tuple)):
        return message
    parts = []
    for part in message["content"]:
        source = None
        if isinstance(part, dict) and part.get("type") == "image":
            source = next((part[key] for key in _SOURCES if part.get(key) is not None), None)
        if source is not None:
            sources.append(source)
            part = {"type": "image", "image": _PLACEHOLDER}
        parts.append(part)
    return {**message, "content": parts}


def _buckets(jobs: list[tuple[Stream, list]]) -> Iterator[list[tuple[Stream, list]]]:
    """Streams of like length, as many as may run together."""
    batch: list[tuple[Stream, list]] = []
    for job in sorted(jobs, key=lambda job: len(job[0].tokens)):
        if batch and (len(batch) == _STREAMS or (len(batch) + 1) * len(job[0].tokens) > _TOKENS):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


__all__ = ["TurnEncoder"]
