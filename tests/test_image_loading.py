"""`load_image` on every kind of file that a folder of pictures may hold."""

import base64
import io
import struct
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from modeling_unimur import image_loading
from modeling_unimur.image_loading import IMAGE_FORMATS, MAX_ASPECT_RATIO, decode_base64, load_image
from tests.color_profiles import SRGB_D50, cmyk_profile, matrix_profile

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


def test_pixel_limit_is_exact(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (20, 10)))
    monkeypatch.setattr(image_loading, "MAX_PIXELS", 200)
    assert load_image(path).size == (20, 10)
    monkeypatch.setattr(image_loading, "MAX_PIXELS", 199)
    with pytest.raises(ValueError, match=r"picture\.png.*199 pixels"):
        load_image(path)


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


@pytest.mark.parametrize("source", [None, 7, [RED], {"image": "x"}])
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
    with pytest.raises(ValueError, match=r"missing\.png"):
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


def test_array_over_the_pixel_limit(monkeypatch):
    monkeypatch.setattr(image_loading, "MAX_PIXELS", 99)
    with pytest.raises(ValueError, match="too large"):
        load_image(np.zeros((10, 10), np.uint8))


def test_pil_image_is_copied_and_left_as_it_was():
    image = Image.new("RGB", (4, 4), RED)
    loaded = load_image(image)
    loaded.putpixel((0, 0), BLUE)
    assert image.getpixel((0, 0)) == RED
    with pytest.raises(ValueError, match="no pixels"):
        load_image(Image.new("RGB", (0, 4)))


# -- sources ----------------------------------------------------------------------------------------------------------
def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_bytes_and_data_uris_are_what_the_file_is():
    data = encoded(two_colours(RED, BLUE))
    text = base64.encodebytes(data).decode()  # with line breaks
    assert "\n" in text.strip()
    percent = "".join(f"%{byte:02x}" for byte in data)
    for source in (
        data,
        bytearray(data),
        f"data:image/png;base64,{text}",
        f"DATA:image/png;BASE64,{text.rstrip().rstrip('=')}",
        f"data:image/png,{percent}",
        decode_base64(base64.urlsafe_b64encode(data).decode()),
    ):
        assert np.array_equal(np.asarray(load_image(source)), np.asarray(two_colours(RED, BLUE)))


@pytest.mark.parametrize("source", [b"", "data:image/png;base64", "data:image/png;base64,@@@@", "data:,words"])
def test_bytes_that_are_no_image(source):
    with pytest.raises(ValueError, match=r"bytes|data:"):
        load_image(source)


def test_only_named_formats_are_decoded(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    def run_ghostscript(*args, **kwargs):
        raise AssertionError("Ghostscript was run")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run_ghostscript)
    path = tmp_path / "image.png"  # whatever it is called
    Image.new("RGB", (8, 8), RED).save(path, "EPS")
    with pytest.raises(ValueError, match="not an image"):
        load_image(path)
    with Image.open(path) as opened, pytest.raises(ValueError, match="EPS"):
        load_image(opened)
    assert "EPS" not in IMAGE_FORMATS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"\xef\xbb\xbf <?xml version='1.0'?><svg/>", "not an image"),
        (b"v/1\x01" + b"\0" * 64, "not an image"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "not an image"),
        (b"%PDF-1.7", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "heif|HEI"),
    ],
)
def test_other_formats_are_refused_with_a_remedy(content, reason):
    with pytest.raises(ValueError, match=reason):
        load_image(content)


def test_lines_of_pixels_are_refused_before_they_are_decoded():
    assert load_image(encoded(Image.new("RGB", (MAX_ASPECT_RATIO, 1), RED))).size == (MAX_ASPECT_RATIO, 1)
    for size in ((MAX_ASPECT_RATIO + 1, 1), (1, 6_000_000)):
        with pytest.raises(ValueError, match="narrow"):
            load_image(png_header(*size))
        with pytest.raises(ValueError, match="narrow"):
            load_image(np.zeros((*size, 3), np.uint8))


