"""Queries, texts and captioned images as the tensors that `UniVLDRModel` reads."""

from __future__ import annotations

import torch
from transformers import BatchFeature, PreTrainedConfig
from transformers.processing_utils import Unpack

from .configuration_univl_dr import DUAL_ENCODERS
from .conversation import (
    DualEncoderProcessor,
    RetrievalProcessorKwargs,
    as_batch,
    check_cleaning,
    sort_options,
)


class UniVLDRProcessor(DualEncoderProcessor):
    """Prepares queries and documents for the one dual encoder. Images are not fetched from URLs, unless a call passes
    `allow_urls=True` or the attribute `allow_urls`, which is never saved, is set.

    Args:
        image_processor, tokenizer: the dual encoder's.
        max_target_tokens (`int`): longest query, text and caption; longer ones are cut at the end.
        target_padding (`str`): `"longest"`, or `"max_length"` for SigLIP's text tower, which has no mask.
        verbalization_tokens (`int`): room that `verbalization.join_caption` keeps for the words of an image; 0 lets a
            long caption push them out, as in the released code.
        clean_text (`str`, *optional*): how texts are cleaned: `"clip"` as OpenAI's CLIP and UniVL-DR's released
            checkpoints do.
        fingerprint (`dict`, *optional*): what the saved processor makes of fixed texts; see `WholeProcessorMixin`.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        max_target_tokens: int = 77,
        target_padding: str = "longest",
        verbalization_tokens: int = 0,
        clean_text: str | None = None,
        fingerprint: dict | None = None,
        **kwargs,
    ):
        self.max_target_tokens, self.target_padding = max_target_tokens, target_padding
        self.verbalization_tokens, self.fingerprint = verbalization_tokens, fingerprint
        self.clean_text = check_cleaning(clean_text)
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_backbones(cls, clip: str, clip_revision: str | None = None, **kwargs) -> UniVLDRProcessor:
        """A processor for the dual encoder `clip`, a Hub id or a folder. `kwargs` are arguments of the constructor;
        `token`, `cache_dir` and `local_files_only` go to the loaders."""
        hub = {key: kwargs.pop(key) for key in ("token", "cache_dir", "local_files_only") if key in kwargs}
        return cls(*cls.dual_encoder_parts(clip, clip_revision, hub, kwargs), **kwargs)

    query_kind = "query"

    # -- queries and documents --------------------------------------------------------------------------------------
    @property
    def target_tokenizer(self):
        """The dual encoder's tokenizer, under the name it has in `UniMuRProcessor`."""
        return self.tokenizer

    def process_queries(
        self,
        queries,
        max_length: int | None = None,
        allow_urls: bool | None = None,
        first: int | None = 0,
        **kwargs: Unpack[RetrievalProcessorKwargs],
    ) -> BatchFeature:
        """Prepares queries for `get_text_features`: `input_ids`, `attention_mask` `(queries, tokens)`.

        Args:
            queries: one query or a list; a query is a string, or chat messages, whose words are joined.
            max_length (`int`, *optional*): in tokens, `max_target_tokens` by default.
            allow_urls (`bool`, *optional*): has no effect, since a query holds no image.
            first (`int`, *optional*): number of the first query, for errors.
            kwargs: as in `process_texts`.
        """
        read, _ = self.read_all(queries, allow_urls, first)
        texts = ["\n".join(part["text"] for message in messages for part in message["content"]) for messages in read]
        limits = {} if max_length is None else {"max_length": min(max_length, self.max_target_tokens)}
        return self.process_texts(texts, **limits, **kwargs)

    process_context = process_queries  # its name in the first releases

    def read_all(self, queries, allow_urls: bool | None = None, first: int | None = 0, load=None) -> tuple[list, list]:
        """As in [`DualEncoderProcessor`]; images are refused, whatever would load them."""
        return super().read_all(queries, False, first, _refuse_image)

    def process_documents(
        self,
        images,
        captions: list[str | None],
        allow_urls: bool | None = None,
        **kwargs: Unpack[RetrievalProcessorKwargs],
    ) -> BatchFeature:
        """Images, as `process_images` takes them, with a caption each (None or an empty one for an image without), for
        `get_multimodal_features`, which wants as many captions as images: `pixel_values` and what `process_captions`
        returns. Raises FileNotFoundError where an image is not there.
        """
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        captions = [captions] if isinstance(captions, str) else list(captions)
        pixels = self.process_images(images, allow_urls=allow_urls, **kwargs)
        return BatchFeature({**pixels, **self.process_captions(captions, **kwargs)})

    def process_captions(self, captions: list[str | None], **kwargs: Unpack[RetrievalProcessorKwargs]) -> BatchFeature:
        """Captions of images: `input_ids`, `attention_mask` `(images, tokens)`; and, where one is missing,
        `caption_mask` `(images,)`, False there."""
        words = [(caption or "").strip() for caption in captions]
        batch = self.process_texts(words, **kwargs)
        if not all(words):
            mask = {"caption_mask": torch.tensor([bool(text) for text in words])}
            batch.update(as_batch(mask, sort_options(kwargs)[2]))
        return batch

    def __call__(
        self, images=None, text=None, allow_urls: bool | None = None, **kwargs: Unpack[RetrievalProcessorKwargs]
    ) -> BatchFeature:
        """The call of every processor of transformers: texts (queries and text documents), images, or images with
        captions. `kwargs` are `padding`, `truncation` and `max_length` of texts, `return_tensors` ("pt", "np" or None
        for lists), and options of the image processor.

        Raises:
            TypeError: an unknown option.
            ValueError: neither text nor images.
        """
        if text is None and images is None:
            raise ValueError("Pass text, images, or both.")
        if images is None:
            return self.process_texts(text, **kwargs)
        if text is None:
            return self.process_images(images, allow_urls=allow_urls, **kwargs)
        return self.process_documents(images, text, allow_urls=allow_urls, **kwargs)

    # -- files ------------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, allow_urls: bool = False, **kwargs):
        """Loads a processor, or that of a `clip`, `siglip`, `siglip2` or open_clip model; `allow_urls` sets that
        attribute, which no file can."""
        hub = {key: kwargs[key] for key in ("token", "cache_dir", "local_files_only", "revision") if key in kwargs}
        about, _ = PreTrainedConfig.get_config_dict(pretrained_model_name_or_path, **hub)
        if about.get("model_type") not in DUAL_ENCODERS:
            return super().from_pretrained(pretrained_model_name_or_path, *args, allow_urls=allow_urls, **kwargs)
        arguments = {("clip_revision" if key == "revision" else key): value for key, value in kwargs.items()}
        processor = cls.from_backbones(pretrained_model_name_or_path, **arguments)
        processor.allow_urls = allow_urls
        return processor


def _refuse_image(image, allow_urls: bool) -> None:
    raise ValueError(
        "it holds an image, and UniVL-DR's queries are text: describe what you look for, or search with an image's "
        "own vector (get_image_features)."
    )
