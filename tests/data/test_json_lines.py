"""JSON lines and lines of text: what ends a line, what is refused, what every road reads."""

import io
import json
import os

import pytest

from modeling_unimur.cli.errors import CommandError
from modeling_unimur.data import text_lines
from modeling_unimur.data.cc3m import read_tsv
from modeling_unimur.data.json_lines import (
    append_json_lines,
    json_line,
    line_objects,
    object_entries,
    parse_json,
    read_json_lines,
    read_json_records,
    scan_json_lines,
    write_json_lines,
)
from modeling_unimur.data.text_lines import read_lines
from modeling_unimur.encoding.items import BadItem
from modeling_unimur.encoding.readers import line_items
from modeling_unimur.evaluation.compare_dialogues import read_dialogues_file
from modeling_unimur.training.mining import read_mined, write_mined
from modeling_unimur.training.precomputed import load_items
from modeling_unimur.verbalization import WordStore, read_words
from modeling_unimur.verbalization.verbalize import write_words
from unimur_mini.demo.inputs import read_dialogues, read_replies

CHARACTERS = {
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "next line": "\x85",
    "vertical tab": "\x0b",
    "form feed": "\x0c",
    "file separator": "\x1c",
    "group separator": "\x1d",
    "record separator": "\x1e",
    "carriage return": "\r",
    "line feed": "\n",
    "tab": "\t",
    "nul": "\x00",
    "byte order mark": "\ufeff",
    "emoji": "👩‍👩‍👧",
    "right to left": "שלום عالم",
    "lone surrogate": "\ud800",
}
TEXTS = [f"a{character}b" for character in CHARACTERS.values()]
each_text = pytest.mark.parametrize("text", TEXTS, ids=list(CHARACTERS))


