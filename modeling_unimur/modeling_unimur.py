"""UniMuR: a frozen language model and a frozen dual encoder, joined by a few trained maps."""

import warnings

import torch
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .backbones_unimur import BackbonesMixin
from .configuration_unimur import UniMuRConfig
from .heads_unimur import UniMuRHeads
from .loss_unimur import contrastive_loss, next_token_loss
from .outputs_unimur import UniMuROutput

# Not used here: a saved model carries the files that its own module imports, and these belong beside it.
from .pipeline_multimodal_retrieval import MultimodalRetrievalPipeline  # noqa: F401
from .processing_unimur import UniMuRProcessor  # noqa: F401
from .readout_unimur import FrozenReader, align_right, like_rows


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


class UniMuRModel(BackbonesMixin, UniMuRPreTrainedModel):
    """Reads a dialogue of text and pictures into one vector that retrieves the text and the picture of its reply.

    The language model and the dual encoder are frozen; only `heads` trains. Make one from two pretrained models with
    [`~UniMuRModel.from_backbones`], load one with `from_pretrained`.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: UniMuRConfig, build_backbones: bool = True):
        super().__init__(config)
        self._build_backbones(config, build_backbones)
        self.heads = UniMuRHeads(config)
        self._prefix_cache = None  # whether the language model can take one; found out when first trained
        self.post_init()
        self._freeze()

    # -- the language model -----------------------------------------------------------------------------------------
    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def _embed_tokens(self, input_ids: torch.Tensor, visual_features: "torch.Tensor | None") -> torch.Tensor:
        """Input vectors: the frozen table's, with the trained vectors at [RET] and at the pictures."""
        table = self.get_input_embeddings()
        embeds = table(input_ids.clamp(max=table.num_embeddings - 1))  # [RET] and pictures lie beyond the table
        for number, token in enumerate(self.config.ret_token_ids):
            ret = self.heads.ret_embedding[number].to(embeds)
            embeds = torch.where((input_ids == token)[..., None], ret, embeds)
        places = input_ids == self.config.image_token_id
        self._check_pictures(int(places.sum()) // self.config.num_visual_tokens, visual_features)
        if visual_features is not None and len(visual_features):
            visual = self.heads.visual_inputs(visual_features).to(embeds)
            embeds = embeds.masked_scatter(places[..., None].expand_as(embeds), visual)
        return embeds

    @staticmethod
    def _check_pictures(count: int, visual_features: "torch.Tensor | None") -> None:
        given = 0 if visual_features is None else visual_features.shape[0]
        if count != given:
            raise ValueError(f"The contexts have places for {count} pictures, and {given} pictures came with them.")

    def _first_trained(self, input_ids: torch.Tensor) -> int:
        """Column of the first position that a trained value touches."""
        first = input_ids.shape[1] - self.config.num_ret_tokens
        pictures = (input_ids == self.config.image_token_id).any(dim=0).nonzero()
        return min(first, int(pictures[0])) if len(pictures) else first

    def _read(self, input_ids, attention_mask, visual_features, use_prefix_cache: bool, call_cost=None):
        """Unified embeddings and last hidden states of aligned rows."""
        reader = FrozenReader(self.language_model, self.config.ret_layers, call_cost)
        embeds_of = self._embed_tokens
        cut = self._first_trained(input_ids) if use_prefix_cache else 0
        prefix = None
        if cut:
            with torch.no_grad():
                prefix = embeds_of(input_ids[:, :cut], None)
        rest = embeds_of(input_ids[:, cut:], visual_features)
        states, hidden = reader.read(prefix, rest, attention_mask, self.config.num_ret_tokens)
        return self.heads.unify(states), hidden

    def _can_cache_prefix(self) -> bool:
        """Whether a prefix in a key-value cache gives this language model the same numbers and a gradient."""
        if self._prefix_cache is None:
            ids = torch.arange(2, 14, device=self.device).reshape(2, 6) % self.get_input_embeddings().num_embeddings
            ret = torch.tensor(self.config.ret_token_ids, device=self.device).expand(2, -1)
            ids, mask = torch.cat([ids, ret], dim=1), torch.ones(2, 6 + ret.shape[1], device=self.device).long()
            mask[1, :3] = 0
            try:
                with torch.enable_grad():
                    cached, _ = self._read(ids, mask, None, use_prefix_cache=True, call_cost=0)  # both rows apart
                    torch.autograd.grad(cached.sum(), self.heads.ret_embedding)
                with torch.no_grad():
                    plain, _ = self._read(ids, mask, None, use_prefix_cache=False)
                self._prefix_cache = torch.allclose(cached, plain, atol=1e-4 if plain.dtype == torch.float32 else 3e-2)
                reason = "its cached and its plain result differ"
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                self._prefix_cache, reason = False, str(error).split("\n")[0]
            if not self._prefix_cache:
                warnings.warn(
                    f"{type(self.language_model).__name__} cannot run a frozen prefix from a cache ({reason}); "
                    "training takes the plain path: the same numbers, slower.",
                    stacklevel=2,
                )
        return self._prefix_cache

    def _parts(self, input_ids, attention_mask, visual_features, cached: bool):
        """Aligned rows in parts that are worth running together: row numbers, ids, mask and picture features."""
        pictures = (input_ids == self.config.image_token_id).sum(dim=1) // self.config.num_visual_tokens
        owners = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(pictures)
        self._check_pictures(len(owners), visual_features)
        shown = pictures > 0
        parts = like_rows(attention_mask, shown)
        if cached and FrozenReader(self.language_model, [-1]).joins_caches:
            # Where only [RET] is in the graph it is read in one go; the reader splits what stands before it.
            words = (~shown).nonzero().flatten()
            parts = [words] * bool(len(words)) + [rows for rows in parts if shown[rows[0]]]
        for rows in parts:
            tokens = attention_mask[rows].any(dim=0)
            visual = None
            if bool(shown[rows].any()):
                visual = torch.cat([visual_features[owners == row] for row in rows])
            yield rows, input_ids[rows][:, tokens], attention_mask[rows][:, tokens], visual

    def _unify(self, input_ids, attention_mask, visual_features):
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        attention_mask, input_ids = align_right(attention_mask, input_ids)
        ret = torch.tensor(self.config.ret_token_ids, device=input_ids.device)
        ends = input_ids[:, -len(ret) :] if input_ids.shape[1] >= len(ret) else input_ids
        if ends.shape[1] != len(ret) or not bool((ends == ret).all()):
            wrong = int((ends != ret[: ends.shape[1]]).any(dim=1).nonzero()[0]) if ends.shape[1] else 0
            raise ValueError(
                f"Context {wrong} does not end with [RET] (ids {ret.tolist()}): use the model's processor."
            )
        cached = torch.is_grad_enabled() and self.heads.ret_embedding.requires_grad and self._can_cache_prefix()
        order, parts, embeds = [], [], []
        for rows, ids, mask, visual in self._parts(input_ids, attention_mask, visual_features, cached):
            unified, hidden = self._read(ids, mask, visual, cached)
            order.append(rows)
            embeds.append(unified)
            parts.append((hidden, ids, mask))
        back = torch.cat(order).argsort()
        return torch.cat(embeds)[back], parts

    # -- embeddings -------------------------------------------------------------------------------------------------
    def get_multimodal_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: "torch.Tensor | None" = None,
        pixel_values: "torch.Tensor | None" = None,
        visual_features: "torch.Tensor | None" = None,
        pixel_attention_mask: "torch.Tensor | None" = None,
        spatial_shapes: "torch.Tensor | None" = None,
    ) -> BaseModelOutputWithPooling:
        """The unified embedding of dialogues.

        Args:
            input_ids, attention_mask (`(batch, tokens)`): contexts that end with [RET], padded on either side.
            pixel_values (`(pictures, 3, height, width)`, *optional*): pictures of the contexts in reading order; or
                `visual_features (pictures, visual_width)`, computed before.
            pixel_attention_mask, spatial_shapes: what SigLIP 2's processor adds for pictures of any shape.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output` of shape `(batch, projection_dim)`, unit vectors.

        Raises:
            ValueError: when a context does not end with [RET], or the number of pictures is not that of the places.
        """
        visual_features = self._visual(pixel_values, visual_features, pixel_attention_mask, spatial_shapes)
        embeds, _ = self._unify(input_ids, attention_mask, visual_features)
        return BaseModelOutputWithPooling(pooler_output=embeds)

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
        `(texts, projection_dim)`."""
        return BaseModelOutputWithPooling(
            pooler_output=self.heads.text_target(self.encode_texts(input_ids, attention_mask))
        )

    def _visual_choice(self, pooled, projected):
        return pooled if self.config.visual_feature == "pooled" else projected

    def _visual(self, pixel_values, visual_features, pixel_attention_mask=None, spatial_shapes=None):
        """Picture features for the language model, from pictures or as given."""
        if pixel_values is None:
            return visual_features
        return self._visual_choice(*self.encode_images(pixel_values, pixel_attention_mask, spatial_shapes))

    # -- training ---------------------------------------------------------------------------------------------------
    def _caption_loss(self, input_ids, attention_mask, labels, visual_features) -> torch.Tensor:
        mask, input_ids, labels = align_right(attention_mask, input_ids, labels)
        reader, head = FrozenReader(self.language_model, [-1]), self.get_output_embeddings()
        total, count = 0.0, 0
        for rows, part_ids, part_mask, visual in self._parts(input_ids, mask, visual_features, cached=False):
            _, hidden = reader.read(None, self._embed_tokens(part_ids, visual), part_mask, last=1)
            part_labels = labels[rows, -part_ids.shape[1] :]
            learned = int((part_labels[:, 1:] != -100).sum())
            loss = next_token_loss(hidden, part_labels, head, softcap=self._softcap)
            total, count = total + loss * learned, count + learned
        return total / max(count, 1)

    def _ret_token_loss(self, parts) -> torch.Tensor:
        """Cross entropy of every context token and of [RET], whose vector is one more row of the vocabulary."""
        head = self.get_output_embeddings()
        total, count = 0.0, 0
        for hidden, input_ids, attention_mask in parts:
            # The first token follows nothing but padding.
            ignored = (attention_mask.cumsum(dim=1) <= 1) | (input_ids == self.config.image_token_id)
            for token in self.config.ret_token_ids[1:]:
                ignored |= input_ids == token
            labels = input_ids.masked_fill(ignored, -100)
            labels = labels.masked_fill(input_ids == self.config.ret_token_ids[0], head.weight.shape[0])
            learned = int((labels[:, 1:] != -100).sum())
            loss = next_token_loss(hidden, labels, head, self.heads.ret_embedding[0], self._softcap)
            total, count = total + loss * learned, count + learned
        return total / max(count, 1)

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
        return_loss: bool = True,
    ) -> UniMuROutput:
        """Dual alignment training: each term whose inputs are there is computed, weighted and added.

        Args:
            input_ids, attention_mask, pixel_values, visual_features: contexts, as in `get_multimodal_features`.
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
        if input_ids is not None:
            visual = self._visual(pixel_values, visual_features)
            output.multimodal_embeds, parts = self._unify(input_ids, attention_mask, visual)
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
            if return_loss and config.ret_token_loss_weight:
                output.ret_token_loss = self._ret_token_loss(parts)
                terms.append(config.ret_token_loss_weight * output.ret_token_loss)
        if return_loss and caption_input_ids is not None and config.caption_loss_weight:
            visual = self._visual(caption_pixel_values, caption_visual_features)
            output.caption_loss = self._caption_loss(caption_input_ids, caption_attention_mask, caption_labels, visual)
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

    def can_generate(self) -> bool:
        """Whether `generate` works: always, but not as `GenerationMixin`'s own."""
        return False


__all__ = ["UniMuRModel", "UniMuRPreTrainedModel"]
