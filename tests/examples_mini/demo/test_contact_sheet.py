"""The contact sheet: its size, what is drawn on it, and text that fits."""

import numpy as np
import pytest
from PIL import Image

from unimur_mini.demo.contact_sheet import THUMBNAIL, WIDTH, draw_contact_sheet, write_contact_sheet
from unimur_mini.demo.sheet_text import drawable, wrap


def count(image: Image.Image, colour: str) -> int:
    pixels = np.asarray(image)
    wanted = np.array(Image.new("RGB", (1, 1), colour).getpixel((0, 0)))
    return int((np.abs(pixels.astype(int) - wanted).max(-1) <= 2).sum())


def test_sheet_shows_every_picture_at_its_size(make_results):
    sheet = draw_contact_sheet(make_results())
    assert sheet.mode == "RGB"
    assert sheet.width == WIDTH
    inner = THUMBNAIL - 16
    for colour in ("#ff0000", "#00ff00", "#808080", "#00ffff"):
        # 40 x 30 pictures, as wide as the tile allows.
        assert count(sheet, colour) == pytest.approx(inner * inner * 3 / 4, rel=0.02)
    assert count(sheet, "#0000ff") > 5000


def test_pictures_stand_in_ranked_order_in_one_row(make_results):
    pixels = np.asarray(draw_contact_sheet(make_results())).astype(int)
    places = []
    for colour in ((255, 0, 0), (0, 255, 0), (128, 128, 128), (0, 255, 255)):
        rows, columns = np.nonzero(np.abs(pixels - colour).max(-1) <= 2)
        places.append((columns.mean(), rows.mean()))
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert max(y for _, y in places) - min(y for _, y in places) < 2


def test_every_dialogue_has_a_row(make_results):
    one, three = (draw_contact_sheet(make_results(dialogues=number)) for number in (1, 3))
    row = (three.height - one.height) / 2
    assert row > THUMBNAIL
    assert count(three, "#ff0000") == 3 * count(one, "#ff0000")


def test_longer_text_makes_a_higher_sheet_and_changes_it(make_results):
    short = draw_contact_sheet(make_results())
    other = draw_contact_sheet(make_results(text="jello"))
    long = draw_contact_sheet(make_results(text="a much longer message " * 40))
    assert long.height > short.height + 200
    assert other.size == short.size
    assert (np.asarray(other) != np.asarray(short)).any()


@pytest.mark.parametrize("text", ["🎉🎉", "مرحبا بالعالم", "", "日本語", "a\x00b\tc\u202e", "W" * 500])
def test_any_text_is_tolerated(make_results, text):
    assert draw_contact_sheet(make_results(text, text)).width == WIDTH


def test_what_the_font_cannot_draw_is_left_out():
    assert drawable("party 🎉 time", 20)[0] == "party time"
    assert drawable("  two\n words ", 20)[0] == "two words"


def test_lines_fit_their_width_and_lose_no_letter():
    text = "some words and averyveryverylongwordthatfitsnowhere " * 3
    lines, font = wrap(text, 20, 150)
    assert all(font.getlength(line) <= 150 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    cut, font = wrap(text, 20, 150, max_lines=2)
    assert len(cut) == 2
    assert cut[-1].endswith("...")
    assert font.getlength(cut[-1]) <= 150


def test_written_file_is_the_drawn_sheet(make_results, tmp_path):
    results = make_results()
    with Image.open(write_contact_sheet(results, tmp_path)) as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == np.asarray(draw_contact_sheet(results))).all()
