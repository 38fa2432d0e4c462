"""Configuration of UniMuR."""

import math

from transformers import AutoConfig, PreTrainedConfig

from .configuration_open_clip import OpenCLIPConfig, RetrievalConfig, backbone_config, check_matryoshka, joint_width

_CHOICES = {
    "visual_feature": ("pooled", "projected"),
    "query_anchor": ("none", "encoder"),
    "query_correction": ("linear", "mlp"),
}
_RANGES = {
    "coherence_weight": (lambda x: x >= 0, "a number of at least 0"),
    "coherence_text_share": (lambda x: x >= 0, "a number of at least 0"),
    "coherence_temperature": (lambda x: x > 0, "a number above 0"),
    "num_visual_tokens": (lambda x: x >= 1, "at least 1"),
    "num_ret_tokens": (lambda x: x >= 1, "at least 1"),
    "query_attention": (lambda x: x >= 0, "a number of at least 0"),
    "query_correction_size": (lambda x: x >= 1, "at least 1"),
    "query_correction_dropout": (lambda x: 0 <= x < 1, "at least 0 and less than 1"),
}


class UniMuRConfig(RetrievalConfig):
    """A frozen causal language model, a frozen dual encoder, and the maps between them.

    Args:
        text_config (`dict` or `PreTrainedConfig`): the language model, any causal one that transformers has.
        clip_config (`dict` or `PreTrainedConfig`, *optional*): the dual encoder that spans the space of candidates:
            `clip`, `siglip`, `siglip2` or `open_clip`. `None` when candidates are ready embeddings of another
            encoder; then `projection_dim` says how wide they are.
        text_base_model, clip_base_model, text_base_revision, clip_base_revision (`str`, *optional*): Hub ids of the
            frozen backbones and their commits. A model that names them is saved without them.
        heads_only (`bool`): whether the file beside this configuration holds the trained tensors alone.
        projection_dim (`int`, *optional*): width of the unified embedding; by default that of the dual encoder's joint
            space, whose vectors are then the targets (the paper's figure draws no map on them).
        map_image_targets, map_text_targets (`bool`): learned maps on the targets, which allow another
            `projection_dim`. FROMAGe has 256 with a map on the images.
        num_visual_tokens (`int`): input vectors of the language model that one image becomes (FROMAGe: 1 or 4).
        max_image_tokens (`int`, *optional*): makes them of the image tower's patches (CLIP, SigLIP, SigLIP 2), means
            over a grid, each through the same map. `num_visual_tokens` is then the largest square number up to this.
        visual_feature (`str`): what they are made of: `"pooled"` is the image tower's output before the joint space
            (FROMAGe), `"projected"` the vector in the joint space, also that of an encoder of ready embeddings.
        num_ret_tokens (`int`): [RET] vectors after the context; their embeddings are averaged.
        ret_layers (`list[int]`): hidden states that are read at [RET], each through a map of its own, summed
            (FROMAGe's `text_emb_layers`). -1 is the last one, after the final norm.
        ret_token_ids (`list[int]`), image_token_id (`int`): ids of the [RET] tokens, which lie beyond the language
            model's vocabulary, and of the placeholder of an image.
        caption_loss_weight, visual_matching_weight, textual_matching_weight (`float`): weights of the three losses;
            0 switches one off. Visual matching alone is FROMAGe's alignment.
        ret_token_loss_weight (`float`): weight of the next-token loss over context and [RET] (FROMAGe: 1).
        ret_in_caption_loss (`bool`): whether [RET] is a class of the caption loss, as in FROMAGe.
        loss_vocab_size (`int`, *optional*): classes of the next-token losses besides [RET]; the whole vocabulary by
            default. FROMAGe: 50266, OPT's tokens and that of an image, without the spare rows of its table.
        separate_logit_scales (`bool`): whether textual matching has a temperature of its own.
        logit_scale_init_value (`float`): logarithm of the inverse temperature at the start; ln(1 / 0.07) as CLIP.
        coherence_weight, coherence_text_share, coherence_temperature (`float`): those of `memory_index.Coherence`, for
            answers with `coherent=True` or `modality="pair"`.
        image_threshold (`float`, *optional*): best cosine from which on the pipeline returns images.
        matryoshka_dims (`list[int]`, *optional*): training sums the contrastive losses over so many first numbers of
            the vectors, so that truncated ones (`truncate_dim`) rank well; the whole ones alone by default.
        matryoshka_weights (`list[float]`, *optional*): of those losses; 1 each by default.
        query_anchor (`str`): `"none"`, the paper: a query is what the language model reads at [RET]. `"encoder"`: it
            is the encoder's own vectors of the dialogue, weighted, and the readout is added as their correction.
        query_correction (`str`): of an anchored query. `"linear"`: a weight on the readout. `"mlp"`: also a network
            of one hidden layer on the readout and the vectors of all words and of the last turn's.
        query_correction_size (`int`), query_correction_dropout (`float`): units and dropout of that hidden layer.
        query_attention (`float`): of an anchored query, how much more the last turn counts where its vector is nearer
            to the readout than the vector of all words is; 0 weights it alike in every dialogue.
        query_gate (`bool`): whether a logistic regression on `modeling_unimur.gate_features` decides for each dialogue
            how much of the correction is added.
        anchor_base_model, anchor_base_revision (`str`, *optional*): without a dual encoder, the id (or the folder) and
            the commit of the encoder of the ready embeddings: a model of sentence-transformers, or a CLIP, SigLIP or
            open_clip model. Anchored queries need it.
        lora (`dict`, *optional*): LoRA adapters on the language model, which then train beside the heads: arguments of
            peft's `LoraConfig`, with `alpha` and `dropout` for `lora_alpha` and `lora_dropout`, or that object itself.
            They lie beside the heads in a release. Without them the language model is frozen, as in the paper.
    """

    model_type = "unimur"
    sub_configs = {"text_config": AutoConfig, "clip_config": AutoConfig}
    keys_to_ignore_at_inference = ["logit_scale", "text_logit_scale"]

    text_config: dict | PreTrainedConfig | None = None
    text_base_model: str | None = None
    text_base_revision: str | None = None
    clip_base_model: str | None = None
    clip_base_revision: str | None = None
    heads_only: bool = False
    projection_dim: int | None = None
    map_image_targets: bool = False
    map_text_targets: bool = False
    num_visual_tokens: int = 1
    max_image_tokens: int | None = None
    visual_feature: str = "pooled"
    num_ret_tokens: int = 1
    ret_layers: list | None = None
    ret_token_ids: list | None = None
    image_token_id: int | None = None
    caption_loss_weight: float = 1.0
    visual_matching_weight: float = 1.0
    textual_matching_weight: float = 1.0
    ret_token_loss_weight: float = 0.0
    ret_in_caption_loss: bool = False
    loss_vocab_size: int | None = None
    separate_logit_scales: bool = False
    logit_scale_init_value: float = math.log(1 / 0.07)
    coherence_weight: float = 1.5
    coherence_text_share: float = 0.1
    coherence_temperature: float = 0.01
    query_anchor: str = "none"
    query_correction: str = "linear"
    query_correction_size: int = 512
    query_correction_dropout: float = 0.5
    query_attention: float = 0.0
    query_gate: bool = False
    anchor_base_model: str | None = None
    anchor_base_revision: str | None = None
    lora: dict | None = None

    def __post_init__(self, **kwargs):
        self.text_config = backbone_config({"model_type": "opt"} if self.text_config is None else self.text_config)
        self.ret_layers = [-1] if self.ret_layers is None else list(self.ret_layers)
        self.ret_token_ids = None if self.ret_token_ids is None else list(self.ret_token_ids)
        self.lora = None if self.lora is None else lora_arguments(self.lora)
        super().__post_init__(**kwargs)
        self._check()

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Keeps a `dtype` that [`AutoModel`] was called with as an argument of the model, apart from the file's own.
        Older versions of transformers pass it in the configuration alone."""
        if not kwargs.get("return_unused_kwargs"):
            return super().from_dict(config_dict, **kwargs)
        named = {key: kwargs.pop(key) for key in ("dtype", "torch_dtype") if key in kwargs}
        config, unused = super().from_dict(config_dict, **kwargs)
        return config, {**unused, **named}

    def _check(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        for name, (holds, wanted) in _RANGES.items():
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not (is_number and holds(value)):
                raise ValueError(f"{name} must be {wanted}, got {value!r:.60}.")
        if self.max_image_tokens is not None:
            most = 0 if self.visual_feature != "pooled" else image_tokens(self.clip_config, self.max_image_tokens)
            if self.num_visual_tokens != most:
                raise ValueError(
                    f"max_image_tokens={self.max_image_tokens} makes {most} input vectors of an image "
                    f"(visual_feature='pooled'), not num_visual_tokens={self.num_visual_tokens}."
                )
        rows = self.text_config.get_text_config().vocab_size
        if self.loss_vocab_size is not None and not 0 < self.loss_vocab_size <= rows:
            raise ValueError(f"loss_vocab_size must be between 1 and {rows}, got {self.loss_vocab_size}.")
        layers = self.text_config.get_text_config().num_hidden_layers
        if not self.ret_layers or not all(-layers - 1 <= layer <= layers for layer in self.ret_layers):
            raise ValueError(
                f"ret_layers names hidden states from 0 (the input) to {layers}, or from the end ([-1] is the last), "
                f"not {self.ret_layers}."
            )
        if self.clip_config is None and self.map_image_targets:
            raise ValueError("map_image_targets maps what a dual encoder computes, and there is none (clip_config).")
        if self.ret_token_ids is not None and len(self.ret_token_ids) != self.num_ret_tokens:
            raise ValueError(f"{self.num_ret_tokens} [RET] tokens need as many ids, not {self.ret_token_ids}.")
        if self.projection_dim is not None and self.clip_config is not None:
            mapped = self.map_image_targets and (self.map_text_targets or self.textual_matching_weight == 0)
            if self.projection_dim != self.joint_width and not mapped:
                raise ValueError(
                    f"projection_dim={self.projection_dim} differs from the dual encoder's {self.joint_width}: set "
                    "map_image_targets and map_text_targets, or leave projection_dim out."
                )
        check_matryoshka(self.matryoshka_dims, self.matryoshka_weights, self.projection_dim or self.joint_width)
        self._check_anchor()

    def _check_anchor(self) -> None:
        if self.query_anchor == "none":
            return
        if self.joint_width != self.embedding_width and not self.map_text_targets:
            raise ValueError(
                f"query_anchor={self.query_anchor!r} needs texts in the space of the candidates, which has "
                f"{self.embedding_width} dimensions; the text tower has {self.joint_width}. Set map_text_targets, or "
                "query_anchor='none'."
            )
        if self.clip_config is not None and self.anchor_base_model is not None:
            raise ValueError(
                "anchor_base_model names the encoder of ready embeddings. This model has a dual encoder "
                "(clip_config), which is its anchor: leave anchor_base_model out."
            )

    # -- widths ---------------------------------------------------------------------------------------------------
    @property
    def language_width(self) -> int:
        """Width of the language model's input vectors and last hidden states."""
        text = self.text_config.get_text_config()
        return getattr(text, "word_embed_proj_dim", None) or text.hidden_size  # OPT-350m projects both ways

    @property
    def joint_width(self) -> int | None:
        """Width of the dual encoder's joint space."""
        return self.projection_dim if self.clip_config is None else joint_width(self.clip_config)

    @property
    def pooled_width(self) -> int | None:
        """Width of the image tower's output before the joint space."""
        if self.clip_config is None:
            return None
        if self.clip_config.model_type == OpenCLIPConfig.model_type:
            return self.clip_config.vision_width or self.clip_config.projection_dim
        return self.clip_config.vision_config.hidden_size

    @property
    def visual_width(self) -> int | None:
        """Width of the image feature that becomes the language model's input."""
        return self.pooled_width if self.visual_feature == "pooled" else self.joint_width

    @property
    def embedding_width(self) -> int:
        """Width of the unified embedding."""
        width = self.projection_dim or self.joint_width
        if width is None:
            raise ValueError("Without a dual encoder (clip_config), projection_dim says how wide the candidates are.")
        return width


