"""`load_image` on every kind of file that a folder of pictures may hold."""

import io
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_unimur.image_loading import load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(folder: Path, image: Image.Image, name: str = "picture.png", **options) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def two_colours(left: tuple, right: tuple, mode: str = "RGB", size: tuple[int, int] = (8, 4)) -> Image.Image:
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_rgb_file_is_returned_pixel_by_pixel(tmp_path):
    image = two_colours(RED, BLUE)
    for address in (saved(tmp_path, image), str(saved(tmp_path, image))):
        loaded = load_image(address)
        assert loaded.mode == "RGB"
        assert np.array_equal(np.asarray(loaded), np.asarray(image))


def test_palette_grey_and_bilevel_become_rgb(tmp_path):
    palette = load_image(saved(tmp_path, two_colours(RED, BLUE).quantize(2), "palette.png"))
    grey = load_image(saved(tmp_path, Image.new("L", (3, 3), 128), "grey.png"))
    bilevel = load_image(saved(tmp_path, Image.new("1", (3, 3), 1), "bilevel.png"))
    assert [palette.mode, grey.mode, bilevel.mode] == ["RGB"] * 3
    assert (palette.getpixel((0, 0)), palette.getpixel((7, 0))) == (RED, BLUE)
    assert grey.getpixel((1, 1)) == (128, 128, 128)
    assert bilevel.getpixel((1, 1)) == WHITE


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    loaded = load_image(saved(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "cmyk.jpg", quality=95))
    red, green, blue = loaded.getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 20


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    loaded = load_image(saved(tmp_path, Image.fromarray(values), "deep.png"))
    assert np.asarray(loaded)[0, :, 0].tolist() == [0, 100, 255]


def test_float_tiff_is_scaled(tmp_path):
    loaded = load_image(saved(tmp_path, Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "float.tiff"))
    assert np.asarray(loaded)[0, :, 1].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_put_on_white(tmp_path, mode):
    image = Image.new("RGB", (8, 4)).quantize(2) if mode == "PA" else Image.new("RGB", (8, 4))
    image.putalpha(two_colours(0, 255, "L"))
    loaded = load_image(image if mode == "PA" else image.convert(mode))
    assert (loaded.getpixel((0, 0)), loaded.getpixel((7, 0))) == (WHITE, (0, 0, 0))
    half = load_image(saved(tmp_path, Image.new("RGBA", (2, 2), (0, 0, 0, 128)), "half.png"))
    assert abs(half.getpixel((0, 0))[0] - 127) <= 1


def test_palette_with_a_transparent_colour_is_put_on_white(tmp_path):
    image = two_colours(RED, BLUE).quantize(2)
    path = saved(tmp_path, image, "icon.gif", transparency=image.getpixel((0, 0)))
    loaded = load_image(path)
    assert (loaded.getpixel((0, 0)), loaded.getpixel((7, 0))) == (WHITE, BLUE)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((0, 0)) == RED


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to see it upright
    image = two_colours(RED, BLUE, size=(32, 16))
    loaded = load_image(saved(tmp_path, image, "phone.jpg", exif=exif, quality=95))
    assert loaded.size == (16, 32)
    top, bottom = loaded.getpixel((8, 2)), loaded.getpixel((8, 29))
    assert top[0] > 200
    assert bottom[2] > 200


