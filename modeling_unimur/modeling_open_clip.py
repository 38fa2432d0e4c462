"""Any open_clip model as a `PreTrainedModel`; one way to run all dual encoders, these and those of transformers; and a
name for the space of their vectors."""

import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput

from .configuration_open_clip import OpenCLIPConfig
from .contrastive_loss import contrastive_loss
from .image_loading import Image
from .loading import CompleteLoadingMixin, load_backbone

try:
    import open_clip
except ImportError:
    open_clip = None


@dataclass
class OpenCLIPOutput(ModelOutput):
    """Args:
    loss (`torch.FloatTensor`, *optional*): symmetric contrastive loss over the batch.
    image_embeds, text_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): normalised.
    logit_scale (`torch.FloatTensor`): the factor on the cosines, as used.
    """

    loss: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None


class ImageGate(nn.Module):
    """How familiar an image is to a head, from 0 to 1: near 1 for images like those that it was trained on.

    `sigmoid(sharpness * ln(threshold / d))`, where `d` is the squared Mahalanobis distance of the pooled feature,
    scaled to a mean square of 1, to those of the training images. Their covariance is kept as its first `rank`
    principal components and one variance for all other directions. The gate is 1 everywhere until it is fitted.
    """

    def __init__(self, in_features: int, rank: int, sharpness: float = 8.0):
        super().__init__()
        self.sharpness = sharpness
        self.register_buffer("mean", torch.zeros(in_features))
        self.register_buffer("components", torch.zeros(rank, in_features))
        self.register_buffer("precisions", torch.zeros(rank))
        self.register_buffer("residual_precision", torch.zeros(1))
        self.register_buffer("threshold", torch.ones(1))

    @staticmethod
    def scaled(pooled_features: torch.Tensor) -> torch.Tensor:
        """Features `(..., in_features)` with a mean square of 1, in float32."""
        return F.normalize(pooled_features.float(), dim=-1) * pooled_features.shape[-1] ** 0.5

    def distance(self, pooled_features: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to squared distances `(..., 1)`, in float32."""
        centred, components = self.scaled(pooled_features) - self.mean.float(), self.components.float()
        inside = centred @ components.T
        outside = centred - inside @ components
        distance = (inside.square() * self.precisions.float()).sum(-1, keepdim=True)
        return distance + outside.square().sum(-1, keepdim=True) * self.residual_precision.float()

    def forward(self, pooled_features: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., 1)`, in the dtype of the features."""
        distance = self.distance(pooled_features).clamp(min=1e-12)
        gate = torch.sigmoid(self.sharpness * (self.threshold.float().log() - distance.log()))
        return gate.to(pooled_features.dtype)


class ImageHead(nn.Module):
    """Pooled image features into the joint space: a layer norm and two layers, and what a classifier sees.

    The mean of the class vectors, weighted by the probabilities of the image tower's classifier (ConSE, Norouzi et al.
    2014), joins the output of the two layers: `layers(x) + class_weight * softmax(class_scale * logits) @
    class_vectors`, in which all but the classifier is trained.

    With `zero_shot_temperature` an [`ImageGate`] interpolates between this trained vector, for images like those that
    it was trained on, and `softmax(logits / zero_shot_temperature) @ zero_shot_vectors`, scaled to the same length,
    for all others. The zero-shot vectors are fixed: text vectors of the class names.

    Args:
        in_features, out_features (`int`): widths of the pooled feature and of the joint space.
        hidden_features (`int`), dropout (`float`): between the two layers.
        classes (`int`): of the classifier; 0 leaves it out.
        zero_shot_temperature (`float`, *optional*): `None` leaves the zero-shot vector and the gate out.
        gate_rank (`int`): principal components of the gate.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        dropout: float = 0.0,
        classes: int = 0,
        zero_shot_temperature: float | None = None,
        gate_rank: int = 512,
    ):
        super().__init__()
        if zero_shot_temperature is not None and not (classes and zero_shot_temperature > 0):
            raise ValueError(f"zero_shot_temperature must be positive and needs classes, got {zero_shot_temperature}.")
        self.norm = nn.LayerNorm(in_features)
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_features, out_features)
        self.classifier = self.gate = None
        self.zero_shot_temperature = zero_shot_temperature
        if classes:
            self.classifier = nn.Linear(in_features, classes)
            self.class_vectors = nn.Parameter(torch.zeros(classes, out_features))
            self.class_scale = nn.Parameter(torch.ones(1))
            self.class_weight = nn.Parameter(torch.ones(1))
        if zero_shot_temperature is not None:
            self.register_buffer("zero_shot_vectors", torch.zeros(classes, out_features))
            self.gate = ImageGate(in_features, min(gate_rank, in_features))

    def zero_shot(self, pooled_features: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to normalised vectors `(..., out_features)` that no training has seen."""
        seen = F.softmax(self.classifier(pooled_features) / self.zero_shot_temperature, dim=-1)
        return F.normalize(seen @ self.zero_shot_vectors, dim=-1)

    def forward(self, pooled_features: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., out_features)`, not normalised."""
        out = self.fc2(self.dropout(F.gelu(self.fc1(self.norm(pooled_features)))))
        if self.classifier is not None:
            seen = F.softmax(self.class_scale * self.classifier(pooled_features), dim=-1)
            out = out + self.class_weight * (seen @ self.class_vectors)
        if self.gate is not None:
            unseen = out.norm(dim=-1, keepdim=True) * self.zero_shot(pooled_features)
            gate = self.gate(pooled_features)
            out = gate * out + (1 - gate) * unseen
        return out


def _build(config: OpenCLIPConfig) -> nn.Module:
    if open_clip is None:
        raise ImportError(
            "This model's dual encoder is an open_clip model, and open_clip is not installed. Install it with "
            "`pip install open_clip_torch`."
        )
    model_cfg = json.loads(json.dumps(config.model_cfg))
    custom = model_cfg.pop("custom_text", False) or "hf_model_name" in model_cfg["text_cfg"]
    cls = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    # transformers constructs models on the meta device, but open_clip computes with values while it builds.
    with torch.device("cpu"), tempfile.TemporaryDirectory() as folder:
        if config.text_tower_config is not None:
            # open_clip asks AutoConfig for the tower's configuration: it finds ours in this folder.
            Path(folder, "config.json").write_text(json.dumps(config.text_tower_config), encoding="utf-8")
            model_cfg["text_cfg"]["hf_model_name"] = folder
        model = cls(**model_cfg)
    if config.picture_head is not None:
        with torch.device("cpu"):
            model.visual.head = ImageHead(config.vision_width, config.projection_dim, **config.picture_head)
    return model


class OpenCLIPModel(CompleteLoadingMixin, PreTrainedModel):
    """A dual encoder of open_clip behind the interface of `CLIPModel`. Needs the package `open_clip_torch`."""

    config: OpenCLIPConfig
    config_class = OpenCLIPConfig
    base_model_prefix = "open_clip"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    accepts_loss_kwargs = False

    def __init__(self, config: OpenCLIPConfig):
        super().__init__(config)
        self.model = _build(config)
        # from_pretrained wipes buffers that are not in the file (a text tower's causal mask): keep their values.
        for module in self.model.modules():
            kept = {name: getattr(module, name) for name in module._non_persistent_buffers_set}
            if kept:
                module._fixed_buffers = {name: b.clone() for name, b in kept.items() if isinstance(b, torch.Tensor)}
            # A nested transformers model was built with values and says so; its buffers are wiped all the same.
            module.__dict__.pop("_is_hf_initialized", None)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        # Weights keep open_clip's own initialisation.
        for name, value in getattr(module, "_fixed_buffers", {}).items():
            init.copy_(getattr(module, name), value)

    @classmethod
    def from_open_clip(cls, model: "nn.Module | str", model_cfg: dict | None = None, **create_kwargs):
        """Wraps a ready model of open_clip, with its configuration in open_clip's form, or one that
        `open_clip.create_model` makes of a name (`"ViT-B-32"`) and `create_kwargs` (`pretrained=`, ...).

        Raises:
            ValueError: when a ready model comes without its configuration.
        """
        if isinstance(model, str):
            model_cfg = model_cfg or open_clip.get_model_config(model)
            model = open_clip.create_model(model, **create_kwargs)
        if model_cfg is None:
            raise ValueError("Pass `model_cfg`, open_clip's configuration of the model, beside a ready model.")
        text_config = getattr(getattr(model, "text", None), "config", None)
        tower, pad_token_id = None, model_cfg["text_cfg"].get("pad_id", 0)
        if text_config is not None:
            tower, pad_token_id = {**text_config.to_dict()}, text_config.pad_token_id
            tower.pop("_name_or_path", None)
        trunk = getattr(model.visual, "trunk", None)
        width = trunk.num_features if trunk is not None and len(model.visual.head) else None
        config = OpenCLIPConfig(
            model_cfg=model_cfg, text_tower_config=tower, vision_width=width, pad_token_id=pad_token_id
        )
        wrapped = cls(config)
        wrapped.model.load_state_dict(model.state_dict())
        return wrapped.eval()

    @property
    def logit_scale(self) -> torch.Tensor:
        """Logarithm of the factor on the cosines."""
        return self.model.logit_scale

    def project_image(self, pooled_features: torch.Tensor) -> torch.Tensor:
        """Pooled image features `(batch, vision_width)` into the joint space `(batch, projection_dim)`."""
        if self.config.vision_width is None:
            return pooled_features
        return self.model.visual.head(pooled_features)

    def pool_image(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images `(batch, 3, height, width)`, preprocessed, before the joint space `(batch, vision_width)`."""
        if self.config.vision_width is None:
            return self.model.encode_image(pixel_values)
        # The convolutions of timm's towers run about twice as fast on a CPU with the channels last.
        return self.model.visual.trunk(pixel_values.contiguous(memory_format=torch.channels_last))

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Images `(batch, 3, height, width)`, preprocessed, in the joint space `(batch, projection_dim)`."""
        return BaseModelOutputWithPooling(pooler_output=self.project_image(self.pool_image(pixel_values)))

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Texts `(batch, tokens)` into the joint space `(batch, projection_dim)`, not normalised."""
        if attention_mask is not None:  # open_clip finds the padding by its id
            input_ids = input_ids.masked_fill(attention_mask == 0, self.config.pad_token_id)
        if self.config.text_tower_config is None:  # towers of open_clip's own read a fixed length
            missing = self.config.context_length - input_ids.shape[1]
            if missing < 0:
                raise ValueError(
                    f"Texts of {input_ids.shape[1]} tokens; this tower reads {self.config.context_length}."
                )
            input_ids = F.pad(input_ids, (0, missing), value=self.config.pad_token_id)
        return BaseModelOutputWithPooling(pooler_output=self.model.encode_text(input_ids))

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pooled_features: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> OpenCLIPOutput:
        """Embeds images, or `pooled_features (batch, vision_width)`, and texts, or `text_features (batch,
        projection_dim)`, row i beside row i, and compares all with all; rows with equal `target_ids` match."""
        image_embeds = text_embeds = loss = None
        if pooled_features is not None:
            image_embeds = F.normalize(self.project_image(pooled_features), dim=-1)
        elif pixel_values is not None:
            image_embeds = F.normalize(self.get_image_features(pixel_values).pooler_output, dim=-1)
        if text_features is not None:
            text_embeds = F.normalize(text_features, dim=-1)
        elif input_ids is not None:
            text_embeds = F.normalize(self.get_text_features(input_ids, attention_mask).pooler_output, dim=-1)
        scale = self.logit_scale.exp()
        if return_loss and image_embeds is not None and text_embeds is not None:
            loss = contrastive_loss(text_embeds, image_embeds, scale, target_ids)
        return OpenCLIPOutput(loss=loss, image_embeds=image_embeds, text_embeds=text_embeds, logit_scale=scale)


# -- any dual encoder -------------------------------------------------------------------------------------------------
# Classes of dual encoders that transformers does not have, by model type.
OWN_DUAL_ENCODERS = {OpenCLIPConfig.model_type: OpenCLIPModel}


def build_dual_encoder(config) -> PreTrainedModel:
    """An untrained dual encoder of a `clip`, `siglip`, `siglip2` or `open_clip` configuration."""
    own = OWN_DUAL_ENCODERS.get(config.model_type)
    return AutoModel.from_config(config) if own is None else own(config)


def load_dual_encoder(source, revision: str | None = None, **kwargs) -> tuple[PreTrainedModel, str | None]:
    """A pretrained dual encoder and its commit on the Hub; arguments and errors are those of `load_backbone`."""
    return load_backbone("clip", source, revision, OWN_DUAL_ENCODERS, **kwargs)


class ImageShapes(TypedDict, total=False):
    """What SigLIP 2's processor adds for images of any shape."""

    pixel_attention_mask: torch.Tensor | None
    spatial_shapes: torch.Tensor | None


def run_image_tower(clip: PreTrainedModel, pixel_values, pixel_attention_mask=None, spatial_shapes=None):
    """The output of the image tower of transformers for images `(images, 3, height, width)`."""
    # The name of SigLIP 2's mask differs between versions of transformers.
    extra = () if spatial_shapes is None else (pixel_attention_mask, spatial_shapes)
    return clip.vision_model(pixel_values.to(clip.dtype), *extra)


def pool_images(clip: PreTrainedModel, pixel_values: torch.Tensor, **shapes: Unpack[ImageShapes]) -> torch.Tensor:
    """Images `(images, 3, height, width)` through the image tower `(images, pooled_width)`, before the joint space."""
    if clip.config.model_type in OWN_DUAL_ENCODERS:
        return clip.pool_image(pixel_values.to(clip.dtype))
    return run_image_tower(clip, pixel_values, **shapes).pooler_output


def project_images(clip: PreTrainedModel, pooled: torch.Tensor) -> torch.Tensor:
    """Outputs of the image tower `(images, pooled_width)` in the joint space `(images, joint_width)`."""
    if clip.config.model_type in OWN_DUAL_ENCODERS:
        return clip.project_image(pooled)
    projection = getattr(clip, "visual_projection", None)  # SigLIP has none
    return pooled if projection is None else projection(pooled)


def encode_texts(
    clip: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Texts `(texts, tokens)` in the joint space `(texts, joint_width)`, not normalised."""
    return clip.get_text_features(input_ids, attention_mask=attention_mask).pooler_output


# -- candidates, and the name of the space that they lie in -----------------------------------------------------------
_BITS = 128
# Of 128 bits: other numbers (bfloat16) or another way to decode images turn 1 or 2, another model about 64.
_MOST_TURNED = 4
_DIGITS = _BITS // 4
_NAME = re.compile(rf"(.*)@((?:[0-9a-f]{{{_DIGITS}}}){{2,3}})", re.DOTALL)
_PROBE = "a photo of a cat on a red chair"


def image_inputs(processor, images: list, payloads: list[dict]):
    """What a model embeds images by: with the `caption` of their payloads, if it fuses them (UniVL-DR)."""
    captions = [text if isinstance(text := payload.get("caption"), str) else None for payload in payloads]
    if any(captions) and fuses_captions(processor):
        return processor.process_documents(images, captions)
    return processor.process_images(images)


def fuses_captions(processor) -> bool:
    """Whether a processor is that of a model that fuses images with their captions."""
    return hasattr(processor, "process_documents")


@torch.inference_mode()
def image_vectors(model, inputs, truncate_dim: int | None = None) -> torch.Tensor:
    """Unit vectors `(images, width)`, float32 on the CPU, of what `image_inputs` returns."""
    if "visual_features" in inputs:  # by the encoder of ready embeddings
        return unit_vectors(model.heads.image_target(inputs["visual_features"].to(model.device)), truncate_dim)
    embed = model.get_multimodal_features if "input_ids" in inputs else model.get_image_features
    return unit_vectors(embed(**_placed(model, inputs)).pooler_output, truncate_dim)


@torch.inference_mode()
def text_vectors(model, inputs, truncate_dim: int | None = None) -> torch.Tensor:
    """Unit vectors `(texts, width)`, float32 on the CPU, of what `processor.process_texts` returns."""
    if "text_features" in inputs:  # by the encoder of ready embeddings
        return unit_vectors(model.heads.text_target(inputs["text_features"].to(model.device)), truncate_dim)
    return unit_vectors(model.get_text_features(**_placed(model, inputs)).pooler_output, truncate_dim)


def _placed(model, inputs) -> dict:
    return {key: value.to(model.device) for key, value in inputs.items()}


def unit_vectors(vectors: torch.Tensor, truncate_dim: int | None = None) -> torch.Tensor:
    """Vectors `(rows, width)` at length 1, float32 on the CPU; the first `truncate_dim` numbers of each alone."""
    return F.normalize(vectors[..., :truncate_dim].float(), dim=-1).cpu()


def space_name(model, processor) -> str | None:
    """Name and revision of the space of a model's candidates, `"unimur-mini@<64 hexadecimal digits>"`.

    The revision is computed: signs of the vectors of a fixed text, of a fixed image, and (96 digits) of the two
    fused by a model that does, along 128 fixed directions each. `same_space` compares two. None for a model without a
    dual encoder, whose candidates are somebody else's vectors.
    """
    if model.clip is None:
        return None
    side = np.arange(64)
    pattern = np.stack(np.broadcast_arrays(4 * side[:, None], 4 * side, side[:, None] * side % 256), axis=-1)
    # The same weights make another space where candidates are prepared otherwise; plain text and a square hide it.
    squashed, cleaning = getattr(processor, "squash_images", False), getattr(processor, "clean_text", None)
    image = Image.fromarray((255 - pattern if squashed else pattern).astype(np.uint8))
    probe = _PROBE if cleaning is None else f"texts that are cleaned as by {cleaning}"
    signs = _signs(image_vectors(model, processor.process_images([image]))[0].numpy())
    try:
        signs = _signs(text_vectors(model, processor.process_texts([probe]))[0].numpy()) + signs
    except ValueError:  # heads that rank images alone
        signs = "0" * _DIGITS + signs
    if fuses_captions(processor):
        fused = image_vectors(model, image_inputs(processor, [image], [{"caption": probe}]))
        signs += _signs(fused[0].numpy())
    name = os.path.basename(os.path.normpath(model.name_or_path)) if model.name_or_path else "unimur"
    return f"{name}@{signs}"


def _signs(vector: np.ndarray) -> str:
    drawn = hashlib.shake_256(b"directions").digest(_BITS * len(vector) // 8 + 1)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8))[: _BITS * len(vector)].reshape(_BITS, len(vector))
    return np.packbits((2.0 * bits - 1) @ vector > 0).tobytes().hex()


def same_space(name: str, other: str) -> bool:
    """Whether two names of `space_name` are those of one space; other names are compared as they are."""
    found, wanted = _NAME.fullmatch(name), _NAME.fullmatch(other)
    if not (found and wanted):
        return name == other
    if len(found[2]) != len(wanted[2]):
        return False
    parts = [slice(start, start + _DIGITS) for start in range(0, len(found[2]), _DIGITS)]
    turned = [(int(found[2][part], 16) ^ int(wanted[2][part], 16)).bit_count() for part in parts]
    return max(turned) <= _MOST_TURNED
