"""UniMuR: a frozen language model and a frozen dual encoder, joined by a few trained maps."""

import hashlib
import math
import os
from collections import OrderedDict
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, cached_file

from .configuration_unimur import UniMuRConfig
from .contrastive_loss import at_least_float32, contrastive_loss, sum_over_prefixes
from .loading import (
    BACKBONE_NAMES,
    BACKBONES,
    HUB_ARGUMENTS,
    CompleteLoadingMixin,
    load_backbone,
    readable_weights,
    require_complete,
)
from .modeling_open_clip import (
    OWN_DUAL_ENCODERS,
    ImageShapes,
    build_dual_encoder,
    encode_texts,
    load_dual_encoder,
    pool_images,
    project_images,
    run_image_tower,
)
from .prefix_cache import ChatCache, FrozenDecoder, PrefixCache, align_right, group_by_length

if TYPE_CHECKING:
    # Never run: transformers copies the files that a saved model's own file names, and these belong beside it.
    from .pipeline_multimodal_retrieval import MultimodalRetrievalPipeline  # noqa: F401
    from .processing_unimur import UniMuRProcessor  # noqa: F401

# Arguments that place or pack the frozen weights; the trained heads stay whole on one device.
_PLACEMENT_ARGUMENTS = ("device_map", "max_memory", "offload_folder", "quantization_config")
# Rows of vocabulary logits that exist at one time; 256 x 50k floats are 50 MB.
_LOGIT_ROWS = 256
# What the gate of an anchored query decides by; `gate_features` computes them in this order.
GATE_FEATURES = (
    "cosine of readout and anchor",
    "cosine of whole and last",
    "cosine of readout and whole",
    "cosine of readout and last",
    "log(1 + context tokens)",
    "log(1 + turns)",
    "share of turns with a question mark",
)


class AnchorInputs(TypedDict, total=False):
    """Inputs of anchored queries; `UniMuRProcessor.process_queries` makes them with `query_anchor="encoder"`.

    anchor_input_ids, anchor_attention_mask (`(batch, 2, tokens)`): words of all turns and of the last turn that has
        any, of the dual encoder's tokenizer; or `anchor_features (batch, 2, joint_width)`, the text tower's output.
    anchor_text_mask (`(batch, 2)`, *optional*): False where there are no words; features are zeros there.
    turn_statistics (`(batch, 2)`): number of turns, and the share of them with a question mark.
    """

    anchor_input_ids: torch.Tensor
    anchor_attention_mask: torch.Tensor
    anchor_text_mask: torch.Tensor
    anchor_features: torch.Tensor
    turn_statistics: torch.Tensor


# -- outputs ----------------------------------------------------------------------------------------------------------
@dataclass
class UniMuRQueryOutput(BaseModelOutputWithPooling):
    """Args:
    pooler_output (`torch.FloatTensor` of shape `(batch, projection_dim)`): the queries, unit vectors.
    readout_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): what the language model reads at [RET],
        unit vectors; without an anchor these are the queries.
    anchor_embeds, correction_embeds (`(batch, projection_dim)`), gate (`(batch, 1)`, *optional*): of an anchored
        query, whose direction is that of `anchor_embeds + gate * correction_embeds`.
    """

    readout_embeds: torch.FloatTensor | None = None
    anchor_embeds: torch.FloatTensor | None = None
    correction_embeds: torch.FloatTensor | None = None
    gate: torch.FloatTensor | None = None


@dataclass
class UniMuROutput(ModelOutput):
    """Args:
    loss (`torch.FloatTensor`, *optional*): the weighted sum of the terms below that were computed.
    caption_loss (`torch.FloatTensor`, *optional*): next-token loss of captions after their image.
    visual_matching_loss, textual_matching_loss (`torch.FloatTensor`, *optional*): unified embedding against the dual
        encoder's image embeddings, and against its text embeddings.
    ret_token_loss (`torch.FloatTensor`, *optional*): next-token loss of the context and its [RET].
    multimodal_embeds, readout_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`): the queries and the
        readouts, as in [`UniMuRQueryOutput`].
    image_embeds, text_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`, *optional*): the candidates,
        unit vectors.
    logit_scale, text_logit_scale (`torch.FloatTensor`): factors on the cosines in visual and in textual matching.
    """

    loss: torch.FloatTensor | None = None
    caption_loss: torch.FloatTensor | None = None
    visual_matching_loss: torch.FloatTensor | None = None
    textual_matching_loss: torch.FloatTensor | None = None
    ret_token_loss: torch.FloatTensor | None = None
    multimodal_embeds: torch.FloatTensor | None = None
    readout_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None
    text_logit_scale: torch.FloatTensor | None = None


# -- what trains ------------------------------------------------------------------------------------------------------
def gate_features(
    readout: torch.Tensor, anchor: torch.Tensor, whole: torch.Tensor, last: torch.Tensor, statistics: torch.Tensor
) -> torch.Tensor:
    """`GATE_FEATURES` as `(batch, len(GATE_FEATURES))` in float32, of vectors `(batch, width)` and of `statistics`
    `(batch, 3)`: tokens of the context, turns, share of turns with a question mark."""
    readout, anchor, whole, last, statistics = (x.float() for x in (readout, anchor, whole, last, statistics))
    pairs = ((readout, anchor), (whole, last), (readout, whole), (readout, last))
    cosines = [F.cosine_similarity(one, other, dim=-1) for one, other in pairs]
    return torch.stack([*cosines, statistics[:, 0].log1p(), statistics[:, 1].log1p(), statistics[:, 2]], dim=-1)


class UniMuRQueryAnchor(nn.Module):
    """Joins the dual encoder's vectors of a dialogue with the readout of the language model.

    The query is `normalise(anchor + gate * correction)` with

    - `anchor = whole_weight * whole + last_weight * attention * last + image_weight * image`,
    - `attention = exp(query_attention * (cos(readout, last) - cos(readout, whole)))`: the last turn counts more where
      it is nearer to what the language model reads than all turns are,
    - `correction = readout_weight * readout`, plus a network of `[readout, whole, last]` with the correction `"mlp"`,
    - `gate` a logistic regression on `gate_features` with `query_gate`, otherwise 1. The features are standardised by
      the buffers `feature_mean` and `feature_spread`, which a fit sets.
    """

    def __init__(self, config: UniMuRConfig):
        super().__init__()
        width, hidden = config.embedding_width, config.query_correction_size
        for name in ("whole", "last", "readout"):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(())))
        # Where contexts hold no images, no gradient would ever reach their weight.
        self.image_weight = None if config.visual_width is None else nn.Parameter(torch.empty(()))
        self.attention = config.query_attention
        self.correction = None
        if config.query_correction == "mlp":
            dropout = nn.Dropout(config.query_correction_dropout)
            self.correction = nn.Sequential(nn.Linear(3 * width, hidden), nn.GELU(), dropout, nn.Linear(hidden, width))
        self.gate = nn.Linear(len(GATE_FEATURES), 1) if config.query_gate else None
        if self.gate is not None:
            self.register_buffer("feature_mean", torch.zeros(len(GATE_FEATURES)))
            self.register_buffer("feature_spread", torch.ones(len(GATE_FEATURES)))

    def initial_values(self) -> list[tuple[torch.Tensor, float]]:
        """Tensors and the values that they start with: the network adds nothing, and the gate is 0.9."""
        values = [(self.whole_weight, 1.0), (self.last_weight, 1.0), (self.readout_weight, 0.7)]
        if self.image_weight is not None:
            values.append((self.image_weight, 0.3))
        if self.correction is not None:
            values += [(self.correction[-1].weight, 0.0), (self.correction[-1].bias, 0.0)]
        if self.gate is not None:
            values += [(self.gate.weight, 0.0), (self.gate.bias, 2.2)]
            values += [(self.feature_mean, 0.0), (self.feature_spread, 1.0)]
        return values

    def forward(
        self,
        readout: torch.Tensor,
        whole: torch.Tensor,
        last: torch.Tensor,
        image: torch.Tensor,
        statistics: torch.Tensor,
    ) -> UniMuRQueryOutput:
        """The queries of dialogues, from unit vectors `(batch, width)`: readouts of the language model, words of all
        turns, words of the last turn, and the mean of the images, zeros where there are none."""
        last_weight = self.last_weight
        if self.attention:  # through which no gradient reaches the vectors
            near = [F.cosine_similarity(readout.float(), one.float(), dim=-1) for one in (last, whole)]
            last_weight = last_weight * (self.attention * (near[0] - near[1]).detach()).exp()[:, None].to(last)
        anchor = self.whole_weight * whole + last_weight * last
        if self.image_weight is not None:
            anchor = anchor + self.image_weight * image
        correction = self.readout_weight * readout
        if self.correction is not None:
            inputs = torch.cat([readout, whole, last], dim=-1)
            correction = correction + self.correction(inputs.to(self.correction[0].weight.dtype))
        gate = torch.ones_like(readout[:, :1])
        if self.gate is not None:  # through which no gradient reaches the vectors
            features = gate_features(readout, anchor, whole, last, statistics).detach()
            features = (features - self.feature_mean.float()) / self.feature_spread.float().clamp(min=1e-6)
            gate = self.gate(features.to(self.gate.weight.dtype)).sigmoid()
        return UniMuRQueryOutput(
            pooler_output=F.normalize(anchor + gate * correction, dim=-1),
            readout_embeds=readout,
            anchor_embeds=anchor,
            correction_embeds=correction,
            gate=gate,
        )


