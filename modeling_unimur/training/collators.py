"""Batches for dual alignment training from cached features of frozen towers."""

import zlib
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..processing_unimur import UniMuRProcessor
from .prefix_store import PrefixStore

# Rows that `all_rows` asks for at a time.
_AT_ONCE = 512


class DualAlignmentCollator:
    """Stacks rows of `context_rows` into the arguments of `UniMuRModel.forward`.

    Args:
        processor: processor of the model.
        max_caption_tokens (`int`): longest caption in the caption loss.
        max_context_tokens (`int`, *optional*): longest context without start, readout prompt and [RET], as long as a
            caption by default.
        captions_per_batch (`int`, *optional*): rows that take part in the caption loss, all by default; the caption
            path costs a multiple of the retrieval path, since its graph starts at the image.
        concatenate_captions (`float`): probability that the captions of a batch run two in a row, image caption image
            caption, as FROMAGe's do with 0.5. Drawn by the captions themselves: a run that goes on from a checkpoint
            draws the same, although batches are made ahead of the step that the checkpoint holds.
        prefix_store (`PrefixStore`, *optional*): what the language model makes of text contexts, kept.
        keep_context (`str`): which tokens of a longer context are kept, the `"latest"`, or the `"first"` as in
            FROMAGe.
    """

    def __init__(
        self,
        processor: UniMuRProcessor,
        max_caption_tokens: int = 24,
        max_context_tokens: "int | None" = None,
        captions_per_batch: "int | None" = None,
        concatenate_captions: float = 0.0,
        prefix_store: "PrefixStore | None" = None,
        keep_context: str = "latest",
    ):
        self.processor, self.prefix_store = processor, prefix_store
        self.max_caption_tokens, self.captions_per_batch = max_caption_tokens, captions_per_batch
        self.max_context_tokens = max_context_tokens or max_caption_tokens
        self.concatenate_captions, self.keep_context = concatenate_captions, keep_context

    def __call__(self, rows: "list[dict]") -> dict:
        batch = self.contexts(rows)
        batch.update(self._targets(rows))
        captioned = [row for row in rows if row["caption"]][: self.captions_per_batch]
        if captioned:
            batch.update(self._captions(captioned))
        return batch

    def contexts(self, rows: "list[dict]") -> dict:
        """Returns the inputs of the queries alone, from rows with `turns` and `visual_features`."""
        limit = self.max_context_tokens + self.processor.overhead_tokens
        dialogues = [turn_messages(row["turns"], row["visual_features"] is not None) for row in rows]
        texts = [self.processor.render(dialogue) for dialogue in dialogues]
        batch = dict(self.processor.process_rendered(texts, max_length=limit, keep=self.keep_context))
        batch.update(self.processor.process_anchors(dialogues))
        places = (batch["input_ids"] == self.processor.image_token_id).any(dim=1)  # a cut may have taken it
        shown = [row["visual_features"] for row, place in zip(rows, places.tolist(), strict=True) if place]
        if shown:
            batch["visual_features"] = torch.cat(shown)
        if self.prefix_store is not None:
            states = self.prefix_store.states(batch["input_ids"], batch["attention_mask"])
            batch.update({} if states is None else {"prefix_states": states})
        return batch

    @staticmethod
    def _targets(rows: "list[dict]") -> dict:
        batch = {"target_ids": torch.stack([torch.as_tensor(row["target_ids"]) for row in rows])}
        for kind in ("image", "text"):
            features = [row[f"target_{kind}_features"] for row in rows]
            there = next((feature for feature in features if feature is not None), None)
            if there is None:
                continue
            filled = [torch.zeros_like(there) if feature is None else feature for feature in features]
            batch[f"target_{kind}_features"] = torch.stack(filled)
            if any(feature is None for feature in features):
                batch[f"target_{kind}_mask"] = torch.tensor([feature is not None for feature in features])
            if f"{kind}_negatives" in rows[0]:
                batch[f"target_{kind}_negatives"] = torch.stack([row[f"{kind}_negatives"] for row in rows])
        return batch

    def _captions(self, rows: "list[dict]") -> dict:
        captions, together = [row["caption"] for row in rows], 1
        if self.concatenate_captions and len(rows) > 1:
            draw = zlib.crc32("\n".join(captions).encode()) / 2**32
            together = 2 if draw < self.concatenate_captions else 1
        batch = caption_inputs(self.processor, captions, self.max_caption_tokens, together)
        batch["caption_visual_features"] = torch.stack([row["caption_visual_features"] for row in rows])
        return batch


def caption_inputs(
    processor: UniMuRProcessor, captions: "list[str]", max_length: int = 24, together: int = 1
) -> dict[str, torch.Tensor]:
    """Returns captions after their images and the processor's `caption_prompt`, for the caption loss.

    Args:
        captions (`list[str]`): one per image.
        max_length (`int`): maximum length of a caption, in tokens (FROMAGe: 24).
        together (`int`): images with their captions in a row (FROMAGe: 2 in half of its batches).

    Returns:
        `dict`: `caption_input_ids`, `caption_attention_mask` and `caption_labels` `(rows, tokens)`; labels are -100 on
        images, prompt and padding.
    """
    tokenizer, image = processor.tokenizer, processor.image_token
    begin = tokenizer("")["input_ids"][: -processor.readout_length]
    prompt = processor.caption_prompt.replace(image, image * processor.num_visual_tokens)
    prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    captions = [processor.defuse(caption, (image, *processor.ret_tokens)) for caption in captions]
    bodies = tokenizer(captions, add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id] if processor.caption_ends else []
    starts = [-100] * len(begin) if processor.caption_ends else begin
    rows, labels = [], []
    for first in range(0, len(bodies), together):
        row, learned = [], []
        for body in bodies[first : first + together]:
            body = [*body[:max_length], *end]
            part, words = [*prompt, *body], [-100] * len(prompt) + body
            if not row or processor.start_each_caption:
                lead = processor.images_before_start(part)
                part[lead:lead], words[lead:lead] = begin, starts
            row, learned = row + part, learned + words
        rows.append(torch.tensor(row))
        labels.append(torch.tensor(learned))
    columns = {
        "caption_input_ids": (rows, tokenizer.pad_token_id),
        "caption_attention_mask": ([torch.ones_like(row) for row in rows], 0),
        "caption_labels": (labels, -100),
    }
    return {key: pad_sequence(some, True, pad, "left") for key, (some, pad) in columns.items()}


def turn_messages(turns: "list[str]", image_first: bool = False) -> "list[dict]":
    """Converts turns to chat messages, with an image's placeholder before the words of the last one."""
    messages = []
    for number, turn in enumerate(turns):
        content = [{"type": "text", "text": turn}]
        if image_first and number == len(turns) - 1:
            content.insert(0, {"type": "image"})
        messages.append({"role": "user" if number % 2 == 0 else "assistant", "content": content})
    return messages


def render_turns(processor: UniMuRProcessor, turns: "list[str]") -> str:
    """Renders turns with the processor's chat template."""
    return processor.render(turn_messages(turns))


def rows_at(rows: Dataset, numbers: Sequence[int]) -> list[dict]:
    """Returns rows by number, in one call if the dataset supports it."""
    many = getattr(rows, "__getitems__", None) or (lambda some: [rows[number] for number in some])
    return many(numbers)


def all_rows(rows: Dataset) -> list[dict]:
    """Returns every row in order, many at a time if the dataset supports it."""
    starts = range(0, len(rows), _AT_ONCE)
    return [row for start in starts for row in rows_at(rows, range(start, min(start + _AT_ONCE, len(rows))))]
