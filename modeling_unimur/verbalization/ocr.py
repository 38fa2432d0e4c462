"""What is written in an image, by Tesseract: for screenshots, slides and scans the honest words."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

# Of a token: what is left of Tesseract's guesses at icons and frames has no two letters or digits.
_WORD = re.compile(r"\w\w")
_SECONDS = 120


class OcrVerbalizer:
    """Reads images with the command `tesseract`.

    Args:
        language: of the texts, as `tesseract --list-langs` names it; `eng+deu` for several.
        layout: page segmentation mode; 11 finds scattered words, as in a dialog window.
        scale: images are enlarged by it first; a screen's letters are half as high as a scan's.
        workers: images that are read at a time.

    Raises:
        FileNotFoundError: Tesseract is not installed.
        ValueError: it does not know the language.
    """

    def __init__(self, language: str = "eng", layout: int = 11, scale: float = 2.0, workers: int = 2):
        self.command = shutil.which("tesseract")
        if self.command is None:
            raise FileNotFoundError("There is no command tesseract: `apt install tesseract-ocr`.")
        listed = subprocess.run([self.command, "--list-langs"], capture_output=True, text=True, timeout=_SECONDS)
        known = listed.stdout.split("\n")[1:]
        unknown = sorted(set(language.split("+")) - {name.strip() for name in known})
        if unknown:
            raise ValueError(f"Tesseract has no {', '.join(unknown)}: `apt install tesseract-ocr-{unknown[0]}`.")
        self.language, self.layout, self.scale, self.workers = language, layout, scale, workers
        version = subprocess.run([self.command, "--version"], capture_output=True, text=True, timeout=_SECONDS)
        self.key = f"ocr {(version.stdout or version.stderr).splitlines()[0]} {language} {layout} {scale}"

    def __call__(self, images: list[Image.Image], captions: list[str]) -> list[str]:
        """What stands in each image; "" where nothing can be read."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._read, images))

    def _read(self, image: Image.Image) -> str:
        size = tuple(max(1, round(self.scale * side)) for side in image.size)
        file = io.BytesIO()
        image.convert("L").resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
        done = subprocess.run(
            [self.command, "stdin", "stdout", "-l", self.language, "--psm", str(self.layout)],
            input=file.getvalue(),
            capture_output=True,
            timeout=_SECONDS,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
        if done.returncode:
            return ""
        words = done.stdout.decode("utf-8", "replace").split()
        return " ".join(word for word in words if _WORD.search(word))


__all__ = ["OcrVerbalizer"]
