"""An image from a client: its header is checked first, and it is decoded later."""

from __future__ import annotations

import base64
import binascii
import io
import math

from ..image_loading import Image, load_image
from .limits import Refused, ServingLimits

# Formats that clients may send; Pillow knows others, whose decoders run other programs or have a worse record.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# A larger image is reduced when it is decoded, by a whole number, to this or up to four times as many pixels. Dual
# encoders read a few hundred pixels a side: this changes their vectors about as little as JPEG does.
KEPT_PIXELS, _KEPT_SIDE = 1_000_000, 512
# A scan of a progressive JPEG costs as much as an image; encoders write about ten.
_JPEG_SCANS = 32
_REDUCED_AS = {"L": "L", "RGB": "RGB", "CMYK": "CMYK", "YCbCr": "YCbCr", "LA": "La", "RGBA": "RGBa"}


class EncodedImage:
    """The bytes of an image in base64, with or without `data:image/png;base64,` in front, of which only the header has
    been read.

    Raises:
        Refused: 422 for what is no image of an allowed format, or is too large.
    """

    def __init__(self, source: str, limits: ServingLimits):
        if source.startswith("data:"):
            source = source.partition(",")[2]
        try:
            data = base64.b64decode(source, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused(422, "An image comes as base64, not as a path or an address.") from error
        try:
            self._image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = self._image.size
        except Exception as error:  # damaged files make decoders raise nearly anything
            raise Refused(422, f"Not an image that can be decoded; {', '.join(FORMATS)} are read.") from error
        if not width or not height:
            raise Refused(422, "The image has no pixels.")
        if max(width, height) > limits.side:
            raise Refused(422, f"The image is too large: {width} x {height}; a side has at most {limits.side} pixels.")
        if width * height > limits.pixels:
            raise Refused(422, f"The image is too large: {width} x {height}; at most {limits.pixels} pixels are read.")
        if max(width, height) > limits.aspect * min(width, height):
            raise Refused(422, f"The image is too narrow: {width} x {height}; at most {limits.aspect} to 1 is read.")
        if self._image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _JPEG_SCANS:
            raise Refused(422, f"The JPEG image has more than {_JPEG_SCANS} scans.")
        if self._image.format in ("JPEG", "MPO"):  # decoded at a half, a quarter or an eighth of its size
            factor = _reduction(width, height)
            self._image.draft(None, (width // factor, height // factor))
        width, height = self._image.size
        self.pixels = width * height
        factor = _reduction(width, height)
        self.kept_pixels = math.ceil(width / factor) * math.ceil(height / factor)

    def decode(self) -> Image.Image:
        """The image in 8-bit RGB, as `load_image` decodes it; a large one is reduced. Raises Refused, 422, for a
        damaged image."""
        image, self._image = self._image, None
        try:
            with image:
                image.load()
                small = _reduced(image) if image.mode in _REDUCED_AS else image
                return _reduced(load_image(small))
        except Exception as error:
            raise Refused(422, f"Not an image that can be decoded: {error!s:.200}.") from error


def _reduction(width: int, height: int) -> int:
    """The integer factor by which both sides are reduced."""
    wanted = math.isqrt(width * height // KEPT_PIXELS)
    return max(1, min(wanted, min(width, height) // _KEPT_SIDE))


def _reduced(image: Image.Image) -> Image.Image:
    factor = _reduction(*image.size)
    if factor == 1:
        return image
    mode = image.mode
    # Averages of colours count by their opacity.
    return image.convert(_REDUCED_AS[mode]).reduce(factor).convert(mode)
