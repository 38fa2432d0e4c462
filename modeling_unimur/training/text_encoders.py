"""Loads the encoder of precomputed vectors, which embeds further texts in the same space."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from torch.nn import functional as F

from ..encoding.encoder import embed_by_length
from ..encoding.text_encoders import encode_documents, encode_queries, load_text_encoder, reads_images


@dataclass
class TextSpace:
    """Texts to unit vectors.

    Args:
        name: Hub id or absolute path of the folder.
        encode: a list of texts to `(texts, width)`, as candidates.
        encode_query: the same as queries, for encoders that have a form of their own for them; of longer texts the
            latest words, as an anchored query reads them.
        revision: the commit on the Hub; None for a folder.
        reads_images: whether the encoder embeds images as well.
    """

    name: str
    encode: Callable[[list[str]], torch.Tensor]
    encode_query: Callable[[list[str]], torch.Tensor]
    revision: str | None = None
    reads_images: bool = False

    def encode_documents(self, texts: Sequence[str], desc: str = "Encoding texts") -> torch.Tensor:
        """Encodes candidates as unit vectors `(texts, width)`."""
        return _unit_vectors(self.encode, texts, desc)

    def encode_queries(self, texts: Sequence[str], desc: str = "Encoding texts") -> torch.Tensor:
        """Encodes queries as unit vectors `(texts, width)`."""
        return _unit_vectors(self.encode_query, texts, desc)


def _unit_vectors(encode: Callable[[list[str]], torch.Tensor], texts: Sequence[str], desc: str) -> torch.Tensor:
    return embed_by_length(texts, lambda some: F.normalize(encode(some).float().cpu(), dim=-1), desc=desc)


def load_text_space(source: str | os.PathLike) -> TextSpace:
    """Loads the text tower of a CLIP, SigLIP or open_clip model, or any model of sentence-transformers.

    Args:
        source: Hub id or folder.

    Raises:
        OSError: a dual encoder that could not be loaded.
        ValueError: when there is no such model.
        ImportError: without the library that runs it.
    """
    name = folder_or_id(source)
    revision = _commit(name)
    encoder = load_text_encoder(name, revision)
    encode, encode_query = partial(encode_documents, encoder), partial(encode_queries, encoder)
    return TextSpace(name, encode, encode_query, revision, reads_images(encoder))


def folder_or_id(source: str | os.PathLike) -> str:
    """Returns the absolute path of a folder, or the Hub id as it is."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.is_dir() else os.fspath(source)


def _commit(name: str) -> str | None:
    """Returns the commit that the main branch of a repository points to, or None if it is not available."""
    if os.path.isdir(name):
        return None
    for file in ("config.json", "modules.json"):
        try:  # <cache>/models--owner--name/snapshots/<commit>/<file>
            return Path(hf_hub_download(name, file)).parent.name
        except (OSError, ValueError):  # the loader says what is wrong
            continue
    return None
