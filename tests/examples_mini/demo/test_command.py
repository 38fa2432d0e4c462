"""`unimur demo` from end to end: a saved release of a small random model, a person's own pictures and dialogues."""

import json
import shutil

import pytest
from PIL import Image

from modeling_unimur.cli import retriever as retriever_module
from modeling_unimur.cli.gallery import GalleryImage, model_key, newest_index
from modeling_unimur.cli.main import main
from unimur_mini.demo.gallery_index import items_key
from unimur_mini.demo.inputs import EXAMPLE_NOTE


@pytest.fixture
def arguments(release_folder, image_folder, tmp_path):
    dialogues = tmp_path / "dialogues.jsonl"
    shutil.copy(image_folder / "one.png", tmp_path / "context.png")
    look = [{"type": "text", "text": "look"}, {"type": "image", "image": "context.png"}]
    records = [
        {"title": "with a picture", "messages": [{"role": "user", "content": look}]},
        {"title": "without", "messages": [{"role": "user", "content": "a cat slept on my keyboard"}]},
    ]
    dialogues.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    replies = tmp_path / "replies.txt"
    replies.write_text("\n".join(f"reply number {number}" for number in range(6)), encoding="utf-8")
    words = {"model": release_folder, "images": image_folder, "dialogues": dialogues, "replies": replies}
    words["output"] = tmp_path / "output"
    return [word for name, value in words.items() for word in (f"--{name}", str(value))]


def test_demo_writes_its_files_and_reports_bad_pictures(arguments, capsys, empty_cache, tmp_path):
    assert main(["demo", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "6 images in" in shown
    assert "2 items could not be read" in shown
    assert "broken.png: " in shown
    assert "dangling.jpg: " in shown
    assert "1. with a picture" in shown
    assert "[image: context]" in shown
    page = (tmp_path / "output" / "index.html").read_text(encoding="utf-8")
    assert page.count("<article") == 2
    assert EXAMPLE_NOTE.split()[0] not in page  # these are the person's own images and conversations
    assert "مرحبا" in page
    # Four pictures were readable; both dialogues rank all of them, and one shows its context.
    assert len(list((tmp_path / "output" / "thumbnails").iterdir())) == 4
    with Image.open(tmp_path / "output" / "contact_sheet.png") as sheet:
        assert sheet.width == 1600


def test_second_run_uses_the_saved_index_and_answers_the_same(arguments, capsys, empty_cache, tmp_path):
    page = tmp_path / "output" / "index.html"
    main(["demo", *arguments])
    first = page.read_text(encoding="utf-8")
    (saved,) = (empty_cache / "demo").iterdir()
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    assert "Index saved" in capsys.readouterr().out
    assert main(["demo", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "Index re-used" in shown
    assert "2 items could not be read" in shown
    assert page.read_text(encoding="utf-8") == first
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before


def test_a_changed_picture_makes_a_new_index(arguments, empty_cache, image_folder):
    main(["demo", *arguments])
    Image.new("RGB", (50, 50), "red").save(image_folder / "one.png")
    main(["demo", *arguments])
    assert len(list((empty_cache / "demo").iterdir())) == 2


def test_a_damaged_index_is_one_clear_error(arguments, capsys, empty_cache):
    main(["demo", *arguments])
    (saved,) = (empty_cache / "demo").iterdir()
    (saved / "gallery.json").write_text("{")
    capsys.readouterr()
    assert main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert str(saved) in error
    assert "delete" in error


def test_a_folder_of_bad_pictures_only_leaves_no_index(arguments, capsys, empty_cache, image_folder):
    for path in image_folder.rglob("*"):
        if path.is_file() and path.suffix.lower() in {".png", ".jpg", ".webp", ".gif"}:
            path.write_bytes(b"no picture")
    assert main(["demo", *arguments]) == 2
    assert "none of the" in capsys.readouterr().err
    assert list((empty_cache / "demo").iterdir()) == []


def test_a_wrong_folder_fails_before_the_model_is_opened(arguments, capsys, empty_cache, tmp_path, monkeypatch):
    def opened(*args, **kwargs):
        raise AssertionError("the model was opened")

    monkeypatch.setattr(retriever_module, "open_retriever", opened)
    place = arguments.index("--images") + 1
    assert main(["demo", *arguments[:place], str(tmp_path / "gone"), *arguments[place + 1 :]]) == 2
    assert "gone; --images takes a folder with images" in capsys.readouterr().err


def test_chat_finds_the_index_of_the_demo(arguments, capsys, empty_cache, release_folder, monkeypatch):
    main(["demo", *arguments])
    lines = iter(["hello", "/show", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt="": next(lines))
    capsys.readouterr()
    assert main(["chat", "--model", str(release_folder)]) == 0
    shown = capsys.readouterr().out
    assert "reply number" in shown
    assert "my pictures/" in shown
    assert shown.endswith("Bye.\n")


def test_chat_reads_an_index_that_the_pipeline_saved(
    capsys, empty_cache, release_folder, image_folder, tmp_path, monkeypatch
):
    retriever = retriever_module.open_retriever(release_folder)
    retriever.add(images=[str(image_folder / "one.png")], texts=["the only reply"])
    retriever.save_index(tmp_path / "index")
    lines = iter(["hello"])

    def read(prompt=""):
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "--model", str(release_folder), "--index", str(tmp_path / "index")]) == 0
    shown = capsys.readouterr().out
    assert "the only reply" in shown
    assert str(image_folder / "one.png") in shown


def test_chat_without_an_index_says_what_to_run(capsys, empty_cache, release_folder):
    assert main(["chat", "--model", str(release_folder)]) == 2
    assert "unimur demo" in capsys.readouterr().err


def test_keys_follow_content(tmp_path, empty_cache):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    before = model_key(model)
    assert model_key(model) == before
    (model / "config.json").write_text("{ ")
    assert model_key(model) != before
    picture = {"a": GalleryImage(model / "config.json", "title")}
    assert items_key(picture, ["x"]) == items_key(picture, ["x"])
    keys = {
        items_key(picture, ["x"]),
        items_key(picture, ["y"]),
        items_key({"b": picture["a"]}, ["x"]),
        items_key({"a": GalleryImage(model / "config.json", "other")}, ["x"]),
        items_key({"a": GalleryImage(model / "gone", "title")}, ["x"]),
    }
    assert len(keys) == 5
    assert newest_index(before) is None
