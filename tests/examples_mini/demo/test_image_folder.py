"""A person's own folder of pictures."""

import pytest

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.data.image_files import walk_images
from unimur_mini.demo.image_folder import find_images


def test_pictures_of_all_folders_and_formats_are_found_once(image_folder):
    images, found, others = find_images(image_folder, 100, seed=0)
    assert list(images) == [
        "broken.png",
        "dangling.jpg",
        "holiday <2019>/three.webp",
        "holiday <2019>/مرحبا.gif",
        "one.png",
        "two.JPG",
    ]
    assert (found, others) == (6, 1)
    assert images["two.JPG"].title == "two"
    assert images["two.JPG"].path == image_folder / "two.JPG"


def test_too_many_are_thinned_out_by_seed(image_folder):
    first, again, other = (find_images(image_folder, 3, seed) for seed in (0, 0, 1))
    assert (len(first[0]), first[1]) == (3, 6)
    assert first == again
    assert first[0] != other[0]


def test_a_name_that_is_no_unicode_is_made_printable(tmp_path):
    import os

    path = os.path.join(os.fsencode(tmp_path), b"bad\xff.png")
    with open(path, "wb") as file:
        file.write(b"x")
    ((image_id, picture),) = find_images(tmp_path, 10, 0)[0].items()
    image_id.encode()
    assert picture.title.encode() == b"bad\\udcff"
    assert picture.path.exists()


def test_formats(tmp_path):
    images = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".heic"}
    others = {".pdf", ".eps", ".mpg", ".h5", ".txt", ".mp4"}
    for suffix in images | others:
        (tmp_path / f"a{suffix}").touch()
    assert {path.suffix: is_image for path, is_image in walk_images(tmp_path)} == {
        **dict.fromkeys(images, True),
        **dict.fromkeys(others, False),
    }


def test_no_folder_no_picture(tmp_path):
    with pytest.raises(CommandError, match="gone"):
        find_images(tmp_path / "gone", 10, 0)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CommandError, match="1 other files"):
        find_images(tmp_path, 10, 0)
    with pytest.raises(CommandError, match="is a file"):
        find_images(tmp_path / "a.txt", 10, 0)
