"""Dialogues, images and texts as the tensors that `UniMuRModel` reads."""

from __future__ import annotations

import importlib
import json

import torch
from tokenizers import processors
from transformers import AutoTokenizer, BatchFeature, CLIPImageProcessor, PreTrainedConfig
from transformers.processing_utils import Unpack

from .configuration_open_clip import backbone_config
from .configuration_unimur import image_tokens
from .conversation import (
    TEXT_OPTIONS,
    DualEncoderProcessor,
    RetrievalProcessorKwargs,
    as_batch,
    check_cleaning,
    require_unicode,
    sort_options,
    words_of_turn,
)

# Turns on lines of their own, images where they stand, nothing else: any language model reads that.
_CHAT_TEMPLATE = """{%- for message in messages -%}
{%- if not loop.first %}{{ '\\n' }}{% endif -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ IMAGE }}{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}"""

# Dialogues that fingerprints are made of; changing them makes every saved fingerprint another one.
_PROBES = [
    [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    for turns in ((("user", "probe one"), ("assistant", "Sure, probe two.")), (("user", "probe three"),))
] + [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "probe four"}]}]]
_QUESTION_MARKS = "?\uff1f\u061f"  # also the full-width and the Arabic one
# The arguments of `UniMuRModel` that `process_anchors` makes, one row a dialogue.
ANCHOR_ROWS = (
    "anchor_input_ids", "anchor_attention_mask", "anchor_text_mask", "anchor_features", "turn_statistics",
)  # fmt: skip


