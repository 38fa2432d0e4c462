"""Chats between people: built from small chats in the package's format; the full set where pip can bring it."""

import json

import pytest

from modeling_unimur.data.own_chats import chat_split, reply_key
from tests.installable import loaded_or_skipped
from unimur_mini import chats as module
from unimur_mini.chats import build_chats, fetch_chats, load_chats, without_addresses

IDS = {
    split: [chat_id for chat_id in map("chat {}".format, range(60)) if chat_split(chat_id) == split]
    for split in module.SPLITS
}


def turns(count, word="turn"):
    return [f"{word} number {number} of this chat" for number in range(count)]


def rows_of(split, texts, number=0):
    return build_chats({IDS[split][number]: texts})[split]


def test_what_one_person_sends_in_a_row_is_one_turn(tmp_path, monkeypatch):
    chat = {"messages": [[{"text": "Hello \n there"}, {"text": None}, {"text": "you?"}], [{"text": "yes"}]]}
    (tmp_path / "chitchat_dataset").mkdir()
    (tmp_path / "chitchat_dataset" / "dataset.json").write_text(json.dumps({"a": chat}), encoding="utf-8")
    monkeypatch.setattr("unimur_mini.chats.pip_package", lambda requirement: tmp_path)
    assert fetch_chats() == {"a": ["Hello there you?", "yes"]}


def test_a_context_is_the_five_turns_before_its_reply_and_ends_with_the_user():
    rows = rows_of("train", turns(8))
    assert [len(row["turns"]) for row in rows] == [1, 2, 3, 4, 5, 5, 5]
    for place, row in enumerate(rows, start=1):
        said = [turn["content"] for turn in row["turns"]]
        assert [*said, row["target_text"]] == turns(8)[place - len(said) : place + 1]
        assert [turn["role"] for turn in row["turns"]] == (["user", "assistant"] * 3)[len(said) % 2 == 0 :][
            : len(said)
        ]
        assert (row["group"], row["license"]) == (IDS["train"][0], "MIT")


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("one two three four", True),
        ("one two three", False),
        (":) :( ;) !!", False),
        ("I'm so tired ...", False),
        (" ".join(["word"] * 25), True),
        (" ".join(["word"] * 26), False),
        ("write to me at someone@example.com please", False),
        ("you can find that on www.example.com somewhere", False),
        ("see https://example.com/page for the rest", False),
        ("it was on example.org last week", False),
        ("just call me at (555) 123-4567 tonight", False),
        ("ask @some.account about that one", False),
        ("we met 3 times in 2018 @ school", True),
    ],
)
def test_replies(reply, kept):
    assert [row["target_text"] for row in rows_of("train", ["Hello", reply])] == [reply] * kept


def test_addresses_are_taken_out_of_contexts():
    assert without_addresses("mail a.b@example.com, or see www.example.com/x now") == "mail or see now"
    (row,) = rows_of("train", ["What is your address?", "a@example.com", "thank you so very much"])
    assert [turn["content"] for turn in row["turns"]] == ["What is your address?"]


def test_equal_replies_share_one_wording_in_training():
    chats = {
        IDS["train"][0]: ["Hi", "Good, how are you?"],
        IDS["train"][1]: ["Hey", "good how are you"],
        IDS["train"][2]: ["Hey", "good how were you"],
    }
    found = [row["target_text"] for row in build_chats(chats)["train"]]
    assert found == ["Good, how are you?", "Good, how are you?", "good how were you"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_reply_of_a_pool_stands_once_and_in_no_context(split):
    common = "what do you mean by that"
    chats = {chat_id: [*turns(30, chat_id), common] for chat_id in IDS[split]}
    chats[IDS["train"][0]] = ["Said in training, and elsewhere", "Hello"]
    chats[IDS[split][0]] += ["Hello", "said in training and elsewhere!"]
    rows = build_chats(chats)[split]
    keys = [reply_key(row["target_text"]) for row in rows]
    contexts = {reply_key(turn["content"]) for row in rows for turn in row["turns"]}
    assert len(set(keys)) == len(keys) >= 3 * len(IDS[split])
    assert not {*keys} & {*contexts, common, "said in training and elsewhere"}


def test_a_pool_has_its_size(monkeypatch):
    monkeypatch.setattr(module, "POOL_SIZE", 3)
    assert len(rows_of("test", turns(40))) == 3


def test_chats_are_fetched_as_a_package_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path))
    folder, fetched = tmp_path / "wheel" / "chitchat_dataset", []
    folder.mkdir(parents=True)
    everything = [chat_id for some in IDS.values() for chat_id in some]
    chats = {chat_id: {"messages": [[{"text": text}] for text in turns(9, chat_id)]} for chat_id in everything}
    (folder / "dataset.json").write_text(json.dumps(chats))
    monkeypatch.setattr(module, "pip_package", lambda name: fetched.append(name) or folder.parent)
    found = load_chats()
    assert fetched == [module.CHITCHAT_REQUIREMENT]
    assert {split: set(rows["group"]) for split, rows in found.items()} == {k: set(v) for k, v in IDS.items()}


@pytest.mark.slow
def test_the_whole_set():
    found = loaded_or_skipped(load_chats)
    assert len(found["train"]) > 70_000
    groups = [set(rows["group"]) for rows in found.values()]
    assert len(set().union(*groups)) == sum(map(len, groups))
    keys = {split: {reply_key(text) for text in rows["target_text"]} for split, rows in found.items()}
    assert len(keys["validation"]) == len(keys["test"]) == len(found["test"]) == len(found["validation"]) == 1_000
    assert not keys["train"] & (keys["validation"] | keys["test"])
    for rows in found.values():
        assert {len(text.split()) > 3 for text in rows["target_text"]} == {True}
        assert not any("@gmail" in turn["content"] for row in rows for turn in row["turns"])