def test_a_file_of_many_bytes_is_not_read(tmp_path):
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(30 * 2**30)
    with pytest.raises(ValueError, match=r"sparse\.png.*too large"):
        load_image(path)


# -- metadata never decides over pixels -------------------------------------------------------------------------------
def png_with(kind: bytes, data: bytes, checksum: "int | None" = None) -> bytes:
    png = encoded(two_colours(RED, BLUE))
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    return png[:33] + chunk + png[33:]  # behind IHDR


def jpeg_with(marker: int, data: bytes) -> bytes:
    jpeg = encoded(two_colours(RED, BLUE), "JPEG", quality=95)
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


BROKEN_EXIF = [b"", b"II", b"garbage", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 40]


@pytest.mark.parametrize(
    "data",
    [
        *[png_with(b"eXIf", exif) for exif in BROKEN_EXIF],
        png_with(b"tEXt", b"key\0value", checksum=0),
        png_with(b"zTXt", b"key\0\0" + zlib.compress(b"x" * 80_000_000)),
        png_with(b"iTXt", b"key\0\1\0\0\0not compressed"),
        png_with(b"iCCP", b"name\0\0garbage"),
        png_with(b"iCCP", b"name\0\0" + zlib.compress(b"no profile")),
        png_with(b"pHYs", b"\0"),
        png_with(b"gAMA", b""),
        png_with(b"teSt", b"unknown"),
    ],
    ids=lambda data: f"{data[37:41].decode()}-{len(data)}",
)
def test_png_with_broken_metadata(data):
    assert np.array_equal(np.asarray(load_image(data)), np.asarray(two_colours(RED, BLUE)))


