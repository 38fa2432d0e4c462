"""Batches of real captions and images for the benchmarks of training."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.data.text_lines import read_lines
from modeling_unimur.training.collators import caption_inputs

# FROMAGe's longest caption.
MAX_CAPTION_TOKENS = 24


@dataclass
class TrainingBatch:
    """Everything that a step may read, padded on the left, for row i image i.

    Args:
        contexts: `input_ids`, `attention_mask` `(batch, tokens)`; they end with [RET].
        captions: `caption_input_ids`, `caption_attention_mask`, `caption_labels` `(batch, tokens)`.
        image_features, text_features (`(batch, joint_width)`): the frozen towers' outputs for the targets.
        visual_features (`(batch, visual_width)`): the image features that become the language model's input.
        towers: `pixel_values (batch, 3, height, width)` and the text tower's `input_ids`, `attention_mask`.
    """

    contexts: dict[str, torch.Tensor]
    captions: dict[str, torch.Tensor]
    image_features: torch.Tensor
    text_features: torch.Tensor
    visual_features: torch.Tensor
    towers: dict[str, torch.Tensor]


def read_pairs(path: Path | None) -> list[tuple[str, str]]:
    """Pairs of a caption and its image's path: lines of `caption<TAB>image`, or titles, descriptions and tags of the
    installable images' training split.

    Raises:
        ValueError: a line without a tab, or a file without lines.
    """
    if path is None:
        from modeling_unimur.data.captioned_images import load_captioned_images
        from modeling_unimur.data.titles import split_by_title
        from modeling_unimur.training.pairs import caption_forms

        rows = split_by_title(load_captioned_images())["train"]
        forms = [(caption_forms(row["title"], row["description"], row["tags"]), row["image"]) for row in rows]
        return [(caption, image) for captions, image in forms for caption in captions]
    lines = [line for line in read_lines(path) if line.strip()]
    if not lines or not all("\t" in line for line in lines):
        raise ValueError(f"{path}: one `caption<TAB>image` a line.")
    return [tuple(line.split("\t", 1)) for line in lines]


def draw_pairs(pairs: list[tuple[str, str]], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs, drawn without replacement while there are enough."""
    rng = random.Random(seed)
    return rng.sample(pairs, count) if count <= len(pairs) else rng.choices(pairs, k=count)


@torch.no_grad()
def make_batch(model: UniMuRModel, processor: UniMuRProcessor, pairs: list[tuple[str, str]]) -> TrainingBatch:
    """Captions of up to 24 tokens with their images, padded to the longest."""
    texts = [caption for caption, _ in pairs]
    towers = dict(processor.process_images([image for _, image in pairs]))
    towers.update(processor.process_texts(texts))
    pooled, projected = model.encode_images(towers["pixel_values"])
    visual = pooled if model.config.visual_feature == "pooled" else projected
    image_features, text_features = encode_targets(model, towers)
    return TrainingBatch(
        contexts=dict(processor.process_rendered(texts, MAX_CAPTION_TOKENS + processor.overhead_tokens)),
        captions=caption_inputs(processor, texts, MAX_CAPTION_TOKENS),
        image_features=image_features,
        text_features=text_features,
        visual_features=visual,
        towers=towers,
    )


@torch.no_grad()
def encode_targets(model: UniMuRModel, towers: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both frozen towers on a batch's images and texts: what cached targets save."""
    pooled, projected = model.encode_images(towers["pixel_values"])
    mapped = model.config.map_image_targets and model.config.visual_feature == "pooled"
    return pooled if mapped else projected, model.encode_texts(towers["input_ids"], towers["attention_mask"])


def make_long_batch(
    model: UniMuRModel, processor: UniMuRProcessor, pairs: list[tuple[str, str]], batch: int, tokens: int, seed: int
) -> TrainingBatch:
    """Contexts of exactly `tokens` tokens, of captions one after the other; targets are random vectors."""
    rng, texts = random.Random(seed), []
    for _ in range(batch):
        text = ""
        while len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) < tokens:
            text += rng.choice(pairs)[0] + ". "
        texts.append(text)
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(2, batch, model.config.joint_width, generator=generator)
    contexts = dict(processor.process_rendered(texts, tokens))
    return TrainingBatch(contexts, {}, targets[0], targets[1], targets[0], {})