@pytest.mark.parametrize(("name", "options"), [("cut.jpg", {"quality": 95}), ("cut.png", {}), ("cut.webp", {})])
def test_truncated_file_is_an_error_that_names_it(tmp_path, name, options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = saved(tmp_path, noise, name, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=name):
        load_image(path)


def test_file_without_pixels_in_it(tmp_path):
    for name, content, reason in (
        ("zero.png", b"", "empty"),
        ("words.png", b"these are words, no picture", "not an image"),
        ("bomb.png", png_header(60_000, 60_000), "too large"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*{reason}"):
            load_image(path)


def test_pixel_limit_is_exact(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (20, 10)))
    assert load_image(path, max_pixels=200).size == (20, 10)
    with pytest.raises(ValueError, match=r"picture\.png.*20 x 10.*max_pixels"):
        load_image(path, max_pixels=199)


def test_missing_path_folder_and_empty_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="folder"):
        load_image(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        load_image("")
    for impossible in ("a" * 5000, "nul\0byte.png"):
        with pytest.raises((FileNotFoundError, ValueError), match=impossible[:3]):
            load_image(impossible)


@pytest.mark.parametrize("source", [None, 7, b"bytes", [RED], {"image": "x"}])
def test_wrong_type_is_named(source):
    with pytest.raises(ValueError, match=type(source).__name__):
        load_image(source)


@pytest.fixture
def picture_server():
    """A server on this machine that answers every request with one PNG, and counts the requests."""
    buffer = io.BytesIO()
    Image.new("RGB", (5, 3), GREEN).save(buffer, "PNG")
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200 if self.path == "/green.png" else 404)
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *_):
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()
    thread.join()


def test_url_is_fetched_only_when_allowed(picture_server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    address, requests = picture_server
    with pytest.raises(ValueError, match="allow_urls=True"):
        load_image(f"{address}/green.png")
    assert requests == []
    assert load_image(f"{address}/green.png", allow_urls=True).getpixel((0, 0)) == GREEN
    with pytest.raises(ValueError, match=r"missing\.png: cannot be fetched"):
        load_image(f"{address}/missing.png", allow_urls=True)


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 3, 3), (255, 0, 0), np.uint8),
        np.full((2, 3, 3), (255, 0, 0), np.int64),
        np.full((2, 3, 3), (1.0, 0, 0), np.float32),
        np.full((2, 3, 3), (65535, 0, 0), np.uint16),
        np.full((2, 3, 3), (True, False, False)),
        np.full((2, 3, 4), (255, 0, 0, 255), np.uint8),
        np.moveaxis(np.full((2, 5, 3), (255, 0, 0), np.uint8), -1, 0),
    ],
    ids=["uint8", "int64", "float", "uint16", "bool", "rgba", "channels first"],
)
def test_arrays(array):
    loaded = load_image(array)
    assert loaded.mode == "RGB"
    assert loaded.height == 2
    assert loaded.getpixel((1, 1)) == RED


def test_grey_arrays():
    for array in (np.full((4, 6), 77, np.uint8), np.full((4, 6, 1), 77, np.uint8), np.full((1, 4, 6), 77, np.uint8)):
        loaded = load_image(array)
        assert (loaded.size, loaded.getpixel((5, 3))) == ((6, 4), (77, 77, 77))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros((4,), np.uint8), "not an image"),
        (np.zeros((5, 4, 5), np.uint8), "not an image"),
        (np.full((4, 4, 3), 300), r"outside 0\.\.255"),
        (np.full((4, 4, 3), -1), r"outside 0\.\.255"),
        (np.full((4, 4, 3), 1.5), r"outside 0\.\.1"),
        (np.full((4, 4, 3), np.nan), r"outside 0\.\.1"),
        (np.full((4, 4), "x"), "numbers"),
    ],
)
def test_arrays_that_are_no_pictures(array, reason):
    with pytest.raises(ValueError, match=reason):
        load_image(array)


def test_array_over_the_pixel_limit():
    with pytest.raises(ValueError, match="too large"):
        load_image(np.zeros((10, 10), np.uint8), max_pixels=99)


def test_pil_image_is_copied_and_left_as_it_was():
    image = Image.new("RGB", (4, 4), RED)
    loaded = load_image(image)
    loaded.putpixel((0, 0), BLUE)
    assert image.getpixel((0, 0)) == RED
    with pytest.raises(ValueError, match="no pixels"):
        load_image(Image.new("RGB", (0, 4)))
