"""Dialogues, pictures and texts as the tensors that `UniMuRModel` reads."""

import json

import torch
from tokenizers import AddedToken, processors
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin

from .captions_unimur import CaptionsMixin
from .image_loading import load_image
from .messages_unimur import is_conversation, read_conversation
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


class UniMuRProcessor(CaptionsMixin, ProcessorMixin):
    """Prepares dialogues for the language model and candidates for the dual encoder.

    The language model's tokenizer ends every text with the readout prompt and [RET], by its post-processor: they
    survive any truncation, whoever calls it.

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
    """

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
        if tokenizer is not None:
            self._append_readout(tokenizer)
        template = chat_template or _CHAT_TEMPLATE.replace("PICTURE", json.dumps(self.picture_prompt))
        super().__init__(image_processor, tokenizer, target_tokenizer, chat_template=template)

    def _prompt(self, name: str, text: str | None) -> str:
        text = self.image_token if text is None else text
        if text.count(self.image_token) != 1:
            raise ValueError(f"{name} shows one picture: it holds {self.image_token} once, not as {text!r} does.")
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
        revisions = {
            name: {"revision": kwargs.pop(f"{name}_revision")} if kwargs.get(f"{name}_revision") else {}
            for name in ("language_model", "clip")
        }
        kwargs = {key: value for key, value in kwargs.items() if not key.endswith("_revision")}
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
        self._prefix_length = len(tokenizer("")["input_ids"]) - len(suffix)  # BOS, where the model has one

    # -- contexts -------------------------------------------------------------------------------------------------
    def process_context(
        self, conversations, max_length: int | None = None, allow_urls: bool = False, first: int | None = 0
    ) -> BatchFeature:
        """Dialogues, ready for `get_multimodal_features`.

        Args:
            conversations: one dialogue or a list; a dialogue is a list of chat messages, a string or a picture.
            max_length (`int`, *optional*): in tokens, `max_context_tokens` by default; the latest tokens are kept, and
                a picture that does not fit whole is left out.
            allow_urls (`bool`): whether pictures may be fetched from URLs.
            first (`int`, *optional*): number of the first dialogue, for errors.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` of shape `(batch, tokens)`, padded on the left, and, if
            there are pictures, `pixel_values` of shape `(pictures, 3, height, width)` in reading order.

        Raises:
            ValueError, FileNotFoundError: naming the dialogue, the turn and the part that is wrong.
        """
        if is_conversation(conversations):
            conversations, first = [conversations], None
        if not conversations:
            raise ValueError("No dialogue: pass at least one.")
        texts, images = [], []
        for number, conversation in enumerate(conversations):
            where = "The dialogue" if first is None else f"Dialogue {first + number}"
            messages, pictures = read_conversation(conversation, where, allow_urls)
            texts.append(self.render(messages))
            images.append(pictures)
        return self._encode(texts, images, max_length)

    def render(self, messages: "list[dict]") -> str:
        """One dialogue as text, `image_token` where a picture is; what users typed never counts as a picture or as
        [RET].

        Args:
            messages: chat messages whose content is a list of `{"type": "text", "text": str}` and
                `{"type": "image"}` parts.
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
        return self.apply_chat_template(messages, tokenize=False)

    @staticmethod
    def _defuse(text: str, tokens) -> str:
        for token in tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    @property
    def overhead_tokens(self) -> int:
        """Tokens that every context has besides its own: the start, the readout prompt and [RET]."""
        return self._prefix_length + self._suffix_length

    def _encode(self, texts: list[str], images: list[list], max_length: int | None) -> BatchFeature:
        data, dropped = self._tokenize(texts, max_length, keep="latest")
        kept = [picture for pictures, lost in zip(images, dropped, strict=True) for picture in pictures[lost:]]
        if kept:
            data.update(self.process_images(kept))
        return BatchFeature(data)

    def process_rendered(self, texts: list[str], max_length: int | None = None, keep: str = "first") -> BatchFeature:
        """Contexts that are written out already (see `render`), for a caller who has the pictures' features.

        Args:
            texts (`list[str]`): with `image_token` at the places of pictures.
            max_length (`int`, *optional*): in tokens, `max_context_tokens` by default.
            keep (`str`): which tokens of a longer text are kept, the `"first"` or the `"latest"`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(batch, tokens)`, padded on the left.
        """
        return BatchFeature(self._tokenize(texts, max_length, keep)[0])

    def _tokenize(self, texts: list[str], max_length: int | None, keep: str) -> tuple[dict, list[int]]:
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
            body, lost = (row[:room], 0) if keep == "first" else self._latest(row, room)
            dropped.append(lost)
            rows[number] = [*self._started(start, body), *suffix]
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        data = {
            "input_ids": torch.tensor([[pad] * (width - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
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

    def __call__(self, images=None, text=None, max_length: int | None = None, **kwargs) -> BatchFeature:
        """The call of every transformers processor.

        Args:
            images: one picture or a list; with several texts, a list of lists. Alone they are candidates.
            text (`str` or `list[str]`): contexts; `image_token` stands where a picture belongs, and a text without
                any gets its pictures in front, each as `picture_prompt`.
            max_length (`int`, *optional*): in tokens.
        """
        if text is None and images is None:
            raise ValueError("Pass text, images, or both.")
        if text is None:
            return self.process_images(images)
        texts = [text] if isinstance(text, str) else list(text)
        nested = self._per_text(images, len(texts))
        for number, (line, pictures) in enumerate(zip(texts, nested, strict=True)):
            line = self._defuse(line, self.ret_tokens)
            places = line.count(self.image_token)
            if pictures and not places:
                line = self.picture_prompt * len(pictures) + line
            elif places != len(pictures):
                raise ValueError(f"Text {number} has {places} times {self.image_token} and {len(pictures)} pictures.")
            texts[number] = line
        return self._encode(texts, [[load_image(p) for p in pictures] for pictures in nested], max_length)

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
            raise ValueError(f"{count} texts and pictures for {len(images)}: pass one list of pictures a text.")
        return [list(entry) for entry in images]

    # -- candidates -----------------------------------------------------------------------------------------------
    def process_images(self, images, allow_urls: bool = False) -> BatchFeature:
        """Candidate pictures, ready for `get_image_features`: `pixel_values` `(pictures, 3, height, width)`."""
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        loaded = [load_image(image, allow_urls=allow_urls) for image in images]
        if getattr(self, "squash_images", False):  # a UniVLDRProcessor has no such switch
            loaded = [image.resize(self._squashed_size()) for image in loaded]
        return BatchFeature(dict(self.image_processor(loaded, return_tensors="pt")))

    def _squashed_size(self) -> tuple[int, int]:
        cut = getattr(self.image_processor, "do_center_crop", False)
        size = dict(self.image_processor.crop_size if cut else self.image_processor.size)
        side = size.get("shortest_edge")
        return (size.get("width", side), size.get("height", side))

    def process_texts(self, texts: "str | list[str]") -> BatchFeature:
        """Candidate texts, ready for `get_text_features`: `input_ids`, `attention_mask` `(texts, tokens)`; cut at
        `max_target_tokens`."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"Text {number} is {type(text).__name__}, not a string.")
        texts = clean_texts(texts, self.clean_text)
        encoded = self.target_tokenizer(
            texts, padding=self.target_padding, truncation=True, max_length=self.max_target_tokens, return_tensors="pt"
        )
        keys = ("input_ids",) if self.target_padding == "max_length" else ("input_ids", "attention_mask")
        return BatchFeature({key: encoded[key] for key in keys})

    @staticmethod
    def score_retrieval(query_embeds: torch.Tensor, candidate_embeds: torch.Tensor) -> torch.Tensor:
        """Cosines `(queries, candidates)` of `(queries, width)` and `(candidates, width)`."""
        query = torch.nn.functional.normalize(query_embeds.float(), dim=-1)
        return query @ torch.nn.functional.normalize(candidate_embeds.float(), dim=-1).T

    # -- files ----------------------------------------------------------------------------------------------------
    def save_pretrained(self, save_directory, **kwargs):
        """Saves all parts. A fast tokenizer writes its last truncation and padding into its file: reset them first."""
        for tokenizer in (self.tokenizer, self.target_tokenizer):
            backend = getattr(tokenizer, "backend_tokenizer", None)
            if backend is not None:
                backend.no_truncation()
                backend.no_padding()
        return super().save_pretrained(save_directory, **kwargs)


__all__ = ["UniMuRProcessor"]
