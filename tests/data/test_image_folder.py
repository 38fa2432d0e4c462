"""A folder of one's own as a source of captioned pictures."""

import os
import shutil

import pytest

from modeling_unimur.data.captioned_images import load_captioned_images, load_image_folder


@pytest.fixture
def folder(tmp_path, pictures):
    """`mine/` with three pictures, one of them in a folder below."""
    root = tmp_path / "mine"
    (root / "more").mkdir(parents=True)
    for source, name in zip(pictures, ("red_balloon.png", "cat-on-keyboard.png", "more/town.png"), strict=False):
        shutil.copy(source, root / name)
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"")
    return root


def test_names_are_titles_where_no_captions_lie(folder):
    rows = load_image_folder(str(folder))
    assert rows["title"][:] == ["cat on keyboard", "town", "red balloon"]
    assert rows["image_id"][:] == ["mine/cat-on-keyboard.png", "mine/more/town.png", "mine/red_balloon.png"]
    assert all(path.endswith(".png") for path in rows["image"])


@pytest.mark.parametrize("header", ["", "file\tcaption\n", "\ufefffile\tcaption\n"])
def test_captions_file(folder, header, caplog):
    lines = [
        "red_balloon.png\tA red  balloon.",
        "more/town.png\ta town\u2028at night",  # a line separator that is no end of a line
        "red_balloon.png\tthe balloon again\r",
        "gone.png\ta thing that is gone",
        "\tnothing named",
        "cat-on-keyboard.png\t",
        "no tab here",
        "",
    ]
    (folder / "captions.tsv").write_text(header + "\n".join(lines), encoding="utf-8", newline="\n")
    rows = load_image_folder(str(folder))
    assert rows["title"][:] == ["A red balloon.", "a town at night", "the balloon again"]
    assert rows["image_id"][:] == ["mine/red_balloon.png", "mine/more/town.png", "mine/red_balloon.png#2"]
    message = caplog.records[-1].getMessage()
    assert "2 x file is missing, 1 x line that is not file<TAB>caption, 1 x no caption" in message


def test_what_is_wrong_is_told(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_image_folder(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="captioned"):
        load_image_folder(str(tmp_path / "empty"))
    (folder / "captions.tsv").write_text("gone.png\tgone\n")
    with pytest.raises(ValueError, match=r"captions\.tsv"):
        load_image_folder(str(folder))


def test_is_named_among_the_sources(folder):
    rows = load_captioned_images([f"folder={folder}"])
    assert len(rows) == 3
    with pytest.raises(ValueError, match=r"foldr=x.*folder=PATH"):
        load_captioned_images(["foldr=x"])


def test_what_is_passed_over_is_counted(folder, caplog):
    for name in ("light.hdr", "film.exr", "drawing.svg", "other.svg", "raw.nef", "print.eps", "words.md"):
        (folder / name).write_bytes(b"x")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.png")
    assert len(load_image_folder(str(folder))) == 3
    message = caplog.records[-1].getMessage()
    for count, what in (
        (1, ".hdr"),
        (1, ".exr"),
        (2, ".svg"),
        (1, ".nef"),
        (2, "file that is missing or not a regular"),
    ):
        assert f"{count} x {what}" in message
    assert "md" not in message