def image_tokens(clip_config, most: int) -> int:
    """How many input vectors an image becomes with `max_image_tokens`: a square number of at most the patches.

    Raises:
        ValueError: `most` is below 1, or the dual encoder has no patches that are at hand.
    """
    vision = getattr(clip_config, "vision_config", None)
    if vision is None:
        named = "no dual encoder" if clip_config is None else clip_config.model_type
        raise ValueError(f"max_image_tokens needs a dual encoder with patches (clip, siglip, siglip2), not {named}.")
    patches = getattr(vision, "num_patches", None) or (vision.image_size // vision.patch_size) ** 2
    if most < 1:
        raise ValueError(f"max_image_tokens must be at least 1, got {most}.")
    return math.isqrt(min(most, patches)) ** 2


def lora_arguments(lora) -> dict:
    """Arguments of peft's `LoraConfig` out of such a configuration or a dictionary. Raises ValueError for a rank below
    1, and for adapters with weights of another name, which would not be saved."""
    if not isinstance(lora, dict):
        usual = type(lora)().to_dict()
        lora = {key: value for key, value in lora.to_dict().items() if value != usual.get(key)}
        own = {"peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"}
        lora = {key: value for key, value in lora.items() if key not in own}
    names = {"alpha": "lora_alpha", "dropout": "lora_dropout"}
    found = {names.get(key, key): sorted(value) if isinstance(value, set) else value for key, value in lora.items()}
    if not isinstance(found.get("r", 8), int) or found.get("r", 8) < 1:
        raise ValueError(f"lora needs a rank r of at least 1, got {found['r']!r}.")
    for key in ("modules_to_save", "trainable_token_indices", "bias"):
        if (found.get(key) or "none") != "none":
            raise ValueError(f"lora trains adapters alone: leave {key} out.")
    return found
