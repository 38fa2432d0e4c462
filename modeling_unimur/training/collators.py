"""Batches for dual alignment training from cached features of frozen towers."""

import torch
from torch.utils.data import Dataset

from ..processing_unimur import UniMuRProcessor
from .pairs import PicturePairs


class ContextRows(Dataset):
    """Every text as a retrieval context of the picture it belongs to; a fixed share of the contexts also shows the
    picture itself, so that [RET] after a picture is trained.

    Args:
        pairs: a split.
        image_targets (`torch.Tensor` of shape `(pictures, joint_width)`): what the frozen dual encoder makes of the
            pictures.
        visual_features (`torch.Tensor` of shape `(pictures, visual_width)`): what becomes the language model's input.
        picture_context_fraction (`float`): share of contexts with a picture; which ones is fixed by their number.
    """

    def __init__(self, pairs: PicturePairs, image_targets, visual_features, picture_context_fraction: float = 0.25):
        self.pairs, self.image_targets, self.visual_features = pairs, image_targets, visual_features
        self.every = round(1 / picture_context_fraction) if picture_context_fraction > 0 else 0

    def __len__(self):
        return len(self.pairs.texts)

    def __getitem__(self, row):
        owner = self.pairs.owners[row]
        return {
            "text": self.pairs.texts[row],
            "has_picture": bool(self.every) and row % self.every == 0,
            "visual_features": self.visual_features[owner],
            "target_image_features": self.image_targets[owner],
            "target_text_features": self.pairs.text_features[row],
            "target_ids": self.pairs.groups[owner],
        }


class DualAlignmentCollator:
    """Stacks rows of `ContextRows` into the arguments of `UniMuRModel.forward`.

    Args:
        processor: of the model.
        max_caption_tokens (`int`): longest caption.
        captions_per_batch (`int`, *optional*): rows that take part in the caption loss, all by default; the caption
            path costs a multiple of the retrieval path, since its graph starts at the picture.
    """

    def __init__(
        self, processor: UniMuRProcessor, max_caption_tokens: int = 24, captions_per_batch: "int | None" = None
    ):
        self.processor = processor
        self.max_caption_tokens, self.captions_per_batch = max_caption_tokens, captions_per_batch

    def __call__(self, rows: list[dict]) -> dict:
        token = self.processor.image_token
        texts = [token + row["text"] if row["has_picture"] else row["text"] for row in rows]
        limit = self.max_caption_tokens + self.processor.overhead_tokens + self.processor.num_visual_tokens
        batch = dict(self.processor.process_rendered(texts, max_length=limit))
        shown = [row["visual_features"] for row in rows if row["has_picture"]]
        if shown:
            batch["visual_features"] = torch.stack(shown)
        for key in ("target_image_features", "target_text_features", "target_ids"):
            batch[key] = torch.stack([row[key] for row in rows])
        captioned = rows[: self.captions_per_batch]
        if captioned:
            batch.update(self.processor.process_captions([row["text"] for row in captioned], self.max_caption_tokens))
            batch["caption_visual_features"] = torch.stack([row["visual_features"] for row in captioned])
        return batch


__all__ = ["ContextRows", "DualAlignmentCollator"]
