"""Robust decoding of images: whatever the source holds, an RGB image or one clear error."""

from __future__ import annotations

import base64
import binascii
import io
import os
import struct
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np

try:
    from PIL import Image, ImageFile, UnidentifiedImageError
except ImportError as error:
    raise ImportError(
        "Pillow, which reads images, is not installed. Install it with `pip install pillow`; a model whose dual "
        "encoder is an open_clip model needs `pip install open_clip_torch`, which brings it along."
    ) from error
try:
    from PIL import ImageCms
except ImportError:  # a Pillow that was built without LittleCMS
    ImageCms = None
try:
    import pillow_heif
except ImportError:
    pillow_heif = None

# The formats that are decoded. Pillow knows more, among them EPS, which it hands to Ghostscript, a program of its own.
IMAGE_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA",
    "TIFF", "WEBP",
)  # fmt: skip
# 300 MB in memory. Pillow's own limit is a setting of the whole process, which a library leaves alone.
MAX_PIXELS = 100_000_000
# Image processors scale the short side up to 224 pixels or more: of a line of pixels they would make a giant. Qwen2-VL
# refuses the same ratio.
MAX_ASPECT_RATIO = 200
# Bytes of a file, which is read as a whole.
MAX_FILE_BYTES = 2**30
_URL_TIMEOUT_SECONDS = 30
_URL_MAX_BYTES = 200_000_000

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")

# Orientation tag of EXIF, and what undoes each of its values.
_ORIENTATION = 0x0112
_UNDO = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
_UPRIGHT = {value: Image.Transpose[name] for value, name in enumerate(_UNDO.split(), start=2)}
# Color spaces of a profile, by what ICC calls them, and the mode in which Pillow applies it.
_PROFILE_MODES = {"RGB": "RGB", "CMYK": "CMYK", "GRAY": "L"}


def load_image(
    source: str | os.PathLike | bytes | Image.Image | np.ndarray,
    *,
    allow_urls: bool = False,
    name: str | None = None,
) -> Image.Image:
    """Decodes an image into 8-bit sRGB.

    The EXIF orientation and an embedded color profile are applied, the first frame of an animation is taken,
    transparency is put on white, 16-bit and floating-point grey is scaled to 8 bits, palettes and CMYK are converted.
    Metadata that cannot be read is ignored.

    Args:
        source: the path of a file, its bytes, a `data:` URI, a PIL image, or an array of shape (height, width),
            (height, width, 1 | 3 | 4) or (1 | 3 | 4, height, width); integers in 0..255, booleans, unsigned 16-bit
            integers, or floats in 0..1.
        allow_urls: fetch `http(s)://` addresses; otherwise they are refused.
        name: what error messages call the image; by default the path, or the type of the source.

    Returns:
        A PIL image in mode RGB, without metadata, that shares no memory with `source`.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: the image is unreadable, empty, too large or narrower than 1 : 200, its format is none of
            `IMAGE_FORMATS`, or `source` is of a wrong type.
    """
    name = name or source_name(source)
    if isinstance(source, np.ndarray):
        source = _from_array(source, source_name(source))
    if isinstance(source, Image.Image):
        return _decode(source, name)
    return _open(image_bytes(source, allow_urls=allow_urls, name=name), name)


def image_bytes(source: str | os.PathLike | bytes, *, allow_urls: bool = False, name: str | None = None) -> bytes:
    """Reads the encoded bytes of an image; the arguments and errors are those of `load_image`, but for images and
    arrays."""
    name = name or source_name(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not source:
            raise ValueError(f"{name}: there are no bytes; give those of an image file")
        return bytes(source)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"cannot load an image from {name}: give a path, bytes, a PIL image or a numpy array")
    address = os.fsdecode(os.fspath(source))
    if not address.strip():
        raise ValueError("the image path is empty: give the path of an image file")
    if address[:8].lower().startswith(("http://", "https://")):
        if not allow_urls:
            raise ValueError(f"{name}: URLs are not fetched; download the image or pass allow_urls=True")
        return _fetch(address)
    if address[:5].lower() == "data:":
        return _from_data_uri(address, name)
    return _read_file(address)


def decode_base64(text: str, name: str = "the base64 text") -> bytes:
    """Decodes base64 text, with line breaks or spaces in it and with or without padding; ValueError for others."""
    compact = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name}: is not base64: {error}") from error


def source_name(source) -> str:
    """What error messages call a source."""
    if isinstance(source, Image.Image):
        return f"PIL image ({source.mode}, {source.width} x {source.height})"
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape} and type {source.dtype}"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"image of {len(source)} bytes"
    if isinstance(source, (str, os.PathLike)):
        address = os.fsdecode(os.fspath(source))
        return address if len(address) <= 200 else f"{address[:40]}..."
    return type(source).__name__


