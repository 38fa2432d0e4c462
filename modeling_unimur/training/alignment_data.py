"""Data of dual alignment training and its evaluation sets, and the cached features of a recipe."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils.data import ConcatDataset, Dataset
from transformers import AutoImageProcessor, AutoTokenizer

from ..data.captioned_images import load_captioned_images
from ..modeling_open_clip import load_dual_encoder
from ..modeling_unimur import UniMuRModel
from .arguments import UniMuRDataArguments, UniMuRModelArguments
from .context_rows import ImageRows, MixedRows, TextContext, TextRows, load_texts, text_rows
from .dev_sets import DevSet, image_sets, text_sets
from .frozen_features import FrozenTexts, text_features
from .frozen_towers import frozen_towers, project
from .pairs import ImagePairs, load_pairs
from .recipes import Recipe

# Contexts of a text source that a run is judged by, and what their sets are called: text, image.
_DEV_CONTEXTS = 500
# At least so many dialogues of a kind choose the anchored query.
_LEAST_DEV_CONTEXTS = 150
_DEV_NAMES = {
    "glosses": ("gloss_title", None),
    "dialogues": ("dialogue_text", "dialogue_image"),
    "questions": ("questions_text", "questions_image"),
    "chats": ("chat_reply", None),
    "chats=": ("own_chat_reply", None),
    "long_dialogues": ("long_dialogue_text", "long_dialogue_image"),
    "long_chats": ("long_chat_reply", None),
}


@dataclass
class AlignmentData:
    """The data of a run.

    Args:
        train: rows for `DualAlignmentCollator`.
        refit: what the readout is solved for at the end, each context once.
        dev, test: what the run is judged by.
        images: how many each split has.
        anchor: kind of dialogue to the rows that the anchored query is fitted on and those that choose.
    """

    train: Dataset
    refit: Dataset
    dev: list[DevSet]
    test: list[DevSet]
    images: dict[str, int]
    anchor: dict[str, tuple[Dataset, Dataset]] = field(default_factory=dict)


class _Images:
    """The outputs of the frozen image tower for a split's images, by number."""

    def __init__(self, model: UniMuRModel, pairs: ImagePairs):
        self.model, self.pairs = model, pairs
        pooled = model.config.visual_feature == "pooled"
        self.visual = self.pooled if pooled else self.projected
        self.target = self.pooled if pooled and model.config.map_image_targets else self.projected

    def pooled(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.pairs.pooled[numbers]

    @torch.no_grad()
    def projected(self, numbers: torch.Tensor) -> torch.Tensor:
        clip = self.model.clip
        device = next(clip.parameters()).device
        return project(clip, self.pairs.pooled[numbers].float().to(device)).cpu()

    def everything(self) -> torch.Tensor:
        """Returns the targets of all images `(images, width)`."""
        return self.target(torch.arange(len(self.pairs.paths)))


def _dev_names(source: str) -> tuple[str, str | None]:
    """Returns the names of the two sets of a source of texts. Those of a function contain its name."""
    function = source.rpartition(":")[2]
    return _DEV_NAMES.get("".join(source.partition("=")[:2]), (f"{function}_text", f"{function}_image"))


def _spaced(items: list, count: int | None) -> list:
    """Returns at most `count` items, evenly spaced."""
    if count is None or count >= len(items):
        return items
    return [items[number * len(items) // count] for number in range(count)]


def contexts_read(data: UniMuRDataArguments) -> dict[str, list[TextContext]]:
    """Returns the contexts of each source of unpaired texts that a run of a recipe reads, for its steps, the refit and
    evaluation."""
    further = data.refit_texts if data.refit_readout else []
    found = {}
    for source, parts in load_texts([*data.texts, *further]).items():
        counts = {data.texts_per_source} if source in data.texts else set()
        counts |= {data.refit_texts_per_source} if data.refit_readout else set()
        found[source] = [context for count in counts for context in _spaced(parts["train"], count)]
        found[source] += [
            context for split in ("validation", "test") for context in _spaced(parts.get(split, []), _DEV_CONTEXTS)
        ]
    return found


def load_data(
    model: UniMuRModel, chosen: UniMuRModelArguments, data: UniMuRDataArguments, seed: int = 0
) -> AlignmentData:
    """Reads images and texts with the frozen towers' features, cached on disk.

    Args:
        model: model with the dual encoder of the targets.
        chosen: names the dual encoder, for its image processor and tokenizer.
        data: what is read.
        seed: seed of the forms of contexts and of their mixture.
    """
    hub = {"revision": chosen.clip_revision} if chosen.clip_revision else {}
    tokenizer = AutoTokenizer.from_pretrained(chosen.clip, **hub)
    image_processor = AutoImageProcessor.from_pretrained(chosen.clip, **hub)
    cleaning = chosen.processor.get("clean_text")
    splits = load_pairs(
        model.clip,
        image_processor,
        tokenizer,
        data.sources,
        data.feature_options(),
        data.held_out_fraction,
        clean_text=cleaning,
    )
    if not data.equal_captions_match:
        splits["train"].groups = torch.arange(len(splits["train"].paths))
    images = {name: _Images(model, pairs) for name, pairs in splits.items()}
    sets = {name: image_sets(splits[name], images[name].everything()) for name in ("validation", "test")}
    rows: Dataset = ImageRows(
        splits["train"],
        images["train"].target,
        images["train"].visual,
        data.two_pairs_fraction,
        data.image_context_fraction,
        seed,
    )
    refit, anchor = rows, {}
    if data.texts or data.anchor_texts:
        towers = frozen_towers(model.clip, tokenizer, cleaning)
        installable = [source for source in data.sources if not source.startswith("cc3m")]
        rows_of_images = load_captioned_images(installable) if installable else []
        image_ids = {row["image"]: row["image_id"] for row in rows_of_images}

        def contexts(split: str, chosen: list[TextContext], own_share: float = 0.0) -> TextRows:
            return text_rows(
                chosen,
                lambda lines: text_features(towers.text_tower, towers.encode_texts, lines),
                splits[split],
                image_ids,
                images[split].target,
                own_share,
            )

        def training(sources: dict[str, dict], count: int | None) -> TextRows:
            chosen = [context for source in sources.values() for context in _spaced(source["train"], count)]
            return contexts("train", chosen, data.own_words_share)

        for name, parts in load_texts(list(data.anchor_texts)).items():
            count = data.anchor_texts[name]
            held_out = min(max(count // 5, _LEAST_DEV_CONTEXTS), _DEV_CONTEXTS)
            chosen = _spaced(parts["train"], count), _spaced(parts["validation"], held_out)
            anchor[name] = (contexts("train", chosen[0]), contexts("validation", chosen[1]))
        texts = load_texts(data.texts)
    if data.texts:
        if data.refit_readout:
            further = load_texts(data.refit_texts)
            refit = ConcatDataset([rows, training({**texts, **further}, data.refit_texts_per_source)])
        shares = [1 - data.text_fraction, data.text_fraction]
        rows = MixedRows([rows, training(texts, data.texts_per_source)], shares, seed)
        for split, found in sets.items():
            for source, parts in texts.items():
                names = _dev_names(source)
                if chosen_contexts := _spaced(parts.get(split, []), _DEV_CONTEXTS):
                    found.extend(text_sets(contexts(split, chosen_contexts), *names, found[0]))
    if not (model.config.map_text_targets or model.config.embedding_width == model.config.joint_width):
        # FROMAGe: nothing maps texts into the space of the images, so nothing is to be ranked there.
        sets = {split: [dev for dev in found if dev.kind != "text"] for split, found in sets.items()}
    counts = {name: len(p.paths) for name, p in splits.items()}
    return AlignmentData(rows, refit, sets["validation"], sets["test"], counts, anchor)


logger = logging.getLogger(__name__)


def cache_recipe(
    recipe: Recipe, device: str | None = None, tell: Callable[[str], None] | None = None
) -> dict[str, ImagePairs]:
    """Computes the features of all images, captions and unpaired texts of a recipe that are not on disk yet.

    Args:
        recipe: recipe of either task; its language model is not loaded.
        device: where the frozen towers run.
        tell: takes each line of the report.

    Returns:
        `dict`: the splits as `load_pairs` gives them.

    Raises:
        OSError: the dual encoder cannot be loaded; the message names it.
        ValueError: it lacks weights, there is no such device; or task univl_dr or `data.images`, whose features are
            computed when the training begins.
    """
    if recipe.task == "univl_dr" or (recipe.task == "clip" and recipe.data.images):
        raise ValueError("The features of task univl_dr and of data.images are computed by `unimur train` itself.")
    source = recipe.model.clip
    # As training does, because its weights name the features.
    clip, commit = load_dual_encoder(source, recipe.model.clip_revision, dtype="auto")
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        clip = clip.to(device).eval().requires_grad_(False)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"The towers cannot run on {device}: {str(error).splitlines()[0]}") from error
    hub = {"revision": commit} if commit else {}
    image_processor = AutoImageProcessor.from_pretrained(source, **hub)
    tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    data, tell = recipe.data, tell or logger.info
    cleaning = (getattr(recipe.model, "processor", None) or {}).get("clean_text")
    splits = load_pairs(
        clip, image_processor, tokenizer, data.sources, data.feature_options(), data.held_out_fraction, tell, cleaning
    )
    if recipe.task == "unimur" and data.texts:
        towers = frozen_towers(clip, tokenizer, cleaning)
        texts = FrozenTexts(towers.text_tower, towers.encode_texts)
        for source, contexts in contexts_read(data).items():
            lines = dict.fromkeys(context.target for context in contexts)
            if data.own_words_share:
                lines |= dict.fromkeys("\n".join(context.turns) for context in contexts)
            tell(texts.features(list(lines)).describe(f"{source}, texts"))
    return splits
