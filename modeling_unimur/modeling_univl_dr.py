"""UniVL-DR: one dual encoder that puts queries, texts and captioned images into one space."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput

from .configuration_univl_dr import DUAL_ENCODERS, UniVLDRConfig
from .contrastive_loss import at_least_float32, gather, gather_with_gradient, sum_over_prefixes, world_size
from .loading import HUB_ARGUMENTS, CompleteLoadingMixin
from .modeling_open_clip import (
    ImageShapes,
    build_dual_encoder,
    encode_texts,
    load_dual_encoder,
    pool_images,
    project_images,
)

if TYPE_CHECKING:
    # Never run: transformers copies the files that a saved model's own file names, and these belong beside it.
    from .pipeline_multimodal_retrieval import MultimodalRetrievalPipeline  # noqa: F401
    from .processing_univl_dr import UniVLDRProcessor  # noqa: F401


@dataclass
class UniVLDROutput(ModelOutput):
    """Args:
    loss (`torch.FloatTensor`, *optional*): mean over the queries.
    visual_matching_loss, textual_matching_loss (`torch.FloatTensor`, *optional*): its mean over the queries whose
        positive is an image, and over those whose positive is a text.
    query_embeds (`torch.FloatTensor` of shape `(queries, width)`, *optional*): normalised.
    document_embeds (`torch.FloatTensor` of shape `(documents, width)`, *optional*): normalised; texts, then images.
    logit_scale (`torch.FloatTensor`): factor on the cosines, as used.
    """

    loss: torch.FloatTensor | None = None
    visual_matching_loss: torch.FloatTensor | None = None
    textual_matching_loss: torch.FloatTensor | None = None
    query_embeds: torch.FloatTensor | None = None
    document_embeds: torch.FloatTensor | None = None
    logit_scale: torch.FloatTensor | None = None


class DocumentFusion(nn.Module):
    """The weight of the image, or the map of image and caption, where there is one that trains."""

    def __init__(self, config: UniVLDRConfig):
        super().__init__()
        width = config.embedding_width
        self.fusion, self.fixed_weight, self.width = config.fusion, config.image_weight, width
        self.image_weight = nn.Parameter(torch.empty(())) if config.learn_image_weight else None
        self.map = nn.Linear(2 * width, width) if config.fusion == "concat" else None

    @torch.no_grad()
    def start(self) -> None:
        """Sets what trains to what the plain sum is."""
        if self.image_weight is not None:
            init.constant_(self.image_weight, self.fixed_weight)
        if self.map is not None:
            eye = torch.eye(self.width, device=self.map.weight.device, dtype=self.map.weight.dtype)
            init.copy_(self.map.weight, torch.cat([self.fixed_weight * eye, eye], dim=1))
            init.zeros_(self.map.bias)

    def forward(
        self,
        images: torch.Tensor | None,
        captions: torch.Tensor | None,
        image_mask: torch.Tensor | None = None,
        caption_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Unit vectors `(documents, width)` of images and captions `(documents, width)`, which need not be normalised.
        The masks `(documents,)` are False where a document has no image, or no caption.

        Raises:
            ValueError: with neither.
        """
        if images is None and captions is None:
            raise ValueError("A document must be a text, an image, or an image with a caption; got none of them.")
        if images is None or captions is None:
            return F.normalize(captions if images is None else images, dim=-1)
        every = torch.ones(len(images), dtype=torch.bool, device=images.device)
        has_image, has_caption = (every if mask is None else mask for mask in (image_mask, caption_mask))
        has_image, has_caption = has_image[:, None], has_caption[:, None]
        images, captions = torch.where(has_image, images, 0.0), torch.where(has_caption, captions, 0.0)
        if self.map is not None:
            joined = self.map(torch.cat([images, captions], dim=-1))
            fused = torch.where(has_image & has_caption, joined, images + captions)
        elif self.fusion == "image":
            fused = torch.where(has_image, images, captions)
        elif self.fusion == "caption":
            fused = torch.where(has_caption, captions, images)
        else:
            weight = self.fixed_weight if self.image_weight is None else self.image_weight
            # An image alone has a direction of its own, also where its weight is nothing.
            fused = torch.where(has_caption, weight * images + captions, images)
        return F.normalize(fused, dim=-1)


