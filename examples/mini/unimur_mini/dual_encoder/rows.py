"""Builds the training rows of the small dual encoder, with features of the frozen towers."""

from __future__ import annotations

import logging

import torch
from torch.nn import functional as F

from modeling_unimur.training.clip_rows import ClipRows
from modeling_unimur.training.frozen_features import FrozenImages, text_features
from modeling_unimur.training.frozen_towers import frozen_towers

from .images import near_twins, shared_groups, training_images

logger = logging.getLogger(__name__)


def clip_rows(clip, image_processor, tokenizer, rows, held_out, seed: int, title_share: float) -> ClipRows:
    """Builds all training rows with features of the frozen towers.

    Args:
        rows: The training split of `split_by_title`.
        held_out: Rows of the other splits. Images that look like one of them and have a similar title are left out.
        seed, title_share: See `ClipRows`.
    """
    towers = frozen_towers(clip, tokenizer)
    held_out = [row for row in held_out if row["title"].strip()]
    images = training_images(rows, held_out)

    def encode(paths):
        found = FrozenImages(towers.image_tower, towers.encode_images, image_processor).features(paths)
        return found.rows.tensor(), found.kept.tolist()

    def read(texts):
        return F.normalize(text_features(towers.text_tower, towers.encode_texts, texts), dim=-1)

    pooled, kept = encode([image.image for image in images])
    images = [images[position] for position in kept]
    titles = read([image.title for image in images])
    others, present = encode([row["image"] for row in held_out])
    other_titles = read([held_out[position]["title"] for position in present])
    twins = {position for position, _ in near_twins(pooled, titles, others, other_titles)}
    fresh = [position for position in range(len(images)) if position not in twins]
    logger.info("%d images left out: they look and are called like a held-out one", len(twins))
    images, pooled, titles = [images[position] for position in fresh], pooled[fresh], titles[fresh]
    return ClipRows(
        pooled,
        read([text for image in images for text in image.texts]),
        torch.tensor([len(image.texts) for image in images]),
        shared_groups([image.title for image in images], titles),
        seed,
        title_share,
    )