@pytest.mark.parametrize(
    ("marker", "data"),
    [
        *[(0xE1, b"Exif\0\0" + exif) for exif in BROKEN_EXIF],
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<broken"),
        (0xE2, b"MPF\0" + b"\x01" * 10),
        (0xE2, b"ICC_PROFILE\0\x01\x01garbage"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM" + b"\xff" * 12),
        (0xE0, b"JF"),
        (0xEE, b"Adobe"),
        (0xFE, b"\xff\xfe\xfd"),
    ],
    ids=lambda value: hex(value) if isinstance(value, int) else str(len(value)),
)
def test_jpeg_with_broken_metadata(marker, data):
    plain = load_image(encoded(two_colours(RED, BLUE), "JPEG", quality=95))
    assert np.array_equal(np.asarray(load_image(jpeg_with(marker, data))), np.asarray(plain))


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("kind", ["WEBP", "PNG", "JPEG"])
def test_broken_exif_as_pillow_writes_it(kind, exif):
    image = two_colours(RED, BLUE)
    loaded = load_image(encoded(image, kind, exif=exif))
    assert np.array_equal(np.asarray(loaded), np.asarray(load_image(encoded(image, kind))))


# -- color profiles ---------------------------------------------------------------------------------------------------
# Primaries as XYZ of D50, column by column, and gamma: Display P3 (with a gamma of 2.2) and ProPhoto.
P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
PROPHOTO = np.array([[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]])


def in_srgb(color, primaries, gamma) -> np.ndarray:
    linear = np.linalg.inv(SRGB_D50) @ primaries @ (np.array(color) / 255) ** gamma
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(("primaries", "gamma"), [(P3, 2.2), (PROPHOTO, 1.8)], ids=["P3", "ProPhoto"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_is_converted_to_srgb(kind, primaries, gamma):
    color = (150, 120, 90)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    data = encoded(Image.new("RGB", (16, 16), color), kind, icc_profile=matrix_profile(primaries, gamma), **options)
    expected = in_srgb(color, primaries, gamma)
    assert np.abs(expected - color).max() > 4
    found = load_image(data)
    assert np.abs(np.array(found.getpixel((8, 8))) - expected).max() <= 2
    assert found.getpixel((8, 8)) == load_image(found).getpixel((8, 8))  # applied once


def test_a_profile_with_transparency_palette_and_grey():
    profile, color = matrix_profile(PROPHOTO, 1.8), (150, 120, 90)
    expected = in_srgb(color, PROPHOTO, 1.8)
    clear = Image.new("RGBA", (4, 4), (*color, 255))
    clear.putpixel((0, 0), (*color, 0))
    found = load_image(encoded(clear, icc_profile=profile))
    assert found.getpixel((0, 0)) == WHITE
    assert np.abs(np.array(found.getpixel((2, 2))) - expected).max() <= 2
    palette = load_image(encoded(Image.new("RGB", (4, 4), color).quantize(2), icc_profile=profile))
    assert np.abs(np.array(palette.getpixel((2, 2))) - expected).max() <= 2
    grey = load_image(encoded(Image.new("L", (4, 4), 100), icc_profile=profile)).getpixel((2, 2))
    assert np.abs(np.array(grey) - in_srgb((100, 100, 100), PROPHOTO, 1.8)).max() <= 2


def lab_in_srgb(lightness: float, a: float, b: float) -> np.ndarray:
    y = (lightness + 16) / 116
    cubes = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(cubes > 6 / 29, cubes**3, 3 * (6 / 29) ** 2 * (cubes - 4 / 29)) * (0.9642, 1.0, 0.8249)
    linear = np.clip(np.linalg.inv(SRGB_D50) @ xyz, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_cmyk_profile_decides_what_an_ink_looks_like():
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    lab = (70.0, -20.0, -10.0)
    profile = cmyk_profile({(1, 0, 0, 0): lab})
    found = load_image(encoded(ink, "JPEG", quality=100, icc_profile=profile)).getpixel((8, 8))
    plain = load_image(encoded(ink, "JPEG", quality=100)).getpixel((8, 8))
    assert np.abs(np.array(found) - lab_in_srgb(*lab)).max() <= 4
    assert np.abs(np.array(plain) - lab_in_srgb(*lab)).max() > 20


@pytest.mark.parametrize("profile", [b"garbage", b"", matrix_profile(P3, 2.2)[:100], "srgb", "other colors"])
def test_a_profile_that_says_nothing_changes_nothing(profile):
    image = two_colours((150, 120, 90), BLUE)
    if profile == "srgb":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    elif profile == "other colors":
        profile = cmyk_profile({})
    assert np.array_equal(np.asarray(load_image(encoded(image, icc_profile=profile))), np.asarray(image))


def test_the_transparent_color_of_16_bits():
    png = encoded(Image.fromarray(np.array([[0, 1000, 65535]], dtype=np.uint16)))
    chunk = b"tRNS" + struct.pack(">H", 1000)
    png = png[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    assert np.asarray(load_image(png))[0, :, 0].tolist() == [0, 255, 255]
    color = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)),
        (b"tRNS", color),
        (b"IDAT", zlib.compress((b"\0" + color + bytes(6)) * 2)),
        (b"IEND", b""),
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    loaded = load_image(png)
    assert (loaded.getpixel((0, 0)), loaded.getpixel((1, 0))) == (WHITE, (0, 0, 0))


def test_what_is_applied_is_not_applied_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(two_colours(RED, BLUE, size=(32, 16)), "JPEG", exif=exif)
    loaded = load_image(data)
    assert loaded.info == {}
    assert np.array_equal(np.asarray(load_image(loaded)), np.asarray(loaded))


def test_heic(tmp_path):
    import pillow_heif

    path = tmp_path / "phone.heic"
    pillow_heif.from_pillow(two_colours(RED, BLUE, size=(64, 64))).save(path, quality=100)
    loaded = load_image(path)
    assert loaded.size == (64, 64)
    assert loaded.getpixel((8, 8))[0] > 240
    assert loaded.getpixel((56, 8))[2] > 240
