"""Everything that the small dual encoder may be trained on, as rows with the frozen towers' features."""

from __future__ import annotations

import logging

import torch
from torch.nn import functional as F

from modeling_unimur.training.clip_rows import ClipRows, Draws
from modeling_unimur.training.frozen_features import image_features, text_features
from modeling_unimur.training.frozen_towers import frozen_towers

from .pictures import near_twins, shared_groups, training_pictures
from .views import FrozenPictureViews, ViewOptions

logger = logging.getLogger(__name__)


def clip_rows(clip, image_processor, tokenizer, rows, held_out, views: ViewOptions, draws: Draws) -> ClipRows:
    """Everything that may be trained on, with the frozen towers' features.

    Args:
        clip: the dual encoder.
        image_processor, tokenizer: its own.
        rows: the training split, as `split_by_title` gives it.
        held_out: rows of the other splits; what looks and is called like one of them is left out.
        views: which views of an image are computed.
        draws: what an epoch draws.
    """
    towers = frozen_towers(clip, tokenizer)
    held_out = [row for row in held_out if row["title"].strip()]
    pictures = training_pictures(rows, held_out)

    def encode(paths):
        return image_features(towers.image_tower, towers.encode_images, image_processor, paths)

    def read(texts):
        return F.normalize(text_features(towers.text_tower, towers.encode_texts, texts), dim=-1)

    pooled, kept = encode([picture.image for picture in pictures])
    pictures = [pictures[position] for position in kept]
    titles = read([picture.title for picture in pictures])
    others, present = encode([row["image"] for row in held_out])
    other_titles = read([held_out[position]["title"] for position in present])
    twins = {position for position, _ in near_twins(pooled, titles, others, other_titles)}
    fresh = [position for position in range(len(pictures)) if position not in twins]
    logger.info("%d images left out: they look and are called like a held-out one", len(twins))
    pictures, pooled, titles = [pictures[position] for position in fresh], pooled[fresh], titles[fresh]
    if views.views:
        store = FrozenPictureViews(towers.image_tower, towers.encode_images, image_processor, views)
        seen = store.features([picture.image for picture in pictures])
    else:
        seen = pooled.new_empty(len(pooled), 0, pooled.shape[1])
    return ClipRows(
        pooled,
        seen,
        read([text for picture in pictures for text in picture.texts]),
        torch.tensor([len(picture.texts) for picture in pictures]),
        shared_groups([picture.title for picture in pictures], titles),
        draws,
    )
