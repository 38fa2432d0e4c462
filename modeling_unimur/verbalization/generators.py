"""Words of images: by UniMuR's captioner, any image-to-text model, or Tesseract."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import transformers
from packaging.version import Version
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from .. import UniMuRModel, UniMuRProcessor
from ..data.cache import files_stamp

# Lengths of UniVL-DR's verbalizer are not known; a caption of CC3M has ten words.
_NEW_TOKENS = 32
# Before transformers 5.18, GIT counts the positions of its cached tokens twice and leaves padding unmasked: without a
# cache its words are right.
_WRONG_CACHES = ("git",) if Version(transformers.__version__) < Version("5.18") else ()


class UniMuRVerbalizer:
    """A UniMuR whose caption loss was trained says what an image shows, in at most `max_new_tokens`; `kwargs` are
    those of `UniMuRModel.from_pretrained` (`language_model=`, `clip=`, `revision=`)."""

    def __init__(self, source: str, max_new_tokens: int = _NEW_TOKENS, device: str = "cpu", **kwargs):
        self.model = UniMuRModel.from_pretrained(source, **kwargs).to(device).eval()
        self.processor = UniMuRProcessor.from_pretrained(source)
        self.max_new_tokens = max_new_tokens
        self.key = f"unimur {_state(source)} {self.processor.caption_prompt!r} {max_new_tokens}"

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image], captions: list[str]) -> list[str]:
        """Generate one line per image. The captions are ignored."""
        inputs = self.processor.process_caption_prompt(images).to(self.model.device)
        tokenizer = self.processor.tokenizer
        ids = self.model.generate(
            **inputs, max_new_tokens=self.max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        return [_first_line(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


class ImageToTextVerbalizer:
    """Any model of transformers that writes text about an image (BLIP, GIT, LLaVA, Qwen-VL, SmolVLM, ...).

    Args:
        source: folder or Hub id.
        prompt (*optional*): what is asked; `{caption}` in it is the image's own caption. A captioner needs none. For
            words like queries: `"Write a question that this image, titled '{caption}', answers."`.
        max_new_tokens: longest text.
        device: where it runs.
        kwargs: of `from_pretrained` (`revision=`, `dtype=`).

    Raises:
        OSError: it cannot be loaded.
    """

    def __init__(
        self, source: str, prompt: str | None = None, max_new_tokens: int = _NEW_TOKENS, device: str = "cpu", **kwargs
    ):
        self.model = AutoModelForImageTextToText.from_pretrained(source, **kwargs).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(source, revision=kwargs.get("revision", "main"))
        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        self.key = f"image-to-text {_state(source)} {kwargs.get('revision')} {prompt!r} {max_new_tokens}"
        self.processor.tokenizer.padding_side = "left"  # what is generated follows the last token
        self._options = {"use_cache": False} if self.model.config.model_type in _WRONG_CACHES else {}

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image], captions: list[str]) -> list[str]:
        """Generate one line per image."""
        inputs = self._inputs(images, captions).to(self.model.device, self.model.dtype)
        ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False, **self._options)
        asked = inputs.get("input_ids")
        if asked is not None and torch.equal(ids[:, : asked.shape[1]], asked):  # decoders repeat what they were asked
            ids = ids[:, asked.shape[1] :]
        return [_first_line(text) for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def _inputs(self, images, captions):
        prompts = None
        if self.prompt is not None:
            prompts = [self.prompt.replace("{caption}", caption) for caption in captions]
        if getattr(self.processor, "chat_template", None):
            asked = [[{"type": "text", "text": prompt}] if prompt else [] for prompt in prompts or [""] * len(images)]
            talks = [
                [{"role": "user", "content": [{"type": "image", "image": image}, *parts]}]
                for image, parts in zip(images, asked, strict=True)
            ]
            return self.processor.apply_chat_template(
                talks,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"text_kwargs": {"padding": True}},
            )
        words = {} if prompts is None else {"text": prompts, "padding": True}
        return self.processor(images=images, return_tensors="pt", **words)


def _state(source: str) -> str:
    """A source, and of a folder also when its weights were written."""
    weights = sorted(Path(source).glob("*.safetensors"))
    return f"{source} {files_stamp(weights)}" if weights else source


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def open_verbalizer(name: str, prompt: str | None = None, device: str = "cpu"):
    """Create a verbalizer from its name on the command line: `ocr`, `ocr=LANGUAGE`, `unimur=FOLDER`, or `model=ID`,
    any image-to-text model, which alone takes a prompt.

    Raises:
        ValueError: another name, or a prompt that would not be read.
        FileNotFoundError: Tesseract is not installed.
    """
    kind, _, value = name.partition("=")
    if prompt is not None and kind != "model":
        raise ValueError(f"A prompt is for model=ID; {name} reads none.")
    if kind == "ocr":
        return OcrVerbalizer(value or "eng")
    if kind == "unimur" and value:
        return UniMuRVerbalizer(value, device=device)
    if kind == "model" and value:
        return ImageToTextVerbalizer(value, prompt, device=device)
    raise ValueError(f"A verbalizer is ocr, ocr=LANGUAGE, unimur=FOLDER or model=ID, not {name!r}.")


# Of a token: what is left of Tesseract's guesses at icons and frames has no two letters or digits.
_WORD = re.compile(r"\w\w")
_SECONDS = 120
# Page segmentation mode that finds scattered words, as in a dialog window; the enlargement of images, since a screen's
# letters are half as high as a scan's; and images that are read at a time.
_LAYOUT, _SCALE, _WORKERS = 11, 2.0, 2


class OcrVerbalizer:
    """Reads images with the command `tesseract`, in a language as `tesseract --list-langs` names it; `eng+deu` for
    several.

    Raises:
        FileNotFoundError: Tesseract is not installed.
        ValueError: it does not know the language.
    """

    def __init__(self, language: str = "eng"):
        self.command = shutil.which("tesseract")
        if self.command is None:
            raise FileNotFoundError("There is no command tesseract: `apt install tesseract-ocr`.")
        listed = subprocess.run([self.command, "--list-langs"], capture_output=True, text=True, timeout=_SECONDS)
        known = listed.stdout.split("\n")[1:]
        unknown = sorted(set(language.split("+")) - {name.strip() for name in known})
        if unknown:
            raise ValueError(f"Tesseract has no {', '.join(unknown)}: `apt install tesseract-ocr-{unknown[0]}`.")
        self.language = language
        version = subprocess.run([self.command, "--version"], capture_output=True, text=True, timeout=_SECONDS)
        self.key = f"ocr {(version.stdout or version.stderr).splitlines()[0]} {language} {_LAYOUT} {_SCALE}"

    def __call__(self, images: list[Image.Image], captions: list[str]) -> list[str]:
        """Return the text in each image, "" if there is none."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            return list(pool.map(self._read, images))

    def _read(self, image: Image.Image) -> str:
        size = tuple(max(1, round(_SCALE * side)) for side in image.size)
        file = io.BytesIO()
        image.convert("L").resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
        done = subprocess.run(
            [self.command, "stdin", "stdout", "-l", self.language, "--psm", str(_LAYOUT)],
            input=file.getvalue(),
            capture_output=True,
            timeout=_SECONDS,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
        if done.returncode:
            return ""
        words = done.stdout.decode("utf-8", "replace").split()
        return " ".join(word for word in words if _WORD.search(word))
