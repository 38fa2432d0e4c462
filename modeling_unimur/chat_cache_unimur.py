"""A chat's keys and values, kept between its turns: turn k runs its own tokens, and not the k - 1 before it again."""

import hashlib
import os
import warnings
from collections import OrderedDict
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

import torch

from .conversation import is_message, read_conversation
from .image_loading import image_bytes, load_image, source_name
from .memory_index import ThreadLock
from .readout_unimur import FrozenReader

# About ten chats of a thousand tokens with a language model of 135 million parameters; one with 6.7 billion.
DEFAULT_BYTES = 512 * 2**20
# What the language model reads of pictures is kept apart: a few KB each.
_PICTURES = 1024


class _Kept:
    """A context without its readout: what stands at each place, and keys and values of every layer."""

    def __init__(self, places: list, layers: "list[tuple[torch.Tensor, torch.Tensor]]", owner: "str | None" = None):
        self.places, self.layers, self.owner = places, layers, owner

    @property
    def num_bytes(self) -> int:
        return sum(state.nbytes for layer in self.layers for state in layer)


class ReadChat(NamedTuple):
    """A dialogue that is read and not run yet: its tokens, key and features of each picture in them, and the inputs
    of an anchored query, whose few texts are embedded anew in every turn."""

    tokens: "list[int]"
    pictures: list
    owner: "str | None"
    anchors: dict


