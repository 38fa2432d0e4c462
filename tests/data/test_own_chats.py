"""A person's own chats: which turns are replies, what is skipped and how it is told."""

import json

import pytest

from modeling_unimur.data.own_chats import read_own_chats, split_own_chats


def message(role, *content):
    return {"role": role, "content": list(content) if isinstance(content[0], dict) else content[0]}


def text(words):
    return {"type": "text", "text": words}


PLAIN = [message("user", "Hi there"), message("assistant", "Hello!"), message("user", "How are you?")]
IMAGE = {"type": "image", "image": "no/such/file.png"}


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")
        return path

    return write


def pairs(rows):
    return [([turn["content"] for turn in row["turns"]], row["target_text"]) for row in rows]


@pytest.mark.parametrize(
    "record", [{"turns": PLAIN}, {"messages": PLAIN}, PLAIN, {"turns": PLAIN, "gold_image": "a.png"}]
)
def test_every_turn_after_the_first_is_a_reply(record, write):
    rows, report = read_own_chats(write(record))
    assert pairs(rows) == [(["Hi there"], "Hello!"), (["Hi there", "Hello!"], "How are you?")]
    assert [turn["role"] for turn in rows[1]["turns"]] == ["user", "assistant"]
    assert report.found == {"chats": 1, "replies": 2}
    assert not report.lost


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"turns": PLAIN[:1], "gold_text": "  Good \n day "}, [(["Hi there"], "Good day")]),
        ([message("system", "Be kind."), *PLAIN[:2]], [(["Hi there"], "Hello!")]),
        ([message("user", text("Look:"), IMAGE, text("nice?")), PLAIN[1]], [(["Look: nice?"], "Hello!")]),
        ([PLAIN[0], message("assistant", ":)"), PLAIN[2]], [(["Hi there", ":)"], "How are you?")]),
        ([PLAIN[0], message("assistant", IMAGE), PLAIN[2]], [(["Hi there"], "How are you?")]),
        ([PLAIN[0], message("assistant", None), PLAIN[2]], [(["Hi there"], "How are you?")]),
    ],
)
def test_what_is_a_turn(record, found, write):
    assert pairs(read_own_chats(write(record))[0]) == found


def test_a_context_has_at_most_twenty_turns(write):
    rows, _ = read_own_chats(write([message("user", f"turn {number}") for number in range(30)]))
    assert max(len(row["turns"]) for row in rows) == 20
    assert pairs(rows)[-1] == ([f"turn {number}" for number in range(9, 29)], "turn 29")


def test_equal_replies_share_a_wording_and_a_growing_log_repeats_nothing(write):
    rows, _ = read_own_chats(write(PLAIN[:2], PLAIN, [message("user", "Moin"), message("assistant", "hello")]))
    assert pairs(rows) == [(["Hi there"], "Hello!"), (["Hi there", "Hello!"], "How are you?"), (["Moin"], "Hello!")]
    assert rows[0]["group"] == rows[1]["group"] != rows[2]["group"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json\n", "cannot be read"),
        ('{"turns": "hi"}\n', "no chat"),
        ("7\n", "no chat"),
        ('{"turns": [{"role": "user"}]}\n', "no chat"),
        ('{"turns": [{"role": "user", "content": 5}]}\n', "no chat"),
        ('{"turns": []}\n', "no chat"),
        (json.dumps({"turns": PLAIN, "gold_text": 7}) + "\n", "no chat"),
        (json.dumps({"turns": PLAIN[:1]}) + "\n", "without a reply"),
    ],
)
def test_bad_lines_are_skipped_counted_and_named(line, reason, write, caplog):
    rows, report = read_own_chats(write({"turns": PLAIN}, "\n", line))
    assert len(rows) == 2
    ((told, count),) = report.lost.items()
    assert reason in told
    assert count == 1
    assert report.examples[told][0].startswith("line 3")
    assert "line 3" in caplog.text
    with pytest.raises(ValueError, match=r"line 1.*turns"):
        read_own_chats(write(line))


def test_images_are_counted(write):
    _, report = read_own_chats(write([message("user", text("Look"), IMAGE), PLAIN[1]]))
    assert report.lost == {"lines whose images are left out": 1}


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_own_chats(tmp_path / "none.jsonl")


def test_splits_are_by_chat(write):
    lines = [[message("user", f"hello {number}"), *PLAIN[1:]] for number in range(60)]
    lines += [{"dialogue_id": "one", "turns": [message("user", f"start {n}"), *PLAIN[1:]]} for n in range(9)]
    rows, _ = read_own_chats(write(*lines))
    parts = split_own_chats(rows)
    assert sum(map(len, parts.values())) == len(rows)
    assert min(map(len, parts.values())) > 0
    groups = [{row["group"] for row in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 61
    few = split_own_chats(rows[:10])
    assert (len(few["train"]), few["validation"], few["test"]) == (10, [], [])