def _read_file(address: str) -> bytes:
    shown = address[:200]
    try:
        path = Path(address)
        if not path.exists():
            raise FileNotFoundError(f"{shown}: no such image file; check the path (relative to {Path.cwd()})")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise ValueError(f"{shown}: is {kind}; give the path of an image file")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{shown}: too large: {size} bytes are more than {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{shown}: cannot be read: {error.strerror or error}") from error
    if not data:
        raise ValueError(f"{shown}: the file is empty; give an image file")
    return data


def _from_data_uri(address: str, name: str) -> bytes:
    """The content of `data:[<type>][;base64],<content>` (RFC 2397)."""
    header, comma, content = address.partition(",")
    if not comma:
        raise ValueError(f"{name}: the data URI has no content: it is written data:image/png;base64,<content>")
    content = urllib.parse.unquote_to_bytes(content)
    if header.lower().rstrip().endswith(";base64"):
        return decode_base64(content.decode("latin-1"), name)
    return content


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_URL_TIMEOUT_SECONDS) as response:
            content = response.read(_URL_MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise ValueError(f"{url}: cannot be fetched: {error}") from error
    if len(content) > _URL_MAX_BYTES:
        raise ValueError(f"{url}: more than {_URL_MAX_BYTES} bytes")
    return content


# -- decoding ---------------------------------------------------------------------------------------------------------
def _open(data: bytes, name: str) -> Image.Image:
    try:
        image = _identify(data, name)
    except ValueError:
        pixels = _without_metadata(data)  # which may be what Pillow stumbles over
        if pixels is None:
            raise
        image = _identify(pixels, name)
    with image:
        return _decode(image, name)


def _identify(data: bytes, name: str) -> Image.Image:
    Image.init()
    if pillow_heif is not None and "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
    try:
        return Image.open(io.BytesIO(data), formats=[kind for kind in IMAGE_FORMATS if kind in Image.OPEN])
    except UnidentifiedImageError as error:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
            remedy = "HEIC needs pillow-heif; install it with `pip install pillow-heif` (the extra unimur[heif])"
        else:
            remedy = f"not an image that is read here ({', '.join(IMAGE_FORMATS)}); convert it to PNG or JPEG"
        raise ValueError(f"{name}: {remedy}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: too large: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise ValueError(f"{name}: damaged image file: {error}") from error


def _without_metadata(data: bytes) -> bytes | None:
    """A PNG or a JPEG without what its pixels do not need; None for other formats and where nothing is left out."""
    kept = None
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kept, at = data[:8], 8
        while at + 12 <= len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            kind = data[at + 4 : at + 8]
            if kind[:1].isupper() or kind == b"tRNS":  # critical chunks (PNG specification, 5.4), and transparency
                kept += data[at : at + 12 + length]
            at += 12 + length
    elif data.startswith(b"\xff\xd8"):
        kept, at = data[:2], 2
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            (length,) = struct.unpack(">H", data[at + 2 : at + 4])
            # A whole APP14 says how the colors are coded; all other application segments and comments are metadata.
            is_metadata = 0xE0 <= data[at + 1] <= 0xEF or data[at + 1] == 0xFE
            if not is_metadata or (data[at + 1] == 0xEE and length >= 14):
                kept += data[at : at + 2 + length]
            at += 2 + length
        kept += data[at:]
    return None if kept is None or len(kept) == len(data) else kept


def _decode(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width == 0 or height == 0:
        raise ValueError(f"{name}: has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: too large: {width} x {height} is more than {MAX_PIXELS} pixels; shrink it")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(f"{name}: too narrow: {width} x {height} is beyond 1 : {MAX_ASPECT_RATIO}; crop it")
    if isinstance(image, ImageFile.ImageFile) and image.format not in IMAGE_FORMATS:
        raise ValueError(f"{name}: {image.format} is not decoded; convert it to PNG or JPEG")
    try:
        deep = any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ()))  # before the pixels are loaded
        image.load()
        loaded = _to_rgb(_upright(image), deep)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise ValueError(f"{name}: truncated or damaged image: {error}") from error
    loaded.info = {}  # orientation and profile are applied, and would be once more
    return loaded


def _upright(image: Image.Image) -> Image.Image:
    try:
        undo = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # EXIF that cannot be read says nothing
        return image
    return image if undo is None else image.transpose(undo)


def _to_rgb(image: Image.Image, deep: bool) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_from_wide(image)
    alpha, profile = None, image.info.get("icc_profile")
    if image.has_transparency_data:
        transparent = image.info.get("transparency")
        if deep and isinstance(transparent, tuple):  # 16 bits, of pixels that Pillow reads into 8
            image = image.copy()
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile:
        image = _to_srgb(image, profile)
    image = image.copy() if image.mode == "RGB" else image.convert("RGB")
    if alpha is None:
        return image
    image.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The image in sRGB, by its color profile; as it is where the profile is sRGB, damaged or for other colors."""
    if ImageCms is None:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).strip().startswith("sRGB"):
            return image
        mode = _PROFILE_MODES.get(source.profile.xcolor_space.strip())
        if mode is None or (image.mode == "CMYK") != (mode == "CMYK"):
            return image
        return ImageCms.profileToProfile(image.convert(mode), source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # a profile that cannot be read says nothing
        return image


def _grey_from_wide(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled: Pillow's own conversion clips it to white."""
    stored = np.asarray(image)
    values = np.nan_to_num(stored.astype(np.float64))
    if image.mode == "F":
        scale = 255 if values.min() >= 0 and values.max() <= 1 else 1
    else:
        # Mode I may hold 8-bit or 16-bit grey; Pillow before 11 opens 16-bit PNGs in it.
        scale = 1 if image.mode == "I" and values.max() <= 255 else 255 / 65535
    grey = np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[stored == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise ValueError(f"{name} is not an image: give (height, width) or (height, width, 3)")
    if not pixels.size or pixels.dtype.kind not in "biuf":
        raise ValueError(f"{name} has no pixels, or does not hold numbers")
    if pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    elif pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257)
    else:
        is_real = pixels.dtype.kind == "f"
        most = 1 if is_real else 255
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > most:
            raise ValueError(f"{name} has values outside 0..{most}; scale it, or give integers in 0..255")
        pixels = np.rint(pixels * 255) if is_real else pixels
    return Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))
