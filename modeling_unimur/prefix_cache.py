"""Keys and values of a prefix: computed once by a frozen language model, kept, cut, and continued."""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from .conversation import is_message
from .image_loading import Image, image_bytes, load_image, source_name

# What one more pass through the language model costs, in tokens: on a CPU little, on an accelerator a full one.
_CALL_COST_CPU = 32
_CALL_COST = 4096

# The name of SDPA on float32 copies of keys, values and queries.
_FLOAT32_SDPA = "sdpa_float32"

# About ten chats of a thousand tokens with a language model of 135 million parameters; one with 6.7 billion.
DEFAULT_BYTES = 512 * 2**20
# Images whose features a chat cache keeps, a few KB each.
_IMAGES = 1024
# Images that are embedded together.
_IMAGE_BATCH = 16


@dataclass
class PrefixCache:
    """Keys and values of the first tokens of sequences, padded on the left: the cache of transformers, the mask
    `(batch, tokens)`, and, where they were kept, the last hidden states `(batch, tokens, width)`."""

    cache: Cache
    mask: torch.Tensor
    hidden: torch.Tensor | None = None

    @classmethod
    def of(cls, states: Sequence[torch.Tensor], mask: torch.Tensor, hidden: torch.Tensor | None = None) -> PrefixCache:
        """From copies of `states`: keys and values in turn, `(batch, heads, tokens, head_width)` a layer."""
        cache = DynamicCache()
        for number, (keys, values) in enumerate(zip(states[::2], states[1::2], strict=True)):
            cache.update(keys, values, number)
        return cls(cache, mask, hidden)

    @property
    def states(self) -> list[torch.Tensor]:
        """Keys and values in turn, layer by layer."""
        return [state for layer in self.cache.layers for state in (layer.keys, layer.values)]

    @property
    def num_bytes(self) -> int:
        """What the keys and values take, with what was cut off and shares their memory."""
        return sum(state.untyped_storage().nbytes() for state in self.states)

    def twin(self) -> Cache:
        """The same keys and values in a cache of their own, to which a decoder may add tokens."""
        twin = copy.copy(self.cache)
        twin.layers = [copy.copy(layer) for layer in twin.layers]
        return twin

    def cut(self, end: int) -> PrefixCache:
        """The first `end` columns, which share the memory of all."""
        if end == self.mask.shape[1]:
            return self
        cache = self.twin()
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :end], layer.values[:, :, :end]
        return PrefixCache(cache, self.mask[:, :end], None if self.hidden is None else self.hidden[:, :end])


def _float32_sdpa(module, query, key, value, attention_mask, **kwargs):
    inputs = (query.float(), key.float(), value.float(), attention_mask)
    output, weights = sdpa_attention_forward(module, *inputs, **kwargs)
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


