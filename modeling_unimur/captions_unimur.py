"""Pictures that are to be described: what the caption loss reads, and what `generate` continues."""

import torch
from transformers import BatchFeature

from .anchor_inputs_unimur import ANCHOR_ROWS


class CaptionsMixin:
    """The part of [`UniMuRProcessor`] that prepares the way from a picture to text."""

    def process_captions(self, captions: list[str], max_length: int = 24, together: int = 1) -> BatchFeature:
        """Captions after their pictures and `caption_prompt`, for the caption loss.

        Args:
            captions (`list[str]`): one a picture.
            max_length (`int`): of a caption, in tokens (FROMAGe: 24).
            together (`int`): how many pictures with their captions follow one another in a row (FROMAGe: 2 in half of
                its batches).

        Returns:
            `BatchFeature`: `caption_input_ids`, `caption_attention_mask` and `caption_labels` of shape
            `(rows, tokens)`; labels are -100 on pictures, prompt and padding. What is learned besides the words, and
            where start tokens stand, `caption_ends` and `start_each_caption` say.
        """
        begin = self.tokenizer("")["input_ids"][: self._prefix_length]
        prompt = self.caption_prompt.replace(self.image_token, self.image_token * self.num_visual_tokens)
        prompt = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        captions = [self._defuse(caption, (self.image_token, *self.ret_tokens)) for caption in captions]
        bodies = self.tokenizer(captions, add_special_tokens=False)["input_ids"]
        end = [self.tokenizer.eos_token_id] if self.caption_ends else []
        starts = [-100] * len(begin) if self.caption_ends else begin
        lines = []
        for first in range(0, len(bodies), together):
            ids, labels = [], []
            for body in bodies[first : first + together]:
                body = [*body[:max_length], *end]
                part, learned = [*prompt, *body], [-100] * len(prompt) + body
                if not ids or self.start_each_caption:
                    lead = self._pictures_before_start(part)
                    part = [*part[:lead], *begin, *part[lead:]]
                    learned = [*learned[:lead], *starts, *learned[lead:]]
                ids, labels = ids + part, labels + learned
            lines.append((ids, labels))
        width = max(len(ids) for ids, _ in lines)
        pad, rows = self.tokenizer.pad_token_id, []
        for ids, labels in lines:
            gap = width - len(ids)
            rows.append(([pad] * gap + ids, [0] * gap + [1] * len(ids), [-100] * gap + labels))
        ids, mask, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
        return BatchFeature({"caption_input_ids": ids, "caption_attention_mask": mask, "caption_labels": labels})

    def process_prompt(self, conversations, allow_urls: "bool | None" = None) -> BatchFeature:
        """Dialogues without readout prompt and [RET], ready for `generate`."""
        return self._without_readout(self.process_queries(conversations, allow_urls=allow_urls))

    def process_caption_prompt(self, images, allow_urls: "bool | None" = None) -> BatchFeature:
        """Pictures, each in `caption_prompt`: `generate` then says what they show, as the caption loss has trained it.

        Args:
            images: one picture or a list.
            allow_urls (`bool`): whether pictures may be fetched from URLs.
        """
        loaded = [[image] for image in self._load(images, allow_urls)]
        return self._without_readout(self._encode([self.caption_prompt] * len(loaded), loaded, None))

    def _without_readout(self, batch: BatchFeature) -> BatchFeature:
        for key in ("input_ids", "attention_mask"):
            batch[key] = batch[key][:, : -self.readout_length]
        for key in ANCHOR_ROWS:
            batch.pop(key, None)
        return batch


__all__ = ["CaptionsMixin"]
