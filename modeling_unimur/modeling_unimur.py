"""UniMuR: a frozen language model and a frozen dual encoder, joined by a few trained maps."""

from typing import TYPE_CHECKING

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .backbones_unimur import BackbonesMixin
from .configuration_unimur import UniMuRConfig
from .contexts_unimur import ContextsMixin
from .contrastive_loss import contrastive_loss, next_token_loss
from .heads_unimur import UniMuRHeads
from .outputs_unimur import UniMuROutput, UniMuRQueryOutput
from .query_anchor_unimur import AnchoredQuery, UniMuRQueryAnchor
from .readout_unimur import FrozenReader, align_right

if TYPE_CHECKING:
    # Never run: transformers copies the files that a saved model's own file names, and these belong beside it.
    from .pipeline_multimodal_retrieval import MultimodalRetrievalPipeline  # noqa: F401
    from .processing_unimur import UniMuRProcessor  # noqa: F401


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


class UniMuRModel(ContextsMixin, BackbonesMixin, UniMuRPreTrainedModel, GenerationMixin):
    """Reads a dialogue of text and pictures into one vector that retrieves the text and the picture of its reply.

    The language model and the dual encoder are frozen; only `heads` trains. Make one from two pretrained models with
    [`~UniMuRModel.from_backbones`], load one with `from_pretrained`.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: UniMuRConfig, build_backbones: bool = True, backbone_dtypes: "dict | None" = None):
        super().__init__(config)
        self._build_backbones(config, build_backbones, backbone_dtypes)
        self.heads = UniMuRHeads(config)
        self._prefix_cache = None  # whether the language model can take one; found out when first trained
        self.post_init()
        self._freeze()

    @property
    def dtype(self) -> torch.dtype:
        """That of the trained heads; `language_model` and `clip` have their own."""
        return self.heads.logit_scale.dtype

    # -- the language model -----------------------------------------------------------------------------------------
    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    # -- embeddings -------------------------------------------------------------------------------------------------
    def get_multimodal_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: "torch.Tensor | None" = None,
        pixel_values: "torch.Tensor | None" = None,
        visual_features: "torch.Tensor | None" = None,
        pixel_attention_mask: "torch.Tensor | None" = None,
        spatial_shapes: "torch.Tensor | None" = None,
        prefix_states: "torch.Tensor | None" = None,
        anchor_input_ids: "torch.Tensor | None" = None,
        anchor_attention_mask: "torch.Tensor | None" = None,
        anchor_text_mask: "torch.Tensor | None" = None,
        anchor_features: "torch.Tensor | None" = None,
        anchor_image_features: "torch.Tensor | None" = None,
        turn_statistics: "torch.Tensor | None" = None,
    ) -> UniMuRQueryOutput:
        """The unified embedding of dialogues; with `config.query_anchor`, the anchored query.

        Args:
            input_ids, attention_mask (`(batch, tokens)`): contexts that end with [RET], padded on either side.
            pixel_values (`(pictures, 3, height, width)`, *optional*): pictures of the contexts in reading order; or
                `visual_features (pictures, visual_width)`, computed before.
            pixel_attention_mask, spatial_shapes: what SigLIP 2's processor adds for pictures of any shape.
            prefix_states (*optional*): of `get_prefix_states` for the contexts without pictures, as wide as the
                longest of them.
            anchor_input_ids, anchor_attention_mask, anchor_text_mask, anchor_features, anchor_image_features,
                turn_statistics: of anchored queries, as in `anchor_queries`.

        Returns:
            `UniMuRQueryOutput`: `pooler_output` of shape `(batch, projection_dim)`, unit vectors.

        Raises:
            ValueError: when a context does not end with [RET], the number of pictures is not that of the places, or
                the inputs of anchored queries are missing.
        """
        visual_features = self._visual(pixel_values, visual_features, pixel_attention_mask, spatial_shapes)
        found, _ = self._queries(
            input_ids,
            attention_mask,
            visual_features,
            prefix_states,
            anchor_input_ids=anchor_input_ids,
            anchor_attention_mask=anchor_attention_mask,
            anchor_text_mask=anchor_text_mask,
            anchor_features=anchor_features,
            anchor_image_features=anchor_image_features,
            turn_statistics=turn_statistics,
        )
        return UniMuRQueryOutput(
            pooler_output=found.query,
            readout_embeds=found.readout,
            anchor_embeds=found.anchor,
            correction_embeds=found.correction,
            gate=found.gate,
        )

    def get_readout_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: "torch.Tensor | None" = None,
        visual_features: "torch.Tensor | None" = None,
        prefix_states: "torch.Tensor | None" = None,
    ) -> torch.Tensor:
        """What the language model reads at [RET] `(batch, projection_dim)`, unit vectors: the query of the paper, and
        `readout_embeds` of an anchored one. The arguments are those of `get_multimodal_features`."""
        return self._unify(input_ids, attention_mask, visual_features, prefix_states)[0]

    def _queries(self, input_ids, attention_mask, visual_features, prefix_states, **anchors):
        """Queries, and what `_unify` ran of the language model."""
        readout, parts = self._unify(input_ids, attention_mask, visual_features, prefix_states)
        if self.heads.query_anchor is None:
            return AnchoredQuery(readout, readout), parts
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        images = (input_ids == self.config.image_token_id).sum(dim=1) // self.config.num_visual_tokens
        return self.anchor_queries(readout, mask.ne(0).sum(dim=1), images, visual_features, **anchors), parts

    def anchor_queries(
        self,
        readout: torch.Tensor,
        num_tokens: torch.Tensor,
        num_images: torch.Tensor,
        visual_features: "torch.Tensor | None" = None,
        anchor_input_ids: "torch.Tensor | None" = None,
        anchor_attention_mask: "torch.Tensor | None" = None,
        anchor_text_mask: "torch.Tensor | None" = None,
        anchor_features: "torch.Tensor | None" = None,
        anchor_image_features: "torch.Tensor | None" = None,
        turn_statistics: "torch.Tensor | None" = None,
    ) -> AnchoredQuery:
        """The queries of dialogues whose readout is known: with `query_anchor="none"` the readout itself.

        Args:
            readout (`(batch, projection_dim)`): of `get_readout_features`.
            num_tokens, num_images (`(batch,)`): tokens and images of each context.
            visual_features (`(images, visual_width)`, *optional*): of the contexts' images in reading order.
            anchor_input_ids, anchor_attention_mask (`(batch, 2, tokens)`): words of all turns and of the last turn,
                of the dual encoder's tokenizer; or `anchor_features (batch, 2, joint_width)`, the frozen text tower's
                output computed before, zeros where there are no words.
            anchor_text_mask (`(batch, 2)`, *optional*): False where there are no words.
            anchor_image_features (`(images, width)`, *optional*): the frozen image tower's output, as
                `target_image_features` of `forward`; from `visual_features` by default.
            turn_statistics (`(batch, 2)`): number of turns, and the share of them with a question mark.

        Raises:
            ValueError: inputs are missing, or do not fit the batch.
        """
        if self.heads.query_anchor is None:
            return AnchoredQuery(readout, readout)
        if anchor_features is None:
            anchor_features = self._anchor_texts(anchor_input_ids, anchor_attention_mask)
        if turn_statistics is None:
            raise ValueError(
                "Anchored queries (query_anchor='encoder') need turn_statistics: UniMuRProcessor.process_queries "
                "makes them with query_anchor='encoder', as the processor beside the model does."
            )
        wanted = (len(readout), 2, self.config.joint_width)
        if tuple(anchor_features.shape) != wanted:
            raise ValueError(f"anchor_features must be of shape {wanted}, got {tuple(anchor_features.shape)}.")
        there = anchor_features.ne(0).any(dim=-1)
        if anchor_text_mask is not None:
            there = there & anchor_text_mask.to(there)
        vectors = self.heads.text_target(anchor_features.flatten(0, 1)).unflatten(0, (-1, 2)) * there[..., None]
        image = self._mean_images(num_images, visual_features, anchor_image_features, like=vectors[:, 0])
        statistics = torch.cat([num_tokens.to(turn_statistics)[:, None], turn_statistics], dim=1)
        return self.heads.query_anchor(readout, vectors[:, 0], vectors[:, 1], image, statistics)

    def _anchor_texts(self, ids: "torch.Tensor | None", mask: "torch.Tensor | None") -> torch.Tensor:
        """The text tower's output of `(batch, 2, tokens)`; a dialogue of one turn runs once."""
        if self.clip is None:
            raise ValueError(
                "Anchored queries of a model without a dual encoder need anchor_features: set anchor_encoder of the "
                "UniMuRProcessor (or of the pipeline) to the encoder that made the index, or name it as "
                "anchor_base_model in the configuration."
            )
        if ids is None:
            raise ValueError(
                "Anchored queries (query_anchor='encoder') need anchor_input_ids or anchor_features: "
                "UniMuRProcessor.process_queries makes them with query_anchor='encoder', as the processor beside the "
                "model does."
            )
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

    def _mean_images(self, counts, visual_features, features, like: torch.Tensor) -> torch.Tensor:
        """The mean of the unit vectors of each context's images, zeros for a context without any."""
        if features is None and visual_features is not None:
            is_target = self.config.map_image_targets or self.config.visual_feature == "projected"
            features = visual_features if is_target else self.project_images(visual_features)
        if features is None or not len(features):
            return torch.zeros_like(like)
        unit = self.heads.image_target(features)
        owners = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        if len(owners) != len(unit):
            raise ValueError(f"The contexts hold {len(owners)} images, and the anchor got features of {len(unit)}.")
        return torch.zeros_like(like).index_add(0, owners, unit.to(like)) / counts.clamp(min=1).to(like)[:, None]

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: "torch.Tensor | None" = None,
        spatial_shapes: "torch.Tensor | None" = None,
    ) -> BaseModelOutputWithPooling:
        """Candidate pictures `(pictures, 3, height, width)` as unit vectors `(pictures, projection_dim)`."""
        pooled, projected = self.encode_images(pixel_values, pixel_attention_mask, spatial_shapes)
        feature = self._visual_choice(pooled, projected) if self.config.map_image_targets else projected
        return BaseModelOutputWithPooling(pooler_output=self.heads.image_target(feature))

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: "torch.Tensor | None" = None
    ) -> BaseModelOutputWithPooling:
        """Candidate texts `(texts, tokens)`, of the dual encoder's tokenizer, as unit vectors
        `(texts, projection_dim)`.

        Raises:
            ValueError: for heads that rank pictures alone (FROMAGe's): no map brings texts into their space; or for
                ids of the language model's tokenizer, which end with [RET].
        """
        self._require_clip()
        self._refuse_queries(input_ids)
        if self.config.joint_width != self.config.embedding_width and not self.config.map_text_targets:
            raise ValueError(
                f"These heads rank pictures alone: texts of {self.config.joint_width} dimensions have no map into the "
                f"{self.config.embedding_width} of the pictures (map_text_targets)."
            )
        return BaseModelOutputWithPooling(
            pooler_output=self.heads.text_target(self.encode_texts(input_ids, attention_mask))
        )

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

    def _visual_choice(self, pooled, projected):
        return pooled if self.config.visual_feature == "pooled" else projected

    def _visual(self, pixel_values, visual_features, pixel_attention_mask=None, spatial_shapes=None):
        """Picture features for the language model, from pictures or as given."""
        if pixel_values is None:
            return visual_features
        return self._visual_choice(*self.encode_images(pixel_values, pixel_attention_mask, spatial_shapes))

    # -- training ---------------------------------------------------------------------------------------------------
    def _caption_loss(self, input_ids, attention_mask, labels, visual_features, over=None) -> torch.Tensor:
        mask, input_ids, labels = align_right(attention_mask, input_ids, labels)
        reader, head = FrozenReader(self.language_model, [-1]), self.get_output_embeddings()
        ret = self.heads.ret_embedding[0] if self.config.ret_in_caption_loss else None
        total, count = 0.0, 0
        for rows, part_ids, part_mask, visual in self._parts(input_ids, mask, visual_features, cached=False):
            _, hidden = reader.read(None, self._embed_tokens(part_ids, visual), part_mask, last=1)
            part_labels = labels[rows, -part_ids.shape[1] :]
            learned = int((part_labels[:, 1:] != -100).sum())
            loss = next_token_loss(hidden, part_labels, head, ret, self._softcap, self.config.loss_vocab_size)
            total, count = total + loss * learned, count + learned
        return total / (over or max(count, 1))

    def context_labels(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """What the next-token loss of contexts learns `(batch, tokens)`: words and the first [RET], which is one more
        row of the vocabulary; -100 at padding, at pictures and at the first token, which follows nothing.

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

    def _ret_token_loss(self, parts, over=None) -> torch.Tensor:
        """Cross entropy of every context token and of [RET]."""
        head = self.get_output_embeddings()
        total, count = 0.0, 0
        for hidden, input_ids, attention_mask in parts:
            labels = self.context_labels(input_ids, attention_mask)
            learned = int((labels[:, 1:] != -100).sum())
            ret = self.heads.ret_embedding[0]
            loss = next_token_loss(hidden, labels, head, ret, self._softcap, self.config.loss_vocab_size)
            total, count = total + loss * learned, count + learned
        return total / (over or max(count, 1))

    @property
    def _softcap(self) -> "float | None":
        return getattr(self.config.text_config.get_text_config(), "final_logit_softcapping", None)

    def _targets(self, pixel_values, features, encode, project):
        """Unit vectors of candidates, from raw inputs or from the frozen towers' cached outputs."""
        if features is None and pixel_values is not None:
            features = encode(pixel_values)
        return None if features is None else project(features)

    def forward(
        self,
        input_ids: "torch.Tensor | None" = None,
        attention_mask: "torch.Tensor | None" = None,
        pixel_values: "torch.Tensor | None" = None,
        visual_features: "torch.Tensor | None" = None,
        prefix_states: "torch.Tensor | None" = None,
        target_pixel_values: "torch.Tensor | None" = None,
        target_image_features: "torch.Tensor | None" = None,
        target_image_mask: "torch.Tensor | None" = None,
        target_input_ids: "torch.Tensor | None" = None,
        target_attention_mask: "torch.Tensor | None" = None,
        target_text_features: "torch.Tensor | None" = None,
        target_text_mask: "torch.Tensor | None" = None,
        target_ids: "torch.Tensor | None" = None,
        caption_input_ids: "torch.Tensor | None" = None,
        caption_attention_mask: "torch.Tensor | None" = None,
        caption_labels: "torch.Tensor | None" = None,
        caption_pixel_values: "torch.Tensor | None" = None,
        caption_visual_features: "torch.Tensor | None" = None,
        multimodal_embeds: "torch.Tensor | None" = None,
        anchor_input_ids: "torch.Tensor | None" = None,
        anchor_attention_mask: "torch.Tensor | None" = None,
        anchor_text_mask: "torch.Tensor | None" = None,
        anchor_features: "torch.Tensor | None" = None,
        anchor_image_features: "torch.Tensor | None" = None,
        turn_statistics: "torch.Tensor | None" = None,
        num_context_labels: "float | None" = None,
        num_caption_labels: "float | None" = None,
        return_loss: bool = True,
    ) -> UniMuROutput:
        """Dual alignment training: each term whose inputs are there is computed, weighted and added.

        Args:
            input_ids, attention_mask, pixel_values, visual_features, prefix_states: contexts, as in
                `get_multimodal_features`.
            target_pixel_values (`(batch, 3, height, width)`, *optional*): row i's right picture; or
                `target_image_features (batch, width)`, the frozen tower's output computed before.
            target_image_mask (`(batch,)`, *optional*): False for rows without a picture; their values are ignored.
            target_input_ids, target_attention_mask (`(batch, tokens)`, *optional*): row i's right text, of the dual
                encoder's tokenizer; or `target_text_features (batch, width)`, computed before.
            target_text_mask (`(batch,)`, *optional*): False for rows without a text.
            target_ids (`(batch,)`, *optional*): rows with equal ids are right answers for each other.
            caption_input_ids, caption_attention_mask, caption_labels (`(batch, tokens)`, *optional*): captions after
                the placeholders of their pictures; labels are -100 where nothing is learned.
            caption_pixel_values (`(batch, 3, height, width)`, *optional*): those pictures; or
                `caption_visual_features (batch, visual_width)`, computed before.
            multimodal_embeds (`(batch, projection_dim)`, *optional*): queries in place of the contexts, as
                gradient caching computes them before.
            anchor_input_ids, anchor_attention_mask, anchor_text_mask, anchor_features, anchor_image_features,
                turn_statistics: of anchored queries, as in `anchor_queries`.
            num_context_labels, num_caption_labels (*optional*): what the sums of the next-token losses of contexts and
                of captions are divided by, where these are a part of a batch; the labels given here by default.
            return_loss: whether to compute losses.
        """
        config, output = self.config, UniMuROutput()
        output.logit_scale, output.text_logit_scale = self.heads.scales()
        output.image_embeds = self._targets(
            target_pixel_values, target_image_features, self._image_target_features, self.heads.image_target
        )
        output.text_embeds = self._targets(
            target_input_ids,
            target_text_features,
            lambda ids: self.encode_texts(ids, target_attention_mask),
            self.heads.text_target,
        )
        terms = []
        output.multimodal_embeds, parts = multimodal_embeds, None
        if input_ids is not None:
            visual = self._visual(pixel_values, visual_features)
            found, parts = self._queries(
                input_ids,
                attention_mask,
                visual,
                prefix_states,
                anchor_input_ids=anchor_input_ids,
                anchor_attention_mask=anchor_attention_mask,
                anchor_text_mask=anchor_text_mask,
                anchor_features=anchor_features,
                anchor_image_features=anchor_image_features,
                turn_statistics=turn_statistics,
            )
            output.multimodal_embeds, output.readout_embeds = found.query, found.readout
        if output.multimodal_embeds is not None:
            if return_loss and output.image_embeds is not None and config.visual_matching_weight:
                output.visual_matching_loss = contrastive_loss(
                    output.multimodal_embeds, output.image_embeds, output.logit_scale, target_ids, target_image_mask
                )
                terms.append(config.visual_matching_weight * output.visual_matching_loss)
            if return_loss and output.text_embeds is not None and config.textual_matching_weight:
                output.textual_matching_loss = contrastive_loss(
                    output.multimodal_embeds, output.text_embeds, output.text_logit_scale, target_ids, target_text_mask
                )
                terms.append(config.textual_matching_weight * output.textual_matching_loss)
            if return_loss and config.ret_token_loss_weight and parts is not None:
                if prefix_states is not None:
                    raise ValueError("The next-token loss reads every token of a context: leave prefix_states out.")
                output.ret_token_loss = self._ret_token_loss(parts, num_context_labels)
                terms.append(config.ret_token_loss_weight * output.ret_token_loss)
        if return_loss and caption_input_ids is not None and config.caption_loss_weight:
            visual = self._visual(caption_pixel_values, caption_visual_features)
            output.caption_loss = self._caption_loss(
                caption_input_ids, caption_attention_mask, caption_labels, visual, num_caption_labels
            )
            terms.append(config.caption_loss_weight * output.caption_loss)
        if terms:
            output.loss = torch.stack([term.float() for term in terms]).sum()
        return output

    def _image_target_features(self, pixel_values):
        pooled, projected = self.encode_images(pixel_values)
        return self._visual_choice(pooled, projected) if self.config.map_image_targets else projected

    # -- text out ---------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: "torch.Tensor | None" = None,
        pixel_values: "torch.Tensor | None" = None,
        visual_features: "torch.Tensor | None" = None,
        pixel_attention_mask: "torch.Tensor | None" = None,
        spatial_shapes: "torch.Tensor | None" = None,
        **kwargs,
    ) -> torch.Tensor:
        """Continues text with pictures in it, by the language model's own `generate` and its cache.

        Args:
            input_ids, attention_mask (`(batch, tokens)`): prompts without [RET], made by `processor.process_prompt`.
            pixel_values, visual_features, pixel_attention_mask, spatial_shapes: as in `get_multimodal_features`.
            kwargs: passed to the language model's `generate` (`max_new_tokens`, `num_beams`, ...).

        Returns:
            `torch.Tensor` of shape `(batch, new tokens)`.
        """
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask, input_ids = align_right(attention_mask, input_ids)
        visual_features = self._visual(pixel_values, visual_features, pixel_attention_mask, spatial_shapes)
        embeds = self._embed_tokens(input_ids, visual_features)
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
        """Reads the generation settings in a full release; those of a heads-only one come with its language model."""
        if self.language_model is not None:
            kwargs.pop("backbone_dtypes", None)  # an argument of this model's, which would end up among the settings
            super().adjust_generation_fn(*args, **kwargs)


__all__ = ["UniMuRModel", "UniMuRPreTrainedModel"]
