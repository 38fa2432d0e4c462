"""What clients send: read, or refused with the right status."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from modeling_unimur.image_loading import load_image
from modeling_unimur.serving.encoded_image import KEPT_PIXELS, EncodedImage
from modeling_unimur.serving.limits import Refused, ServingLimits
from modeling_unimur.serving.requests import read_request

LIMITS = ServingLimits(
    turns=3, parts=9, characters=50, images=2, pixels=10_000, request_pixels=15_000, side=2000, aspect=20, top_k=7,
    filter_values=4,
)  # fmt: skip


def encoded(image: Image.Image, kind: str = "PNG", **options) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def png(width: int = 8, height: int | None = None, kind: str = "PNG") -> str:
    return encoded(Image.new("L", (width, height or width)), kind)


def read(**request):
    return read_request(json.dumps(request).encode(), LIMITS)


def user(content) -> dict:
    return {"role": "user", "content": content}


def images(*sources) -> dict:
    return {"messages": [user([{"type": "image", "image": source} for source in sources])]}


def test_what_is_read():
    found = read(messages="hello")
    assert found.messages == [user([{"type": "text", "text": "hello"}])]
    assert (found.top_k, found.modality, found.where, found.client) == (5, "both", None, None)
    parts = [{"type": "text", "text": "look"}, {"type": "image", "image": f"data:image/png;base64,{png()}"}]
    found = read(messages=[user("a"), user(parts)], top_k=7, modality="joint", where={"year": {"gte": 3}})
    assert found.decode().messages[1]["content"][1]["image"].size == (8, 8)
    assert (found.top_k, found.modality, found.where) == (7, "joint", {"year": {"gte": 3}})
    assert not found.coherent
    # Those that are ranked otherwise are not ranked together.
    assert read(messages="hi", coherent=True).order != read(messages="hi").order
    assert read(messages="hi", modality="pair", coherent=True).coherent
    assert read(messages=[user([{"type": "image", "base64": png()}])]).messages
    assert len({read(messages="hi", **options).order for options in ({}, {"rerank": True}, {"rerank": False})}) == 3
    found = read(messages=[user("a"), user(parts)], hybrid=0.3)
    assert (found.hybrid, found.words) == (0.3, "a\nlook")
    assert len({read(messages="hi", hybrid=hybrid).order for hybrid in (None, 0.3, "rrf")}) == 3


def nested(depth: int):
    value: dict = {"a": 1}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [7]}, "Message 0"),
        ({"messages": [None]}, "Message 0"),
        ({"messages": [{"role": "user"}]}, "role and content"),
        ({"messages": [{"role": "root", "content": "a"}]}, "role must"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "role must"),
        ({"messages": [user(3)]}, "or a list"),
        ({"messages": [user(nested(400))]}, "or a list"),
        ({"messages": [user([nested(400)])]}, "a part must"),
        ({"messages": [user([{"type": "video"}])]}, "a part must"),
        ({"messages": [user([{"type": "text", "text": 3}])]}, "a part must"),
        ({"messages": [user([{"type": "text", "text": "a\0b"}])]}, "NUL"),
        ({"messages": [user("a\ud800b")]}, "surrogate"),
        ({"messages": [user([{"type": "text", "text": ""}] * 10)]}, "9 parts"),
        ({"messages": "hi", "topk": 3}, "topk"),
        ({"messages": "hi", "\ud800": 3}, "Unknown"),
        ({"messages": [user("a")] * 4}, "4 turns"),
        ({"messages": "x" * 51}, "50 characters"),
        ({"messages": "  "}, "empty"),
        (images(png(), png(), png()), "2 images"),
        (images(png(101)), "too large"),
        (images(png(90), png(90)), "15000 pixels"),
        (images(png(2001, 1)), "side"),
        (images(png(1, 21)), "too narrow"),
        (images(png(kind="TIFF")), "Not an image"),
        (images(png(kind="PPM")), "Not an image"),
        (images(base64.b64encode(b"words").decode()), "Not an image"),
        (images(base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode()), "Not an image"),
        (images("/etc/passwd"), "base64"),
        (images("http://127.0.0.1/a.png"), "base64"),
        (images("ü"), "base64"),
        (images(["a"]), "a part must"),
        ({"messages": "hi", "top_k": 8}, "1 to 7"),
        ({"messages": "hi", "top_k": True}, "1 to 7"),
        ({"messages": "hi", "top_k": 3.0}, "1 to 7"),
        ({"messages": "hi", "top_k": nested(400)}, "1 to 7"),
        ({"messages": "hi", "top_k": 10**4000}, "1 to 7"),
        ({"messages": "hi", "modality": "sound"}, "modality"),
        ({"messages": "hi", "coherent": "yes"}, "coherent"),
        ({"messages": "hi", "rerank": 1}, "rerank"),
        ({"messages": "hi", "hybrid": "max"}, "hybrid"),
        ({"messages": "hi", "hybrid": 1.5}, "hybrid"),
        ({"messages": "hi", "hybrid": True}, "hybrid"),
        ({"messages": "hi", "hybrid": nested(400)}, "hybrid"),
        ({"messages": "hi", "modality": ["text"]}, "modality"),
        ({"messages": "hi", "where": {"a": None}}, "where"),
        ({"messages": "hi", "where": [1]}, "where"),
        ({"messages": "hi", "where": {"a": [1, 2, 3, 4, 5]}}, "4 values"),
        ({"messages": "hi", "where": {"a": [1, 2, 3], "b": {"gte": 1, "lt": 2}}}, "4 values"),
        ({"messages": "hi", "where": dict.fromkeys("abcde", 1)}, "4 values"),
        ({"messages": "hi", "where": {"a": [[1]]}}, "where"),
        ({"messages": "hi", "where": nested(400)}, "where"),
        ({"messages": "hi", "where": {"a": {"gte": "\ud800"}}}, "where"),
        ({"messages": "hi", "where": {"a\0": 1}}, "NUL"),
        ({"messages": "hi", "where": {"a": "x" * 51}}, "50 characters"),
    ],
)  # fmt: skip
def test_what_is_refused(request_, words):
    with pytest.raises(Refused, match=words) as refused:
        read(**request_)
    assert refused.value.status == 422
    refused.value.reason.encode()  # a client can be told


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1]", b"null", b"3", b'"hi"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"\0",
        b'{"messages": "hi", "where": {"a": NaN}}', b'{"messages": "hi", "where": {"a": 1e999}}',
        b'{"messages": "hi", "top_k": Infinity}', b'{"messages": "hi", "top_k": ' + b"1" * 5000 + b"}",
        b'{"messages": "hi"} x', '{"messages": "hi"}'.encode("utf-16"),
        b'{"messages": [' + b"{}," * 1_000_000 + b"{}]}",
    ],
)  # fmt: skip
def test_bodies_that_are_refused(body):
    with pytest.raises(Refused) as refused:
        read_request(body, LIMITS)
    assert refused.value.status == 422


def test_what_an_image_costs_is_known_before_it_is_decoded():
    limits = ServingLimits()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).resize((4000, 3000))
    for kind, most in (("JPEG", 4_000_000), ("WEBP", 12_000_000)):
        image = EncodedImage(encoded(noise, kind), limits)
        assert image.pixels <= most
        decoded = image.decode()
        assert decoded.width * decoded.height == image.kept_pixels
        assert KEPT_PIXELS <= image.kept_pixels < 4 * KEPT_PIXELS
        expected = noise.resize(decoded.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(decoded, float) - np.asarray(expected, float)).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_a_large_image_is_decoded_as_a_small_one_is(mode):
    rows = np.add.outer(np.arange(2100), np.arange(2100)) * 255 // 4200
    image = Image.fromarray(rows.astype(np.uint8))
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(rows.T.astype(np.uint8)))
    elif mode == "I;16":
        image = Image.fromarray((rows * 257).astype(np.uint16))
    elif mode != "L":
        image = image.convert(mode)
    found = EncodedImage(encoded(image), ServingLimits()).decode()
    assert (found.mode, found.size) == ("RGB", (1050, 1050))
    expected = load_image(image).reduce(2)
    assert np.abs(np.asarray(found, float) - np.asarray(expected, float)).max() < 4


def test_an_upright_image_stays_upright():
    image = Image.new("RGB", (2400, 1800), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        assert EncodedImage(encoded(image, kind, exif=exif), ServingLimits()).decode().size == (900, 1200)


def test_a_damaged_image_and_one_of_many_scans():
    cut = base64.b64decode(encoded(Image.effect_noise((64, 64), 50), "PNG"))[:-900]
    with pytest.raises(Refused, match="decoded"):
        EncodedImage(base64.b64encode(cut).decode(), ServingLimits()).decode()
    scans = base64.b64decode(png(kind="JPEG")) + b"\xff\xda\x00" * 40
    with pytest.raises(Refused, match="scans"):
        EncodedImage(base64.b64encode(scans).decode(), ServingLimits())


@pytest.mark.parametrize("name", ["turns", "seconds", "tokens", "header_seconds", "filter_values"])
def test_limits_are_above_zero(name):
    with pytest.raises(ValueError, match=name):
        ServingLimits(**{name: 0})
