"""Trains the image projection and a text map of a frozen dual encoder on captioned images."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer, set_seed

from ..contrastive_loss import contrastive_loss
from ..data.atomic_files import write_json
from ..data.captioned_images import captioned_image_splits
from ..evaluation.metrics import first_right_ranks, recall_at
from ..modeling_open_clip import ImageHead, OpenCLIPModel, OpenCLIPOutput, load_dual_encoder
from .callbacks import EpochDraws, TrainingGuard
from .clip_rows import ClipRows
from .frozen_features import FrozenImages, FrozenTexts
from .frozen_towers import frozen_towers, project
from .recipes import Recipe
from .trainer import RetrievalTrainer, parameter_report


class CaptionedImageModel(nn.Module):
    """The model that task `clip` trains on captioned images; `fold` turns it into an ordinary dual encoder again.

    Args:
        clip: a `CLIPModel` or `OpenCLIPModel`, which is frozen here but for its image projection.
        image_head (`dict`, *optional*): arguments of a new `ImageHead` in place of the projection of pooled features
            that an open_clip model has; `classes` are those of the classifier in its present head. By default the
            present projection trains further.

    Raises:
        ValueError: the model is of another kind.
    """

    def __init__(self, clip: nn.Module, image_head: dict | None = None):
        super().__init__()
        clip.requires_grad_(False)
        self.clip = clip
        self.image_projection_parts = [_image_projection(clip, image_head)]  # in a list: it is registered in `clip`
        self._text_place = _text_projection(clip)
        for name, parameter in self.image_projection_parts[0].named_parameters():
            parameter.requires_grad_(not name.startswith("classifier."))
        clip.logit_scale.requires_grad_(True)
        width = clip.config.projection_dim
        self.text_map = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.text_map.weight)

    def image_embeds(self, pooled_features: torch.Tensor) -> torch.Tensor:
        """Projects pooled features `(images, pooled_width)` to normalised vectors `(images, width)`."""
        return F.normalize(project(self.clip, pooled_features), dim=-1)

    def text_embeds(self, text_features: torch.Tensor) -> torch.Tensor:
        """Maps outputs of the frozen text tower `(texts, width)` to normalised vectors `(texts, width)`."""
        return F.normalize(self.text_map(text_features), dim=-1)

    def forward(
        self,
        pooled_features: torch.Tensor,
        text_features: torch.Tensor,
        target_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> OpenCLIPOutput:
        """Computes the loss of rows whose images and texts match; rows with equal `target_ids (batch,)` match too."""
        images, texts = self.image_embeds(pooled_features), self.text_embeds(text_features)
        scale = self.clip.logit_scale.exp()
        loss = contrastive_loss(texts, images, scale, target_ids) if return_loss else None
        return OpenCLIPOutput(loss=loss, image_embeds=images, text_embeds=texts, logit_scale=scale)

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """Returns the dual encoder, with the text map merged into its text projection."""
        owner, name = self._text_place
        weight, layer = self.text_map.weight, getattr(owner, name)
        if isinstance(layer, nn.Identity):  # of open_clip, whose configuration has a name for it
            setattr(owner, name, nn.Linear(*weight.shape, bias=False).to(weight))
            getattr(owner, name).weight.copy_(weight)
            self.clip.config.model_cfg["text_cfg"]["hf_proj_type"] = "linear"
        elif isinstance(layer, nn.Parameter):  # of open_clip, multiplied from the right
            layer.copy_(layer @ weight.T)
        else:
            layer.weight.copy_(weight @ layer.weight)
            if layer.bias is not None:
                layer.bias.copy_(weight @ layer.bias)
        return self.clip.eval()


def _image_projection(clip: nn.Module, image_head: dict | None) -> nn.Module:
    projection = getattr(clip, "visual_projection", None)
    if isinstance(clip, OpenCLIPModel) and clip.config.vision_width is not None:
        if image_head is not None:
            _replace_head(clip, image_head)
        projection = clip.model.visual.head
    if projection is None:
        raise ValueError(
            f"{type(clip).__name__} has no image projection apart from its tower that could be trained: take a "
            "CLIPModel, or an open_clip model with a timm image tower."
        )
    return projection


@torch.no_grad()
def _replace_head(clip: OpenCLIPModel, arguments: dict) -> None:
    old = clip.model.visual.head
    classifier = getattr(old, "classifier", None)
    if classifier is not None:
        arguments = {**arguments, "classes": classifier.out_features}
    head = ImageHead(clip.config.vision_width, clip.config.projection_dim, **arguments)
    if classifier is not None:
        head.classifier = classifier
        head.class_vectors.copy_(old.class_vectors if old.gate is None else old.zero_shot_vectors)
    clip.model.visual.head, clip.config.picture_head = head, dict(arguments)


def _text_projection(clip: nn.Module) -> tuple[nn.Module, str]:
    """Returns the module that has the last layer of the text side, and the name of the layer there."""
    if not isinstance(clip, OpenCLIPModel):
        return clip, "text_projection"
    text = getattr(clip.model, "text", clip.model)
    if not hasattr(text, "proj"):
        return text, "text_projection"
    last = text.proj
    return (last, str(len(last) - 1)) if isinstance(last, nn.Sequential) else (text, "proj")


logger = logging.getLogger(__name__)

# Images of the development split that are ranked, with all of their captions.
_MOST_RANKED = 1000
_MEASURE = "caption_image_r10"


def caption_recalls(images: torch.Tensor, texts: torch.Tensor, owners: torch.Tensor) -> dict[str, float]:
    """Compute caption-to-image and image-to-caption recall in percent.

    Args:
        images (`(images, width)`), texts (`(texts, width)`): normalised.
        owners (`(texts,)`): number of each text's image.
    """
    scores, owners = (texts @ images.T).float().cpu().numpy(), owners.numpy()
    numbers = np.arange(len(images))
    found = {
        "caption_image": first_right_ranks(scores, owners, numbers),
        "image_caption": first_right_ranks(scores.T, numbers, owners),
    }
    return {f"{name}_{k}": value for name, ranks in found.items() for k, value in recall_at(ranks).items()}


def train(recipe: Recipe) -> dict:
    """Run a recipe of task `clip` with `data.images`.

    Writes to `training.output_dir`: the dual encoder with its processors, and `results.json` with the recalls on the
    development split before and after training.

    Raises:
        FileNotFoundError, ValueError: for images that are not there, or a dual encoder that cannot be trained so.
    """
    args, data = recipe.training, recipe.data
    set_seed(args.seed)
    splits = captioned_image_splits(data.images, data.held_out_fraction)
    splits["validation"] = dict(list(splits["validation"].items())[:_MOST_RANKED])
    source = recipe.model.clip
    clip, commit = load_dual_encoder(source, recipe.model.clip_revision, dtype=torch.float32)
    hub = {"revision": commit} if commit else {}
    processors = AutoImageProcessor.from_pretrained(source, **hub), AutoTokenizer.from_pretrained(source, **hub)
    with args.main_process_first(local=False, desc="frozen features"):
        rows, held_out = (_rows(recipe, clip.eval(), *processors, name, captions) for name, captions in splits.items())
    owners = torch.repeat_interleave(torch.arange(len(held_out)), held_out.counts)
    with torch.inference_mode():
        untrained = caption_recalls(
            F.normalize(project(clip, held_out.pooled), dim=-1), F.normalize(held_out.texts, dim=-1), owners
        )
    model = CaptionedImageModel(clip, recipe.model.image_head)
    logger.info("%s", parameter_report(model))

    def recalls(trained: CaptionedImageModel) -> dict[str, float]:
        device = trained.text_map.weight.device
        return caption_recalls(
            trained.image_embeds(held_out.pooled.to(device)), trained.text_embeds(held_out.texts.to(device)), owners
        )

    trainer = RetrievalTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out,
        recalls=recalls,
        callbacks=[TrainingGuard(model), EpochDraws(rows)],
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if not trainer.is_world_process_zero():
        return {}
    with torch.inference_mode():
        trained = recalls(model.eval())
    if trained[_MEASURE] < untrained[_MEASURE]:
        logger.warning(
            "%s on the development split fell from %.1f to %.1f %%: the dual encoder does better as it was. Keep it, "
            "or bring more captioned images.",
            _MEASURE,
            untrained[_MEASURE],
            trained[_MEASURE],
        )
    for part in (model.fold(), *processors):
        part.save_pretrained(args.output_dir)
    results = {
        "task": "clip",
        "seed": args.seed,
        "images": {"train": len(rows), "validation": len(held_out)},
        "captions": {"train": len(rows.texts), "validation": len(held_out.texts)},
        "validation_untrained": untrained,
        "validation": trained,
    }
    write_json(Path(args.output_dir, "results.json"), results)
    return results


def _rows(recipe: Recipe, clip, image_processor, tokenizer, name: str, captions: dict[str, list[str]]) -> ClipRows:
    towers, options = frozen_towers(clip, tokenizer), recipe.data.feature_options()
    found = FrozenImages(towers.image_tower, towers.encode_images, image_processor, options).features(list(captions))
    logger.info("%s", found.describe(f"{name}, images"))
    if not len(found.kept):
        raise ValueError(f"{recipe.data.images}: no image of the split {name} can be read: {found.skipped[0][1]}")
    lists = list(captions.values())
    kept = [lists[position] for position in found.kept]
    texts = FrozenTexts(towers.text_tower, towers.encode_texts, options).features(
        [text for row in kept for text in row]
    )
    logger.info("%s", texts.describe(f"{name}, captions"))
    pooled = found.rows.tensor()
    return ClipRows(
        pooled,
        texts.rows.tensor(),
        torch.tensor([len(row) for row in kept]),
        torch.arange(len(kept)),
        recipe.training.seed,
    )
