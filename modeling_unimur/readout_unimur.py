"""Running a frozen language model up to [RET]."""

import inspect
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

# What one more pass through the language model costs, in tokens: on a CPU little, on an accelerator a full one.
_CALL_COST_CPU = 32
_CALL_COST = 4096


# The name of SDPA on float32 copies of keys, values and queries.
_FLOAT32_SDPA = "sdpa_float32"


def _float32_sdpa(module, query, key, value, attention_mask, **kwargs):
    output, weights = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), attention_mask, **kwargs
    )
    return output.to(query.dtype), weights


AttentionInterface.register(_FLOAT32_SDPA, _float32_sdpa)
AttentionMaskInterface.register(_FLOAT32_SDPA, sdpa_mask)


@contextmanager
def _quick_backward(config, vectors: torch.Tensor):
    """On a CPU the backward pass of SDPA is ten times slower in bfloat16 than in float32: with gradient, attention
    runs in float32, and everything around it as it was."""
    slow = vectors.device.type == "cpu" and vectors.dtype in (torch.bfloat16, torch.float16)
    if not (slow and torch.is_grad_enabled() and config._attn_implementation == "sdpa"):
        yield
        return
    config._attn_implementation = _FLOAT32_SDPA
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def align_right(attention_mask: torch.Tensor, *tensors: torch.Tensor) -> "list[torch.Tensor]":
    """Moves the padding of each row to its left, whichever side it was on.

    A cache needs it: padding between a prefix and what follows is wrong for models with a sliding window.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 0 at padding.
        tensors: more of that shape.

    Returns:
        `list[torch.Tensor]`: the mask, then the others, all with their padding on the left.
    """
    order = torch.argsort(attention_mask.ne(0).to(torch.uint8), dim=1, stable=True)
    return [tensor.gather(1, order) for tensor in (attention_mask, *tensors)]


def like_rows(
    attention_mask: torch.Tensor, apart: "torch.Tensor | None" = None, call_cost: "int | None" = None
) -> "list[torch.Tensor]":
    """Splits a batch into parts of rows that are worth running together.

    Rows that differ in length pay for the longest; rows in whose graph a picture stands early would pull the others
    into it. Rows are only regrouped, so no number changes.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, tokens)`): 1 for tokens.
        apart (`torch.Tensor` of shape `(batch,)`, *optional*): False and True are never mixed.
        call_cost (`int`, *optional*): what one more part costs, in tokens; by default what the device suggests.

    Returns:
        `list[torch.Tensor]`: row numbers, each row in one part.
    """
    if call_cost is None:
        call_cost = _CALL_COST_CPU if attention_mask.device.type == "cpu" else _CALL_COST
    lengths, parts = attention_mask.sum(dim=1), []
    apart = torch.zeros_like(lengths) if apart is None else apart.to(lengths)
    for kind in (0, 1):
        rows = (apart == kind).nonzero().flatten()
        waiting = [rows[lengths[rows].argsort(stable=True)]] if len(rows) else []
        while waiting:
            part = waiting.pop()
            length = lengths[part]
            # Tokens that are saved when the first 1, 2, ... rows are cut to the longest of them.
            saved = torch.arange(1, len(part) + 1, device=part.device) * (length[-1] - length)
            first = int(saved.argmax()) + 1
            if saved[first - 1] > call_cost:
                waiting += [part[first:], part[:first]]
            else:
                parts.append(part)
    return parts


def cache_argument(decoder: nn.Module) -> str:
    """The name under which a decoder's `forward` takes a key-value cache.

    transformers 5.24 renamed `past_key_values` to `cache` and drops the old name in 5.40; custom decoders keep the
    name that they were written with.
    """
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def cache_of(output) -> "DynamicCache | None":
    """The key-value cache in a decoder's output, under the new or the old name."""
    # As of a plain dictionary: asking the output itself for the old name warns.
    return dict.get(output, "cache", dict.get(output, "past_key_values"))