# -- losses -----------------------------------------------------------------------------------------------------------
def candidate_losses(
    queries: torch.Tensor,
    documents: torch.Tensor,
    scale: torch.Tensor,
    positives: torch.Tensor,
    candidates: torch.Tensor | None = None,
    false_negative_threshold: float | None = None,
) -> torch.Tensor:
    """Each query's `-log softmax` of its positive over its candidates `(queries,)` (UniVL-DR, section 3; from query to
    document). Logits are float32 whatever the inputs are, under autocast too.

    Args:
        queries (`(queries, width)`), documents (`(documents, width)`): normalised.
        scale: factor on the cosines.
        positives (`(queries,)`): row of each query's right document.
        candidates (`(queries, documents)`, *optional*): how often a document is a candidate of a query, 0 for never;
            each document once for every query by default. The positive is always one.
        false_negative_threshold (*optional*): cosine with the positive from which on another document is taken for
            right as well and left out.
    """
    dtype = at_least_float32(queries)
    queries, documents, scale = queries.to(dtype), documents.to(dtype), scale.to(dtype)
    with torch.autocast(queries.device.type, enabled=False):
        logits = scale * queries @ documents.T
        counts = torch.ones_like(logits) if candidates is None else candidates.to(dtype)
        own = F.one_hot(positives, len(documents)).bool()
        if false_negative_threshold is not None:
            alike = (documents[positives] @ documents.T).detach() >= false_negative_threshold
            counts = counts.masked_fill(alike & ~own, 0.0)
        counts = torch.where(own, counts.clamp(min=1.0), counts)
        return (logits + counts.log()).logsumexp(dim=1) - logits[own]