class UniMuRHeads(nn.Module):
    """The maps between the frozen backbones, the [RET] vectors and the temperatures: everything that trains, 7,348,993
    parameters with OPT-6.7B and CLIP ViT-L/14."""

    def __init__(self, config: UniMuRConfig):
        super().__init__()
        width, out = config.language_width, config.embedding_width
        self.visual_tokens = config.num_visual_tokens
        # Image feature -> input vectors of the language model (FROMAGe: visual_embeddings).
        self.reads_patches = config.max_image_tokens is not None
        mapped = width * (1 if self.reads_patches else self.visual_tokens)
        self.visual_map = nn.Linear(config.visual_width, mapped) if config.visual_width else None
        # Hidden states at [RET] -> unified embedding (FROMAGe: text_hidden_fcs), one map a layer.
        self.readout_maps = nn.ModuleList([nn.Linear(width, out) for _ in config.ret_layers])
        self.ret_embedding = nn.Parameter(torch.empty(config.num_ret_tokens, width))
        # Maps on the targets (FROMAGe: visual_fc); the paper's figure draws none.
        self.image_target_map = nn.Linear(config.visual_width, out) if config.map_image_targets else None
        self.text_target_map = nn.Linear(config.joint_width, out) if config.map_text_targets else None
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        separate = config.separate_logit_scales
        self.text_logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value))) if separate else None
        # The encoder's own vectors of a dialogue, which the readout corrects; the paper has none.
        self.query_anchor = UniMuRQueryAnchor(config) if config.query_anchor != "none" else None

    def visual_inputs(self, visual_features: torch.Tensor) -> torch.Tensor:
        """`(images, visual_width)`, or with patches `(images, 1 + tokens, visual_width)`, to the language model's
        input vectors `(images * tokens, language_width)`."""
        if self.reads_patches:
            wanted = (1 + self.visual_tokens, self.visual_map.in_features)
            if tuple(visual_features.shape[1:]) != wanted:
                raise ValueError(
                    f"visual_features of max_image_tokens must be of shape (images, {wanted[0]}, {wanted[1]}), as "
                    f"get_visual_features makes them, got {tuple(visual_features.shape)}."
                )
            visual_features = visual_features[:, 1:]
        mapped = self.visual_map(visual_features.to(self.visual_map.weight.dtype))
        return mapped.reshape(mapped.shape[0] * self.visual_tokens, -1)

    def unify(self, states: list[torch.Tensor]) -> torch.Tensor:
        """Hidden states `(batch, tokens, language_width)` of each layer that is read, [RET] last, to unit vectors
        `(batch, projection_dim)`."""
        states = [state[:, -len(self.ret_embedding) :] for state in states]
        mapped = [layer(state.to(layer.weight.dtype)) for layer, state in zip(self.readout_maps, states, strict=True)]
        return F.normalize(torch.stack(mapped).sum(dim=0).mean(dim=1), dim=-1)

    def image_target(self, features: torch.Tensor) -> torch.Tensor:
        """Features of candidate images to unit vectors `(images, projection_dim)`."""
        features = features.to(self.logit_scale.dtype)
        return F.normalize(self.image_target_map(features) if self.image_target_map else features, dim=-1)

    def text_target(self, features: torch.Tensor) -> torch.Tensor:
        """Features of candidate texts to unit vectors `(texts, projection_dim)`."""
        features = features.to(self.logit_scale.dtype)
        return F.normalize(self.text_target_map(features) if self.text_target_map else features, dim=-1)

    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors on the cosines in visual and in textual matching."""
        visual = self.logit_scale.exp()
        return visual, visual if self.text_logit_scale is None else self.text_logit_scale.exp()


# -- LoRA adapters on the language model ------------------------------------------------------------------------------
# Part of the name of each of their weights, and of no weight of a backbone.
LORA = ".lora_"


def add_adapters(language_model: nn.Module, lora: dict) -> None:
    """Puts untrained adapters in float32 into a language model; `lora` holds arguments of peft's `LoraConfig`.

    Raises:
        ImportError: peft is not installed.
        ValueError: the language model has no layer of that name, or adapters already.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            "This model has LoRA adapters on its language model (lora in config.json), which peft runs: `pip install "
            "unimur[lora]`, or `pip install peft`."
        ) from error
    if adapter_layers(language_model):
        raise ValueError("This language model has adapters already: pass one without, or its Hub id or folder.")
    inject_adapter_in_model(LoraConfig(**lora), language_model)
    for weight in adapter_weights(language_model).values():
        weight.data = weight.data.float()


def load_adapters(language_model: nn.Module, prefix: str, source: str, **hub) -> None:
    """Reads trained adapters from the weights of a heads-only release, whose names begin with `prefix`.

    Raises:
        OSError: the file is not there, or damaged.
        ValueError: it lacks adapters.
    """
    with readable_weights(source), safe_open(cached_file(source, "model.safetensors", **hub), framework="pt") as file:
        names = [name for name in file.keys() if LORA in name]  # noqa: SIM118 (it is no dictionary)
        found = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    expected = adapter_weights(language_model)
    missing = [name for name, weight in expected.items() if name not in found or found[name].shape != weight.shape]
    require_complete({"missing_keys": missing, "unexpected_keys": found.keys() - expected.keys()}, source)
    for name, weight in expected.items():
        weight.data.copy_(found[name])


def adapter_weights(language_model: nn.Module | None) -> dict[str, nn.Parameter]:
    """The weights of the adapters by name; none for a frozen language model."""
    return {} if language_model is None else {n: p for n, p in language_model.named_parameters() if LORA in n}


def adapter_layers(language_model: nn.Module) -> list[nn.Module]:
    """The layers of peft that hold adapters."""
    return [module for module in language_model.modules() if hasattr(module, "lora_A")]


