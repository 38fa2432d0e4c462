"""The conversation by hand: commands, pictures, errors that do not end it, and its end."""

import io
from pathlib import Path

import pytest

from modeling_unimur.cli.chat_session import ChatSession, converse
from modeling_unimur.cli.gallery import GalleryImage


class Recorder:
    """Answers like the pipeline and keeps what it was asked: here the talk is tested, not the ranking."""

    def __init__(self, picture: Path) -> None:
        self.asked: list[list[dict]] = []
        self.picture = picture

    def __call__(self, messages, top_k):
        self.asked.append([dict(message) for message in messages])
        texts = [{"id": f"reply {n}", "score": 0.9 - n / 10, "text": f"reply {n}"} for n in range(top_k)]
        return {"text": texts, "image": [{"id": "openmoji/1", "score": 0.5, "image": str(self.picture)}]}


@pytest.fixture
def talk(make_picture):
    """A function that types lines and returns what was printed, and the retriever that was asked."""
    picture = make_picture("answer.png", "red", "a red answer")
    recorder = Recorder(picture.path)

    def type_lines(*lines, end=EOFError, pictures=None):
        left = list(lines)

        def read(prompt):
            if left:
                return left.pop(0)
            raise end

        stream = io.StringIO()
        known = {"openmoji/1": picture} if pictures is None else pictures
        converse(ChatSession(recorder, known, top_k=2), stream, read)
        return stream.getvalue(), recorder

    return type_lines


def test_options_are_those_of_each_call():
    seen = []

    def retriever(messages, **options):
        seen.append(options)
        return {"text": [], "image": []}

    ChatSession(retriever, top_k=2, options={"coherent": True}).ask("hello")
    assert seen == [{"top_k": 2, "coherent": True}]


def test_answers_show_texts_titles_and_paths_and_carry_the_conversation_on(talk):
    shown, recorder = talk("hello", "and now?")
    assert shown.count("reply 0") == 2
    assert "a red answer" in shown
    assert "answer.png" in shown
    hello = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    assert recorder.asked[0] == [hello]
    assert recorder.asked[1] == [
        hello,
        {"role": "assistant", "content": "reply 0"},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
    ]


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_the_end_of_the_input_and_ctrl_c_are_polite(talk, end):
    assert talk("hello", end=end)[0].endswith("\nBye.\n")


def test_ctrl_c_during_an_answer_is_polite_too(make_picture):
    def interrupted(messages, top_k):
        raise KeyboardInterrupt

    stream = io.StringIO()
    converse(ChatSession(interrupted), stream, lambda prompt: "hello")
    assert stream.getvalue().endswith("Bye.\n")


@pytest.mark.parametrize("word", ["/quit", "/exit"])
def test_quit_leaves(talk, word):
    shown, recorder = talk(word, "never said")
    assert shown.endswith("Bye.\n")
    assert recorder.asked == []


@pytest.mark.parametrize("form", ["{}", "'{}'", '"{}"', "file://{}"])
def test_a_picture_goes_with_the_next_message_only(talk, make_picture, form):
    path = make_picture("my cat.png", "blue").path
    shown, recorder = talk(f"/image {form.format(path)}", "look", "again")
    assert "my cat.png (40 x 30)" in shown
    parts = [{"type": "text", "text": "look"}, {"type": "image", "image": str(path)}]
    assert recorder.asked[0][-1]["content"] == parts
    assert recorder.asked[1][-1]["content"] == [{"type": "text", "text": "again"}]


def test_a_picture_can_go_without_words_and_an_empty_line_alone_does_nothing(talk, make_picture):
    path = make_picture("a.png", "blue").path
    _, recorder = talk("", f"/image {str(path).replace('a.png', chr(92) + 'a.png')}", "", "")
    assert [asked[-1]["content"] for asked in recorder.asked] == [[{"type": "image", "image": str(path)}]]


def test_bad_paths_are_one_line_each_and_the_talk_goes_on(talk, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    bad = [
        str(tmp_path / "gone.png"),
        str(tmp_path),
        str(tmp_path / "text.png"),
        "~nobody-of-this-name/a.png",
        "x" * 5000,
    ]
    shown, recorder = talk("/image", *(f"/image {path}" for path in bad), "hello")
    errors = [line for line in shown.splitlines() if line.startswith("unimur: ")]
    assert len(errors) == 6
    assert "gone.png" in errors[1]
    assert "Traceback" not in shown
    assert recorder.asked[0][-1]["content"] == [{"type": "text", "text": "hello"}]


def test_reset_forgets_the_conversation_and_the_waiting_picture(talk, make_picture):
    path = make_picture("b.png", "blue").path
    _, recorder = talk("hello", f"/image {path}", "/reset", "new")
    assert recorder.asked[1] == [{"role": "user", "content": [{"type": "text", "text": "new"}]}]


def test_show_prints_paths_and_refuses_what_is_not_there(talk, monkeypatch):
    opened = []
    monkeypatch.setattr("modeling_unimur.cli.chat_session.open_image", lambda path: opened.append(path) or True)
    shown, recorder = talk("/show", "hello", "/show", "/show 1", "/show 2", "/show x", "/show 0")
    lines = shown.splitlines()
    assert "unimur: there is no answer with images yet" in lines
    assert f"  1. a red answer: {recorder.picture}" in lines
    assert opened == [recorder.picture]
    assert sum(line.startswith("unimur: /show takes a number from 1 to 1") for line in lines) == 3


def test_unknown_command_and_help(talk):
    shown, recorder = talk("/hepl", "/help")
    assert "unimur: unknown command /hepl" in shown
    assert all(word in shown for word in ("/image PATH", "/show", "/reset", "/quit"))
    assert recorder.asked == []


def test_a_picture_of_an_unknown_index_is_named_by_its_id(talk):
    shown, recorder = talk("hello", pictures={})
    assert str(recorder.picture) in shown


def test_an_error_of_the_retriever_leaves_the_conversation_as_it_was():
    calls = []

    def failing(messages, top_k):
        calls.append(len(messages))
        raise ValueError("two\nlines")

    lines = iter(["one", "two", "/quit"])
    stream = io.StringIO()
    converse(ChatSession(failing), stream, lambda prompt: next(lines))
    assert stream.getvalue().splitlines().count("unimur: two lines") == 2
    assert calls == [1, 1]


def test_a_waiting_picture_that_goes_bad_is_dropped(make_picture):
    path = make_picture("c.png", "blue").path
    asked = []

    def failing(messages, top_k):
        asked.append(messages[-1]["content"])
        raise FileNotFoundError(f"no picture at {path}")

    lines = iter([f"/image {path}", "look", "again", "/quit"])
    stream = io.StringIO()
    converse(ChatSession(failing), stream, lambda prompt: next(lines))
    assert len(asked[0]) == 2
    assert len(asked[1]) == 1
    assert "were dropped" in stream.getvalue()


def test_titles_cannot_steer_the_terminal(make_picture):
    evil = GalleryImage(make_picture("d.png", "blue").path, "\x1b[2Jgone\x07")

    def retriever(messages, top_k):
        return {"text": [], "image": [{"id": "d", "score": 1.0, "image": str(evil.path)}]}

    lines = iter(["hello", "/quit"])
    stream = io.StringIO()
    converse(ChatSession(retriever, {"d": evil}), stream, lambda prompt: next(lines))
    assert "\x1b" not in stream.getvalue()
    assert "[2Jgone" in stream.getvalue()