def gather_documents(
    documents: torch.Tensor,
    document_ids: torch.Tensor,
    positives: torch.Tensor,
    candidates: torch.Tensor,
    known_ids: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Documents, positives and candidates (see `candidate_losses`) over all ranks, with gradient; as given outside
    distributed training.

    Args:
        documents (`(documents, width)`), document_ids (`(documents,)`): of this rank; ranks may hold different
            numbers of them.
        known_ids (`(queries, most)`): ids that are no negatives of a query, filled up with -1; and those of its own
            candidates, which then count as often as `candidates` says.
    """
    if world_size() == 1:
        return documents, positives, candidates
    most = int(gather(torch.tensor([len(documents)], device=documents.device)).max())
    missing = most - len(documents)
    all_ids = gather(F.pad(document_ids, (0, missing), value=-2))
    known = torch.cat([known_ids, document_ids[None].expand(len(positives), -1)], dim=1)
    # A document of this rank counts here, with its own candidates, wherever else it stands.
    weights = ((all_ids >= 0)[None] & ~(all_ids[None, :, None] == known[:, None, :]).any(dim=-1)).to(candidates.dtype)
    seen: set = set()
    for place, number in enumerate(all_ids.tolist()):  # one that several others hold counts once
        if number in seen:
            weights[:, place] = 0
        seen.add(number)
    first = dist.get_rank() * most
    weights[:, first : first + len(documents)] = candidates
    return gather_with_gradient(F.pad(documents, (0, 0, 0, missing))), positives + first, weights


# -- the model --------------------------------------------------------------------------------------------------------
class UniVLDRModel(CompleteLoadingMixin, PreTrainedModel):
    """Embeds queries, text documents and image documents (image and caption fused) with one dual encoder, whose towers
    both train. Make one with [`~UniVLDRModel.from_backbones`], load one with `from_pretrained`.
    """

    config: UniVLDRConfig
    config_class = UniVLDRConfig
    base_model_prefix = "univl_dr"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: UniVLDRConfig, build_encoder: bool = True):
        super().__init__(config)
        self.clip = build_dual_encoder(config.clip_config) if build_encoder else None
        self.fusion = DocumentFusion(config)
        self.post_init()

    def new_chat_cache(self, processor) -> None:
        """None: every query is encoded as a whole."""

    @torch.no_grad()
    def _init_weights(self, module):
        # transformers passes over modules without weights of their own, so the map has to be asked for by itself.
        if module in (self.fusion, self.fusion.map):
            self.fusion.start()
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Loads a UniVL-DR, or a `clip`, `siglip`, `siglip2` or open_clip model as the whole encoder, which is what
        the released checkpoints of UniVL-DR are. The arguments are those of `PreTrainedModel.from_pretrained`."""
        hub = {key: kwargs[key] for key in (*HUB_ARGUMENTS, "revision", "subfolder") if key in kwargs}
        found = kwargs.get("config") or cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub)[0]
        found = found.get("model_type") if isinstance(found, dict) else found.model_type
        if found not in DUAL_ENCODERS:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if kwargs.keys() - {*hub, "dtype"} or "subfolder" in hub:
            raise ValueError(
                f"{pretrained_model_name_or_path} is a dual encoder: pass further arguments to from_backbones."
            )
        revision, dtype = hub.pop("revision", None), kwargs.get("dtype", "auto")
        source = pretrained_model_name_or_path
        return cls.from_backbones(source, clip_revision=revision, dtype=dtype, hub_arguments=hub)

    @classmethod
    def from_backbones(
        cls,
        clip,
        *,
        clip_revision: str | None = None,
        dtype="auto",
        hub_arguments: dict | None = None,
        **config_arguments,
    ):
        """A model whose encoder is a pretrained dual encoder, as it stands before training.

        Args:
            clip (`str` or `PreTrainedModel`): Hub id, folder, or the dual encoder itself.
            clip_revision (`str`, *optional*): branch, tag or commit on the Hub.
            dtype: of the weights.
            hub_arguments (`dict`, *optional*): `token`, `cache_dir`, `local_files_only`.
            config_arguments: further arguments of [`UniVLDRConfig`].

        Raises:
            OSError: it cannot be loaded; the message names it.
            ValueError: it lacks weights, or is no dual encoder.
        """
        dual, _ = load_dual_encoder(clip, clip_revision, dtype=dtype, **(hub_arguments or {}))
        if not hasattr(dual, "get_image_features") or not hasattr(dual, "logit_scale"):
            raise ValueError(
                f"{clip!r:.80} is not a dual encoder of texts and images: pass a CLIP, SigLIP or open_clip model, or "
                "load a finished UniVL-DR with from_pretrained."
            )
        model = cls(UniVLDRConfig(clip_config=dual.config, **config_arguments), build_encoder=False)
        model.clip = dual
        model.fusion.to(next(dual.parameters()).dtype)
        return model.eval()

    def train(self, mode: bool = True):
        """Switches to training; parts that are wholly frozen stay in evaluation mode, without dropout."""
        super().train(mode)
        for module in self.children() if mode else ():
            for part in module.modules():
                weights = list(part.parameters())
                if weights and not any(weight.requires_grad for weight in weights):
                    part.eval()
        return self

    # -- embeddings -------------------------------------------------------------------------------------------------
    @property
    def logit_scale(self) -> torch.Tensor:
        """Logarithm of the factor on the cosines: the dual encoder's own."""
        return self.clip.logit_scale

    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Texts `(texts, tokens)` as `(texts, width)`, not normalised."""
        return encode_texts(self.clip, input_ids, attention_mask)

    def encode_images(self, pixel_values=None, pooled_features=None, **shapes: Unpack[ImageShapes]) -> torch.Tensor:
        """Images, or the image tower's outputs `pooled_features`, as `(images, width)`, not normalised."""
        if pooled_features is None:
            pooled_features = pool_images(self.clip, pixel_values, **shapes)
        return project_images(self.clip, pooled_features)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Queries and text documents `(texts, tokens)` as unit vectors `(texts, width)`."""
        texts = self.encode_texts(input_ids, attention_mask)
        return BaseModelOutputWithPooling(pooler_output=F.normalize(texts, dim=-1))

    def get_image_features(
        self, pixel_values: torch.Tensor, **shapes: Unpack[ImageShapes]
    ) -> BaseModelOutputWithPooling:
        """Images without a caption `(images, 3, height, width)` as unit vectors `(images, width)`."""
        images = self.encode_images(pixel_values, **shapes)
        return BaseModelOutputWithPooling(pooler_output=F.normalize(images, dim=-1))

    def get_multimodal_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        pooled_features: torch.Tensor | None = None,
        caption_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Documents of one kind, or queries: texts, images, or images with their captions.

        Args:
            input_ids, attention_mask (`(rows, tokens)`, *optional*): queries or texts; beside images, their
                captions.
            pixel_values (`(rows, 3, height, width)`, *optional*): images; or `pooled_features (rows, pooled_width)`,
                the image tower's output.
            pixel_attention_mask, spatial_shapes: what SigLIP 2's processor adds for images of any shape.
            caption_mask, image_mask (`(rows,)`, *optional*): False for an image without a caption, and for a caption
                without an image.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output` of shape `(rows, width)`, unit vectors.

        Raises:
            ValueError: with neither texts nor images, or unequal numbers of them.
        """
        shown = pixel_values is not None or pooled_features is not None
        if not shown and input_ids is not None:
            return self.get_text_features(input_ids, attention_mask)
        read = input_ids is not None and not (self.config.fusion == "image" and _all(image_mask))
        captions = self.encode_texts(input_ids, attention_mask) if read else None
        images = None
        if shown and not (self.config.fusion == "caption" and read and _all(caption_mask)):
            shapes = {"pixel_attention_mask": pixel_attention_mask, "spatial_shapes": spatial_shapes}
            images = self.encode_images(pixel_values, pooled_features, **shapes)
        if images is not None and captions is not None and len(images) != len(captions):
            raise ValueError(f"{len(images)} images and {len(captions)} captions: pass one caption per image.")
        return BaseModelOutputWithPooling(pooler_output=self.fusion(images, captions, image_mask, caption_mask))

    # -- training ---------------------------------------------------------------------------------------------------
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        caption_input_ids: torch.Tensor | None = None,
        caption_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        pooled_features: torch.Tensor | None = None,
        caption_mask: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        positives: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
        document_ids: torch.Tensor | None = None,
        known_ids: torch.Tensor | None = None,
        false_negative_threshold: float | None = None,
        return_loss: bool = True,
    ) -> UniVLDROutput:
        """Embeds queries and documents, each document once (texts, then images), and compares each query with its
        candidates.

        Args:
            input_ids, attention_mask (`(queries, tokens)`): queries.
            text_input_ids, text_attention_mask (`(texts, tokens)`, *optional*): text documents.
            caption_input_ids, caption_attention_mask, caption_mask, pixel_values, pixel_attention_mask,
                spatial_shapes, pooled_features, image_mask (*optional*): image documents, as in
                `get_multimodal_features`.
            positives (`(queries,)`, *optional*): number of each query's right document; row i's by default.
            candidates (`(queries, documents)`, *optional*): how often each document is a candidate of a query; all
                documents are by default, which is in-batch training.
            document_ids (`(documents,)`), known_ids (`(queries, most)`, *optional*): ids, and those that are no
                negatives of a query (-1 fills up). With them the documents of all ranks are candidates.
            false_negative_threshold (*optional*): as in `candidate_losses`.
            return_loss: whether to compute losses.

        Raises:
            ValueError: when the default positives need as many documents as queries, and there are others.
        """
        output = UniVLDROutput(logit_scale=self.logit_scale.exp())
        if input_ids is not None:
            output.query_embeds = self.get_text_features(input_ids, attention_mask).pooler_output
        parts, texts = [], 0
        if text_input_ids is not None:
            parts.append(self.get_text_features(text_input_ids, text_attention_mask).pooler_output)
            texts = len(parts[0])
        if pixel_values is not None or pooled_features is not None or caption_input_ids is not None:
            images = (pixel_values, pixel_attention_mask, spatial_shapes, pooled_features, caption_mask, image_mask)
            parts.append(
                self.get_multimodal_features(caption_input_ids, caption_attention_mask, *images).pooler_output
            )
        if parts:
            output.document_embeds = torch.cat(parts)
        if return_loss and output.query_embeds is not None and parts:
            self._add_losses(output, texts, positives, candidates, document_ids, known_ids, false_negative_threshold)
        return output

    def _add_losses(self, output, texts, positives, candidates, document_ids, known_ids, threshold) -> None:
        queries, documents = output.query_embeds, output.document_embeds
        if positives is None:
            if len(documents) != len(queries):
                raise ValueError(
                    f"{len(queries)} queries and {len(documents)} documents: say which document is right (positives)."
                )
            positives = torch.arange(len(queries), device=queries.device)
        shown = positives >= texts
        if document_ids is not None and known_ids is not None:
            given = queries.new_ones(len(queries), len(documents)) if candidates is None else candidates
            documents, positives, candidates = gather_documents(documents, document_ids, positives, given, known_ids)
        further = (output.logit_scale, positives, candidates, threshold)
        losses = sum_over_prefixes(lambda *both: candidate_losses(*both, *further), (queries, documents), self.config)
        output.loss = losses.mean()
        if bool(shown.any()):
            output.visual_matching_loss = losses[shown].mean()
        if not bool(shown.all()):
            output.textual_matching_loss = losses[~shown].mean()

    def save_pretrained(self, save_directory, *args, **kwargs):
        self.config.clip_config._name_or_path = ""  # a nested path would be written out
        return super().save_pretrained(save_directory, *args, **kwargs)


def _all(mask: torch.Tensor | None) -> bool:
    return mask is None or bool(mask.all())
