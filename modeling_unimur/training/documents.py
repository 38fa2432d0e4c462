"""Documents of a retrieval set by id and by number, and their images as tensors."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from PIL import Image

from ..data.image_bytes import read_image_bytes
from ..data.retrieval_set import RetrievalSet
from ..image_loading import load_image
from .frozen_features import FeatureOptions, FrozenImages
from .frozen_towers import frozen_towers
from .pairs import in_memory_if_small

logger = logging.getLogger(__name__)


class Document(NamedTuple):
    """A row of the corpus; `text` is an image's caption, `image` its address."""

    doc_id: str
    kind: str
    text: str
    image: str
    group: str


class Documents(Sequence):
    """Numbers the documents of the corpus in order.

    Args:
        retrieval (`RetrievalSet`): the set.

    Raises:
        ValueError: an id stands twice, a kind is neither text nor image, or a document has nothing in it.
    """

    def __init__(self, retrieval: RetrievalSet):
        corpus = retrieval.corpus
        self.ids, self.kinds = list(corpus["doc_id"][:]), list(corpus["kind"][:])
        self.texts = [text or "" for text in corpus["text"][:]]
        self.images = [image or "" for image in corpus["image"][:]]
        grouped = "group" in corpus.column_names
        self.groups = [group or "" for group in corpus["group"][:]] if grouped else [""] * len(self.ids)
        self.numbers = {doc_id: number for number, doc_id in enumerate(self.ids)}
        self._check()

    def _check(self) -> None:
        if len(self.numbers) < len(self.ids):
            twice = next(doc for doc, count in Counter(self.ids).items() if count > 1)
            raise ValueError(f"The corpus holds {twice!r} twice: give each document its own id.")
        for number, kind in enumerate(self.kinds):
            if kind not in ("text", "image"):
                raise ValueError(f"Document {self.ids[number]!r}: kind is 'text' or 'image', not {kind!r}.")
            if not self.texts[number].strip() and (kind == "text" or not self.images[number]):
                raise ValueError(f"Document {self.ids[number]!r} ({kind}) is empty: leave it out of the corpus.")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> Document:
        columns = (self.ids, self.kinds, self.texts, self.images, self.groups)
        return Document(*(column[number] for column in columns))


class DecodedImages:
    """Images from their files, for an image tower that trains. One that cannot be read is reported once; its
    document is then its caption.

    Args:
        processor (`UniVLDRProcessor`): processor of the model.
    """

    def __init__(self, processor):
        self.processor = processor
        self.threads = min(8, os.cpu_count() or 1)
        self.unreadable: set[str] = set()

    def __call__(self, documents: "Sequence[Document]") -> "dict[str, torch.Tensor]":
        """`pixel_values` of image documents, and what else the image processor returns; `image_mask`, False where
        there is no image, if any is missing."""
        with ThreadPoolExecutor(self.threads) as pool:
            read = list(pool.map(self._read, [document.image for document in documents]))
        there = [image is not None for image in read]
        images = [image or Image.new("RGB", (32, 32)) for image in read]
        batch = dict(self.processor.image_processor(images, return_tensors="pt"))
        return batch if all(there) else {**batch, "image_mask": torch.tensor(there)}

    def _read(self, address: str) -> "Image.Image | None":
        if not address or address in self.unreadable:
            return None
        try:
            return load_image(read_image_bytes(address), name=address)
        except (OSError, ValueError) as error:
            self.unreadable.add(address)
            logger.warning("A document is its caption alone: %s", error)
            return None


class PooledImages:
    """Outputs of a frozen image tower before the joint space, computed once and kept on disk.

    Args:
        model (`UniVLDRModel`): model of the tower.
        processor (`UniVLDRProcessor`): processor of the model.
        addresses: addresses of all images that will be asked for.
        options (`FeatureOptions`, *optional*): how the tower runs.
    """

    def __init__(self, model, processor, addresses: "Iterable[str]", options: "FeatureOptions | None" = None):
        towers = frozen_towers(model.clip, processor.tokenizer)
        addresses = list(dict.fromkeys(address for address in addresses if address))
        store = FrozenImages(towers.image_tower, towers.encode_images, processor.image_processor, options)
        features = store.features(addresses)
        logger.info("%s", features.describe("images"))
        self.rows = in_memory_if_small(features)
        self.places = {addresses[position]: row for row, position in enumerate(features.kept.tolist())}
        self.unreadable = set(addresses) - set(self.places)

    def lookup(self, addresses: "Sequence[str]") -> "tuple[torch.Tensor, torch.Tensor]":
        """Outputs `(readable images, pooled_width)` of image addresses, and which could be read `(images,)`, as
        `encoding.encoder.Encoder` takes them."""
        places = [self.places.get(address) for address in addresses]
        good = torch.tensor([place is not None for place in places], dtype=torch.bool)
        return self.rows[torch.tensor([place for place in places if place is not None], dtype=torch.long)], good

    def __call__(self, documents: "Sequence[Document]") -> "dict[str, torch.Tensor]":
        """`pooled_features` of image documents; `image_mask`, False where there is no image, if any is missing."""
        found, there = self.lookup([document.image for document in documents])
        rows = torch.zeros(len(there), self.rows.shape[1])
        rows[there] = found
        return {"pooled_features": rows} | ({} if bool(there.all()) else {"image_mask": there})
