"""What the chat in the browser answers, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.cli import app
from modeling_unimur.cli.app import images_of, shown_images, space
from modeling_unimur.cli.main import main
from modeling_unimur.data.source_folders import record_sources
from tests.cli.test_main import error_of
from tests.space.conftest import COLOURS, REPLIES


@pytest.fixture
def responder(space_path, served):
    from responder import Responder

    return Responder(served[1], images_of(served[1]))


@pytest.fixture
def empty(space_path):
    from responder import Conversation

    return Conversation()


def test_pictures_of_an_index_have_paths_and_titles(served, gallery):
    found = images_of(served[1])
    assert set(found) == {str(path) for path in gallery}
    assert found[str(gallery[0])] == (str(gallery[0]), gallery[0].stem.replace("_", " "))


def test_a_conversation_goes_on(responder, empty, gallery):
    first, pictures = responder.answer(empty, "look who slept here", [str(gallery[0])], -1.0)
    assert [message["role"] for message in first.messages] == ["user", "assistant"]
    assert first.messages[1]["content"] in REPLIES
    assert [line["role"] for line in first.shown] == ["user", "user", "assistant", "assistant"]
    assert first.shown[0]["content"] == {"path": str(gallery[0]), "alt_text": "your image"}
    assert first.shown[3]["content"]["alt_text"].startswith("a ")
    assert len(pictures) == 3
    assert all(caption.split()[1] in COLOURS for _, caption in pictures)
    second, _ = responder.answer(first, "and now?", [], -1.0)
    assert len(second.messages) == 4
    assert len(first.messages) == 2
    assert empty.messages == []


def test_the_policy_decides_on_pictures(responder, empty):
    never, none = responder.answer(empty, "good morning", [], 1.0)
    assert none == []
    assert all(isinstance(line["content"], str) for line in never.shown)
    always, some = responder.answer(empty, "good morning", [], -1.0)
    best = float(some[0][1].rsplit("(", 1)[1].rstrip(")"))
    assert always.messages == never.messages
    assert len(responder.answer(empty, "good morning", [], best - 0.02)[1]) == 3
    assert responder.answer(empty, "good morning", [], best + 0.02)[1] == []


def test_the_gallery_is_searched_by_title_and_by_content(responder):
    assert responder.search("") == responder.gallery
    found = responder.search("BLUE")
    assert found[0][1] == "a blue square"
    assert sorted(found) == sorted(responder.gallery)


def write(folder, name, content=b"", size=None):
    path = folder / name
    if size:
        Image.new("1", size).save(path)
    else:
        path.write_bytes(content)
    return str(path)


def test_what_is_refused(responder, empty, tmp_path, gallery):
    from responder import MAX_LETTERS, Refused

    noise = np.random.default_rng(0).integers(0, 255, 400, dtype=np.uint8).tobytes()
    for text, files, told in (
        (" ", [], "Write something or add an image"),
        ("x" * (MAX_LETTERS + 1), [], "at most 2,000 letters"),
        ("x", [str(gallery[0])] * 5, "at most 4 images"),
        ("", [write(tmp_path, "a.txt", b"x")], r"a\.txt is no image: \.png"),
        ("", [write(tmp_path, "b.svg", b"<svg/>")], r"b\.svg is no image"),
        ("", [write(tmp_path, "c.png", noise)], r"c\.png cannot be read"),
        ("", [write(tmp_path, "d.png", size=(9000, 9000))], "9000 x 9000 pixels; 40 megapixels"),
        ("", [write(tmp_path, "f.png", size=(1, 60_000))], "1 x 60000 pixels; a side"),
        ("", [write(tmp_path, "g.png", size=(6000, 10))], "6000 x 10 pixels; a side"),
        ("", [write(tmp_path, "e.png", gallery[0].read_bytes()[:60])], r"e\.png"),
    ):
        with pytest.raises(Refused, match=told):
            responder.answer(empty, text, files, -1.0)
    assert empty.messages == []


def test_what_a_visitor_types_is_no_file(responder, empty, gallery):
    told, _ = responder.answer(empty, str(gallery[0]), [], -1.0)
    assert told.messages[0]["content"] == [{"type": "text", "text": str(gallery[0])}]


def test_without_gradio_one_line_names_the_extra(monkeypatch, capsys, served):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"unimur\[app\]"):
        space()
    work = served[0]
    status, error = error_of(capsys, "app", "--model", work / "model", "--index", work / "index")
    assert status == 2
    assert "pip install unimur[app]" in error


def test_only_images_below_named_folders_are_shown(tmp_path, gallery):
    """Whatever an index names: it may come from anybody."""
    allowed, other = tmp_path / "allowed", tmp_path / "allowed too"
    (allowed / "below").mkdir(parents=True)
    other.mkdir()
    image = gallery[0].read_bytes()
    good = {"a": allowed / "a.png", "b": allowed / "below" / "b.jpg"}
    for path in (*good.values(), other / "c.png"):
        path.write_bytes(image)
    (allowed / "words.png").write_text("no image")
    (allowed / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (allowed / "link.png").symlink_to(other / "c.png")
    (allowed / "linked").symlink_to(other)
    (allowed / "inside.png").symlink_to(allowed / "a.png")
    bad = [
        other / "c.png", allowed / "words.png", allowed / "page.svg", allowed / "link.png",
        allowed / "linked" / "c.png", allowed / ".." / "allowed too" / "c.png", allowed, allowed / "none.png",
        "/etc/passwd", "/dev/zero", "", "https://example.org/a.png", "a\0.png", "x" * 5000,
    ]  # fmt: skip
    pictures = {key: (str(path), "title") for key, path in good.items()}
    pictures |= {f"bad {number}": (str(path), "title") for number, path in enumerate(bad)}
    pictures["inside"] = (str(allowed / "inside.png"), "a link that stays")
    shown = shown_images(pictures, [allowed])
    assert set(shown) == {"a", "b", "inside"}
    assert shown["inside"] == (str((allowed / "a.png").resolve()), "a link that stays")
    assert shown_images(pictures, []) == {}


def test_the_page_of_a_foreign_index_shows_nothing_of_this_computer(
    monkeypatch, capsys, served, pair, gallery, tmp_path
):

    secret = tmp_path / "secret.png"
    secret.write_bytes(gallery[0].read_bytes())
    foreign = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    foreign.add(
        images=[str(gallery[0]), str(gallery[1]), str(gallery[2])], image_ids=["a", "b", "c"],
        image_payloads=[{"image": "/etc/passwd"}, {"image": str(secret)}, {}],
    )  # fmt: skip
    foreign.save_index(tmp_path / "index")
    launched = []

    class Page:
        @staticmethod
        def launch(retriever, pictures, **options):
            launched.append(pictures)

    monkeypatch.setattr(app, "space", lambda: Page)
    command = ["app", "--model", str(served[0] / "model"), "--index", str(tmp_path / "index")]
    assert main(command) == 0
    assert "3 of 3 images" in capsys.readouterr().out
    assert main([*command, "--allow-folder", str(gallery[0].parent)]) == 0
    record_sources(tmp_path / "index", [gallery[0].parent])
    assert main(command) == 0
    assert [set(pictures) for pictures in launched] == [set(), {"c"}, {"c"}]


def test_coherent_answers_are_the_pipeline_s(responder, empty, served):
    plain, _ = responder.answer(empty, "look who slept here", [], -1.0)
    told, pictures = responder.answer(empty, "look who slept here", [], -1.0, coherent=True)
    found = served[1](plain.messages[:1], top_k=3, coherent=True)
    assert told.messages[1]["content"] == found["text"][0]["text"]
    shown = [caption.rsplit(" (", 1)[0] for _, caption in pictures]
    assert shown == [responder.images[hit["id"]][1] for hit in found["image"]]
    assert all(-1 <= float(caption.rsplit("(", 1)[1].rstrip(")")) <= 1 for _, caption in pictures)  # cosines


def test_a_visitor_searches_images_of_their_own(responder, empty, tmp_path, served):
    from responder import MAX_OWN, Refused

    mine = [write(tmp_path, f"my_{colour}.png", size=(40, 40)) for colour in ("cat", "dog")]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(
        tmp_path / "noise.png"
    )
    damaged = write(tmp_path, "cut.png", (tmp_path / "noise.png").read_bytes()[:5000])
    own, told = responder.with_own_gallery([*mine, damaged, write(tmp_path, "notes.txt", b"x")])
    assert [title for _, title in own.gallery] == ["my cat", "my dog"]
    assert sum("cut.png" in line for line in told) == sum("notes.txt" in line for line in told) == 1
    answered, pictures = own.answer(empty, "good morning", [], -1.0, coherent=True)
    assert {path for path, _ in pictures} == set(mine)
    assert answered.messages[1]["content"] in REPLIES
    assert len(responder.gallery) == len(COLOURS)
    assert served[1].index.count("image") == len(COLOURS)  # nobody else sees them
    for files, message in (([damaged], "None of these"), ([], "None of these"), (mine * MAX_OWN, "at most")):
        with pytest.raises(Refused, match=message):
            responder.with_own_gallery(files)


@pytest.fixture
def here(tmp_path, gallery):
    """The folder of a Space."""
    shutil.copytree(gallery[0].parent, tmp_path / "space" / "gallery")
    (tmp_path / "space" / "replies.txt").write_text("\n".join([*REPLIES, ""]))
    return tmp_path / "space"


def test_a_space_without_an_index_makes_one(space_path, pair, here):
    from responder import Responder, open_gallery

    retriever = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    pictures = open_gallery(retriever, here)
    assert (retriever.index.count("image"), retriever.index.count("text")) == (len(COLOURS), len(REPLIES))
    assert Responder(retriever, pictures).search("blue")[0][1] == "a blue square"


@pytest.mark.parametrize("address", ["folder", "hub"])
def test_a_space_with_the_address_of_an_index(space_path, served, pair, here, empty, address, monkeypatch, tmp_path):
    """Images are those of the Space and of the data set, whatever paths the index names."""
    from responder import Responder, open_gallery

    asked = []

    def download(name, repo_type):
        asked.append((name, repo_type))
        return str(tmp_path / "downloaded")

    place = str(served[0] / "index")
    if address == "hub":
        shutil.copytree(place, tmp_path / "downloaded")
        shutil.move(here / "gallery", tmp_path / "downloaded" / "images")
        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        place = "hf://datasets/me/gallery"
    retriever = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    responder = Responder(retriever, open_gallery(retriever, here, place))
    assert asked == ([("me/gallery", "dataset")] if address == "hub" else [])
    _, pictures = responder.answer(empty, "good morning", [], -1.0)
    assert len(pictures) == 3
    assert all(Path(path).is_relative_to(tmp_path) for path, _ in pictures)
    next(iter((tmp_path / "downloaded" if address == "hub" else here).rglob("*_blue_*.png"))).unlink()
    again = Responder(retriever, open_gallery(retriever, here, place))
    assert "a blue square" not in dict(again.gallery).values()
    assert again.search("blue")  # a hit whose image is not here is left out


def test_an_index_that_is_not_there(space_path, pair, here):
    from responder import open_gallery

    with pytest.raises(FileNotFoundError, match="index"):
        open_gallery(MultimodalRetrievalPipeline(model=pair[0], processor=pair[1]), here, str(here / "nowhere"))
