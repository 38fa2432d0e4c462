"""One encoder for building an index, mining, development recalls and evaluation: queries and documents as vectors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from ..configuration_open_clip import joint_width
from ..data.image_bytes import read_image_bytes
from ..image_loading import load_image
from ..modeling_open_clip import image_vectors, pool_images, project_images, space_name, text_vectors

logger = logging.getLogger(__name__)

_TEXTS, _IMAGES = 64, 32


def embed_by_length(
    items: Sequence[Any],
    embed: Callable[[list], torch.Tensor],
    batch_size: int = _TEXTS,
    size: Callable[[Any], int] = len,
    desc: str | None = None,
    width: int = 0,
) -> torch.Tensor:
    """Compute vectors `(items, width)` in batches of similar length, and return them in the order of the items.

    Args:
        items: in any order.
        embed: a list of at most `batch_size` items to `(items, width)`.
        size: the length of an item.
        desc: text of a progress bar; there is none by default.
        width: width of the vectors where there is no item.
    """
    order, parts = sorted(range(len(items)), key=lambda number: size(items[number])), []
    for start in tqdm(range(0, len(order), batch_size), desc=desc, disable=desc is None, leave=False):
        parts.append(embed([items[number] for number in order[start : start + batch_size]]))
    return torch.cat(parts)[torch.tensor(order).argsort()] if parts else torch.empty(0, width)


class ImageVectors(NamedTuple):
    """Outputs of an image tower.

    Args:
        vectors (`(images, joint_width)`): in the joint space, not normalised; zeros for what cannot be read.
        readable (`(images,)`): which images could be read.
        pooled (`(images, pooled_width)`): before the joint space; None where it was not asked for.
    """

    vectors: torch.Tensor
    readable: torch.Tensor
    pooled: torch.Tensor | None = None


def read_image(address: str):
    """Read the image at an address (`data.image_bytes`). Returns None if it cannot be read."""
    try:
        return load_image(read_image_bytes(address), name=address)
    except (OSError, ValueError) as error:
        logger.debug("%s", error)
        return None


class Encoder:
    """Queries and documents of a model as vectors, float32 on the CPU; the same for one process, torchrun and Ray.

    The model evaluates meanwhile, whatever mode it is in.

    Args:
        model (`UniMuRModel` or `UniVLDRModel`), processor: a pair, on any device.
        precision: data type of autocast; none by default.
        pooled: gives the image tower's outputs `(images, pooled_width)` of image addresses and which of them could be
            read `(images,)`, where they are kept; only their projection is then computed.
        progress: whether to show bars.
    """

    def __init__(
        self,
        model,
        processor,
        precision: torch.dtype | None = None,
        pooled: Callable[[Sequence[str]], tuple[torch.Tensor, Any]] | None = None,
        progress: bool = False,
    ):
        self.model, self.processor = model, processor
        self.precision, self.pooled, self.progress = precision, pooled, progress

    @cached_property
    def name(self) -> str:
        """Name and revision of the space of documents, see `space_name`.

        Raises:
            ValueError: a model without a dual encoder.
        """
        name = space_name(self.model, self.processor)
        if name is None:
            raise ValueError("This model has no dual encoder: its candidates are somebody else's vectors.")
        return name

    @property
    def width(self) -> int:
        """Width of the vectors of queries and documents."""
        return self.model.config.embedding_width

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str | None = None, clip: str | None = None) -> Encoder:
        """The encoder of a model folder, on an accelerator if there is one and no other `device` is named; `clip` is
        the dual encoder in place of the one that a heads-only model names.

        The language model, which reads dialogues and no candidate, is not loaded where the folder holds heads only.
        """
        from transformers import AutoModelForCausalLM, PreTrainedConfig

        from .. import UniMuRConfig, UniMuRModel, UniMuRProcessor, UniVLDRModel, UniVLDRProcessor

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if PreTrainedConfig.get_config_dict(folder)[0].get("model_type") != UniMuRConfig.model_type:
            model = UniVLDRModel.from_pretrained(folder)
            return cls(model.to(device), UniVLDRProcessor.from_pretrained(folder))
        config, instead = UniMuRConfig.from_pretrained(folder), {}
        if config.heads_only:
            with torch.device("meta"):
                instead["language_model"] = AutoModelForCausalLM.from_config(config.text_config)
            instead |= {"clip": clip} if clip else {}
        model = UniMuRModel.from_pretrained(folder, **instead)
        model.language_model = None
        return cls(model.to(device), UniMuRProcessor.from_pretrained(folder))

    # -- unit vectors -------------------------------------------------------------------------------------------------
    def encode_queries(self, queries: Sequence[Any], batch_size: int = _TEXTS) -> torch.Tensor:
        """Unit vectors `(queries, width)` of dialogues, as `processor.process_queries` takes them; of UniVL-DR, texts.

        Raises:
            ValueError, FileNotFoundError: as `process_queries`.
        """

        def embed(part: list) -> torch.Tensor:
            return self._features(self.processor.process_queries(part))

        return self._by_length(queries, embed, "Queries", batch_size, lambda query: len(str(query)))

    def encode_documents(
        self, documents: Sequence[Any], images: Callable[[list], Mapping] | None = None, batch_size: int = _TEXTS
    ) -> torch.Tensor:
        """Encode UniVL-DR's texts and captioned images as unit vectors `(documents, width)`.

        Args:
            documents: with `kind` ("text" or "image") and `text`, an image's caption.
            images: image documents to tensors, such as `training.documents.DecodedImages`; without it images are
                their captions.
        """

        def texts(part: list) -> torch.Tensor:
            return self._features(self.processor.process_texts([document.text for document in part]))

        def captioned(part: list) -> torch.Tensor:
            inputs = self.processor.process_captions([document.text for document in part])
            if images is None:
                inputs.pop("caption_mask", None)
            return self._features({**inputs, **({} if images is None else images(part))})

        vectors = torch.empty(len(documents), self.width)
        for embed, shown in ((texts, False), (captioned, True)):
            rows = [row for row, document in enumerate(documents) if (document.kind == "image") == shown]
            some = [documents[row] for row in rows]
            vectors[rows] = self._by_length(
                some, embed, "Documents", batch_size, lambda document: len(document.text), self.width
            )
        return vectors

    def vectors(self, kind: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Encode prepared candidates of one kind as unit vectors `(items, width)`."""
        return (image_vectors if kind == "image" else text_vectors)(self.model, inputs)

    # -- the towers, before any trained map and fusion ----------------------------------------------------------------
    def encode_texts(
        self, texts: Sequence[str], keep: str = "first", desc: str | None = "Encoding texts"
    ) -> torch.Tensor:
        """Encode texts by the text tower: `(texts, joint_width)`, not normalised.

        Args:
            texts: in any order.
            keep: which tokens of a longer text are read, the `"first"` or the `"latest"`.
            desc: text of a progress bar; None for none.
        """

        def embed(part: list[str]) -> torch.Tensor:
            return self.model.encode_texts(**self._placed(self.processor.process_texts(part, keep=keep)))

        return self._by_length(texts, embed, desc, width=joint_width(self.model.config.clip_config))

    def encode_images(
        self,
        images: Sequence[Any],
        load: Callable[[Any], Any] = read_image,
        batch_size: int = _IMAGES,
        desc: str | None = "Encoding images",
        with_pooled: bool = False,
    ) -> ImageVectors:
        """Encode images by the image tower, not normalised. Images that cannot be read are counted in the log.

        Args:
            images: addresses, or whatever `load` takes.
            load: an image to one that the processor takes, or None where it cannot be read.
            desc: text of a progress bar.
            with_pooled: whether to return the tower's outputs before the joint space too.
        """
        clip, good, pooled, vectors = self.model.clip, [], [], []
        with self._evaluating():
            for start in tqdm(range(0, len(images), batch_size), desc=desc, disable=not self.progress, leave=False):
                features, there = self._pooled(images[start : start + batch_size], load)
                good.append(there)
                if bool(there.any()):
                    vectors.append(project_images(clip, features.to(clip.device, clip.dtype)).float().cpu())
                    pooled += [features.float().cpu()] if with_pooled else []
        readable = torch.cat(good) if good else torch.zeros(0, dtype=torch.bool)
        if not bool(readable.all()):
            logger.warning("%d of %d images could not be read", int((~readable).sum()), len(readable))
        width = joint_width(self.model.config.clip_config)
        return ImageVectors(_at(readable, vectors, width), readable, _at(readable, pooled) if with_pooled else None)

    def _pooled(self, images: Sequence[Any], load: Callable[[Any], Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The image tower's outputs of the images that can be read, and which these are."""
        if self.pooled is not None:
            features, there = self.pooled(images)
            return features, torch.as_tensor(there)
        loaded = [load(image) for image in images]
        shown = [image for image in loaded if image is not None]
        there = torch.tensor([image is not None for image in loaded])
        if not shown:
            return torch.empty(0, 0), there
        return pool_images(self.model.clip, **self._placed(self.processor.process_images(shown))), there

    def fuse(self, images, captions, has_image, has_caption) -> torch.Tensor:
        """Image and caption vectors `(images, width)` as unit vectors of the same shape, as UniVL-DR's configuration
        fuses them; the masks `(images,)` say what there is."""
        fusion = self.model.fusion
        dtype = torch.float32 if fusion.map is None else fusion.map.weight.dtype
        parts = [torch.as_tensor(part).to(self.model.device, dtype) for part in (images, captions)]
        masks = [torch.as_tensor(mask).to(self.model.device) for mask in (has_image, has_caption)]
        with torch.no_grad():
            return fusion(*parts, image_mask=masks[0], caption_mask=masks[1]).float().cpu()

    # -- running ------------------------------------------------------------------------------------------------------
    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

    def _by_length(self, items, embed, desc, batch_size=_TEXTS, size=len, width=0) -> torch.Tensor:
        def run(part: list) -> torch.Tensor:
            with torch.autocast(self.model.device.type, self.precision, enabled=self.precision is not None):
                return embed(part).float().cpu()

        with self._evaluating():
            return embed_by_length(items, run, batch_size, size, desc if self.progress else None, width)

    def _features(self, inputs: Mapping) -> torch.Tensor:
        return self.model.get_multimodal_features(**self._placed(inputs)).pooler_output

    def _placed(self, inputs: Mapping) -> dict[str, torch.Tensor]:
        return {name: value.to(self.model.device) for name, value in inputs.items()}


def _at(places: torch.Tensor, parts: list[torch.Tensor], width: int = 0) -> torch.Tensor:
    """Rows at the places where there is one, zeros elsewhere."""
    rows = torch.cat(parts) if parts else torch.empty(0, width)
    found = torch.zeros(len(places), rows.shape[1])
    found[places] = rows
    return found
