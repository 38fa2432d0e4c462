"""How UniMuR runs contexts through its frozen language model, in as little work as gives the same numbers."""

import warnings

import torch

from .readout_unimur import FrozenReader, align_right, like_rows


class ContextsMixin:
    """Input vectors with the trained ones in place, the frozen prefix apart, rows of like length together."""

    # Whether a batch runs in one piece and without a prefix apart, so that ranks among which the language model is
    # sharded call it equally often, whatever their batches hold.
    equal_calls = False

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
            raise ValueError(f"The contexts have places for {count} images, and {given} images came with them.")

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

    def _read_kept(self, input_ids, attention_mask, prefix_states):
        """Unified embeddings of text contexts whose prefix ran before, and what was run now."""
        last = self.config.num_ret_tokens
        found, wanted = (prefix_states.shape[0], prefix_states.shape[3] + last), tuple(input_ids.shape)
        if found != wanted:
            raise ValueError(
                f"prefix_states are those of {found[0]} contexts of {found[1]} tokens; without images there are "
                f"{wanted[0]} of {wanted[1]}: compute them with `get_prefix_states` on just these."
            )
        ids, mask = input_ids[:, -last:], attention_mask[:, -last:]
        reader = FrozenReader(self.language_model, self.config.ret_layers)
        states, hidden = reader.read(None, self._embed_tokens(ids, None), attention_mask, last, prefix_states)
        return self.heads.unify(states), hidden, ids, mask

    @torch.no_grad()
    def get_prefix_states(self, input_ids: torch.Tensor, attention_mask: "torch.Tensor | None" = None) -> torch.Tensor:
        """Keys and values of everything before [RET] in text contexts, which no training changes: computed once, they
        leave a training step only [RET] to run.

        Args:
            input_ids, attention_mask (`(batch, tokens)`): contexts without pictures that end with [RET].

        Returns:
            `torch.Tensor` of shape `(batch, 2 * layers, heads, tokens - ret tokens, head_width)`, padded on the left.

        Raises:
            ValueError: for contexts with pictures, or a language model whose cache cannot be cut into rows.
        """
        if bool((input_ids == self.config.image_token_id).any()):
            raise ValueError("An image in the context is mapped by trained weights: its prefix cannot be kept.")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask, ids = align_right(attention_mask, input_ids)
        cut = ids.shape[1] - self.config.num_ret_tokens
        reader = FrozenReader(self.language_model, self.config.ret_layers)
        return reader.prefix_states(self._embed_tokens(ids[:, :cut], None), mask[:, :cut])

    def _least_cosine(self) -> float:
        """Of the same embedding computed in two ways, by the language model's precision."""
        return 1 - 1e-6 if self.get_input_embeddings().weight.dtype in (torch.float32, torch.float64) else 0.99

    def _can_cache_prefix(self) -> bool:
        """Whether a prefix in a key-value cache gives this language model the same numbers and a gradient."""
        if self._prefix_cache is None:
            ids = torch.arange(2, 14, device=self.device).reshape(2, 6) % self.get_input_embeddings().num_embeddings
            ret = torch.tensor(self.config.ret_token_ids, device=self.device).expand(2, -1)
            ids, mask = torch.cat([ids, ret], dim=1), torch.ones(2, 6 + ret.shape[1], device=self.device).long()
            mask[1, :3] = 0
            try:
                with torch.autocast(self.device.type, enabled=False), torch.enable_grad():
                    cached, _ = self._read(ids, mask, None, use_prefix_cache=True, call_cost=0)  # both rows apart
                    torch.autograd.grad(cached.sum(), self.heads.ret_embedding)
                with torch.autocast(self.device.type, enabled=False), torch.no_grad():
                    plain, _ = self._read(ids, mask, None, use_prefix_cache=False)
                self._prefix_cache = bool(((cached * plain).sum(dim=-1) > self._least_cosine()).all())
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

    def _parts(self, input_ids, attention_mask, visual_features, cached: bool, kept: bool = False):
        """Aligned rows in parts that are worth running together: row numbers, ids, mask and picture features."""
        pictures = (input_ids == self.config.image_token_id).sum(dim=1) // self.config.num_visual_tokens
        owners = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(pictures)
        self._check_pictures(len(owners), visual_features)
        shown = pictures > 0
        if self.equal_calls:
            parts = [torch.arange(len(shown), device=shown.device)]
        else:
            parts = like_rows(attention_mask, shown)
        if kept or (cached and FrozenReader(self.language_model, [-1]).joins_caches):
            # Where only [RET] is in the graph it is read in one go; the reader splits what stands before it.
            words = (~shown).nonzero().flatten()
            parts = [words] * bool(len(words)) + [rows for rows in parts if shown[rows[0]]]
        for rows in parts:
            tokens = attention_mask[rows].any(dim=0)
            visual = None
            if bool(shown[rows].any()):
                visual = torch.cat([visual_features[owners == row] for row in rows])
            yield rows, input_ids[rows][:, tokens], attention_mask[rows][:, tokens], visual

    def _unify(self, input_ids, attention_mask, visual_features, prefix_states=None):
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        attention_mask, input_ids = align_right(attention_mask, input_ids)
        ret = torch.tensor(self.config.ret_token_ids, device=input_ids.device)
        ends = input_ids[:, -len(ret) :] if input_ids.shape[1] >= len(ret) else input_ids
        if ends.shape[1] != len(ret) or not bool((ends == ret).all()):
            wrong = int((ends != ret[: ends.shape[1]]).any(dim=1).nonzero()[0]) if ends.shape[1] else 0
            raise ValueError(
                f"Context {wrong} does not end with [RET] (ids {ret.tolist()}): use the model's processor."
            )
        cached = torch.is_grad_enabled() and self.heads.ret_embedding.requires_grad and not self.equal_calls
        cached = cached and self._can_cache_prefix()
        order, parts, embeds = [], [], []
        kept = prefix_states is not None
        for rows, ids, mask, visual in self._parts(input_ids, attention_mask, visual_features, cached, kept):
            if kept and visual is None:
                unified, hidden, ids, mask = self._read_kept(ids, mask, prefix_states)
            else:
                unified, hidden = self._read(ids, mask, visual, cached)
            order.append(rows)
            embeds.append(unified)
            parts.append((hidden, ids, mask))
        back = torch.cat(order).argsort()
        return torch.cat(embeds)[back], parts


__all__ = ["ContextsMixin"]