class FrozenReader:
    """Runs a causal language model's decoder on input vectors.

    Args:
        language_model (`PreTrainedModel`): a causal language model of transformers.
        layers (`list[int]`): hidden states to read.
        call_cost (`int`, *optional*): as in `like_rows`.
    """

    def __init__(self, language_model: nn.Module, layers: "list[int]", call_cost: "int | None" = None):
        self.decoder = language_model.base_model
        self.layers, self.call_cost = layers, call_cost
        parameters = inspect.signature(self.decoder.forward).parameters
        self._positions = "position_ids" in parameters or any(
            p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
        )
        self._cache = cache_argument(self.decoder)

    def run(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: "DynamicCache | None" = None,
        **kwargs,
    ):
        """The decoder's output for input vectors; the cache and the positions go in under the names that it takes.

        Args:
            embeds (`torch.Tensor` of shape `(batch, tokens, width)`): input vectors.
            mask (`torch.Tensor`): attention mask, over the cache and the input vectors.
            positions (`torch.Tensor` of shape `(batch, tokens)`): positions of the input vectors.
            cache (`DynamicCache`, *optional*): keys and values of what stands before.
            kwargs: further arguments of the decoder.
        """
        if self._positions:  # models with ALiBi have none
            kwargs["position_ids"] = positions
        if cache is not None:
            kwargs[self._cache] = cache
        with _quick_backward(self.decoder.config, embeds):
            return self.decoder(inputs_embeds=embeds, attention_mask=mask, return_dict=True, **kwargs)

    @property
    def joins_caches(self) -> bool:
        """Whether caches of rows that ran apart can be put together: not with sliding windows or recurrent states."""
        layers = DynamicCache(config=self.decoder.config).layers
        return all(type(layer) is DynamicLayer for layer in layers)

    @torch.no_grad()
    def _run_prefix(self, prefix, mask, positions):
        """Last hidden states and one cache; rows of like length run together, and no padding beyond theirs."""
        parts = like_rows(mask, call_cost=self.call_cost)
        if len(parts) == 1 or not self.joins_caches:
            out = self.run(prefix, mask, positions, use_cache=True)
            return out.last_hidden_state, cache_of(out)
        batch, cut = mask.shape
        joined: list = []
        for rows in parts:
            width = max(int(mask[rows].sum(dim=1).max()), 1)
            out = self.run(prefix[rows, -width:], mask[rows, -width:], positions[rows, -width:], use_cache=True)
            states = [out.last_hidden_state[:, None]]
            states += [state for layer in cache_of(out).layers for state in (layer.keys, layer.values)]
            if not joined:  # zeros at the padding, which the mask hides
                joined = [state.new_zeros(batch, state.shape[1], cut, state.shape[3]) for state in states]
            for whole, state in zip(joined, states, strict=True):
                whole[rows.to(whole.device), :, -width:] = state
        cache = DynamicCache()
        for number, (keys, values) in enumerate(zip(joined[1::2], joined[2::2], strict=True)):
            cache.update(keys, values, number)
        return joined[0][:, 0], cache

    @torch.no_grad()
    def prefix_states(self, prefix: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Keys and values of a prefix, to be kept: `(batch, 2 * layers, heads, before, head_width)`.

        Args:
            prefix (`torch.Tensor` of shape `(batch, before, width)`): input vectors that no trained value touches.
            mask (`torch.Tensor` of shape `(batch, before)`): 1 for tokens; padding stands on the left.

        Raises:
            ValueError: for a language model with sliding windows or recurrent states, whose caches cannot be cut.
        """
        if not self.joins_caches:
            raise ValueError(f"The cache of {type(self.decoder).__name__} cannot be kept and cut into rows.")
        _, cache = self._run_prefix(prefix, mask, (mask.long().cumsum(dim=1) - 1).clamp(min=0))
        return torch.stack([state for layer in cache.layers for state in (layer.keys, layer.values)], dim=1)

    @torch.no_grad()
    def extend(
        self, layers: "list[tuple[torch.Tensor, torch.Tensor]]", rest: torch.Tensor, last: int
    ) -> "tuple[list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]":
        """One row on from where its cache ends.

        Args:
            layers: keys and values of every layer, `(1, heads, before, head_width)` each; empty for a beginning.
            rest (`torch.Tensor` of shape `(1, after, width)`): the input vectors that follow.
            last (`int`): how many positions are read.

        Returns:
            Hidden states `(1, last, width)` of each layer that is read, and the longer cache.
        """
        cache = DynamicCache()
        for number, (keys, values) in enumerate(layers):
            cache.update(keys, values, number)
        before = layers[0][0].shape[2] if layers else 0
        mask = torch.ones(1, before + rest.shape[1], dtype=torch.long, device=rest.device)
        positions = torch.arange(before, before + rest.shape[1], device=rest.device)[None]
        out = self.run(rest, mask, positions, cache, use_cache=True, output_hidden_states=self.layers != [-1])
        read = [out.last_hidden_state if layer == -1 else out.hidden_states[layer] for layer in self.layers]
        longer = [(layer.keys, layer.values) for layer in cache_of(out).layers]
        return [state[:, -last:] for state in read], longer

    @staticmethod
    def _cache_of(states: torch.Tensor) -> DynamicCache:
        cache = DynamicCache()
        for layer in range(states.shape[1] // 2):
            cache.update(states[:, 2 * layer], states[:, 2 * layer + 1], layer)
        return cache

    def read(
        self,
        prefix: "torch.Tensor | None",
        rest: torch.Tensor,
        mask: torch.Tensor,
        last: int,
        states: "torch.Tensor | None" = None,
    ) -> "tuple[list[torch.Tensor], torch.Tensor]":
        """Hidden states of the last positions.

        Args:
            prefix (`torch.Tensor` of shape `(batch, before, width)`, *optional*): input vectors that no trained value
                touches. They run without gradient into a key-value cache, which for a frozen causal model changes
                neither the result nor any gradient.
            rest (`torch.Tensor` of shape `(batch, after, width)`): the input vectors that follow.
            mask (`torch.Tensor` of shape `(batch, before + after)`): 1 for tokens; padding stands on the left.
            last (`int`): how many positions are read.
            states (`torch.Tensor`, *optional*): of `prefix_states`, in place of `prefix`.

        Returns:
            `tuple[list[torch.Tensor], torch.Tensor]`: for each layer `(batch, last, width)`, and the last hidden
            states of all positions that were run `(batch, before + after, width)`.
        """
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        every_layer = self.layers != [-1]
        before, cache = [], None
        if prefix is not None:
            cut = prefix.shape[1]
            hidden, cache = self._run_prefix(prefix, mask[:, :cut], positions[:, :cut])
            before, positions = [hidden], positions[:, cut:]
        elif states is not None:
            cache, positions = self._cache_of(states), positions[:, states.shape[3] :]
        out = self.run(rest, mask, positions, cache, use_cache=cache is not None, output_hidden_states=every_layer)
        read = [out.last_hidden_state if layer == -1 else out.hidden_states[layer] for layer in self.layers]
        return [state[:, -last:] for state in read], torch.cat([*before, out.last_hidden_state], dim=1)


__all__ = ["FrozenReader", "align_right", "cache_argument", "cache_of", "like_rows"]
