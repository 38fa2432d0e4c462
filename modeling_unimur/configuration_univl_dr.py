"""Configuration of UniVL-DR."""

from transformers import AutoConfig

from .configuration_open_clip import RetrievalConfig, check_matryoshka, joint_width

FUSIONS = ("sum", "image", "caption", "concat")


# Kinds of models that are an encoder of UniVL-DR as they stand.
DUAL_ENCODERS = ("clip", "siglip", "siglip2", "open_clip")


class UniVLDRConfig(RetrievalConfig):
    """One dual encoder for queries, texts and captioned images (Liu et al., ICLR 2023).

    Args:
        clip_config (`dict` or `PreTrainedConfig`): the dual encoder: `clip`, `siglip`, `siglip2` or `open_clip`.
        fusion (`str`): what a captioned image's vector is made of, before it is normalised. `"sum"` (the paper):
            `image_weight` times the image's vector plus the caption's, neither normalised; `"image"` or `"caption"`
            alone; `"concat"`: a linear map of both side by side, which starts as the sum (the released code holds it
            as an unused alternative).
        image_weight (`float`): of the image in the sum; 1 in the paper. A dual encoder whose image tower is weak
            wants less.
        learn_image_weight (`bool`): whether that weight trains.
        image_threshold (`float`, *optional*): cosine from which on the pipeline returns images.
        matryoshka_dims (`list[int]`, *optional*): training sums the contrastive losses over so many first numbers of
            the vectors, so that truncated ones (`truncate_dim`) rank well; the whole ones alone by default.
        matryoshka_weights (`list[float]`, *optional*): of those losses; 1 each by default.
    """

    model_type = "univl_dr"
    sub_configs = {"clip_config": AutoConfig}
    keys_to_ignore_at_inference = ["logit_scale", "visual_matching_loss", "textual_matching_loss"]

    fusion: str = "sum"
    image_weight: float = 1.0
    learn_image_weight: bool = False

    def __post_init__(self, **kwargs):
        self.clip_config = {"model_type": "clip"} if self.clip_config is None else self.clip_config
        self.image_weight = float(self.image_weight)
        super().__post_init__(**kwargs)
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {FUSIONS}, got {self.fusion!r}.")
        if self.learn_image_weight and self.fusion != "sum":
            raise ValueError(f"learn_image_weight belongs to the sum; fusion={self.fusion!r} has no such weight.")
        check_matryoshka(self.matryoshka_dims, self.matryoshka_weights, self.embedding_width)

    @property
    def embedding_width(self) -> int:
        """Width of the joint space."""
        return joint_width(self.clip_config)
