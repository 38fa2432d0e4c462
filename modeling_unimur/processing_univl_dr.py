"""Queries, texts and captioned pictures as the tensors that `UniVLDRModel` reads."""

import copy

import torch
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin

from .messages_unimur import is_conversation, read_conversation
from .processing_unimur import UniMuRProcessor
from .text_cleaning import check_cleaning, clean_texts

# Its parts in `join_caption`: CLIP's tokenizer has no such special token and reads three ordinary ones (UniVL-DR).
SEPARATOR = " [SEP] "


class UniVLDRProcessor(ProcessorMixin):
    """Prepares queries and documents for the one dual encoder.

    Args:
        image_processor: the dual encoder's.
        tokenizer: the dual encoder's.
        max_target_tokens (`int`): longest query, text and caption; longer ones are cut at the end.
        target_padding (`str`): `"longest"`, or `"max_length"` for SigLIP, whose text tower was trained on padded texts
            and without a mask.
        verbalization_tokens (`int`): room that `join_caption` keeps for what is put into words beside a caption; 0
            lets a long caption push it out, as in the released code.
        clean_text (`str`, *optional*): how texts are cleaned before the tokenizer: `"clip"` as OpenAI's CLIP does and
            so UniVL-DR's released checkpoints; `None` leaves them as they are.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        max_target_tokens: int = 77,
        target_padding: str = "longest",
        verbalization_tokens: int = 0,
        clean_text: "str | None" = None,
        **kwargs,
    ):
        self.max_target_tokens, self.target_padding = max_target_tokens, target_padding
        self.verbalization_tokens, self.clean_text = verbalization_tokens, check_cleaning(clean_text)
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_backbones(cls, clip: str, clip_revision: "str | None" = None, **kwargs) -> "UniVLDRProcessor":
        """A processor for a dual encoder.

        Args:
            clip (`str`): Hub id or folder.
            clip_revision (`str`, *optional*): branch, tag or commit on the Hub.
            kwargs: arguments of the constructor; `token`, `cache_dir` and `local_files_only` go to the loaders.
        """
        hub = {key: kwargs.pop(key) for key in ("token", "cache_dir", "local_files_only") if key in kwargs}
        hub |= {"revision": clip_revision} if clip_revision else {}
        tokenizer = AutoTokenizer.from_pretrained(clip, **hub)
        about, _ = PreTrainedConfig.get_config_dict(clip, **hub)
        if about.get("model_type", "").startswith("siglip"):
            kwargs.setdefault("target_padding", "max_length")
        if "max_target_tokens" not in kwargs and tokenizer.model_max_length < 100_000:
            kwargs["max_target_tokens"] = tokenizer.model_max_length
        return cls(AutoImageProcessor.from_pretrained(clip, **hub), tokenizer, **kwargs)

    # -- queries and documents --------------------------------------------------------------------------------------
    @property
    def target_tokenizer(self):
        """The dual encoder's tokenizer, under the name it has in `UniMuRProcessor`."""
        return self.tokenizer

    # Candidates are prepared as UniMuR's are.
    process_images = UniMuRProcessor.process_images
    process_texts = UniMuRProcessor.process_texts
    score_retrieval = staticmethod(UniMuRProcessor.score_retrieval)

    def process_queries(self, queries: "str | list[str]") -> BatchFeature:
        """Queries, ready for `get_text_features`: `input_ids`, `attention_mask` `(queries, tokens)`."""
        return self.process_texts(queries)

    def process_documents(self, images, captions: "list[str | None]", allow_urls: bool = False) -> BatchFeature:
        """Pictures with their captions, ready for `get_multimodal_features`.

        Args:
            images: one picture or a list, as `load_image` takes them.
            captions (`list[str]`): one a picture; None or an empty one for a picture without.
            allow_urls (`bool`): whether pictures may be fetched from URLs.

        Returns:
            `BatchFeature`: `pixel_values`, `input_ids`, `attention_mask`, and `caption_mask` where a caption is
            missing.

        Raises:
            ValueError: another number of captions than pictures; FileNotFoundError: a picture is not there.
        """
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        captions = [captions] if isinstance(captions, str) else list(captions)
        if len(captions) != len(images):
            raise ValueError(f"{len(images)} pictures and {len(captions)} captions: pass one caption a picture.")
        return BatchFeature({**self.process_images(images, allow_urls=allow_urls), **self.process_captions(captions)})

    def process_captions(self, captions: "list[str | None]") -> BatchFeature:
        """Captions of pictures: `input_ids`, `attention_mask` `(pictures, tokens)`; and, where one is missing,
        `caption_mask` `(pictures,)`, False there."""
        words = [(caption or "").strip() for caption in captions]
        data = dict(self.process_texts(words))
        if not all(words):
            data["caption_mask"] = torch.tensor([bool(text) for text in words])
        return BatchFeature(data)

    def join_caption(self, caption: "str | None", verbalization: "str | None") -> str:
        """`caption [SEP] verbalization`, cut to `max_target_tokens` so that `verbalization_tokens` are left for the
        latter (UniVL-DR, equation 8)."""
        caption, verbalization = ((text or "").strip() for text in (caption, verbalization))
        if not caption or not verbalization:
            return caption or verbalization
        if self.verbalization_tokens:
            ends = len(self.tokenizer("")["input_ids"])
            tail = len(self._ids(SEPARATOR + verbalization))
            room = self.max_target_tokens - ends - min(tail, self.verbalization_tokens + len(self._ids(SEPARATOR)))
            caption = self._cut(caption, max(room, 1))
        return f"{caption}{SEPARATOR}{verbalization}"

    def _ids(self, text: str) -> list:
        (text,) = clean_texts([text], self.clean_text)
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _cut(self, text: str, tokens: int) -> str:
        """The longest head of a text, in whole words, that has at most so many tokens."""
        words = text.split(" ")
        while len(words) > 1 and len(self._ids(" ".join(words))) > tokens:
            words.pop()
        return " ".join(words)

    def process_context(
        self, conversations, max_length: "int | None" = None, allow_urls: bool = False, first: "int | None" = 0
    ) -> BatchFeature:
        """Queries in every form that the pipeline takes: a string, or chat messages, whose words are joined.

        Args:
            conversations: one query or a list.
            max_length (`int`, *optional*): in tokens, `max_target_tokens` by default.
            allow_urls (`bool`): of no use here: a query holds no picture.
            first (`int`, *optional*): number of the first query, for errors.

        Raises:
            ValueError: for an empty query, or one with a picture: UniVL-DR's queries are text.
        """
        if is_conversation(conversations):
            conversations, first = [conversations], None
        if not conversations:
            raise ValueError("No query: pass at least one.")
        texts = []
        for number, conversation in enumerate(conversations):
            where = "The query" if first is None else f"Query {first + number}"
            messages, pictures = read_conversation(conversation, where, allow_urls)
            if pictures:
                raise ValueError(
                    f"{where} holds a picture, and UniVL-DR's queries are text: describe what you look for, or search "
                    "with a picture's own vector (get_image_features)."
                )
            texts.append("\n".join(part["text"] for message in messages for part in message["content"]))
        shorter = self
        if max_length is not None:
            shorter = copy.copy(self)
            shorter.max_target_tokens = min(max_length, self.max_target_tokens)
        return shorter.process_texts(texts)

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """The call of every transformers processor: texts, pictures, or pictures with a caption each."""
        if text is None and images is None:
            raise ValueError("Pass text, images, or both.")
        if images is None:
            return self.process_texts(text)
        return self.process_images(images) if text is None else self.process_documents(images, text)

    # -- files ------------------------------------------------------------------------------------------------------
    def save_pretrained(self, save_directory, **kwargs):
        """Saves all parts. A fast tokenizer writes its last truncation and padding into its file: reset them first."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        return super().save_pretrained(save_directory, **kwargs)


__all__ = ["SEPARATOR", "UniVLDRProcessor"]