# -- the model --------------------------------------------------------------------------------------------------------
class UniMuRPreTrainedModel(PreTrainedModel):
    """Base class: how the trained tensors start and what the backbones may be asked for."""

    config: UniMuRConfig
    config_class = UniMuRConfig
    base_model_prefix = "unimur"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["UniMuRHeads"]
    _keys_to_ignore_on_load_unexpected = [r"^language_model\..*\.lora_"]  # read when the language model is there

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, UniMuRHeads):
            init.normal_(module.ret_embedding, std=self.config.initializer_range)
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.text_logit_scale is not None:
                init.constant_(module.text_logit_scale, self.config.logit_scale_init_value)
        if isinstance(module, UniMuRQueryAnchor):
            for tensor, value in module.initial_values():
                init.constant_(tensor, value)


class UniMuRModel(CompleteLoadingMixin, UniMuRPreTrainedModel, GenerationMixin):
    """Reads a dialogue of text and images into one vector that retrieves the text and the image of its reply. The
    language model and the dual encoder are frozen; only `heads` trains. Make one from two pretrained models with
    [`~UniMuRModel.from_backbones`], load one with `from_pretrained`."""

    accepts_loss_kwargs = False
    # Whether a batch runs in one piece, so that ranks among which the language model is sharded call it equally often.
    equal_calls = False

    def __init__(self, config: UniMuRConfig, build_backbones: bool = True, backbone_dtypes: dict | None = None):
        super().__init__(config)
        self.language_model = self.clip = None
        if build_backbones:
            self._build_backbones(backbone_dtypes or {})
        self.heads = UniMuRHeads(config)
        self._prefix_support: dict = {}  # what `frozen_decoder.supports` has found out
        self.post_init()
        self.freeze_backbones()

    @property
    def dtype(self) -> torch.dtype:
        """That of the trained heads; `language_model` and `clip` have their own."""
        return self.heads.logit_scale.dtype

    def require_clip(self) -> nn.Module:
        """The dual encoder. Raises ValueError if the model has none."""
        if self.clip is None:
            raise ValueError(
                "This model has no dual encoder: its candidates are ready embeddings, and its contexts hold text only "
                "unless their encoder reads images (anchor_base_model, visual_feature='projected')."
            )
        return self.clip

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    @property
    def input_scale(self) -> float:
        """What the language model's input table multiplies its rows by: the root of the width for Gemma, mostly 1."""
        table = self.get_input_embeddings()
        first = torch.arange(min(8, table.num_embeddings), device=table.weight.device)
        with torch.no_grad():
            stored = float(table.weight[first].float().norm())
            return float(table(first).float().norm()) / stored if stored else 1.0

    # -- the frozen backbones: built inside, attached from where they live, saved or left out -------------------------
    def _build_backbones(self, dtypes: dict[str, torch.dtype]) -> None:
        # `from_pretrained` asks for one dtype, and loads a weight in the one that its parameter has already.
        for part, dtype in dtypes.items():
            getattr(self.config, f"{part}_config").dtype = dtype
        self.language_model = AutoModelForCausalLM.from_config(self.config.text_config)
        if self.config.lora is not None:
            add_adapters(self.language_model, self.config.lora)
        dual = self.config.clip_config
        if dual is not None:
            clip = build_dual_encoder(dual)
            self.clip = clip.to(dual.dtype) if dual.model_type in OWN_DUAL_ENCODERS else clip

    def _backbones(self) -> list[nn.Module]:
        return [found for name in BACKBONES.values() if (found := getattr(self, name, None)) is not None]

    def freeze_backbones(self) -> None:
        """Switches off their gradients and their dropout; adapters on the language model train."""
        for backbone in self._backbones():
            backbone.requires_grad_(False).eval()
        for weight in adapter_weights(self.language_model).values():
            weight.requires_grad_()

    def train(self, mode: bool = True):
        """Switches the heads and adapters to training; the frozen backbones stay in evaluation mode."""
        super().train(mode)
        for backbone in self._backbones():
            backbone.eval()
        for layer in adapter_layers(self.language_model) if self.config.lora and self.language_model else ():
            layer.lora_dropout.train(mode)
        return self

    @property
    def trains_adapters(self) -> bool:
        """Whether the language model has adapters whose gradients are asked for: no prefix is frozen then."""
        weights = adapter_weights(self.language_model) if self.config.lora else {}
        return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights.values())

    @property
    def adapter_state(self) -> tuple:
        """Differs whenever adapters are trained, loaded, switched off, merged or unmerged: kept prefixes are then out
        of date."""
        layers = adapter_layers(self.language_model) if self.config.lora else ()
        weights = adapter_weights(self.language_model) if self.config.lora else {}
        return (
            *((layer.merged, layer.disable_adapters) for layer in layers),
            *(weight._version for weight in weights.values()),
        )

    # -- loading ----------------------------------------------------------------------------------------------------
    @classmethod
    def from_backbones(
        cls,
        language_model,
        clip=None,
        *,
        processor,
        language_model_revision: str | None = None,
        clip_revision: str | None = None,
        dtype="auto",
        hub_arguments: dict | None = None,
        language_model_arguments: dict | None = None,
        **config_arguments,
    ):
        """Joins two pretrained models by untrained heads. It is saved without backbones that came from the Hub, and
        with those that did not.

        Args:
            language_model (`str` or `PreTrainedModel`): Hub id, folder, or a causal language model.
            clip (`str` or `PreTrainedModel`, *optional*): the dual encoder likewise. Without one the candidates are
                ready embeddings, by the processor's encoder (`anchor_base_model`) or of the width `projection_dim`.
            processor (`UniMuRProcessor`): the processor for both. It learns what `query_anchor` the model has.
            language_model_revision, clip_revision (`str`, *optional*): branch, tag or commit on the Hub; the commit
                that it resolves to is recorded.
            dtype: of the backbones, as in `from_pretrained`; the heads are float32 unless a dictionary names them.
            hub_arguments (`dict`, *optional*): `token`, `cache_dir`, `local_files_only`.
            language_model_arguments (`dict`, *optional*): of the language model's `from_pretrained`, such as
                `quantization_config`.
            config_arguments: further arguments of the configuration.
        """
        hub, dtypes = hub_arguments or {}, part_dtypes(dtype)
        extra = {"dtype": dtypes["language_model"], **(language_model_arguments or {}), **hub}
        text, text_commit = load_backbone("text", language_model, language_model_revision, **extra)
        dual = clip_commit = None
        if clip is not None:
            dual, clip_commit = load_dual_encoder(clip, clip_revision, dtype=dtypes["clip"], **hub)
        for name in ("query_anchor", "anchor_base_model", "anchor_base_revision"):
            setattr(processor, name, config_arguments.setdefault(name, getattr(processor, name)))
        if clip is None and config_arguments.get("projection_dim") is None:
            config_arguments |= processor.encoder_space() | config_arguments
        for name in ("num_ret_tokens", "num_visual_tokens", "max_image_tokens", "ret_token_ids", "image_token_id"):
            config_arguments[name] = getattr(processor, name)
        for part, source, commit in (("text", language_model, text_commit), ("clip", clip, clip_commit)):
            if commit:
                config_arguments |= {f"{part}_base_model": str(source), f"{part}_base_revision": commit}
        config = cls.config_class(
            text_config=text.config, clip_config=None if dual is None else dual.config, **config_arguments
        )
        config.heads_only = bool(config.text_base_model and (dual is None or config.clip_base_model))
        model = cls(config, build_backbones=False)
        model.language_model, model.clip = text, dual
        if config.lora is not None:
            add_adapters(text, config.lora)
        model._adopt_declarations()
        with torch.no_grad():  # [RET] starts among the words, which is where the language model knows its way
            words = text.get_input_embeddings().weight
            noise = torch.randn_like(model.heads.ret_embedding) * words.float().std()
            model.heads.ret_embedding.copy_((words.float().mean(dim=0) + noise) * model.input_scale)
        if isinstance(dtype, dict):
            model.heads.to(dtypes["heads"])
        return model.eval()

    def _adopt_declarations(self) -> None:
        """Takes over what the backbones ask of loading and placement, and freezes them."""
        for backbone in self._backbones():
            for declared in ("_no_split_modules", "_skip_keys_device_placement", "_keep_in_fp32_modules"):
                own = set(getattr(self, declared, None) or ())
                setattr(self, declared, own | set(getattr(backbone, declared, None) or ()))
        self.freeze_backbones()
        self._ignore_backbones(self.config.heads_only)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        config=None,
        language_model=None,
        clip=None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """Loads a full release, or a heads-only one together with the backbones that it names.

        Args:
            pretrained_model_name_or_path, config: as in `PreTrainedModel.from_pretrained`.
            language_model, clip (`str` or `PreTrainedModel`, *optional*): backbones in place of those that a
                heads-only release names.
            dtype (`torch.dtype`, `str` or `dict`, *optional*): of all parts; by default, or with "auto", that of each
                part's own checkpoint. A dictionary names parts apart, as in `{"language_model": torch.bfloat16}`;
                those that it leaves out keep their own, and the heads are float32.

        Raises:
            ValueError: when a file lacks weights, a heads-only release comes without backbones, or `dtype` is wrong.
            OSError: when a backbone cannot be loaded; it names the id and the revision.
        """
        origin = str(pretrained_model_name_or_path)
        source = {k: kwargs[k] for k in (*HUB_ARGUMENTS, "revision", "subfolder") if k in kwargs}
        kwargs.pop("ignore_mismatched_sizes", None)
        dtype, torch_dtype = kwargs.pop("dtype", None), kwargs.pop("torch_dtype", None)
        dtypes = part_dtypes(torch_dtype if dtype is None else dtype)
        if config is None:
            found = cls.config_class.get_config_dict(pretrained_model_name_or_path, **source)[0].get("model_type")
            if found not in (None, cls.config_class.model_type):
                raise ValueError(
                    f"{origin} is a {found} model and no release of UniMuR: join it to another one with "
                    "UniMuRModel.from_backbones."
                )
            config = cls.config_class.from_pretrained(pretrained_model_name_or_path, **source)
        held: dict = {}
        if config.heads_only:
            apart = (*_PLACEMENT_ARGUMENTS, "attn_implementation", "generation_config")
            held = {k: kwargs.pop(k) for k in apart if k in kwargs}
            kwargs["build_backbones"] = False
        else:
            kwargs["backbone_dtypes"] = _known_dtypes(config, dtypes)
        kwargs |= {"config": config, "dtype": dtypes["heads"], "output_loading_info": True}
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if not config.heads_only:
            model.freeze_backbones()
            return (model, info) if output_loading_info else model
        revision = getattr(config, "_commit_hash", None) or kwargs.get("revision")
        require_intact(origin, revision, kwargs.get("cache_dir"))
        attention, generation = held.pop("attn_implementation", None), held.pop("generation_config", None)
        held |= {k: v for k, v in source.items() if k in HUB_ARGUMENTS}
        for part, given in (("text", language_model), ("clip", clip)):
            if getattr(config, f"{part}_config") is not None:
                model._attach(part, given, attention, origin, dtype=dtypes[BACKBONES[part]], **held)
        if config.lora is not None:
            add_adapters(model.language_model, config.lora)
            load_adapters(model.language_model, "language_model.", origin, **{**source, "revision": revision})
        model._adopt_declarations()
        if generation is not None:
            model.generation_config = generation
        if held.get("device_map") is not None and model.language_model is not None:
            model.heads.to(model.language_model.get_input_embeddings().weight.device)
        return (model, info) if output_loading_info else model

    def _attach(self, part: str, given, attention, origin: str, **kwargs) -> None:
        expected = getattr(self.config, f"{part}_config")
        base, revision = (getattr(self.config, f"{part}_base_{key}") for key in ("model", "revision"))
        if given is None and base is None:
            raise ValueError(
                f"{origin} holds trained heads only and names no {BACKBONE_NAMES[part]}: pass "
                f"{BACKBONES[part]}=<folder or Hub id>."
            )
        if isinstance(attention, dict):
            attention = attention.get(f"{part}_config")
        attention = attention or getattr(expected, "_attn_implementation", None)
        if attention is not None and expected.model_type not in OWN_DUAL_ENCODERS:
            kwargs["attn_implementation"] = attention
        if part == "clip":
            kwargs.pop("quantization_config", None)
        source, revision = (base, revision) if given is None else (given, None)
        load = load_dual_encoder if part == "clip" else partial(load_backbone, part)
        backbone, _ = load(source, revision, **kwargs)
        found = backbone.config
        for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "projection_dim"):
            if getattr(found, key, None) != getattr(expected, key, None):
                raise ValueError(
                    f"The heads of {origin} were trained on a {BACKBONE_NAMES[part]} with "
                    f"{key}={getattr(expected, key, None)}, and {source!r} has {getattr(found, key, None)}."
                )
        setattr(self, BACKBONES[part], backbone)
        setattr(self.config, f"{part}_config", found)

    # -- copying and saving -----------------------------------------------------------------------------------------
    def __getstate__(self) -> dict:
        return _without_recorders(self, {}).__dict__

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if self.language_model is not None and self.config.ret_layers != [-1]:
            # Which hidden states a class can give, transformers notes when one is made: none was in a fresh process.
            with torch.device("meta"):
                AutoModelForCausalLM.from_config(deepcopy(self.config.text_config))

    def _ignore_backbones(self, heads_only: bool) -> None:
        prefixes = tuple(f"{name}." for name in BACKBONES.values())
        ignored = {key for key in self.state_dict() if key.startswith(prefixes) and LORA not in key}
        self._keys_to_ignore_on_save = ignored if heads_only else None

    def save_pretrained(self, save_directory, *args, heads_only: bool | None = None, **kwargs):
        """Saves the trained heads and the code that runs them, by default without backbones that came from the Hub."""
        usual = self.config.heads_only
        heads_only = usual if heads_only is None else heads_only
        if not heads_only and self.config.lora and any(one.merged for one in adapter_layers(self.language_model)):
            raise ValueError(
                "The adapters are merged into the weights, and a file of both would apply them twice: unmerge them "
                "(training.lora.unmerge), or make them part of the weights (training.lora.fold)."
            )
        self.config.heads_only = heads_only
        self._ignore_backbones(self.config.heads_only)
        for part in BACKBONES:
            sub = getattr(self.config, f"{part}_config")
            if sub is None:
                continue
            sub._name_or_path = ""  # a nested path is written out, unlike the top one
            if self.config.heads_only:
                sub.__dict__.pop("quantization_config", None)
            else:
                sub.dtype = getattr(self, BACKBONES[part]).dtype  # which the next load keeps
        if self.config.heads_only:
            self.can_generate = lambda: False  # how to generate is the language model's, and is not written
        try:
            return super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__dict__.pop("can_generate", None)
            self.config.heads_only = usual
            self._ignore_backbones(usual)

    # -- the dual encoder -------------------------------------------------------------------------------------------
    @torch.no_grad()
    def encode_images(
        self, pixel_values: torch.Tensor, **shapes: Unpack[ImageShapes]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frozen image tower's outputs `(images, pooled_width)`, and those in the joint space, not normalised."""
        pooled = pool_images(self.require_clip(), pixel_values, **shapes)
        return pooled, self.project_images(pooled)

    @torch.no_grad()
    def project_images(self, pooled: torch.Tensor) -> torch.Tensor:
        """Outputs of the frozen image tower `(images, pooled_width)` in the joint space `(images, joint_width)`."""
        return project_images(self.require_clip(), pooled.to(self.clip.dtype))

    @torch.no_grad()
    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Texts through the frozen text tower: `(texts, joint_width)`, not normalised."""
        return encode_texts(self.require_clip(), input_ids, attention_mask)

    # -- queries ----------------------------------------------------------------------------------------------------
    def get_multimodal_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        visual_features: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        prefix_states: torch.Tensor | None = None,
        **anchors: Unpack[AnchorInputs],
    ) -> UniMuRQueryOutput:
        """The unified embedding of dialogues; with `config.query_anchor`, the anchored query.

        Args:
            input_ids, attention_mask (`(batch, tokens)`): contexts that end with [RET], padded on either side.
            pixel_values (`(images, 3, height, width)`, *optional*): images of the contexts in reading order; or
                `visual_features (images, visual_width)`, computed before.
            pixel_attention_mask, spatial_shapes: what SigLIP 2's processor adds for images of any shape.
            prefix_states (*optional*): of `training.prefix_store.prefix_states` for the contexts without images.
            anchors ([`AnchorInputs`]): of anchored queries.

        Returns:
            `UniMuRQueryOutput`: `pooler_output` of shape `(batch, projection_dim)`, unit vectors.

        Raises:
            ValueError: when a context does not end with [RET], the number of images is not that of the places, or
                the inputs of anchored queries are missing.
        """
        visual_features = self._visual(pixel_values, visual_features, pixel_attention_mask, spatial_shapes)
        return self._queries(input_ids, attention_mask, visual_features, prefix_states, **anchors)[0]

    def get_readout_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        visual_features: torch.Tensor | None = None,
        prefix_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the language model reads at [RET] `(batch, projection_dim)`, unit vectors: the query of the paper."""
        return self._readouts(input_ids, attention_mask, visual_features, prefix_states)[0]

    def _queries(self, input_ids, attention_mask, visual_features, prefix_states, **anchors):
        """Queries, and what `_readouts` ran of the language model."""
        readout, parts = self._readouts(input_ids, attention_mask, visual_features, prefix_states)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        images = (input_ids == self.config.image_token_id).sum(dim=1) // self.config.num_visual_tokens
        return self.anchor_queries(readout, mask.ne(0).sum(dim=1), images, visual_features, **anchors), parts

    def anchor_queries(
        self,
        readout: torch.Tensor,
        num_tokens: torch.Tensor,
        num_images: torch.Tensor,
        visual_features: torch.Tensor | None = None,
        **anchors: Unpack[AnchorInputs],
    ) -> UniMuRQueryOutput:
        """The queries of dialogues whose readout is known, with `query_anchor="none"` the readout itself. `num_tokens`
        and `num_images (batch,)` are those of each context; the others are those of `get_multimodal_features`.

        Raises:
            ValueError: inputs are missing, or do not fit the batch.
        """
        if unknown := sorted(anchors.keys() - AnchorInputs.__annotations__.keys()):
            raise TypeError(f"Unexpected keyword argument {unknown[0]!r}.")
        if self.heads.query_anchor is None:
            return UniMuRQueryOutput(pooler_output=readout, readout_embeds=readout)
        features, statistics = anchors.get("anchor_features"), anchors.get("turn_statistics")
        ids = None if self.clip is None else anchors.get("anchor_input_ids")
        if statistics is None or (features is None and ids is None):
            raise ValueError(
                "Anchored queries need turn_statistics, and anchor_input_ids or anchor_features: "
                "UniMuRProcessor.process_queries makes them with query_anchor='encoder', as the processor beside the "
                "model does. A model without a dual encoder needs anchor_features: set anchor_encoder of the "
                "processor or the pipeline, or anchor_base_model of the configuration, to the encoder of the index."
            )
        if features is None:
            features = self._anchor_texts(ids, anchors.get("anchor_attention_mask"))
        wanted = (len(readout), 2, self.config.joint_width)
        if tuple(features.shape) != wanted:
            raise ValueError(f"anchor_features must be of shape {wanted}, got {tuple(features.shape)}.")
        there = features.ne(0).any(dim=-1)
        if anchors.get("anchor_text_mask") is not None:
            there = there & anchors["anchor_text_mask"].to(there)
        vectors = self.heads.text_target(features.flatten(0, 1)).unflatten(0, (-1, 2)) * there[..., None]
        image = self._mean_images(num_images, visual_features, like=vectors[:, 0])
        statistics = torch.cat([num_tokens.to(statistics)[:, None], statistics], dim=1)
        return self.heads.query_anchor(readout, vectors[:, 0], vectors[:, 1], image, statistics)

    def _anchor_texts(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The text tower's output of `(batch, 2, tokens)`; a dialogue of one turn runs once."""
        whole = self.encode_texts(ids[:, 0], None if mask is None else mask[:, 0])
        last, own = whole.clone(), (ids[:, 0] != ids[:, 1]).any(dim=1)
        if bool(own.any()):
            rows, row_mask = ids[own, 1], None
            if mask is not None:  # last turns are shorter than dialogues: cut the padding that all of them have
                row_mask = mask[own, 1]
                columns = row_mask.ne(0).any(dim=0)
                columns[0] = True
                rows, row_mask = rows[:, columns], row_mask[:, columns]
            last[own] = self.encode_texts(rows, row_mask)
        return torch.stack([whole, last], dim=1)

    def _mean_images(self, counts: torch.Tensor, features: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """The mean of the unit vectors of each context's images, zeros for a context without any."""
        if features is None or not len(features):
            return torch.zeros_like(like)
        if self.config.max_image_tokens is not None:
            features = self.project_images(features[:, 0])
        elif not self.config.map_image_targets and self.config.visual_feature == "pooled":
            features = self.project_images(features)
        unit = self.heads.image_target(features)
        owners = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        return torch.zeros_like(like).index_add(0, owners, unit.to(like)) / counts.clamp(min=1).to(like)[:, None]

    # -- candidates -------------------------------------------------------------------------------------------------
    def get_image_features(
        self, pixel_values: torch.Tensor, **shapes: Unpack[ImageShapes]
    ) -> BaseModelOutputWithPooling:
        """Candidate images `(images, 3, height, width)` as unit vectors `(images, projection_dim)`."""
        features = self.image_target_features(pixel_values, **shapes)
        return BaseModelOutputWithPooling(pooler_output=self.heads.image_target(features))

    def image_target_features(self, pixel_values: torch.Tensor, **shapes: Unpack[ImageShapes]) -> torch.Tensor:
        """The frozen image tower's output of candidates `(images, width)`, before any trained map."""
        if self.config.map_image_targets:  # of what the language model reads
            return self.get_visual_features(pixel_values, **shapes)
        return self.encode_images(pixel_values, **shapes)[1]

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Candidate texts `(texts, tokens)` of the dual encoder's tokenizer as unit vectors `(texts, projection_dim)`.

        Raises:
            ValueError: for heads that rank images alone (FROMAGe's), or for queries, which end with [RET].
        """
        self.require_clip()
        self._refuse_queries(input_ids)
        if self.config.joint_width != self.config.embedding_width and not self.config.map_text_targets:
            raise ValueError(
                f"These heads rank images alone: texts of {self.config.joint_width} dimensions have no map into the "
                f"{self.config.embedding_width} of the images (map_text_targets)."
            )
        features = self.encode_texts(input_ids, attention_mask)
        return BaseModelOutputWithPooling(pooler_output=self.heads.text_target(features))

    def _refuse_queries(self, input_ids: torch.Tensor) -> None:
        """Raises when candidate texts are queries: `processor(text=...)` reads them with the other tokenizer."""
        ret = self.config.ret_token_ids
        text = getattr(self.config.clip_config, "text_config", None)
        if not ret or torch.compiler.is_compiling() or ret[-1] == getattr(text, "eos_token_id", None):
            return
        if input_ids.shape[1] and bool((input_ids[:, -1] == ret[-1]).all()):
            raise ValueError(
                "These ids end with [RET]: they are queries, made by processor(text=...) or process_queries, for "
                "get_multimodal_features. Prepare candidate texts with processor.process_texts."
            )

    def _visual(self, pixel_values, visual_features, pixel_attention_mask=None, spatial_shapes=None):
        """Image features for the language model, from images or as given."""
        if pixel_values is None:
            return visual_features
        shapes = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
        return self.get_visual_features(pixel_values, **shapes)

    def get_visual_features(self, pixel_values: torch.Tensor, **shapes: Unpack[ImageShapes]) -> torch.Tensor:
        """What the language model reads of images: the frozen tower's output `(images, visual_width)`, the argument
        `visual_features` of other methods; with `max_image_tokens` followed by means over patches, `(images, 1 +
        num_visual_tokens, visual_width)`."""
        if self.config.max_image_tokens is not None:
            with torch.no_grad():
                side = math.isqrt(self.config.num_visual_tokens)
                return pool_patches(self.require_clip(), side, pixel_values, **shapes)
        pooled, projected = self.encode_images(pixel_values, **shapes)
        return pooled if self.config.visual_feature == "pooled" else projected

    # -- contexts ---------------------------------------------------------------------------------------------------
    @property
    def frozen_decoder(self) -> FrozenDecoder:
        """Runs the language model, and reads the layers that the heads read."""
        return FrozenDecoder(self.language_model, self.config.ret_layers, self._prefix_support)

    def new_chat_cache(self, processor) -> ChatCache:
        """Embeds chats turn by turn; the processor is the model's."""
        return ChatCache(self, processor)

    def get_inputs_embeds(self, input_ids: torch.Tensor, visual_features: torch.Tensor | None = None) -> torch.Tensor:
        """Input vectors of the language model `(batch, tokens, width)`: the frozen table's, with the trained vectors
        at [RET] and at the images. Raises ValueError if the number of images is not that of the places."""
        table = self.get_input_embeddings()
        embeds = table(input_ids.clamp(max=table.num_embeddings - 1))  # [RET] and images lie beyond the table
        for number, token in enumerate(self.config.ret_token_ids):
            ret = self.heads.ret_embedding[number].to(embeds)
            embeds = torch.where((input_ids == token)[..., None], ret, embeds)
        places = input_ids == self.config.image_token_id
        self._check_images(int(places.sum()) // self.config.num_visual_tokens, visual_features)
        if visual_features is not None and len(visual_features):
            visual = self.heads.visual_inputs(visual_features).to(embeds)
            embeds = embeds.masked_scatter(places[..., None].expand_as(embeds), visual)
        return embeds

    @staticmethod
    def _check_images(count: int, visual_features: torch.Tensor | None) -> None:
        given = 0 if visual_features is None else visual_features.shape[0]
        if count != given:
            raise ValueError(f"The contexts have places for {count} images, and {given} images came with them.")

    def _parts(self, input_ids, attention_mask, visual_features, together: bool = False):
        """Aligned rows in parts that are worth running together: row numbers, ids, mask and image features. With
        `together`, contexts without images are one part: the decoder splits what stands before [RET]."""
        images = (input_ids == self.config.image_token_id).sum(dim=1) // self.config.num_visual_tokens
        owners = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(images)
        self._check_images(len(owners), visual_features)
        shown = images > 0
        if self.equal_calls:
            parts = [torch.arange(len(shown), device=shown.device)]
        else:
            parts = group_by_length(attention_mask, shown)
        if together:
            words = (~shown).nonzero().flatten()
            parts = [words] * bool(len(words)) + [rows for rows in parts if shown[rows[0]]]
        for rows in parts:
            tokens = attention_mask[rows].any(dim=0)
            visual = None
            if bool(shown[rows].any()):
                visual = torch.cat([visual_features[owners == row] for row in rows])
            yield rows, input_ids[rows][:, tokens], attention_mask[rows][:, tokens], visual

    def _readouts(self, input_ids, attention_mask, visual_features, prefix_states=None):
        """Unified embeddings; and hidden states, ids and mask of what was run, part by part."""
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        attention_mask, input_ids = align_right(attention_mask, input_ids)
        ret = self.config.ret_token_ids
        for number, end in enumerate(input_ids[:, -len(ret) :].tolist()):
            if end != ret:
                raise ValueError(f"Context {number} does not end with [RET] (ids {ret}): use the model's processor.")
        decoder, kept = self.frozen_decoder, prefix_states is not None
        trains_adapters = self.trains_adapters
        if kept and trains_adapters:
            raise ValueError("prefix_states are of a frozen language model, and this one trains adapters (lora).")
        cached = torch.is_grad_enabled() and self.heads.ret_embedding.requires_grad and not self.equal_calls
        cached = cached and not trains_adapters and decoder.supports()
        together = kept or (cached and decoder.supports_prefix_cache)
        order, ran, embeds = [], [], []
        for rows, ids, mask, visual in self._parts(input_ids, attention_mask, visual_features, together):
            prefix, cut = None, ids.shape[1] - len(ret)
            if kept and visual is None:
                if (found := (prefix_states.shape[0], prefix_states.shape[3])) != (len(ids), cut):
                    raise ValueError(
                        f"prefix_states are those of {found[0]} contexts of {found[1]} tokens before [RET]; without "
                        f"images there are {len(ids)} of {cut}: compute them with `prefix_states` on just these."
                    )
                prefix = PrefixCache.of(prefix_states.unbind(1), mask[:, :cut])
            elif cached:
                images = (ids == self.config.image_token_id).any(dim=0).nonzero().flatten()
                cut = min([cut, *images[:1].tolist()])  # what follows depends on trained values
                if cut:
                    with torch.no_grad():
                        prefix = decoder.build(self.get_inputs_embeds(ids[:, :cut]), mask[:, :cut])
            else:
                cut = 0
            found = decoder.extend(self.get_inputs_embeds(ids[:, cut:], visual), mask[:, cut:], prefix)
            hidden = [] if prefix is None or prefix.hidden is None else [prefix.hidden]
            hidden = torch.cat([*hidden, found.hidden], dim=1)
            order.append(rows)
            embeds.append(self.heads.unify(found.states))
            ran.append((hidden, ids[:, -hidden.shape[1] :], mask[:, -hidden.shape[1] :]))
        return torch.cat(embeds)[torch.cat(order).argsort()], ran

    # -- training ---------------------------------------------------------------------------------------------------
    def context_labels(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What the next-token loss of contexts learns `(batch, tokens)`: words and the first [RET], which is one more
        row of the vocabulary; -100 at padding, at images and at the first token, which follows nothing.

        Raises:
            ValueError: a word lies beyond `config.loss_vocab_size`.
        """
        ignored = (attention_mask.cumsum(dim=1) <= 1) | (attention_mask == 0)
        for token in (self.config.image_token_id, *self.config.ret_token_ids[1:]):
            ignored |= input_ids == token
        ret = self.config.loss_vocab_size or self.get_output_embeddings().weight.shape[0]
        if self.config.loss_vocab_size:
            beyond = (input_ids >= ret) & ~ignored & (input_ids != self.config.ret_token_ids[0])
            if bool(beyond.any()):
                raise ValueError(f"Token {int(input_ids[beyond][0])} lies beyond loss_vocab_size={ret}.")
        return input_ids.masked_fill(input_ids == self.config.ret_token_ids[0], ret).masked_fill(ignored, -100)

    def _caption_parts(self, input_ids, attention_mask, labels, visual_features):
        """Last hidden states and labels of captions, rows of like length together."""
        mask, input_ids, labels = align_right(attention_mask, input_ids, labels)
        for rows, part_ids, part_mask, visual in self._parts(input_ids, mask, visual_features):
            embeds = self.get_inputs_embeds(part_ids, visual)
            hidden = self.frozen_decoder.extend(embeds, part_mask, read=False).hidden
            yield hidden, labels[rows, -part_ids.shape[1] :]

    def _next_token_loss(self, parts, knows_ret: bool, over: float | None) -> torch.Tensor:
        """Mean loss over all labels, or their sum divided by `over`."""
        head, ret = self.get_output_embeddings(), self._ret_row if knows_ret else None
        total, count = 0.0, 0
        for hidden, labels in parts:
            learned = int((labels[:, 1:] != -100).sum())
            hidden = hidden * self._logit_factor
            loss = next_token_loss(hidden, labels, head, ret, self._softcap, self.config.loss_vocab_size)
            total, count = total + loss * learned, count + learned
        return total / (over or max(count, 1))

    @property
    def _softcap(self) -> float | None:
        return getattr(self.config.text_config.get_text_config(), "final_logit_softcapping", None)

    @property
    def _logit_factor(self) -> float:
        """What the language model multiplies its logits by: Cohere's `logit_scale`, Granite's `logits_scaling`."""
        text = self.config.text_config.get_text_config()
        return getattr(text, "logit_scale", None) or 1 / (getattr(text, "logits_scaling", None) or 1)

    @property
    def _ret_row(self) -> torch.Tensor:
        """The first [RET] as a row of the output layer."""
        return self.heads.ret_embedding[0] / self.input_scale

    def get_vocabulary_logits(self, states: torch.Tensor, ret: bool = False) -> torch.Tensor:
        """The language model's logits `(rows, vocabulary)` of last hidden states `(rows, width)`, in float32; with
        `ret` the first [RET] is one more word, as in the next-token loss of contexts."""
        head, extra = self.get_output_embeddings(), self._ret_row if ret else None
        states = states * self._logit_factor
        return vocabulary_logits(states, head.weight, getattr(head, "bias", None), extra, self._softcap)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        visual_features: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        prefix_states: torch.Tensor | None = None,
        target_pixel_values: torch.Tensor | None = None,
        target_image_features: torch.Tensor | None = None,
        target_image_mask: torch.Tensor | None = None,
        target_image_negatives: torch.Tensor | None = None,
        target_input_ids: torch.Tensor | None = None,
        target_attention_mask: torch.Tensor | None = None,
        target_text_features: torch.Tensor | None = None,
        target_text_mask: torch.Tensor | None = None,
        target_text_negatives: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        caption_input_ids: torch.Tensor | None = None,
        caption_attention_mask: torch.Tensor | None = None,
        caption_labels: torch.Tensor | None = None,
        caption_pixel_values: torch.Tensor | None = None,
        caption_visual_features: torch.Tensor | None = None,
        multimodal_embeds: torch.Tensor | None = None,
        num_context_labels: float | None = None,
        num_caption_labels: float | None = None,
        return_loss: bool = True,
        **anchors: Unpack[AnchorInputs],
    ) -> UniMuROutput:
        """Dual alignment training: each term whose inputs are there is computed, weighted and added.

        Args:
            input_ids, attention_mask, prefix_states: contexts, as in `get_multimodal_features`.
            pixel_values, visual_features, pixel_attention_mask, spatial_shapes: their images, likewise.
            target_pixel_values (`(batch, 3, height, width)`, *optional*): row i's right image; or
                `target_image_features (batch, width)`, of `image_target_features`.
            target_input_ids, target_attention_mask (`(batch, tokens)`, *optional*): row i's right text, of the dual
                encoder's tokenizer; or `target_text_features (batch, width)`, of `encode_texts`.
            target_image_mask, target_text_mask (`(batch,)`, *optional*): False for rows without that target.
            target_image_negatives, target_text_negatives (`(batch, count, width)`, *optional*): hard negatives of row
                i, as the features of the targets; only query i is compared with them.
            target_ids (`(batch,)`, *optional*): rows with equal ids are right answers for each other.
            caption_input_ids, caption_attention_mask, caption_labels (`(batch, tokens)`, *optional*): of
                `training.collators.caption_inputs`.
            caption_pixel_values (`(batch, 3, height, width)`, *optional*): their images; or
                `caption_visual_features (batch, visual_width)`.
            multimodal_embeds (`(batch, projection_dim)`, *optional*): queries in place of the contexts.
            num_context_labels, num_caption_labels (*optional*): what the sums of the next-token losses are divided by;
                by default the number of labels.
            return_loss: whether to compute losses.
            anchors ([`AnchorInputs`]): of anchored queries.
        """
        config, output, terms = self.config, UniMuROutput(), []
        output.logit_scale, output.text_logit_scale = self.heads.scales()
        if target_image_features is None and target_pixel_values is not None:
            target_image_features = self.image_target_features(target_pixel_values)
        if target_text_features is None and target_input_ids is not None:
            target_text_features = self.encode_texts(target_input_ids, target_attention_mask)
        if target_image_features is not None:
            output.image_embeds = self.heads.image_target(target_image_features)
        if target_text_features is not None:
            output.text_embeds = self.heads.text_target(target_text_features)
        output.multimodal_embeds, parts = multimodal_embeds, None
        if input_ids is not None:
            visual = self._visual(pixel_values, visual_features, pixel_attention_mask, spatial_shapes)
            found, parts = self._queries(input_ids, attention_mask, visual, prefix_states, **anchors)
            output.multimodal_embeds, output.readout_embeds = found.pooler_output, found.readout_embeds
        if return_loss and output.multimodal_embeds is not None:
            image_side = (output.image_embeds, target_image_negatives, self.heads.image_target, target_image_mask)
            text_side = (output.text_embeds, target_text_negatives, self.heads.text_target, target_text_mask)
            scales = (output.logit_scale, output.text_logit_scale)
            for name, scale, side in zip(("visual", "textual"), scales, (image_side, text_side), strict=True):
                (candidates, negatives, target, mask), weight = side, getattr(config, f"{name}_matching_weight")
                if candidates is not None and weight:
                    vectors = (output.multimodal_embeds, candidates, None if negatives is None else target(negatives))
                    loss = sum_over_prefixes(partial(_matching_loss, scale, target_ids, mask), vectors, config)
                    setattr(output, f"{name}_matching_loss", loss)
                    terms.append(weight * loss)
            if config.ret_token_loss_weight and parts is not None:
                if prefix_states is not None:
                    raise ValueError("The next-token loss reads every token of a context: leave prefix_states out.")
                labelled = [(hidden, self.context_labels(ids, mask)) for hidden, ids, mask in parts]
                output.ret_token_loss = self._next_token_loss(labelled, True, num_context_labels)
                terms.append(config.ret_token_loss_weight * output.ret_token_loss)
        if return_loss and caption_input_ids is not None and config.caption_loss_weight:
            visual = self._visual(caption_pixel_values, caption_visual_features)
            labelled = self._caption_parts(caption_input_ids, caption_attention_mask, caption_labels, visual)
            output.caption_loss = self._next_token_loss(labelled, config.ret_in_caption_loss, num_caption_labels)
            terms.append(config.caption_loss_weight * output.caption_loss)
        if terms:
            output.loss = torch.stack([term.float() for term in terms]).sum()
        return output

    # -- text out ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        visual_features: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Continues prompts of `processor.process_prompt` by the language model's own `generate`, whose arguments
        `kwargs` are: `(batch, new tokens)`. The images are passed as in `get_multimodal_features`."""
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask, input_ids = align_right(attention_mask, input_ids)
        visual_features = self._visual(pixel_values, visual_features, pixel_attention_mask, spatial_shapes)
        embeds = self.get_inputs_embeds(input_ids, visual_features)
        return self.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **kwargs)

    @property
    def generation_config(self):
        """The language model's, which does the generating; None before it is there."""
        return getattr(getattr(self, "language_model", None), "generation_config", None)

    @generation_config.setter
    def generation_config(self, value):
        if getattr(self, "language_model", None) is not None:
            self.language_model.generation_config = value

    def adjust_generation_fn(self, *args, **kwargs):
        # A full release has generation settings; those of a heads-only one come with its language model.
        if self.language_model is not None:
            kwargs.pop("backbone_dtypes", None)  # an argument of this model's, which would end up among the settings
            super().adjust_generation_fn(*args, **kwargs)


def vocabulary_logits(hidden, weight, bias=None, extra_row=None, softcap: float | None = None) -> torch.Tensor:
    """Logits `(rows, vocabulary)` of last hidden states `(rows, width)`, in float32 or better; the arguments are those
    of `next_token_loss`."""
    logits = F.linear(hidden, weight, bias)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    if extra_row is not None:
        logits = torch.cat([logits, hidden @ extra_row.to(hidden)[:, None]], dim=-1)
    return logits.to(at_least_float32(logits))


def _summed_cross_entropy(hidden, weight, bias, labels, extra_row, softcap):
    return F.cross_entropy(vocabulary_logits(hidden, weight, bias, extra_row, softcap), labels, reduction="sum")


def next_token_loss(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    output_embeddings: torch.nn.Linear,
    extra_row: torch.Tensor | None = None,
    softcap: float | None = None,
    vocab_size: int | None = None,
) -> torch.Tensor:
    """Mean cross entropy of the next token, with vocabulary logits only where a label is, a chunk at a time.

    Args:
        hidden (`(batch, tokens, width)`): last hidden states.
        labels (`(batch, tokens)`): the token at each position, -100 where none is learned.
        output_embeddings (`torch.nn.Linear`): the language model's head.
        extra_row (`(width,)`, *optional*): a class after the vocabulary ([RET]'s vector).
        softcap (`float`, *optional*): the language model's logit soft cap (Gemma 2).
        vocab_size (`int`, *optional*): only so many of the first rows of the head are classes.
    """
    weight, bias = output_embeddings.weight, getattr(output_embeddings, "bias", None)
    if vocab_size is not None:
        weight, bias = weight[:vocab_size], None if bias is None else bias[:vocab_size]
        classes = vocab_size + (extra_row is not None)
        if labels.numel() and int(labels.max()) >= classes:
            raise ValueError(f"Token {int(labels.max())} is to be learned, and loss_vocab_size={vocab_size} lacks it.")
    learned = labels[:, 1:] != -100
    states, wanted = hidden[:, :-1][learned], labels[:, 1:][learned]
    total = states.new_zeros((), dtype=at_least_float32(states))
    for start in range(0, states.shape[0], _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        inputs = (states[part], weight, bias, wanted[part], extra_row, softcap)
        total = total + checkpoint(_summed_cross_entropy, *inputs, use_reentrant=False)
    return total / max(len(wanted), 1)


# -- patches ----------------------------------------------------------------------------------------------------------
def pool_patches(clip: nn.Module, side: int, pixel_values, **shapes: Unpack[ImageShapes]) -> torch.Tensor:
    """The image tower's pooled output, and the means of its patches over a grid of `side` by `side` equal parts:
    `(images, 1 + side * side, pooled_width)`; the other arguments are those of `pool_images`."""
    out, spatial_shapes = run_image_tower(clip, pixel_values, **shapes), shapes.get("spatial_shapes")
    if spatial_shapes is None:
        rows = clip.config.vision_config.image_size // clip.config.vision_config.patch_size
        parts = [(out.last_hidden_state[:, -rows * rows :], rows, rows)]  # behind CLIP's class token
    else:
        sides = spatial_shapes.tolist()
        parts = [(one[None, : h * w], h, w) for one, (h, w) in zip(out.last_hidden_state, sides, strict=True)]
    grids = [some.transpose(1, 2).unflatten(2, (height, width)) for some, height, width in parts]
    means = torch.cat([F.adaptive_avg_pool2d(grid, side).flatten(2) for grid in grids])
    return torch.cat([out.pooler_output[:, None], means.transpose(1, 2)], dim=1)


# -- parts of loading and of losses -----------------------------------------------------------------------------------
def require_intact(source: str, revision: str | None = None, cache_dir: str | None = None) -> None:
    """Raises OSError when the cached weights of a Hub repository are not those that the Hub announced.

    huggingface_hub compares sizes only. A file of a snapshot is a link to `blobs/<announced SHA-256>`, which newer
    versions make a link in turn, to a store that is named by another hash (Xet's): one link is followed. Every byte is
    read, so this is for files of a few MB; a folder is not looked at.
    """
    if os.path.isdir(source):
        return
    file = try_to_load_from_cache(source, "model.safetensors", cache_dir=cache_dir, revision=revision)
    announced = os.path.basename(os.readlink(file)) if isinstance(file, str) and os.path.islink(file) else ""
    if len(announced) != 64:  # a system without links keeps no such name
        return
    if hashlib.sha256(Path(file).read_bytes()).hexdigest() != announced:
        raise OSError(
            f"The weights of {source} are not those that the Hub announced (another SHA-256): the download was "
            "damaged. Load it once with force_download=True."
        )


def part_dtypes(dtype) -> dict:
    """The dtype to load `heads`, `language_model` and `clip` in; "auto" is that of a part's own checkpoint."""
    parts = ("heads", *BACKBONES.values())
    if isinstance(dtype, dict):
        unknown = sorted(map(str, dtype.keys() - set(parts)))
        if unknown:
            raise ValueError(f"dtype names {unknown[0]!r}, and the parts of this model are {', '.join(parts)}.")
        dtypes = {**dict.fromkeys(parts, "auto"), "heads": torch.float32, **dtype}
    else:
        dtypes = dict.fromkeys(parts, "auto" if dtype is None else dtype)
    for part, value in dtypes.items():
        named = getattr(torch, value, None) if isinstance(value, str) and value != "auto" else value
        if named != "auto" and not isinstance(named, torch.dtype):
            raise ValueError(f"dtype of {part} must be a torch.dtype, its name, or 'auto', got {value!r}.")
        dtypes[part] = named
    return dtypes


def _without_recorders(module: nn.Module, seen: dict[int, nn.Module]) -> nn.Module:
    """The same weights in a tree of modules without transformers' hooks for hidden states. They cannot be pickled;
    transformers sets them again when it needs them."""
    if id(module) not in seen:
        twin = seen[id(module)] = type(module).__new__(type(module))
        twin.__dict__.update(module.__dict__)
        twin.__dict__.pop("_output_capturing_hooks_installed", None)
        hooks = ((k, h) for k, h in module._forward_hooks.items())
        kept = ((k, h) for k, h in hooks if not getattr(h, "__module__", "").endswith(".output_capturing"))
        children = module._modules.items()
        twin.__dict__["_forward_hooks"] = OrderedDict(kept)
        twin.__dict__["_modules"] = {name: child and _without_recorders(child, seen) for name, child in children}
    return seen[id(module)]


def _known_dtypes(config, dtypes: dict) -> dict[str, torch.dtype]:
    """The dtypes of the backbones in a full release; those that its configuration does not know are left out."""
    own = {}
    for part, name in BACKBONES.items():
        sub = getattr(config, f"{part}_config")
        dtype = getattr(sub, "dtype", None) if dtypes[name] == "auto" else dtypes[name]
        if sub is not None and dtype is not None:
            own[part] = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return own


def _matching_loss(scale, ids, mask, queries, candidates, negatives) -> torch.Tensor:
    return contrastive_loss(queries, candidates, scale, ids, mask, negatives)