def foreign(rows: list, form: str) -> bytes:
    """Rows as other programs write them, with raw characters."""
    lines = [json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") for row in rows]
    return {
        "plain": b"\n".join(lines),
        "crlf": b"".join(line + b"\r\n" for line in lines),
        "bom": b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n",
        "empty lines": b"\n\n" + b"\n \r\n\t\n".join(lines) + b"\n\n",
    }[form]


FORMS = ("plain", "crlf", "bom", "empty lines")


# -- each road --------------------------------------------------------------------------------------------------------
def _compared(path, rows):
    turns = [{"role": "user", "content": "x"}]
    path.write_bytes(rows({"turns": turns, "gold_text": text} for text in TEXTS))
    return [dialogue.right_text for dialogue in read_dialogues_file(path)[0]]


def _words(path, rows):
    path.write_bytes(rows({"doc_id": f"i{n}", "words": text} for n, text in enumerate(TEXTS)))
    return list(read_words(path).values())


def _negatives(path, rows):
    path.write_bytes(rows({"query_id": f"q{n}", "image": [text], "text": []} for n, text in enumerate(TEXTS)))
    return [images[0] for images, _ in read_mined(path).values()]


def _adapted(path, rows):
    path.write_bytes(rows({"text": text} for text in TEXTS))
    return load_items(path).payloads


def _records(path, rows):
    path.write_bytes(rows({"text": text} for text in TEXTS))
    return [record["text"] for record in read_json_records(path)]


def _objects(path, rows):
    data = rows({"text": text} for text in TEXTS)
    return [record["text"] for record in line_objects(io.BytesIO(data), "lines")]


ROADS = (_compared, _words, _negatives, _adapted, _records, _objects)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("road", ROADS, ids=[road.__name__ for road in ROADS])
def test_every_road_reads_every_character(road, form, tmp_path):
    assert road(tmp_path / "lines.jsonl", lambda rows: foreign(list(rows), form)) == TEXTS


@pytest.mark.parametrize("form", FORMS)
def test_the_demo_reads_every_character_of_unicode(form, tmp_path):
    # Half of a surrogate pair is none; the reader of conversations refuses it.
    texts = [text for text in TEXTS if text.encode("utf-8", "ignore").decode() == text]
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    (tmp_path / "lines.jsonl").write_bytes(foreign(rows, form))
    found = read_dialogues(tmp_path / "lines.jsonl")
    assert [dialogue.messages[0]["content"][0]["text"] for dialogue in found] == texts


@pytest.mark.parametrize("form", FORMS)
def test_a_source_of_an_index_reads_every_character(form, tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_bytes(foreign([{"id": f"i{n}", "text": text} for n, text in enumerate(TEXTS)], form))
    found = list(line_items([str(path)]))
    assert len(found) == len(TEXTS)
    for text, item in zip(TEXTS, found, strict=True):
        # An index may refuse what it cannot hold; it must not hold anything else.
        assert isinstance(item, BadItem) if not hasattr(item, "content") else item.content == text


@each_text
def test_own_files_are_read_back(text, tmp_path):
    write_words({"i0": text, text: "words"}, tmp_path / "words.jsonl")
    assert read_words(tmp_path / "words.jsonl") == {"i0": text, text: "words"}
    mined = {"q0": ([text, "i1"], []), "q1": ([], [text])}
    write_mined(mined, tmp_path / "mined.jsonl")
    assert read_mined(tmp_path / "mined.jsonl") == mined
    store = WordStore(tmp_path, text)
    store.add({"a": text, text: "b"})
    assert (WordStore(tmp_path, text)["a"], WordStore(tmp_path, text)[text]) == (text, "b")


@each_text
def test_what_is_written_is_one_line_for_every_reader(text):
    line = json_line({"text": text})
    assert len(line.decode("utf-8").splitlines()) == 1
    assert json.loads(line) == {"text": text}
    assert parse_json(line.decode()) == {"text": text}


# -- lines of text ----------------------------------------------------------------------------------------------------
IN_ONE_LINE = [text for text in TEXTS if "\n" not in text]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_of_text(end, mark, tmp_path):
    path = tmp_path / "passages.txt"
    path.write_bytes(mark + b"".join(text.encode("utf-8", "surrogatepass") + end for text in [*IN_ONE_LINE, "", "z"]))
    assert list(read_lines(path)) == [*IN_ONE_LINE, "", "z"]
    assert load_items(path).payloads == [*IN_ONE_LINE, "", "z"]
    assert read_replies(path) == [*IN_ONE_LINE, "z"]
    whole = [text for text in IN_ONE_LINE if text.isprintable()]
    found = {item.content for item in line_items([str(path)]) if hasattr(item, "content")}
    assert {*whole, "z"} <= found


def test_lines_of_captions(tmp_path, pictures):
    (tmp_path / "images").mkdir()
    os.symlink(pictures[0], tmp_path / "images" / "a.png")
    path = tmp_path / "cc3m_train.tsv"
    path.write_bytes("\ufeffcaption\timage\r\none\u2028two\x85three\ta.png\r\n".encode())
    (found,) = read_tsv(path)
    assert found.caption == "one two three"


# -- what is refused --------------------------------------------------------------------------------------------------
BAD = {
    "no json": (b"{broken", "not JSON"),
    "two values": (b'{"a": 1} {"b": 2}', "not JSON"),
    "deep list": (b"[" * 5_000 + b"]" * 5_000, "nested deeper"),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
    "just too deep": (b"[" * 102 + b"1" + b"]" * 102, "nested deeper"),
    "latin 1": '{"a": "é"}'.encode("latin-1"),
    "a number of too many digits": (b"1" * 5_000, "not JSON"),
    "too long": (b'"' + b"x" * 3_000_000 + b'"', "longer than"),
}
BAD["latin 1"] = (BAD["latin 1"], "not UTF-8")


@pytest.fixture
def short_lines(monkeypatch):
    monkeypatch.setattr(text_lines, "LONGEST_LINE", 1 << 21)


@pytest.mark.parametrize(("line", "problem"), list(BAD.values()), ids=list(BAD))
def test_a_bad_line_is_named_or_passed_over(line, problem, short_lines, tmp_path, caplog):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(ValueError, match=rf"line 3: {problem}"):
        list(read_json_lines(path))
    with path.open("rb") as file:
        assert list(line_objects(file, "lines")) == [{"a": 1}, {"a": 2}]
    assert "1 of 3 lines" in caplog.text
    with path.open("rb") as file:
        assert [line.number for line in scan_json_lines(file) if line.problem is None] == [1, 4]
    found = list(line_items([str(path)]))
    assert problem in found[1].reason
    assert found[1].item == "lines.jsonl:3"


@pytest.mark.parametrize("depth", [1, 50, 100])
def test_depth_that_is_allowed(depth, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("[" * depth + "1" + "]" * depth)
    ((number, value),) = read_json_lines(path)
    assert (number, json.dumps(value)) == (1, path.read_text())
    path.write_text(json.dumps([[{}] * 1000]) + "\n")  # many brackets, not deep
    assert len(list(read_json_lines(path))) == 1


@pytest.mark.parametrize("text", ['[{"a": %s}]', '{"a": %s}'])
def test_deep_values_in_arrays_and_objects(text, tmp_path):
    path = tmp_path / "records.json"
    for deep in ("[" * 5_000 + "]" * 5_000, "[" * 200 + "]" * 200):
        path.write_text(text % deep)
        with pytest.raises(ValueError, match=r"records\.json.*nested deeper"):
            list(read_json_records(path))
    path.write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert list(object_entries(path)) == [("a", 1)]


def test_files_that_are_none(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes('{"text": "a"}\n'.encode("utf-16"))
    for read in (read_json_lines, read_lines):
        with pytest.raises(ValueError, match="UTF-16"):
            list(read(path))
    assert "UTF-16" in next(line_items([str(path)])).reason
    with pytest.raises(CommandError, match="UTF-16"):
        read_dialogues(path)
    os.mkfifo(tmp_path / "pipe.jsonl")
    for strange in (tmp_path / "pipe.jsonl", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="regular file"):
            next(read_json_lines(strange))
        assert "regular file" in next(line_items([str(strange)])).reason
    with pytest.raises(FileNotFoundError, match="nowhere"):
        next(read_json_lines(tmp_path / "nowhere.jsonl"))


# -- writing ----------------------------------------------------------------------------------------------------------
def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "lines.jsonl"
    assert write_json_lines(path, ({"n": n} for n in range(3))) == 3

    def broken():
        yield {"n": 9}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_json_lines(path, broken())
    assert [value["n"] for _, value in read_json_lines(path)] == [0, 1, 2]
    assert os.listdir(path.parent) == ["lines.jsonl"]
    os.symlink(path, tmp_path / "link.jsonl")
    write_json_lines(tmp_path / "link.jsonl", [1])
    assert path.read_text() == "1\n"
    assert (tmp_path / "link.jsonl").is_symlink()


def test_lines_are_added_behind_a_broken_one(tmp_path, caplog):
    path = tmp_path / "lines.jsonl"
    append_json_lines(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-1] + b'\n{"half')
    append_json_lines(path, [3])
    with path.open("rb") as file:
        assert [line.value for line in scan_json_lines(file) if line.problem is None] == [1, 2, 3]
    store = WordStore(tmp_path, "v")
    store.add({"a": "b"})
    store.path.write_bytes(store.path.read_bytes() + b'[1]\n{"key": "x"}\n{"key": 1, "words": "y"}\n\xff\n')
    assert (len(WordStore(tmp_path, "v")), "4 lines hold no words" in caplog.text) == (1, True)