def align_right(attention_mask: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Moves the padding of each row of the mask and of `tensors (batch, tokens)` to its left: padding between a prefix
    and what follows is wrong for models with a sliding window."""
    order = torch.argsort(attention_mask.ne(0).to(torch.uint8), dim=1, stable=True)
    return [tensor.gather(1, order) for tensor in (attention_mask, *tensors)]


def group_by_length(
    attention_mask: torch.Tensor, apart: torch.Tensor | None = None, call_cost: int | None = None
) -> list[torch.Tensor]:
    """Row numbers of the parts of a batch that are worth running together, since rows pay for the longest of a part.
    Rows of which `apart (batch,)` is False and True are never mixed; `call_cost` is what one more part costs, in
    tokens."""
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
    """The name under which a decoder takes a key-value cache: transformers 5.24 renamed `past_key_values` to `cache`
    and drops the old name in 5.40; custom decoders keep theirs."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def cache_of(output) -> Cache | None:
    """The key-value cache in a decoder's output, under the new or the old name."""
    # As of a plain dictionary: asking the output itself for the old name warns.
    return dict.get(output, "cache", dict.get(output, "past_key_values"))


class Extended(NamedTuple):
    """Hidden states `(batch, tokens, width)` of each layer to read, those of the last one, and the longer prefix."""

    states: list[torch.Tensor]
    hidden: torch.Tensor
    prefix: PrefixCache | None


class FrozenDecoder:
    """Runs the decoder of a causal language model on input vectors, whose first ones may have run before, and reads
    the hidden states of `layers`. `supported` keeps what `supports` finds out."""

    # What prefixes are for, as warnings say it.
    purpose = "cache"

    def __init__(self, language_model: nn.Module, layers: Sequence[int] = (-1,), supported: dict | None = None):
        self.language_model, self.decoder, self.layers = language_model, language_model.base_model, list(layers)
        self.supported: dict[str, bool] = {} if supported is None else supported
        kinds = {name: one.kind for name, one in inspect.signature(self.decoder.forward).parameters.items()}
        # Models with ALiBi take no positions.
        self._takes_positions = "position_ids" in kinds or inspect.Parameter.VAR_KEYWORD in kinds.values()
        self._cache = cache_argument(self.decoder)

    def extend(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor | None = None,
        prefix: PrefixCache | None = None,
        positions: torch.Tensor | None = None,
        keep: bool = False,
        read: bool = True,
    ) -> Extended:
        """Runs input vectors `(batch, tokens, width)` behind a prefix, which stays as it is, or from the start.

        Args:
            embeds, mask (`(batch, tokens)`): padding stands on the left of the whole sequence.
            prefix (*optional*): of the same rows.
            positions (`(batch, tokens)`, *optional*): then `mask` is one of attention over the prefix as well.
            keep: whether to return the longer prefix.
            read: whether to return the hidden states of `layers`.
        """
        if mask is None:
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        if positions is None:
            mask = mask if prefix is None else torch.cat([prefix.mask.to(mask), mask], dim=1)
            positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        kwargs = {"use_cache": keep or prefix is not None, "output_hidden_states": read and self.layers != [-1]}
        if self._takes_positions:
            kwargs["position_ids"] = positions
        if prefix is not None:
            kwargs[self._cache] = prefix.twin()
        with _quick_backward(self.decoder.config, embeds):
            out = self.decoder(inputs_embeds=embeds, attention_mask=mask, return_dict=True, **kwargs)
        hidden = out.last_hidden_state
        states = [hidden if layer == -1 else out.hidden_states[layer] for layer in self.layers] if read else []
        return Extended(states, hidden, PrefixCache(cache_of(out), mask) if keep else None)

    @torch.no_grad()
    def build(self, embeds: torch.Tensor, mask: torch.Tensor, call_cost: int | None = None) -> PrefixCache:
        """A prefix of input vectors that no trained value touches, with its hidden states and without gradient, which
        for a frozen causal model changes neither the result nor any gradient. Rows of like length run together."""
        groups = group_by_length(mask, call_cost=call_cost) if self.supports_prefix_cache else []
        if len(groups) < 2:
            found = self.extend(embeds, mask, keep=True, read=False)
            return replace(found.prefix, hidden=found.hidden)
        joined: list[torch.Tensor] = []
        for rows in groups:
            width = max(int(mask[rows].sum(dim=1).max()), 1)
            part = self.extend(embeds[rows, -width:], mask[rows, -width:], keep=True, read=False)
            states = [part.hidden[:, None], *part.prefix.states]
            if not joined:  # zeros at the padding, which the mask hides
                joined = [one.new_zeros(len(mask), one.shape[1], mask.shape[1], one.shape[3]) for one in states]
            for whole, state in zip(joined, states, strict=True):
                whole[rows.to(whole.device), :, -width:] = state
        return PrefixCache.of(joined[1:], mask, joined[0][:, 0])

    @property
    def supports_prefix_cache(self) -> bool:
        """Whether caches can be cut and joined: not with sliding windows or recurrent states."""
        return all(type(layer) is DynamicLayer for layer in DynamicCache(config=self.decoder.config).layers)

    def supports(self) -> bool:
        """Whether continuing a prefix gives the numbers and the gradients of the plain path; found out once, by
        trying, with a warning if not."""
        if self.purpose not in self.supported:
            try:
                works, reason = self._agrees(), "its cached and its plain result differ"
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                works, reason = False, str(error).split("\n")[0]
            if not works:
                named = f"{type(self.language_model).__name__} cannot {self.purpose} prefixes"
                warnings.warn(f"{named} ({reason}): the same numbers by the plain path, slower.", stacklevel=3)
            self.supported[self.purpose] = works
        return self.supported[self.purpose]

    def try_prefix(self, prefix: PrefixCache, rest: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """What `supports` compares with the plain path: states of `rest (2, 3, width)` behind 6 tokens of a prefix."""
        return self.extend(rest, mask[:, 6:], prefix.cut(6)).states

    def _agrees(self) -> bool:
        table, device = self.language_model.get_input_embeddings(), self.language_model.device
        ids = (torch.arange(18, device=device).reshape(2, 9) * 7 + 3) % table.num_embeddings
        mask = torch.ones_like(ids)
        mask[1, :3] = 0
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            embeds = table(ids).detach()
            built, rest = 8 if self.supports_prefix_cache else 6, embeds[:, 6:].clone().requires_grad_()
            prefix = self.build(embeds[:, :built], mask[:, :built], call_cost=0)  # both rows apart
            found = self.try_prefix(prefix, rest, mask)
            torch.autograd.grad(sum(state.sum() for state in found), rest)
            with torch.no_grad():
                plain = self.extend(embeds, mask).states
        most = 1e-3 if embeds.dtype in (torch.float32, torch.float64) else 0.14  # cosines of 1 - 1e-6 and 0.99
        pairs = [(one[:, -1], other[:, -1]) for one, other in zip(found, plain, strict=True)]
        return all(bool(((one - other).norm(dim=-1) < most * other.norm(dim=-1)).all()) for one, other in pairs)


def content_key(content: bytes | Image.Image) -> str:
    """A digest that is the same for the same image: of the bytes of its file, or of its pixels."""
    if isinstance(content, Image.Image):
        content = f"{content.mode} {content.size}".encode() + content.tobytes()
    return hashlib.sha256(content).hexdigest()


def common_length(one: Sequence, other: Sequence) -> int:
    """How many places two sequences have in common from their beginning."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


class ContextReader:
    """Reads dialogues as lists of places: a token, or the key of the image that stands there. What the language model
    reads of an image is computed once; features of the last `max_images` are kept, all of them by default."""

    def __init__(self, model, processor, max_images: int | None = None):
        self.model, self.processor, self.max_images = model, processor, max_images
        self._features: OrderedDict[tuple, torch.Tensor] = OrderedDict()
        self._waiting: dict[tuple, object] = {}

    def read(
        self,
        conversation,
        number: int | None = None,
        max_length: int | None = None,
        allow_urls: bool | None = None,
        owner: str | None = None,
    ) -> tuple[list, list[dict]]:
        """Places and messages of a dialogue; arguments as of `ChatCache.read`."""
        load = partial(self._load, owner=owner)
        [messages], [keys] = self.processor.read_all([conversation], allow_urls, number, load)
        rows, (lost,) = self.processor.tokenize([self.processor.render(messages)], max_length, keep="latest")
        image, width = self.processor.image_token_id, self.processor.num_visual_tokens
        shown = iter([key for key in keys[lost:] for _ in range(width)])
        return [next(shown) if token == image else token for token in rows["input_ids"][0]], messages

    def images(self, places: Sequence) -> list[tuple]:
        """Keys of the images that stand in a context."""
        return [place for place in places if isinstance(place, tuple)][:: self.processor.num_visual_tokens]

    def features(self, rows: Sequence[Sequence]) -> torch.Tensor | None:
        """What the language model reads of the contexts' images `(images, visual_width)`; None without any."""
        if self._waiting:
            self._embed()
        keys = [key for row in rows for key in self.images(row)]
        for key in keys:
            self._features.move_to_end(key)
        found = torch.stack([self._features[key] for key in keys]).to(self.model.device) if keys else None
        while self.max_images is not None and len(self._features) > self.max_images:
            self._features.popitem(last=False)
        return found

    def inputs(
        self, rows: Sequence[Sequence], features: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input vectors and mask of contexts, padded on the left; features of their images may be given."""
        features = self.features(rows) if features is None else features
        image, device = self.processor.image_token_id, self.model.device
        rows = [[image if isinstance(place, tuple) else place for place in row] for row in rows]
        ids = [torch.tensor(row, dtype=torch.long, device=device) for row in rows]
        mask = pad_sequence([torch.ones_like(row) for row in ids], True, padding_side="left")
        return self.model.get_inputs_embeds(pad_sequence(ids, True, padding_side="left"), features), mask

    def _load(self, source, allow_urls: bool, owner: str | None) -> tuple:
        """An image's key: the same for the same owner and content, the bytes of a file or pixels."""
        is_encoded = isinstance(source, (str, os.PathLike, bytes))
        content = image_bytes(source, allow_urls=allow_urls) if is_encoded else load_image(source)
        key = (owner, content_key(content))
        if key not in self._features and key not in self._waiting:
            self._waiting[key] = load_image(content, name=source_name(source)) if is_encoded else content
            if len(self._waiting) == _IMAGE_BATCH:
                self._embed()
        return key

    @torch.inference_mode()
    def _embed(self) -> None:
        waiting, self._waiting = self._waiting, {}
        inputs = self.processor.process_images(list(waiting.values()))
        if "visual_features" not in inputs:  # else an encoder has embedded them
            inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
            inputs = {"visual_features": self.model.get_visual_features(**inputs).cpu()}
        self._features.update(zip(waiting, inputs["visual_features"], strict=True))


class _Kept(NamedTuple):
    """A context without its readout, whose it is, and its prefix."""

    places: list
    owner: str | None
    prefix: PrefixCache


class ReadChat(NamedTuple):
    """A dialogue to run: its places, features of its images, whose it is, and the inputs of an anchored query."""

    places: list
    features: torch.Tensor | None
    owner: str | None
    anchors: dict


class ChatCache:
    """Embeds one dialogue at a time, beginning where an earlier one that began alike has ended: turn k runs only its
    own tokens. Keys and values of the chats used last are kept, up to `max_bytes`. Threads wait for one another; a
    copy begins empty."""

    def __init__(self, model, processor, max_bytes: int = DEFAULT_BYTES):
        self.model, self.processor, self.max_bytes = model, processor, max_bytes
        self._chats: list[_Kept] = []  # the one used last stands last
        self._adapters = model.adapter_state  # that they were made with
        self._reader = ContextReader(model, processor, _IMAGES)
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple:
        return type(self), (self.model, self.processor, self.max_bytes)

    def __len__(self) -> int:
        return len(self._chats)

    @property
    def num_bytes(self) -> int:
        """What the kept keys and values take."""
        return sum(chat.prefix.num_bytes for chat in self._chats)

    def clear(self) -> None:
        """Forgets everything, as it must when the model's weights change; for adapters it does so itself."""
        with self._lock:
            self._chats, self._reader = [], ContextReader(self.model, self.processor, _IMAGES)

    def takes(self, conversation) -> bool:
        """Whether a dialogue is a chat of several messages, and the language model can go on from a cache."""
        is_chat = isinstance(conversation, (list, tuple)) and len(conversation) > 1 and is_message(conversation[0])
        return is_chat and self.max_bytes > 0 and self.works

    @property
    def works(self) -> bool:
        """Whether the language model gives the same numbers from a cache; found out once, by trying."""
        with self._lock:
            decoder = self.model.frozen_decoder
            return decoder.supports_prefix_cache and decoder.supports()

    def embed(self, conversation, *args, **kwargs) -> torch.Tensor:
        """The query of one dialogue, `(1, width)`: that of `get_multimodal_features` up to rounding; see `read`."""
        return self.run(self.read(conversation, *args, **kwargs))

    def read(
        self,
        conversation,
        max_length: int | None = None,
        allow_urls: bool | None = None,
        owner: str | None = None,
        number: int | None = None,
    ) -> ReadChat:
        """The first half of `embed`.

        Args:
            conversation: a list of chat messages.
            max_length (`int`, *optional*): as in `process_queries`; a context that is cut to it runs as a whole.
            allow_urls (`bool`): whether images may be fetched from URLs.
            owner (`str`, *optional*): whose dialogue it is. What is kept of another owner's is not used: the time of
                an answer would tell what others have asked.
            number (`int`, *optional*): of the dialogue, for errors.
        """
        with self._lock:
            places, messages = self._reader.read(conversation, number, max_length, allow_urls, owner)
            return ReadChat(places, self._reader.features([places]), owner, self.processor.process_anchors([messages]))

    @torch.inference_mode()
    def run(self, chat: ReadChat) -> torch.Tensor:
        """The second half of `embed`: what follows a kept context is run, and the longer context is kept."""
        places, features, owner, anchors = chat  # a pipeline hands on a plain tuple
        device = self.model.device
        with self._lock:
            readout = self._run(places, features, owner)
            counts = torch.tensor([[len(places)], [len(self._reader.images(places))]], device=device)
            anchors = {name: value.to(device) for name, value in anchors.items()}
            return self.model.anchor_queries(readout, *counts, features, **anchors).pooler_output

    def _run(self, places: list, features: torch.Tensor | None, owner: str | None) -> torch.Tensor:
        body = len(places) - self.processor.readout_length
        if (adapters := self.model.adapter_state) != self._adapters:
            self._chats, self._adapters = [], adapters
        # Of another owner's chat, nothing is in common.
        alike = [common_length(chat.places, places[:body]) if chat.owner == owner else 0 for chat in self._chats]
        common = max(alike, default=0)
        kept = self._chats[alike.index(common)] if common else None
        if features is not None:
            features = features[len(self._reader.images(places[:common])) :]
        embeds, _ = self._reader.inputs([places[common:]], features)
        found = self.model.frozen_decoder.extend(embeds, prefix=kept and kept.prefix.cut(common), keep=True)
        if kept is not None and common == len(kept.places):  # otherwise another chat, which began alike
            self._chats = [chat for chat in self._chats if chat is not kept]
        self._chats.append(_Kept(places[:body], owner, found.prefix.cut(body)))
        while self._chats and self.num_bytes > self.max_bytes:
            self._chats.pop(0)
        return self.model.heads.unify(found.states)
