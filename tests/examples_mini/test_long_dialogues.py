"""Long contexts, from small chats and dialogues; the full sets where their packages are."""

import pytest

from tests.installable import loaded_or_skipped
from unimur_mini.dialogues.long import (
    build_long_chats,
    build_long_dialogues,
    load_long_chats,
    load_long_dialogues,
)

ROLES = ("user", "assistant")


def row(name, turns, words=3):
    said = [
        {"role": ROLES[(turns - 1 - place) % 2], "content": " ".join([f"{name}.{place}"] * words)}
        for place in range(turns)
    ]
    return {
        "dialogue_id": f"{name}/x",
        "turns": said,
        "target_text": f"reply of {name}",
        "target_picture": f"picture {name}",
        "group": name,
        "license": "MIT",
    }


PARTS = {
    "train": [row(f"chat{number}", 1 + number % 20) for number in range(60)],
    "test": [row("t0", 4), row("t1", 20)],
}


@pytest.mark.parametrize("build", [build_long_chats, build_long_dialogues])
def test_long_contexts(build):
    for split, rows in build(PARTS).items():
        by_id = {one["dialogue_id"]: one for one in PARTS[split]}
        assert len(rows) == len(by_id)
        for long in rows:
            texts, short = [turn["content"] for turn in long["turns"]], by_id[long["dialogue_id"]]
            assert len(texts) <= 20
            assert split == "test" or len(texts) >= 6
            roles = [turn["role"] for turn in long["turns"]]
            assert roles == [ROLES[(len(roles) - 1 - place) % 2] for place in range(len(roles))]
            assert texts[-1] == short["turns"][-1]["content"]
            assert (long["target_text"], long["group"]) == (short["target_text"], short["group"])
            assert long["target_text"] not in " ".join(texts)
    assert build(PARTS) == build(PARTS)
    assert build(PARTS, seed=1) != build(PARTS)


def test_a_chat_goes_on_longer_or_stands_behind_others():
    rows = build_long_chats(PARTS)["train"]
    assert {long["form"] for long in rows} == {"one_chat", "earlier_chat"}
    for long in rows:
        owners = [turn["content"].partition(".")[0] for turn in long["turns"]]
        if long["form"] == "one_chat":
            assert set(owners) == {long["group"]}
        else:
            assert 1 <= owners.count(long["group"]) <= 5
        # The reply that an earlier chat led to is in the pool of candidates, so it is not said.
        assert "reply" not in " ".join(turn["content"] for turn in long["turns"])


def test_earlier_dialogues_may_have_been_answered():
    rows = build_long_dialogues(PARTS)["train"]
    said = [[turn["content"] for turn in long["turns"]] for long in rows]
    assert 0 < sum(any(text.startswith("reply of") for text in texts) for texts in said) <= len(said)
    assert all(long["target_picture"] == f"picture {long['group']}" for long in rows)


def test_long_messages_leave_the_latest_that_fit():
    rows = [row(f"chat{number}", 8, words=70) for number in range(4)]
    for long in build_long_dialogues({"train": rows})["train"]:
        assert [turn["content"].split()[0].partition(".")[2] for turn in long["turns"]] == ["4", "5", "6", "7"]


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_long_chats, load_long_dialogues])
def test_the_whole_sets(load):
    parts = loaded_or_skipped(load)
    assert len(parts["train"]) > 11_000
    assert min(len(parts["validation"]), len(parts["test"])) > 500
    for rows in parts.values():
        assert max(map(len, rows["turns"])) == 20
    if load is load_long_chats:
        for split in ("validation", "test"):
            pool = set(parts[split]["target_text"])
            assert not any(turn["content"] in pool for turns in parts[split]["turns"] for turn in turns)
