"""The demo's page: what it shows, that text stays text, and that the folder holds all it links."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from unimur_mini.demo.page import render_page, write_page
from unimur_mini.demo.results import AnsweredDialogue, DemoResults

HOSTILE = "<script>alert('x')</script> \" onerror=1 & <b>"
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Collects elements and texts, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **wanted):
        return [attrs for name, attrs in self.elements if name == tag and wanted.items() <= attrs.items()]


def links_for(results):
    return {picture.path: f"t/{picture.path.name}" for picture in results.shown_images()}


def test_the_page_says_how_the_examples_were_chosen(make_results):
    results = make_results()
    noted = replace(results, note="Chosen by <hand>.")
    assert "Chosen by <hand>." in Page(render_page(noted, links_for(noted))).texts
    assert "Chosen" not in render_page(results, links_for(results))


def test_page_shows_conversation_ranking_and_credits(make_results):
    results = make_results()
    page = Page(render_page(results, links_for(results)))
    for text in (
        "first words",
        "go on",
        "hello",
        "the best reply",
        "the second reply",
        "a red thing",
        "0.800",
        "-0.100",
    ):
        assert text in page.texts
    assert [attrs["class"] for tag, attrs in page.elements if tag == "li" and "class" in attrs] == [
        "user",
        "assistant",
        "user",
        "assistant answer",
    ]
    assert [attrs["style"] for attrs in page.all("i")] == [
        "width:100%",
        "width:50%",
        "width:100%",
        "width:50%",
        "width:0%",
        "width:0%",
    ]
    footer = " ".join(page.texts)
    for text in ("seed 7", "torch 1.2.3", "1,999 images", "CC BY-SA 4.0", "265 replies"):
        assert text in footer


def test_every_picture_has_an_alternative_text(make_results):
    results = make_results()
    page = Page(render_page(results, links_for(results)))
    pictures = page.all("img")
    # One in the conversation, four ranked, and the best of them again in the answer's bubble.
    assert len(pictures) == 6
    assert all(attrs["alt"].strip() and attrs["src"].startswith("t/") for attrs in pictures)


def test_hostile_text_stays_text(make_results, make_picture):
    plain = make_results()
    results = make_results(HOSTILE, HOSTILE)
    picture = make_picture("evil.png", "#123456", HOSTILE)
    dialogue = results.dialogues[0]
    ranked = (type(dialogue.images[0])(picture, 0.9),)
    replies = (type(dialogue.replies[0])(HOSTILE, 0.9),)
    results = DemoResults(
        **{
            **vars(results),
            "model": HOSTILE,
            "dialogues": (AnsweredDialogue(HOSTILE, dialogue.turns, replies, ranked),),
        }
    )
    page = Page(render_page(results, links_for(results)))
    harmless = Page(render_page(plain, links_for(plain)))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in harmless.elements}
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert page.all("img", alt=HOSTILE)
    # As text: the dialogue's title, the turn, the reply twice, the picture's title.
    assert page.texts.count(HOSTILE) == 5


def test_right_to_left_text_and_emoji_are_kept_and_their_direction_is_left_to_the_browser(make_results):
    text = "مرحبا بالعالم 🎉"
    results = make_results(text, text)
    page = Page(render_page(results, links_for(results)))
    assert page.texts.count(text) == 2
    assert len(page.all("p", dir="auto")) == 4
    assert len(page.all("h2", dir="auto")) == 1


def test_page_loads_nothing_from_elsewhere_and_knows_dark_and_narrow_screens(make_results):
    results = make_results()
    text = render_page(results, links_for(results))
    page = Page(text)
    assert not page.all("script")
    addresses = [attrs[name] for _, attrs in page.elements for name in ("src", "href") if name in attrs]
    assert all(not address.startswith(("http", "//", "/")) for address in addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme:dark" in text
    assert "max-width:560px" in text
    assert page.all("meta", name="viewport")


def test_a_dialogue_without_answers_says_so(make_results):
    results = make_results()
    bare = AnsweredDialogue("bare", results.dialogues[0].turns, (), ())
    results = DemoResults(**{**vars(results), "dialogues": (bare,)})
    assert "nothing was found" in Page(render_page(results, links_for(results))).texts


def test_written_folder_is_complete_and_an_older_run_is_cleared(make_results, tmp_path):
    output = tmp_path / "out"
    stale = output / "thumbnails" / f"{'0' * 16}.jpg"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    own = output / "thumbnails" / "holiday.jpg"
    own.write_bytes(b"mine")
    page = write_page(make_results(), output)
    linked = {attrs["src"] for attrs in Page(page.read_text(encoding="utf-8")).all("img")}
    assert len(linked) == 5
    assert all((output / link).stat().st_size > 100 for link in linked)
    assert not stale.exists()
    assert own.read_bytes() == b"mine"


def test_a_picture_that_is_gone_is_named(make_results, tmp_path):
    results = make_results()
    results.dialogues[0].images[0].image.path.unlink()
    with pytest.raises(FileNotFoundError, match=r"red\.png"):
        write_page(results, tmp_path / "out")
