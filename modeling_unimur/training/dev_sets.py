"""Evaluation of a run: retrieval over whole development sets."""

from dataclasses import dataclass

import numpy as np
import torch

from ..encoding.encoder import embed_by_length
from ..evaluation.metrics import first_right_ranks, recall_at
from .collators import DualAlignmentCollator, render_turns
from .context_rows import TextRows
from .pairs import ImagePairs


@dataclass
class DevSet:
    """Contexts and the candidates they are ranked against.

    Args:
        name: name of its figures, `<name>_r1` and so on.
        contexts (`list[list[str]]`): turns of each.
        ids (`np.ndarray` of shape `(contexts,)`): of what is right for each.
        kind: what the candidates are, `image` or `text`.
        candidates (`torch.Tensor` of shape `(candidates, width)`): the frozen tower's output, before any trained map.
        candidate_ids (`np.ndarray` of shape `(candidates,)`): equal to a context's where right for it.
    """

    name: str
    contexts: list
    ids: np.ndarray
    kind: str
    candidates: torch.Tensor
    candidate_ids: np.ndarray


def image_sets(pairs: ImagePairs, image_features: torch.Tensor) -> "list[DevSet]":
    """Builds two sets whose contexts are titles: one ranks all images, the other all titles.

    Args:
        pairs: a split.
        image_features (`torch.Tensor` of shape `(images, width)`): the frozen image tower's output.
    """
    contexts, groups = [[title] for title in pairs.titles], np.asarray(pairs.groups)
    titles = pairs.text_features[pairs.title_rows]
    return [
        DevSet("title_image", contexts, groups, "image", image_features, groups),
        DevSet("title_title", contexts, groups, "text", titles, groups),
    ]


def text_sets(rows: TextRows, text_name: str, image_name: "str | None", images: "DevSet | None") -> "list[DevSet]":
    """Builds two sets from contexts of a text source: one ranks all targets, the other all images.

    Args:
        rows: rows of one split.
        text_name, image_name: names of the two sets. Without the second or without images there is one set.
        images: the set whose candidates are all images of the split.
    """
    owners = rows.owners.numpy()
    sets = [DevSet(text_name, rows.turns, owners, "text", rows.features, np.arange(len(rows.features)))]
    shown = [] if rows.images is None else (rows.images >= 0).nonzero().flatten().tolist()
    if image_name and images is not None and shown:
        contexts, ids = [rows.turns[row] for row in shown], rows.ids[shown].numpy()
        sets.append(DevSet(image_name, contexts, ids, "image", images.candidates, images.candidate_ids))
    return sets


@torch.inference_mode()
def embed_contexts(model, contexts: "list[list[str]]", collator: DualAlignmentCollator) -> torch.Tensor:
    """Embeds dialogues given as turns, in batches of similar length: `(contexts, width)`.

    Args:
        model (`UniMuRModel`): what embeds.
        contexts: turns of each.
        collator: makes the batches, with its longest context and its store of frozen prefixes.
    """
    return embed_rows(model, [{"turns": turns, "visual_features": None} for turns in contexts], collator)


@torch.inference_mode()
def embed_rows(model, rows: "list[dict]", collator: DualAlignmentCollator) -> torch.Tensor:
    """Embeds rows of `context_rows` as `embed_contexts` does."""

    def embed(some: "list[dict]") -> torch.Tensor:
        inputs = {name: value.to(model.device) for name, value in collator.contexts(some).items()}
        return model.get_multimodal_features(**inputs).pooler_output.float().cpu()

    def size(row: dict) -> int:
        return len(render_turns(collator.processor, row["turns"]))

    return embed_by_length(rows, embed, size=size, desc="Embedding contexts")


@torch.inference_mode()
def scores(model, sets: "list[DevSet]", collator: DualAlignmentCollator) -> "dict[str, np.ndarray]":
    """Returns the cosines `(contexts, candidates)` of every set by its name. Contexts that sets share are embedded
    once."""
    embeds: dict[int, torch.Tensor] = {}
    found = {}
    for dev in sets:
        if id(dev.contexts) not in embeds:
            embeds[id(dev.contexts)] = embed_contexts(model, dev.contexts, collator)
        target = model.heads.image_target if dev.kind == "image" else model.heads.text_target
        candidates = target(dev.candidates.float().to(model.device)).float().cpu()
        found[dev.name] = (embeds[id(dev.contexts)] @ candidates.T).numpy()
    return found


def recalls(model, sets: "list[DevSet]", collator: DualAlignmentCollator) -> "dict[str, float]":
    """Returns the recalls of every set in percent, as `<name>_r1`, `_r5`, `_r10`."""
    found, figures = scores(model, sets, collator), {}
    for dev in sets:
        ranks = first_right_ranks(found[dev.name], dev.ids, dev.candidate_ids)
        figures.update({f"{dev.name}_{key}": value for key, value in recall_at(ranks).items()})
    return figures
