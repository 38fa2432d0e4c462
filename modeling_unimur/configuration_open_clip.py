"""Configuration of a dual encoder that open_clip defines, and what all configurations share."""

import transformers
from transformers import AutoConfig, PreTrainedConfig

# Older ones copy only a part of a local folder's code, and then miss the rest.
_OLDEST_TRANSFORMERS = "5.10.1"
if [int(n) for n in transformers.__version__.split(".")[:2]] < [int(n) for n in _OLDEST_TRANSFORMERS.split(".")[:2]]:
    raise ImportError(
        f"UniMuR needs transformers {_OLDEST_TRANSFORMERS} or newer, and this is {transformers.__version__}. "
        "Update it with `pip install --upgrade transformers`."
    )

# Makes `pipeline(model=folder)` find the task; `pt` names classes of transformers itself.
CUSTOM_PIPELINES = {
    "multimodal-retrieval": {
        "impl": "pipeline_multimodal_retrieval.MultimodalRetrievalPipeline",
        "pt": ["AutoModel"],
        "tf": [],
        "type": "multimodal",
    }
}

# Where an open_clip model configuration would reach out for pretrained parts; ours come from our own file.
_PRETRAINED_SWITCHES = {"vision_cfg": ("timm_model_pretrained",), "text_cfg": ("hf_model_pretrained",)}


class OpenCLIPConfig(PreTrainedConfig):
    """Everything needed to rebuild an open_clip model without a network.

    Args:
        model_cfg (`dict`): the model configuration in open_clip's own JSON form (`embed_dim`, `vision_cfg`,
            `text_cfg`, optionally `quick_gelu`, `init_logit_bias`, ...).
        text_tower_config (`dict`, *optional*): the `transformers` configuration of a Hugging Face text tower
            (`text_cfg.hf_model_name`), kept here so that the tower is built without asking the Hub for it.
        vision_width (`int`, *optional*): width of the pooled image feature before the projection. Only known for
            timm towers with a projection head; `None` means the projected feature is the only one.
        pad_token_id (`int`): id that pads token sequences.
        picture_head (`dict`, *optional*): arguments of `ImageHead` (`hidden_features`, `dropout`, `classes`,
            `zero_shot_temperature`, `gate_rank`), which then takes the place of open_clip's own projection of pooled
            image features; needs `vision_width`.
    """

    model_type = "open_clip"

    model_cfg: dict | None = None
    text_tower_config: dict | None = None
    vision_width: int | None = None
    pad_token_id: int = 0
    picture_head: dict | None = None

    def __post_init__(self, **kwargs):
        self.model_cfg = dict(self.model_cfg or _SMALLEST)
        for part, switches in _PRETRAINED_SWITCHES.items():
            given = self.model_cfg[part]
            self.model_cfg[part] = {**given, **{key: False for key in switches if key in given}}
        text = self.model_cfg["text_cfg"]
        if text.get("hf_model_name"):
            if self.text_tower_config is None:
                raise ValueError(
                    f"The text tower {text['hf_model_name']!r} is a Hugging Face model: pass its configuration as "
                    "`text_tower_config`."
                )
            text["hf_model_pretrained"] = False
        if self.picture_head is not None and self.vision_width is None:
            raise ValueError("An image head reads pooled image features: pass their width as `vision_width`.")
        super().__post_init__(**kwargs)

    @property
    def projection_dim(self) -> int:
        """Width of the joint space."""
        return self.model_cfg["embed_dim"]

    @property
    def context_length(self) -> int:
        """Longest text in tokens."""
        if self.text_tower_config is not None:
            return self.text_tower_config["max_position_embeddings"]
        return self.model_cfg["text_cfg"].get("context_length", 77)


# transformers builds a configuration without arguments when it writes only what differs from the default.
_SMALLEST = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 1},
}


def backbone_config(value):
    """A backbone's configuration out of the dictionary a file holds."""
    if value is None or isinstance(value, PreTrainedConfig):
        return value
    value = dict(value)
    model_type = value.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"A backbone's configuration needs its `model_type`; got only {sorted(value)}.")
    if model_type == OpenCLIPConfig.model_type:
        return OpenCLIPConfig(**value)
    return AutoConfig.for_model(model_type, **value)


def joint_width(config) -> int:
    """Width of a dual encoder's joint space."""
    if hasattr(config, "projection_dim"):
        return config.projection_dim
    return config.vision_config.hidden_size  # SigLIP has no projection


class RetrievalConfig(PreTrainedConfig):
    """Base class of the configurations of both models, which say what their common arguments are."""

    clip_config: dict | PreTrainedConfig | None = None
    image_threshold: float | None = None
    matryoshka_dims: list | None = None
    matryoshka_weights: list | None = None
    initializer_range: float = 0.02

    has_no_defaults_at_init = False

    def __post_init__(self, **kwargs):
        self.clip_config = backbone_config(self.clip_config)
        kwargs.setdefault("custom_pipelines", dict(CUSTOM_PIPELINES))
        subs = [sub for name in self.sub_configs if (sub := getattr(self, name)) is not None]
        attention = [getattr(sub, "_attn_implementation", None) for sub in subs]
        super().__post_init__(**kwargs)
        if kwargs.get("attn_implementation") is None:  # a choice of None has just been spread over loaded backbones
            for sub, choice in zip(subs, attention, strict=True):
                sub._attn_implementation = choice


def check_matryoshka(dims: list[int] | None, weights: list[float] | None, width: int | None) -> None:
    """Raises ValueError for `matryoshka_dims` that are no widths of a model's vectors, or weights for other dims."""
    are_widths = dims is None or (dims and all(isinstance(one, int) and 1 <= one <= (width or one) for one in dims))
    if not are_widths or len(set(dims or ())) < len(dims or ()):
        raise ValueError(f"matryoshka_dims must be different widths from 1 to {width}, got {dims}.")
    if weights is not None and (len(weights) != len(dims or ()) or not all(weight >= 0 for weight in weights)):
        raise ValueError(f"matryoshka_weights must be one number from 0 on for each of {dims}, got {weights}.")
