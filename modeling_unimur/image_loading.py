"""Robust decoding of pictures: whatever the source holds, an RGB image or one clear error."""

from __future__ import annotations

import io
import os
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise ImportError(
        "Pillow, which reads pictures, is not installed. Install it with `pip install pillow`; a model whose dual "
        "encoder is an open_clip model needs `pip install open_clip_torch`, which brings it along."
    ) from error

# 300 MB in memory. Pillow's own limit is a setting of the whole process, which a library leaves alone.
MAX_PIXELS = 100_000_000
_URL_TIMEOUT_SECONDS = 30
_URL_MAX_BYTES = 200_000_000

# What Pillow's decoders raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


def load_image(
    source: str | os.PathLike | Image.Image | np.ndarray, *, allow_urls: bool = False, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decodes a picture into 8-bit RGB.

    EXIF orientation is applied, of an animated file the first frame is taken, transparency is put on white, 16-bit and
    floating-point grey is scaled to 8 bits, palettes and CMYK are converted.

    Args:
        source: a file's path, a PIL image, or an array of shape (height, width), (height, width, 1 | 3 | 4) or
            (1 | 3 | 4, height, width); integers in 0..255, booleans, unsigned 16-bit integers, or floats in 0..1.
        allow_urls: fetch `http(s)://` addresses; otherwise they are refused.
        max_pixels: the largest width x height that is decoded.

    Returns:
        A PIL image in mode RGB that shares no memory with `source`.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the picture is truncated, unreadable, empty or too large, the path is a folder or a URL that was
            not allowed, or `source` is of a wrong type. Each message names the source.
    """
    if isinstance(source, Image.Image):
        name = f"PIL image ({source.mode}, {source.width} x {source.height})"
        return _decode(source, name, max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_address(os.fspath(source), allow_urls, max_pixels)
    raise ValueError(f"cannot load an image from {type(source).__name__}: give a path, a PIL image or a numpy array")


def _from_address(address: str | bytes, allow_urls: bool, max_pixels: int) -> Image.Image:
    address = os.fsdecode(address)
    if not address.strip():
        raise ValueError("the image path is empty: give the path of an image file")
    if address.lower().startswith(("http://", "https://")):
        if not allow_urls:
            raise ValueError(f"{address}: URLs are not fetched; download the picture or pass allow_urls=True")
        return _open(io.BytesIO(_fetch(address)), address, max_pixels)
    if address.lower().startswith("data:"):
        raise ValueError(f"{address[:40]}...: data URLs are not supported; decode it to a PIL image first")
    try:
        path = Path(address)
        if path.is_dir():
            raise ValueError(f"{address}: is a folder; give the path of an image file")
        if not path.exists():
            raise FileNotFoundError(f"{address}: no such image file; check the path (relative to {Path.cwd()})")
        if not path.is_file():
            raise ValueError(f"{address}: is not a regular file; give the path of an image file")
        size = path.stat().st_size
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{address[:200]}: cannot be read: {error.strerror or error}") from error
    if size == 0:
        raise ValueError(f"{address}: the file is empty; give an image file")
    return _open(path, address, max_pixels)


def _open(file: Path | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not an image that Pillow can read; convert it to PNG or JPEG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: too large: {error}") from error
    except PermissionError as error:
        raise ValueError(f"{name}: no permission to read it") from error
    except _DECODING_ERRORS as error:
        raise ValueError(f"{name}: damaged image file: {error}") from error
    with image:
        return _decode(image, name, max_pixels)


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width == 0 or height == 0:
        raise ValueError(f"{name}: has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ValueError(
            f"{name}: too large: {width} x {height} is more than {max_pixels} pixels; shrink it or raise max_pixels"
        )
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except _DECODING_ERRORS as error:
        raise ValueError(f"{name}: truncated or damaged image: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_from_wide(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _grey_from_wide(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled: Pillow's own conversion clips it to white."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    if image.mode == "F":
        scale = 255 if values.min() >= 0 and values.max() <= 1 else 1
    else:
        # Mode I may hold 8-bit or 16-bit grey; Pillow before 11 opens 16-bit PNGs in it.
        scale = 1 if image.mode == "I" and values.max() <= 255 else 255 / 65535
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)).convert("RGB")


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    name = f"array of shape {array.shape} and type {array.dtype}"
    pixels = array
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise ValueError(f"{name} is not an image: give (height, width) or (height, width, 3)")
    if 0 in pixels.shape:
        raise ValueError(f"{name} has no pixels")
    if pixels.shape[0] * pixels.shape[1] > max_pixels:
        raise ValueError(f"{name} is too large: more than {max_pixels} pixels; shrink it or raise max_pixels")
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    elif pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    elif np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(f"{name} has values outside 0..1; scale it, or give integers in 0..255")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    elif np.issubdtype(pixels.dtype, np.integer):
        if pixels.min() < 0 or pixels.max() > 255:
            raise ValueError(f"{name} has values outside 0..255; scale it")
        pixels = pixels.astype(np.uint8)
    else:
        raise ValueError(f"{name} does not hold numbers")
    return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_URL_TIMEOUT_SECONDS) as response:
            content = response.read(_URL_MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise ValueError(f"{url}: cannot be fetched: {error}") from error
    if len(content) > _URL_MAX_BYTES:
        raise ValueError(f"{url}: more than {_URL_MAX_BYTES} bytes")
    return content