class ChatCache:
    """Embeds one dialogue at a time, beginning where an earlier one that began alike has ended. Several threads may
    use it; they wait for one another. A copy of it begins empty.

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): a pair.
        max_bytes (`int`): of keys and values; the chats that were used last are kept. 0 keeps none.
    """

    def __init__(self, model, processor, max_bytes: int = DEFAULT_BYTES):
        self.model, self.processor, self.max_bytes = model, processor, max_bytes
        self._chats: list[_Kept] = []  # the one used last stands last
        self._pictures: OrderedDict = OrderedDict()
        self._works: bool | None = None
        self._lock = ThreadLock()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_chats": [], "_pictures": OrderedDict()}

    def __len__(self) -> int:
        return len(self._chats)

    @property
    def num_bytes(self) -> int:
        """What the kept keys and values take."""
        return sum(chat.num_bytes for chat in self._chats)

    def clear(self) -> None:
        """Forgets everything, as it must when the model's weights change."""
        with self._lock:
            self._chats, self._works = [], None
            self._pictures.clear()

    def takes(self, conversation) -> bool:
        """Whether a dialogue is worth keeping, a chat of several messages, and the language model can go on from a
        cache: not with sliding windows or recurrent states."""
        is_chat = isinstance(conversation, (list, tuple)) and len(conversation) > 1 and is_message(conversation[0])
        # UniVL-DR has no language model to go on with.
        return is_chat and self.max_bytes > 0 and hasattr(self.model, "language_model") and self.works

    @property
    def works(self) -> bool:
        """Whether the language model gives the same numbers from a cache; found out once, by trying."""
        with self._lock:
            if self._works is None:
                self._works = self._tried()
            return self._works

    def _tried(self) -> bool:
        if not FrozenReader(self.model.language_model, self.model.config.ret_layers).joins_caches:
            return False
        try:
            works, reason = self._agrees(), "its cached and its plain result differ"
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            works, reason = False, str(error).split("\n")[0]
        if not works:
            warnings.warn(
                f"{type(self.model.language_model).__name__} cannot go on from a chat's cache ({reason}): "
                "each turn runs anew; the same numbers, slower.",
                stacklevel=3,
            )
        return works

    @torch.inference_mode()
    def _agrees(self) -> bool:
        table = self.model.get_input_embeddings().num_embeddings
        row = [(7 * place + 3) % table for place in range(9)] + self.model.config.ret_token_ids
        plain = self.model.get_readout_features(torch.tensor([row], device=self.model.device))
        _, layers = self._extend([], row[:5], None)
        cached, _ = self._extend(layers, row[5:], None)
        return float((plain * cached).sum()) > self.model._least_cosine()

    def embed(
        self,
        conversation,
        max_length: "int | None" = None,
        allow_urls: "bool | None" = None,
        owner: "str | None" = None,
    ) -> torch.Tensor:
        """The unified embedding of one dialogue, `(1, width)`: that of `get_multimodal_features` up to rounding.

        Args:
            conversation: a list of chat messages.
            max_length (`int`, *optional*): as in `process_queries`. Once it is reached, a context begins at another
                token in every turn, and runs as a whole.
            allow_urls (`bool`): whether pictures may be fetched from URLs.
            owner (`str`, *optional*): whose dialogue it is. What is kept of another owner's is not used: the time of
                an answer would tell what others have asked.

        Raises:
            ValueError, FileNotFoundError: as `process_queries`.
        """
        return self.run(self.read(conversation, max_length, allow_urls, owner))

    def read(
        self,
        conversation,
        max_length: "int | None" = None,
        allow_urls: "bool | None" = None,
        owner: "str | None" = None,
        where: str = "The dialogue",
    ) -> ReadChat:
        """The first half of `embed`, with its arguments; errors call the dialogue `where`."""
        allow_urls = self.processor.allow_urls if allow_urls is None else allow_urls
        with self._lock:
            load = partial(self._picture, owner=owner)
            messages, pictures = read_conversation(conversation, where, allow_urls, load=load)
            data, (lost,) = self.processor._tokenize([self.processor.render(messages)], max_length, keep="latest")
            anchors = self.processor.process_anchors([messages])
        return ReadChat(data["input_ids"][0], pictures[lost:], owner, anchors)

    @torch.inference_mode()
    def run(self, chat: ReadChat) -> torch.Tensor:
        """The second half of `embed`: what follows a kept context is run, and the longer context is kept."""
        tokens, pictures, owner, anchors = chat  # a pipeline hands on a plain tuple
        with self._lock:
            readout = self._run(tokens, pictures, owner)
            counts = torch.tensor([[len(tokens)], [len(pictures)]], device=readout.device)
            seen = torch.stack([feature for _, feature in pictures]).to(readout.device) if pictures else None
            anchors = {name: value.to(readout.device) for name, value in anchors.items()}
            return self.model.anchor_queries(readout, *counts, seen, **anchors).query

    def _run(self, tokens: "list[int]", pictures: list, owner: "str | None") -> torch.Tensor:
        body = len(tokens) - self.processor._suffix_length
        places = self._places(tokens[:body], [key for key, _ in pictures])
        kept, common = self._longest(places, owner)
        layers = [] if kept is None else [(k[:, :, :common], v[:, :, :common]) for k, v in kept.layers]
        image, width = self.processor.image_token_id, self.processor.num_visual_tokens
        fresh = pictures[tokens[:common].count(image) // width :]
        features = torch.stack([feature for _, feature in fresh]).to(self.model.device) if fresh else None
        embeds, layers = self._extend(layers, tokens[common:], features)
        if kept is not None and common == len(kept.places):  # otherwise another chat, which began alike
            self._chats.remove(kept)
        layers = [(k[:, :, :body].clone(), v[:, :, :body].clone()) for k, v in layers]
        self._chats.append(_Kept(places, layers, owner))
        self._evict()
        return embeds

    def _extend(self, layers: list, tokens: "list[int]", features: "torch.Tensor | None"):
        """Runs tokens that follow a cache of one row: the embedding read at their end, and the longer cache."""
        config = self.model.config
        reader = FrozenReader(self.model.language_model, config.ret_layers)
        inputs = self.model._embed_tokens(torch.tensor([tokens], device=self.model.device), features)
        states, layers = reader.extend(layers, inputs, min(config.num_ret_tokens, len(tokens)))
        return self.model.heads.unify(states), layers

    def _longest(self, places: list, owner: "str | None") -> "tuple[_Kept | None, int]":
        best, common = None, 0
        for chat in self._chats:
            if chat.owner != owner:
                continue
            pairs = enumerate(zip_longest(places, chat.places))
            alike = next((place for place, (mine, theirs) in pairs if mine != theirs), len(places))
            if alike > common:
                best, common = chat, alike
        return best, common

    def _places(self, tokens: "list[int]", keys: list) -> list:
        """Tokens, and at the places of pictures which one it is."""
        places, seen = [], 0
        for token in tokens:
            if token == self.processor.image_token_id:
                places.append(keys[seen // self.processor.num_visual_tokens])
                seen += 1
            else:
                places.append(token)
        return places

    def _evict(self) -> None:
        while self._chats and self.num_bytes > self.max_bytes:
            self._chats.pop(0)

    # -- pictures ---------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def _picture(self, source, allow_urls: bool, owner: "str | None" = None) -> tuple:
        """A picture's key and what the language model reads of it `(visual_width,)`, computed once."""
        is_encoded = isinstance(source, (str, os.PathLike, bytes))
        content = image_bytes(source, allow_urls=allow_urls) if is_encoded else load_image(source)
        key = (owner, *_image_key(content))
        if key not in self._pictures:
            image = load_image(content, name=source_name(source)) if is_encoded else content
            inputs = self.processor.process_images([image])
            inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
            self._pictures[key] = self.model._visual_choice(*self.model.encode_images(**inputs))[0].cpu()
        self._pictures.move_to_end(key)
        while len(self._pictures) > _PICTURES:
            self._pictures.popitem(last=False)
        return key, self._pictures[key]


def _image_key(content) -> tuple:
    """The same for the same image: by the bytes of its file, or by its pixels as the model sees them."""
    if isinstance(content, bytes):
        return (hashlib.sha256(content).digest(),)
    return content.size, hashlib.sha256(content.tobytes()).digest()


__all__ = ["DEFAULT_BYTES", "ChatCache", "ReadChat"]
