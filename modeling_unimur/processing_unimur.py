"""Dialogues, pictures and texts as the tensors that `UniMuRModel` reads."""

import json

import torch
from tokenizers import AddedToken, processors
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, Unpack

from .anchor_inputs_unimur import AnchorInputsMixin
from .captions_unimur import CaptionsMixin
from .conversation import is_conversation, read_conversation, require_unicode
from .fingerprint import FingerprintMixin
from .image_loading import load_image
from .template_rendering import render_bounded
from .text_cleaning import check_cleaning, clean_texts

# Turns on lines of their own, pictures where they stand, nothing else: any language model reads that.
_CHAT_TEMPLATE = """{%- for message in messages -%}
{%- if not loop.first %}{{ '\\n' }}{% endif -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{ PICTURE }}{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}"""


# What a call may say about texts, and the values that it may take.
_TEXT_OPTIONS = {
    "padding": (True, False, "longest", "max_length", "do_not_pad"),
    "truncation": (True, False, "longest_first", "do_not_truncate"),
    "max_length": None,
}
_TENSORS = ("pt", "np", None)


class UniMuRProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call: `padding`, `truncation` and `max_length` of texts, `return_tensors` ("pt", "np" or None for
    lists), and those of the image processor; flat, or in `text_kwargs`, `images_kwargs` and `common_kwargs`."""


def sort_options(options: dict) -> "tuple[dict, dict, str | None]":
    """The options of a call as those of texts, those of images, and the kind of tensors.

    Raises:
        TypeError: an option that no part of a processor knows, or one that is passed twice.
        ValueError: an option with a value that it does not take.
    """
    flat: dict = {}
    for key, value in options.items():
        group = value if key in ("text_kwargs", "images_kwargs", "common_kwargs") else {key: value}
        for name, choice in (group or {}).items():
            if name in flat:
                raise TypeError(f"{name} is passed twice, by itself and in {key}.")
            flat[name] = choice
    text, images, tensors = {}, {}, flat.pop("return_tensors", "pt")
    tensors = getattr(tensors, "value", tensors)  # of transformers' TensorType
    if tensors not in _TENSORS:
        raise ValueError(f"return_tensors must be one of 'pt', 'np' and None, got {tensors!r}.")
    for name, choice in flat.items():
        if name in _TEXT_OPTIONS:
            allowed = _TEXT_OPTIONS[name]
            if allowed is not None and choice is not None and choice not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {choice!r}.")
            text[name] = choice
        elif name in ImagesKwargs.__annotations__:
            images[name] = choice
        else:
            raise TypeError(
                f"Unexpected keyword argument {name!r}: a processor takes {', '.join(_TEXT_OPTIONS)}, return_tensors "
                "and the options of its image processor."
            )
    return {name: choice for name, choice in text.items() if choice is not None}, images, tensors


def as_batch(data: dict, tensors: "str | None") -> BatchFeature:
    """Lists or tensors as a batch of one kind of tensors.

    Raises:
        ValueError: rows of different lengths are to become one tensor.
    """
    if tensors is None:
        return BatchFeature({name: rows.tolist() if hasattr(rows, "tolist") else rows for name, rows in data.items()})
    try:
        made = {name: torch.as_tensor(rows) for name, rows in data.items()}
    except ValueError as error:
        raise ValueError(
            "The rows have different lengths and become no tensor: pass padding=True, or return_tensors=None."
        ) from error
    return BatchFeature({name: rows.numpy() if tensors == "np" else rows for name, rows in made.items()})


class UniMuRProcessor(AnchorInputsMixin, CaptionsMixin, FingerprintMixin, ProcessorMixin):
    """Prepares dialogues for the language model and candidates for the dual encoder.

    The language model's tokenizer ends every text with the readout prompt and [RET], by its post-processor: they
    survive any truncation, whoever calls it.

    Images are not fetched from URLs, unless a call passes `allow_urls=True` or the attribute `allow_urls` is set. The
    attribute is never saved.

    Args:
        image_processor: the dual encoder's, for pictures in a context and for candidates.
        tokenizer: the language model's, a fast one.
        target_tokenizer: the dual encoder's, for candidate texts.
        chat_template (`str`, *optional*): Jinja template from messages to text; a picture is written as `image_token`.
        image_token (`str`): placeholder of a picture.
        picture_prompt (`str`, *optional*): how a picture is written into a dialogue, with `image_token` in it, which
            alone is the paper's form. A language model without a start token needs words before it: it makes its
            first token a place for idle attention and forgets what stood there.
        caption_prompt (`str`, *optional*): what a caption follows, with `image_token` in it, which alone is FROMAGe's
            form; for a chat model its own turns, since its end-of-text token ends a turn.
        ret_token (`str`): the token that is read out; with several, they are `[RET]`, `[RET1]`, `[RET2]`, ...
        num_ret_tokens (`int`): how many of them.
        num_visual_tokens (`int`): placeholders that one picture takes.
        readout_prompt (`str`): fixed text between the context and [RET]; empty as in the paper.
        max_context_tokens (`int`): longest context; of a longer one the latest tokens are kept.
        max_target_tokens (`int`): longest candidate text.
        target_padding (`str`): `"longest"`, or `"max_length"` for SigLIP, whose text tower was trained on padded texts
            and without a mask.
        start_after_pictures (`bool`): whether the start token stands before the first words, and so behind pictures
            that come first, as in FROMAGe; otherwise it is always the first.
        caption_ends (`bool`): whether the caption loss learns the end-of-text token behind each caption. Without it
            captions have none, and the start token behind an image is learned, as in FROMAGe.
        start_each_caption (`bool`): whether each of several captions in a row has a start token of its own, as in
            FROMAGe; otherwise the row has one.
        clean_text (`str`, *optional*): how candidate texts are cleaned before the dual encoder's tokenizer: `"clip"`
            as OpenAI's CLIP and open_clip do, for encoders that were trained so; `None` leaves them as they are.
        squash_images (`bool`): whether images are resized to the image processor's size whatever their shape, as in
            FROMAGe's evaluations; otherwise they are prepared as the dual encoder was trained, CLIP's by a crop.
        query_anchor (`str`): that of the model's configuration. With `"encoder"` the inputs of a dialogue hold its
            words for the encoder too; see `process_anchors`.
        anchor_base_model, anchor_base_revision (`str`, *optional*): those of the model's configuration.
        fingerprint (`dict`, *optional*): what the saved processor makes of fixed texts; see `FingerprintMixin`.
    """

    allow_urls = False

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
        self.readout_prompt = readout_prompt
        self.max_context_tokens, self.max_target_tokens = max_context_tokens, max_target_tokens
        self.target_padding, self.start_after_pictures = target_padding, start_after_pictures
        self.caption_ends, self.start_each_caption = caption_ends, start_each_caption
        self.squash_images, self.clean_text = squash_images, check_cleaning(clean_text)
        self.query_anchor, self.fingerprint = query_anchor, fingerprint
        self.anchor_base_model, self.anchor_base_revision = anchor_base_model, anchor_base_revision
        if tokenizer is not None:
            self._append_readout(tokenizer)
        self._own_template = _CHAT_TEMPLATE.replace("PICTURE", json.dumps(self.picture_prompt))
        template = chat_template or self._own_template
        super().__init__(image_processor, tokenizer, target_tokenizer, chat_template=template)

    def _prompt(self, name: str, text: str | None) -> str:
        text = self.image_token if text is None else text
        if text.count(self.image_token) != 1:
            raise ValueError(f"{name} shows one image: it holds {self.image_token} once, not as {text!r} does.")
        return text

    @classmethod
    def from_backbones(cls, language_model: str, clip: str | None = None, **kwargs) -> "UniMuRProcessor":
        """A processor for a pair of backbones.

        Args:
            language_model (`str`): Hub id or folder of the language model.
            clip (`str`, *optional*): Hub id or folder of the dual encoder. Without one, candidates are ready
                embeddings, and the processor prepares text contexts only.
            kwargs: arguments of the constructor; `language_model_revision`, `clip_revision`, `token`, `cache_dir` and
                `local_files_only` go to the loaders.
        """
        hub = {key: kwargs.pop(key) for key in ("token", "cache_dir", "local_files_only") if key in kwargs}
        given = {name: kwargs.pop(f"{name}_revision", None) for name in ("language_model", "clip")}
        revisions = {name: {"revision": revision} if revision else {} for name, revision in given.items()}
        tokenizer = AutoTokenizer.from_pretrained(language_model, **revisions["language_model"], **hub)
        if clip is None:
            from transformers import CLIPImageProcessor

            # transformers saves every part a processor has; these two are never asked.
            target = AutoTokenizer.from_pretrained(language_model, **revisions["language_model"], **hub)
            return cls(CLIPImageProcessor(), tokenizer, target, **kwargs)
        target = AutoTokenizer.from_pretrained(clip, **revisions["clip"], **hub)
        about, _ = PreTrainedConfig.get_config_dict(clip, **revisions["clip"], **hub)
        if about.get("model_type", "").startswith("siglip"):
            kwargs.setdefault("target_padding", "max_length")
        if "max_target_tokens" not in kwargs and target.model_max_length < 100_000:
            kwargs["max_target_tokens"] = target.model_max_length
        return cls(AutoImageProcessor.from_pretrained(clip, **revisions["clip"], **hub), tokenizer, target, **kwargs)

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
        """Id of the placeholder of a picture."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    def _append_readout(self, tokenizer) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"{type(tokenizer).__name__} is no fast tokenizer; [RET] is appended by one.")
        ret_tokens = [self.ret_token] + [self.ret_token.replace("]", f"{i}]") for i in range(1, self.num_ret_tokens)]
        tokenizer.add_tokens(
            [AddedToken(t, special=True) for t in (self.image_token, *ret_tokens)], special_tokens=True
        )
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        prompt = backend.encode(self.readout_prompt, add_special_tokens=False)
        suffix = prompt.ids + tokenizer.convert_tokens_to_ids(ret_tokens)
        self._suffix_length = len(suffix)
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
        **kwargs: Unpack[UniMuRProcessorKwargs],
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
            `BatchFeature`: `input_ids` and `attention_mask` of shape `(batch, tokens)`, padded on the left, and, if
            there are images, `pixel_values` of shape `(images, 3, height, width)` in reading order; for anchored
            queries also what `process_anchors` returns.

        Raises:
            ValueError, FileNotFoundError: naming the dialogue, the turn and the part that is wrong.
            TypeError: an unknown option.
        """
        messages, images = self._read_all(conversations, allow_urls, first)
        return self._encode([self.render(dialogue) for dialogue in messages], images, max_length, kwargs, messages)

    process_context = process_queries  # its name in the first releases

    def _read_all(self, conversations, allow_urls: "bool | None", first: "int | None") -> "tuple[list, list]":
        if is_conversation(conversations):
            conversations, first = [conversations], None
        conversations = list(conversations)
        if not conversations:
            raise ValueError("No dialogue: pass at least one.")
        allow_urls = self.allow_urls if allow_urls is None else allow_urls
        names = ("The dialogue" if first is None else f"Dialogue {first + n}" for n in range(len(conversations)))
        read = [
            read_conversation(dialogue, name, allow_urls) for dialogue, name in zip(conversations, names, strict=True)
        ]
        return [messages for messages, _ in read], [images for _, images in read]

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
        """Renders messages, as every processor of transformers does.

        Args:
            conversation: one dialogue or a list of them, as in `process_queries`.
            chat_template (`str`, *optional*): in place of the processor's own.
            tokenize (`bool`): returns what `process_queries` returns in place of the rendered text.
            return_dict (`bool`): with `tokenize`, returns the whole batch and not its `input_ids` alone.
            return_tensors, processor_kwargs: with `tokenize`, options of `process_queries`; `max_length`, `padding`,
                `truncation` and `allow_urls` may stand beside them.
            kwargs: variables of the template.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template=chat_template, tokenize=False, **kwargs)
        options = {key: kwargs.pop(key) for key in (*_TEXT_OPTIONS, "allow_urls") if key in kwargs}
        options = {"return_tensors": return_tensors, **(processor_kwargs or {}), **options}
        allow_urls, max_length = options.pop("allow_urls", None), options.pop("max_length", None)
        messages, images = self._read_all(conversation, allow_urls, 0)
        texts = [self.render(dialogue, chat_template=chat_template, **kwargs) for dialogue in messages]
        batch = self._encode(texts, images, max_length, options, messages)
        return batch if return_dict else batch["input_ids"]

    def render(self, messages: "list[dict]", **template) -> str:
        """One dialogue as text, `image_token` where an image is; what users typed never counts as an image or as
        [RET].

        Args:
            messages: chat messages whose content is a list of `{"type": "text", "text": str}` and
                `{"type": "image"}` parts.
            template: `chat_template` and its variables.
        """
        tokens = (self.image_token, *self.ret_tokens)
        messages = [
            {
                **message,
                "content": [
                    {**part, "text": self._defuse(part["text"], tokens)} if part["type"] == "text" else part
                    for part in message["content"]
                ],
            }
            for message in messages
        ]
        if self.chat_template == self._own_template and "chat_template" not in template:  # which ends
            return self.apply_chat_template(messages, tokenize=False, **template)
        return render_bounded(lambda: self.apply_chat_template(messages, tokenize=False, **template))

    @staticmethod
    def _defuse(text: str, tokens) -> str:
        for token in tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    @property
    def overhead_tokens(self) -> int:
        """Tokens that every context has besides its own: the start, the readout prompt and [RET]."""
        return self._prefix_length + self._suffix_length

    def _encode(
        self,
        texts: list[str],
        images: list[list],
        max_length: int | None,
        options: "dict | None" = None,
        dialogues: "list[list[dict]] | None" = None,
    ) -> BatchFeature:
        text, image, tensors = sort_options(options or {})
        max_length = text.pop("max_length", max_length)
        data, dropped = self._tokenize(texts, max_length, keep="latest", **text)
        batch = as_batch(data, tensors)
        kept = [one for several, lost in zip(images, dropped, strict=True) for one in several[lost:]]
        if kept:
            batch.update(self.process_images(kept, return_tensors=tensors, **image))
        if dialogues is not None:
            batch.update(as_batch(self.process_anchors(dialogues), tensors))
        return batch

    def process_rendered(self, texts: list[str], max_length: int | None = None, keep: str = "first") -> BatchFeature:
        """Contexts that are written out already (see `render`), for a caller who has the pictures' features.

        Args:
            texts (`list[str]`): with `image_token` at the places of pictures.
            max_length (`int`, *optional*): in tokens, `max_context_tokens` by default.
            keep (`str`): which tokens of a longer text are kept, the `"first"` or the `"latest"`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(batch, tokens)`, padded on the left.
        """
        return as_batch(self._tokenize(texts, max_length, keep)[0], "pt")

    def _tokenize(
        self, texts: list[str], max_length: int | None, keep: str, padding="longest", truncation=True
    ) -> tuple[dict, list[int]]:
        """Rows of token ids and their masks, and how many images fell away from each."""
        limit = self.max_context_tokens if max_length is None else max_length
        room = limit - self.overhead_tokens
        if room < 1:
            raise ValueError(
                f"max_length={limit} leaves no room: start, readout prompt and [RET] take {self.overhead_tokens} "
                "tokens."
            )
        texts = [text.replace(self.image_token, self.image_token * self.num_visual_tokens) for text in texts]
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ends = self.tokenizer("", add_special_tokens=True)["input_ids"]
        start, suffix = ends[: self._prefix_length], ends[self._prefix_length :]
        dropped = []
        for number, row in enumerate(rows):
            if truncation in (False, "do_not_truncate"):
                body, lost = row, 0
            else:
                body, lost = (row[:room], 0) if keep == "first" else self._latest(row, room)
            dropped.append(lost)
            rows[number] = [*self._started(start, body), *suffix]
        width = max(map(len, rows))
        if padding == "max_length":
            width = max(width, limit)
        elif padding in (False, "do_not_pad"):
            width = 0
        pad = self.tokenizer.pad_token_id
        data = {
            "input_ids": [[pad] * (width - len(row)) + row for row in rows],
            "attention_mask": [[0] * (width - len(row)) + [1] * len(row) for row in rows],
        }
        return data, dropped

    def _started(self, start: list[int], body: list[int]) -> list[int]:
        """A text behind the start token, which pictures in front may precede."""
        lead = self._pictures_before_start(body)
        return [*body[:lead], *start, *body[lead:]]

    def _pictures_before_start(self, body: list[int]) -> int:
        lead = 0
        while self.start_after_pictures and lead < len(body) and body[lead] == self.image_token_id:
            lead += 1
        return lead

    def _latest(self, row: list[int], room: int) -> tuple[list[int], int]:
        """The last `room` tokens, without a part of a picture, and how many pictures fell away."""
        is_picture = [token == self.image_token_id for token in row]
        total = sum(is_picture) // self.num_visual_tokens
        cut = max(len(row) - room, 0)
        while cut and cut < len(row) and is_picture[cut] and sum(is_picture[cut:]) % self.num_visual_tokens:
            cut += 1
        return row[cut:], total - sum(is_picture[cut:]) // self.num_visual_tokens

    def __call__(
        self,
        images=None,
        text=None,
        max_length: int | None = None,
        allow_urls: bool | None = None,
        **kwargs: Unpack[UniMuRProcessorKwargs],
    ) -> BatchFeature:
        """The call of every processor of transformers: texts are queries, and images alone are candidates.

        Candidate texts are prepared by `process_texts`: they go to another tokenizer, and `get_text_features` refuses
        what this call returns.

        Args:
            images: one image or a list; with several texts, a list of lists. Alone they are candidates.
            text (`str` or `list[str]`): contexts; `image_token` stands where an image belongs, and a text without
                any gets its images in front, each as `picture_prompt`.
            max_length (`int`, *optional*): in tokens.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; the attribute by default.
            kwargs: `padding` (True, False, "max_length"), `truncation` (True, False), `return_tensors` ("pt", "np" or
                None for lists), and options of the image processor.

        Raises:
            TypeError: an unknown option.
            ValueError: neither text nor images, or another number of images than of places for them.
        """
        if text is None and images is None:
            raise ValueError("Pass text, images, or both.")
        if text is None:
            return self.process_images(images, allow_urls=allow_urls, **kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        nested = self._per_text(images, len(texts))
        for number, (line, pictures) in enumerate(zip(texts, nested, strict=True)):
            line = self._defuse(require_unicode(line, f"Text {number}"), self.ret_tokens)
            places = line.count(self.image_token)
            if pictures and not places:
                line = self.picture_prompt * len(pictures) + line
            elif places != len(pictures):
                raise ValueError(f"Text {number} has {places} times {self.image_token} and {len(pictures)} images.")
            texts[number] = line
        loaded = [self._load(several, allow_urls) for several in nested]
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

    # -- candidates -----------------------------------------------------------------------------------------------
    def process_images(
        self, images, allow_urls: bool | None = None, **kwargs: Unpack[UniMuRProcessorKwargs]
    ) -> BatchFeature:
        """Prepares candidate images for `get_image_features`: `pixel_values` `(images, 3, height, width)`.

        Args:
            images: one image or a list: paths, bytes, PIL images or arrays.
            allow_urls (`bool`, *optional*): whether images may be fetched from URLs; the attribute by default.
            kwargs: `return_tensors` and options of the image processor.

        Raises:
            ValueError, FileNotFoundError: naming the image.
            TypeError: an unknown option.
        """
        _, options, tensors = sort_options(kwargs)
        loaded = self._load(images, allow_urls)
        if getattr(self, "squash_images", False):  # a UniVLDRProcessor has no such switch
            loaded = [image.resize(self._squashed_size()) for image in loaded]
        return as_batch(dict(self.image_processor(loaded, return_tensors="pt", **options)), tensors)

    def _squashed_size(self) -> tuple[int, int]:
        cut = getattr(self.image_processor, "do_center_crop", False)
        size = dict(self.image_processor.crop_size if cut else self.image_processor.size)
        side = size.get("shortest_edge")
        return (size.get("width", side), size.get("height", side))

    def _load(self, images, allow_urls: "bool | None") -> list:
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        allow_urls = self.allow_urls if allow_urls is None else allow_urls
        return [load_image(image, allow_urls=allow_urls) for image in images]

    def process_texts(
        self, texts: "str | list[str]", keep: str = "first", **kwargs: Unpack[UniMuRProcessorKwargs]
    ) -> BatchFeature:
        """Prepares candidate texts for `get_text_features`: `input_ids`, `attention_mask` `(texts, tokens)`.

        Args:
            texts (`str` or `list[str]`): a string is always a text, whatever it looks like.
            keep (`str`): which tokens of a longer text are kept, the `"first"` or the `"latest"`.
            kwargs: `padding` (`target_padding` by default), `truncation` (True), `max_length` (`max_target_tokens`)
                and `return_tensors`.

        Raises:
            ValueError: a text is not a string, or not valid Unicode.
            TypeError: an unknown option.
        """
        options, _, tensors = sort_options(kwargs)
        texts = [texts] if isinstance(texts, str) else list(texts)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"Text {number} is {type(text).__name__}, not a string.")
            require_unicode(text, f"Text {number}")
        texts = clean_texts(texts, self.clean_text)
        options = {"padding": self.target_padding, "truncation": True, "max_length": self.max_target_tokens, **options}
        tokenizer = self._latest_tokenizer() if keep == "latest" else self.target_tokenizer
        encoded = tokenizer(texts, verbose=False, **options)
        keys = ("input_ids",) if self.target_padding == "max_length" else ("input_ids", "attention_mask")
        return as_batch({key: encoded[key] for key in keys}, tensors)

    @staticmethod
    def score_retrieval(query_embeds: torch.Tensor, candidate_embeds: torch.Tensor) -> torch.Tensor:
        """Cosines `(queries, candidates)` of `(queries, width)` and `(candidates, width)`."""
        query = torch.nn.functional.normalize(query_embeds.float(), dim=-1)
        return query @ torch.nn.functional.normalize(candidate_embeds.float(), dim=-1).T

    # -- files ----------------------------------------------------------------------------------------------------
    @classmethod
    def _load_tokenizer_from_pretrained(cls, sub_processor_type, *args, **kwargs):
        """Tells transformers that the dual encoder's tokenizer has no configuration beside it.

        Otherwise it looks for one, and older releases fail at that: they leave out a private repository's `token`,
        and with `local_files_only` they take the missing file for an error.
        """
        if sub_processor_type == "target_tokenizer":
            kwargs["config"] = PreTrainedConfig()
        return super()._load_tokenizer_from_pretrained(sub_processor_type, *args, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, allow_urls: bool = False, **kwargs):
        """Loads a processor; `allow_urls` sets that attribute, which no file can."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        processor.allow_urls = allow_urls
        return processor

    def save_pretrained(self, save_directory, **kwargs):
        """Saves all parts. A fast tokenizer writes its last truncation and padding into its file: reset them first."""
        for tokenizer in (self.tokenizer, self.target_tokenizer):
            backend = getattr(tokenizer, "backend_tokenizer", None)
            if backend is not None:
                backend.no_truncation()
                backend.no_padding()
        return super().save_pretrained(save_directory, **kwargs)


__all__ = ["UniMuRProcessor", "UniMuRProcessorKwargs"]