class UniMuRProcessor(DualEncoderProcessor):
    """Prepares dialogues for the language model and candidates for the dual encoder.

    The language model's tokenizer ends every text with the readout prompt and [RET], by its post-processor: they
    survive any truncation, whoever calls it.

    Images are not fetched from URLs, unless a call passes `allow_urls=True` or the attribute `allow_urls`, which is
    never saved, is set.

    Args:
        image_processor: the dual encoder's, for images in a context and for candidates.
        tokenizer: the language model's, a fast one.
        target_tokenizer: the dual encoder's, for candidate texts.
        chat_template (`str`, *optional*): Jinja template from messages to text; an image is written as `image_token`.
        image_token (`str`): placeholder of an image.
        picture_prompt (`str`, *optional*): how an image is written into a dialogue; by default `image_token` alone, as
            in the paper. A language model without a start token needs words before it, since it makes its first token
            a place for idle attention.
        caption_prompt (`str`, *optional*): what a caption follows; by default `image_token` alone, as in FROMAGe. A
            chat model takes its own turns, since its end-of-text token ends a turn.
        ret_token (`str`): the token that is read out; with several, they are `[RET]`, `[RET1]`, `[RET2]`, ...
        num_ret_tokens (`int`): how many of them.
        num_visual_tokens (`int`): placeholders that one image takes.
        max_image_tokens (`int`, *optional*): that of the model's configuration; `from_backbones` sets
            `num_visual_tokens` by it.
        readout_prompt (`str`): fixed text between the context and [RET]; empty as in the paper.
        max_context_tokens (`int`): longest context; of a longer one the latest tokens are kept.
        max_target_tokens (`int`): longest candidate text.
        target_padding (`str`): `"longest"`, or `"max_length"` for SigLIP's text tower, which has no mask.
        start_after_pictures (`bool`): whether the start token follows leading images, as in FROMAGe; otherwise it is
            always the first.
        caption_ends (`bool`): whether the caption loss learns the end-of-text token behind each caption. Without it
            captions have none, and the start token behind an image is learned, as in FROMAGe.
        start_each_caption (`bool`): whether each of several captions in a row has a start token, as in FROMAGe;
            otherwise the row has one.
        clean_text (`str`, *optional*): how candidate texts are cleaned: `"clip"` as OpenAI's CLIP and open_clip do.
        squash_images (`bool`): whether images are resized to the image processor's size whatever their shape, as in
            FROMAGe's evaluations; otherwise they are prepared as the dual encoder was trained, CLIP's by a crop.
        query_anchor, anchor_base_model, anchor_base_revision (`str`, *optional*): those of the model's configuration.
        fingerprint (`dict`, *optional*): what the saved processor makes of fixed texts; see `WholeProcessorMixin`.

    Attributes:
        anchor_encoder (*optional*): the encoder of candidates that are ready embeddings: a `SentenceTransformer`, or
            a callable from a list of texts to vectors `(texts, width)`. By default the model that `anchor_base_model`
            names is loaded when it is first needed. It is never saved.
    """

    anchor_encoder = None

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        target_tokenizer=None,
        chat_template: str | None = None,
        image_token: str = "<image>",
        picture_prompt: str | None = None,
        caption_prompt: str | None = None,
        ret_token: str = "[RET]",
        num_ret_tokens: int = 1,
        num_visual_tokens: int = 1,
        max_image_tokens: int | None = None,
        readout_prompt: str = "",
        max_context_tokens: int = 1024,
        max_target_tokens: int = 77,
        target_padding: str = "longest",
        start_after_pictures: bool = False,
        caption_ends: bool = True,
        start_each_caption: bool = False,
        squash_images: bool = False,
        clean_text: str | None = None,
        query_anchor: str = "none",
        anchor_base_model: str | None = None,
        anchor_base_revision: str | None = None,
        fingerprint: dict | None = None,
        **kwargs,
    ):
        self.image_token, self.ret_token = image_token, ret_token
        self.picture_prompt = self._prompt("picture_prompt", picture_prompt)
        self.caption_prompt = self._prompt("caption_prompt", caption_prompt)
        self.num_ret_tokens, self.num_visual_tokens = num_ret_tokens, num_visual_tokens
        self.max_image_tokens = max_image_tokens
        self.readout_prompt = readout_prompt
        self.max_context_tokens, self.max_target_tokens = max_context_tokens, max_target_tokens
        self.target_padding, self.start_after_pictures = target_padding, start_after_pictures
        self.caption_ends, self.start_each_caption = caption_ends, start_each_caption
        self.squash_images, self.clean_text = squash_images, check_cleaning(clean_text)
        self.query_anchor, self.fingerprint = query_anchor, fingerprint
        self.anchor_base_model, self.anchor_base_revision = anchor_base_model, anchor_base_revision
        if tokenizer is not None:
            self._append_readout(tokenizer)
        self._own_template = _CHAT_TEMPLATE.replace("IMAGE", json.dumps(self.picture_prompt))
        template = chat_template or self._own_template
        super().__init__(image_processor, tokenizer, target_tokenizer, chat_template=template)

    def _prompt(self, name: str, text: str | None) -> str:
        text = self.image_token if text is None else text
        if text.count(self.image_token) != 1:
            raise ValueError(f"{name} shows one image: it holds {self.image_token} once, not as {text!r} does.")
        return text

    @classmethod
    def from_backbones(cls, language_model: str, clip: str | None = None, **kwargs) -> UniMuRProcessor:
        """A processor for a pair of backbones, Hub ids or folders; without a dual encoder candidates are ready
        embeddings. `kwargs` are arguments of the constructor; `language_model_revision`, `clip_revision`, `token`,
        `cache_dir` and `local_files_only` go to the loaders."""
        hub = {key: kwargs.pop(key) for key in ("token", "cache_dir", "local_files_only") if key in kwargs}
        revision, clip_revision = (kwargs.pop(f"{name}_revision", None) for name in ("language_model", "clip"))
        own = {**hub, "revision": revision}
        tokenizer = AutoTokenizer.from_pretrained(language_model, **own)
        if (most := kwargs.get("max_image_tokens")) is not None:
            about = None if clip is None else PreTrainedConfig.get_config_dict(clip, revision=clip_revision, **hub)[0]
            kwargs["num_visual_tokens"] = image_tokens(backbone_config(about), most)
        if clip is None:  # transformers saves every part a processor has; the other two are never asked
            return cls(CLIPImageProcessor(), tokenizer, AutoTokenizer.from_pretrained(language_model, **own), **kwargs)
        image_processor, target = cls.dual_encoder_parts(clip, clip_revision, hub, kwargs)
        return cls(image_processor, tokenizer, target, **kwargs)

    # -- [RET] ----------------------------------------------------------------------------------------------------
    @property
    def ret_tokens(self) -> list[str]:
        """The tokens that are read out, in order."""
        numbered = [self.ret_token.replace("]", f"{i}]") for i in range(1, self.num_ret_tokens)]
        return [self.ret_token, *numbered]

    @property
    def ret_token_ids(self) -> list[int]:
        """Their ids, beyond the language model's vocabulary."""
        return self.tokenizer.convert_tokens_to_ids(self.ret_tokens)

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder of an image."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    def _append_readout(self, tokenizer) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer; [RET] is appended by one.")
        ret_tokens = self.ret_tokens
        tokenizer.add_tokens([self.image_token, *ret_tokens], special_tokens=True)
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        prompt = backend.encode(self.readout_prompt, add_special_tokens=False)
        suffix = prompt.ids + tokenizer.convert_tokens_to_ids(ret_tokens)
        self.readout_length = len(suffix)  # of the readout prompt and [RET]
        if tokenizer("")["input_ids"][-len(suffix) :] != suffix:  # else it came back from a file with it
            # One template does it all: behind another one it would take the start token for the first text of a pair.
            plain, whole = (backend.encode("a", add_special_tokens=special) for special in (False, True))
            starts = range(len(whole.ids) - len(plain.ids) + 1)
            begin = next(at for at in starts if whole.ids[at : at + len(plain.ids)] == plain.ids)
            pieces = {
                "[start]": (whole.ids[:begin], whole.tokens[:begin]),
                "[readout]": (suffix, prompt.tokens + ret_tokens),
            }
            backend.post_processor = processors.TemplateProcessing(
                single="[start] $A [readout]" if begin else "$A [readout]",
                special_tokens=[{"id": key, "ids": i, "tokens": t} for key, (i, t) in pieces.items() if i],
            )
        start = tokenizer("")["input_ids"][: -len(suffix)]  # BOS, where the model has one
        if not set(start) <= set(tokenizer.all_special_ids):
            raise ValueError(
                f"readout_prompt={self.readout_prompt!r} is not the one that tokenizer.json ends texts with "
                f"({tokenizer.decode(start)!r:.80} stands before it): load this tokenizer's own processor_config.json."
            )
        self._prefix_length = len(start)

    # -- contexts -------------------------------------------------------------------------------------------------
    def process_queries(
        self,
        conversations,
        max_length: int | None = None,
        allow_urls: bool | None = None,
        first: int | None = 0,
        **kwargs: Unpack[RetrievalProcessorKwargs],
    ) -> BatchFeature:
        """Prepares dialogues for `get_multimodal_features`.

        Args:
            conversations: one dialogue or a list. A dialogue is a list of chat messages, a string or an image. A
                string is a text, unless it names an existing image file.
            max_length (`int`, *optional*): in tokens, `max_context_tokens` by default. The latest tokens are kept, and
                an image that does not fit whole is left out.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; the attribute by default.
            first (`int`, *optional*): number of the first dialogue, for errors.
            kwargs: as in `__call__`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(batch, tokens)`, padded on the left, `pixel_values`
            `(images, 3, height, width)` in reading order, and what `process_anchors` returns.
        """
        messages, images = self.read_all(conversations, allow_urls, first)
        return self._encode([self.render(dialogue) for dialogue in messages], images, max_length, kwargs, messages)

    process_context = process_queries  # its name in the first releases

    def apply_chat_template(
        self,
        conversation,
        chat_template: str | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        processor_kwargs: dict | None = None,
        **kwargs,
    ):
        """Renders messages, as every processor of transformers does; with `tokenize` it returns what `process_queries`
        returns, whose options are then `return_tensors`, `processor_kwargs` and a part of `kwargs`."""
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template=chat_template, tokenize=False, **kwargs)
        options = {key: kwargs.pop(key) for key in (*TEXT_OPTIONS, "allow_urls") if key in kwargs}
        options = {"return_tensors": return_tensors, **(processor_kwargs or {}), **options}
        allow_urls, max_length = options.pop("allow_urls", None), options.pop("max_length", None)
        messages, images = self.read_all(conversation, allow_urls, 0)
        texts = [self.render(dialogue, chat_template=chat_template, **kwargs) for dialogue in messages]
        batch = self._encode(texts, images, max_length, options, messages)
        return batch if return_dict else batch["input_ids"]

    def render(self, messages: list[dict], **template) -> str:
        """One dialogue, messages of text and image parts, as text, `image_token` where an image is; what users typed
        never counts as an image or as [RET]. `template` is `chat_template` and its variables."""
        tokens = (self.image_token, *self.ret_tokens)

        def plain(part: dict) -> dict:
            return {**part, "text": self.defuse(part["text"], tokens)} if part["type"] == "text" else part

        messages = [{**message, "content": [plain(part) for part in message["content"]]} for message in messages]
        try:
            return self.apply_chat_template(messages, tokenize=False, **template)
        except MemoryError:
            raise
        except Exception as error:
            first = f"{type(error).__name__}: {error}".split("\n")[0]
            raise ValueError(f"The chat template cannot render this dialogue ({first:.200}).") from error

    @staticmethod
    def defuse(text: str, tokens) -> str:
        """A text in which none of the tokens counts as a token."""
        for token in tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    @property
    def overhead_tokens(self) -> int:
        """Tokens that every context has besides its own: the start, the readout prompt and [RET]."""
        return self._prefix_length + self.readout_length

    def _encode(
        self,
        texts: list[str],
        images: list[list],
        max_length: int | None,
        options: dict | None = None,
        dialogues: list[list[dict]] | None = None,
    ) -> BatchFeature:
        text, image, tensors = sort_options(options or {})
        max_length = text.pop("max_length", max_length)
        data, dropped = self.tokenize(texts, max_length, keep="latest", **text)
        batch = as_batch(data, tensors)
        kept = [one for several, lost in zip(images, dropped, strict=True) for one in several[lost:]]
        if kept:
            batch.update(self.process_images(kept, return_tensors=tensors, **image))
        if dialogues is not None:
            batch.update(as_batch(self.process_anchors(dialogues), tensors))
        return batch

    def process_rendered(self, texts: list[str], max_length: int | None = None, keep: str = "first") -> BatchFeature:
        """`input_ids` and `attention_mask` `(batch, tokens)` of contexts that are written out already (see `render`),
        for a caller who has the images' features. Of a longer text the `"first"` or the `"latest"` tokens are kept."""
        return as_batch(self.tokenize(texts, max_length, keep)[0], "pt")

    def tokenize(
        self, texts: list[str], max_length: int | None = None, keep: str = "first", padding="longest", truncation=True
    ) -> tuple[dict, list[int]]:
        """Rows of token ids and their masks, as in `process_rendered`, and how many images fell away from each."""
        limit = self.max_context_tokens if max_length is None else max_length
        room = limit - self.overhead_tokens
        if room < 1:
            fixed = f"start, readout prompt and [RET] take {self.overhead_tokens} tokens"
            raise ValueError(f"max_length={limit} leaves no room: {fixed}.")
        texts = [text.replace(self.image_token, self.image_token * self.num_visual_tokens) for text in texts]
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ends = self.tokenizer("", add_special_tokens=True)["input_ids"]
        start, suffix = ends[: self._prefix_length], ends[self._prefix_length :]
        dropped = [0] * len(rows)
        for number, row in enumerate(rows):
            if truncation not in (False, "do_not_truncate"):
                row, dropped[number] = (row[:room], 0) if keep == "first" else self._latest(row, room)
            if not start or row[: len(start)] != start:  # which a template may have written
                lead = self.images_before_start(row)
                row = [*row[:lead], *start, *row[lead:]]
            rows[number] = [*row, *suffix]
        options = {"padding": padding, "max_length": limit, "return_attention_mask": True, "verbose": False}
        return dict(self.tokenizer.pad({"input_ids": rows}, **options)), dropped

    def images_before_start(self, body: list[int]) -> int:
        """How many places of images in front the start token stands behind."""
        lead = 0
        while self.start_after_pictures and lead < len(body) and body[lead] == self.image_token_id:
            lead += 1
        return lead

    def _latest(self, row: list[int], room: int) -> tuple[list[int], int]:
        """The last `room` tokens, without a part of an image, and how many images fell away."""
        is_image_place = [token == self.image_token_id for token in row]
        total = sum(is_image_place) // self.num_visual_tokens
        cut = max(len(row) - room, 0)
        while cut and cut < len(row) and is_image_place[cut] and sum(is_image_place[cut:]) % self.num_visual_tokens:
            cut += 1
        return row[cut:], total - sum(is_image_place[cut:]) // self.num_visual_tokens

    def __call__(
        self,
        images=None,
        text=None,
        max_length: int | None = None,
        allow_urls: bool | None = None,
        **kwargs: Unpack[RetrievalProcessorKwargs],
    ) -> BatchFeature:
        """The call of every processor of transformers: texts are queries, and images alone are candidates. Candidate
        texts, which go to another tokenizer, are prepared by `process_texts`.

        Args:
            images: one image or a list; with several texts, a list of lists. Alone they are candidates.
            text (`str` or `list[str]`): contexts; `image_token` stands where an image belongs, and a text without
                any gets its images in front, each as `picture_prompt`.
            max_length, allow_urls: as in `process_queries`.
            kwargs: `padding` (True, False, "max_length"), `truncation` (True, False), `return_tensors` ("pt", "np" or
                None for lists), and options of the image processor; another one raises TypeError.
        """
        if text is None and images is None:
            raise ValueError("Pass text, images, or both.")
        if text is None:
            return self.process_images(images, allow_urls=allow_urls, **kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        nested = self._per_text(images, len(texts))
        for number, (line, shown) in enumerate(zip(texts, nested, strict=True)):
            line = self.defuse(require_unicode(line, f"Text {number}"), self.ret_tokens)
            places = line.count(self.image_token)
            if shown and not places:
                line = self.picture_prompt * len(shown) + line
            elif places != len(shown):
                raise ValueError(f"Text {number} has {places} times {self.image_token} and {len(shown)} images.")
            texts[number] = line
        loaded = [self.load_images(several, allow_urls) for several in nested]
        return self._encode(texts, loaded, max_length, kwargs, [self._turns(line) for line in texts])

    def _turns(self, text: str) -> list[dict]:
        """The turns of a context that is written out: its lines, as the processor's own template writes them; with
        another template the whole text is one."""
        lines = text.split("\n") if self.chat_template == self._own_template else [text]
        return [{"role": "user", "content": line.replace(self.image_token, " ")} for line in lines if line.strip()]

    @staticmethod
    def _per_text(images, count: int) -> list[list]:
        if images is None:
            return [[] for _ in range(count)]
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        if not any(isinstance(entry, (list, tuple)) for entry in images):
            if count == 1:
                return [images]
            images = [[image] for image in images]
        if len(images) != count:
            raise ValueError(f"{count} texts and images for {len(images)}: pass one list of images per text.")
        return [list(entry) for entry in images]

    # -- anchors ---------------------------------------------------------------------------------------------------
    def process_anchors(self, dialogues: list[list[dict]]) -> dict:
        """The inputs of anchored queries (`AnchorInputs` in `modeling_unimur`) of chat messages; none with
        `query_anchor="none"`. Of a text that is longer than the dual encoder reads, the latest tokens are kept. An
        encoder of ready embeddings embeds the texts here.

        Raises:
            ImportError: the encoder needs sentence-transformers, which is not installed.
        """
        if self.query_anchor == "none":
            return {}
        turns = [[words_of_turn(message) for message in messages] for messages in dialogues]
        asked = [[any(mark in words for mark in _QUESTION_MARKS) for words in dialogue] for dialogue in turns]
        statistics = [[len(marks), sum(marks) / max(len(marks), 1)] for marks in asked]
        texts = [text for messages in dialogues for text in anchor_words(messages)]
        found = {"turn_statistics": torch.tensor(statistics, dtype=torch.float32).reshape(-1, 2)}
        if self._has_encoder:
            vectors = self._embed_words(texts)
            return {**found, "anchor_features": vectors.reshape(len(turns), 2, -1)}
        batch = self.process_texts(texts, keep="latest")
        found.update({f"anchor_{name}": rows.reshape(len(turns), 2, -1) for name, rows in batch.items()})
        return {**found, "anchor_text_mask": torch.tensor([bool(text) for text in texts]).reshape(-1, 2)}

    def _embed_words(self, texts: list[str]) -> torch.Tensor:
        """Vectors of texts by `anchor_encoder`, float32 on the CPU, zeros for empty texts; each text once."""
        distinct = list(dict.fromkeys(text for text in texts if text)) or [" "]
        vectors = self._encode_by("queries", distinct)
        places = {text: row for row, text in enumerate(distinct)}
        rows = torch.tensor([places.get(text, len(distinct)) for text in texts])
        return torch.cat([vectors, torch.zeros(1, vectors.shape[1])])[rows]

    @property
    def _has_encoder(self) -> bool:
        return self.anchor_encoder is not None or self.anchor_base_model is not None

    def _encode_by(self, role: str, items: list) -> torch.Tensor:
        """Vectors `(items, width)` by the encoder of ready embeddings, as `"queries"` or as `"documents"`, float32 on
        the CPU."""
        if self.anchor_encoder is None:
            encoders = _text_encoders()
            self.anchor_encoder = encoders.load_anchor_encoder(self.anchor_base_model, self.anchor_base_revision)
        if not hasattr(self.anchor_encoder, "encode_query") and isinstance(items[0], str):  # a function
            return torch.as_tensor(self.anchor_encoder(items)).detach().float().cpu()
        return getattr(_text_encoders(), f"encode_{role}")(self.anchor_encoder, items)

    def encoder_space(self) -> dict:
        """The arguments of `UniMuRConfig` for the space of the encoder of ready embeddings; none without one."""
        if not self._has_encoder:
            return {}
        width, sees = self._encode_by("documents", ["a"]).shape[1], _text_encoders().reads_images(self.anchor_encoder)
        return {"projection_dim": width, "visual_feature": "projected" if sees else "pooled"}

    def process_images(self, images, allow_urls: bool | None = None, **kwargs) -> BatchFeature:
        """As [`DualEncoderProcessor`] does; with an encoder of ready embeddings, its unit vectors of the images:
        `visual_features (images, width)`. Raises ValueError if it reads none."""
        loaded = self.load_images(images, allow_urls)
        if not self._has_encoder:
            if self.squash_images:
                cut = getattr(self.image_processor, "do_center_crop", False)
                size = dict(self.image_processor.crop_size if cut else self.image_processor.size)
                side = size.get("shortest_edge")
                loaded = [image.resize((size.get("width", side), size.get("height", side))) for image in loaded]
            return super().process_images(loaded, **kwargs)
        vectors = self._encode_by("documents", loaded)
        return as_batch({"visual_features": torch.nn.functional.normalize(vectors, dim=-1)}, sort_options(kwargs)[2])

    def process_texts(self, texts: str | list[str], keep: str = "first", **kwargs) -> BatchFeature:
        """As [`DualEncoderProcessor`] does; with an encoder of ready embeddings, its vectors of the texts as
        candidates: `text_features (texts, width)`."""
        if not self._has_encoder:
            return super().process_texts(texts, keep, **kwargs)
        texts = [texts] if isinstance(texts, str) else list(texts)
        return as_batch({"text_features": self._encode_by("documents", texts)}, sort_options(kwargs)[2])

    # -- prompts ---------------------------------------------------------------------------------------------------
    def process_prompt(self, conversations, allow_urls: bool | None = None) -> BatchFeature:
        """Dialogues without readout prompt and [RET], ready for `generate`."""
        messages, images = self.read_all(conversations, allow_urls, 0)
        return self._without_readout([self.render(dialogue) for dialogue in messages], images)

    def process_caption_prompt(self, images, allow_urls: bool | None = None) -> BatchFeature:
        """One image or a list, each in `caption_prompt`: `generate` then says what they show, as the caption loss has
        trained it."""
        loaded = [[image] for image in self.load_images(images, allow_urls)]
        return self._without_readout([self.caption_prompt] * len(loaded), loaded)

    def _without_readout(self, texts: list[str], images: list[list]) -> BatchFeature:
        batch = self._encode(texts, images, None)
        for key in ("input_ids", "attention_mask"):
            batch[key] = batch[key][:, : -self.readout_length]
        return batch

    # -- files ----------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict:
        """What is saved. A loaded encoder is not, and transformers would copy it first."""
        encoder, self.anchor_encoder = self.anchor_encoder, None
        try:
            return {name: value for name, value in super().to_dict().items() if name != "anchor_encoder"}
        finally:
            self.anchor_encoder = encoder

    def probe_contexts(self) -> list | None:
        if self.tokenizer is None:
            return None
        return [self.tokenize([self.render(one)], 4096, padding=False)[0]["input_ids"][0] for one in _PROBES]

    @classmethod
    def _load_tokenizer_from_pretrained(cls, sub_processor_type, *args, **kwargs):
        """Tells transformers that the dual encoder's tokenizer has no configuration beside it: looking for one, older
        releases leave out a private repository's `token`, and fail with `local_files_only`."""
        if sub_processor_type == "target_tokenizer":
            kwargs["config"] = PreTrainedConfig()
        return super()._load_tokenizer_from_pretrained(sub_processor_type, *args, **kwargs)


def _text_encoders():
    """The package's `encoding.text_encoders`, which no release has."""
    try:
        return importlib.import_module("modeling_unimur.encoding.text_encoders")
    except ModuleNotFoundError as error:
        raise ImportError(
            "Encoders of ready embeddings are run by the package: `pip install unimur[sentence_transformers]`. Or "
            "pass anchor_encoder, a callable from texts to vectors, to the pipeline or the processor."
        ) from error


def anchor_words(messages: list[dict]) -> tuple[str, str]:
    """What the encoder reads of a dialogue: the words of all turns, a line each, and those of the last turn that has
    any; empty texts where nobody said anything."""
    said = [words for words in map(words_of_turn, messages) if words] or [""]
    return "\n".join(said), said[-1]
