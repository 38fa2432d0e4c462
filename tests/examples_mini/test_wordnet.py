"""WordNet's reader: on small files in exactly WordNet's format, and on the real package."""

from collections import Counter

import pytest

from tests.installable import loaded_or_skipped
from unimur_mini.wordnet import load_wordnet, read_folder, split_gloss

LICENSE = "  1 This software and database is being provided to you, the LICENSEE, by  \n  2 Princeton University  \n"
FILES = {
    "data.noun": """\
02120997 05 n 02 feline 0 felid 0 002 ~ 02121620 n 0000 %p 02439929 n 0000 | any of various lithe-bodied mammals
02121620 05 n 02 cat 0 true_cat 0 003 @ 02120997 n 0000 ~ 02121808 n 0000 #p 02439929 n 0000 | feline mammal (having \
thick fur): domestic cats; wildcats; "the cat sat"; "a cat; or two"- Anon.
02439929 05 n 01 Tom 0 001 @i 02121620 n 0000 | the second cat
""",
    "data.verb": """\
00001740 29 v 02 breathe 0 take_a_breath a 002 @ 00005041 v 0000 + 03110323 a 0101 02 + 02 00 + 08 00 | draw air \
into; "I can breathe better"
""",
    "data.adj": """\
00003553 00 s 01 emergent 0 001 & 00003356 a 0000 | coming into existence; "an emergent republic"
00003356 00 a 01 alive(p) 1 001 & 00003553 a 0000 | possessing life
""",
    "data.adv": "00001837 02 r 02 AD 0 anno_Domini 0 000 | in the Christian era  \n",
    "index.noun": """\
cat n 2 2 @ ~ 2 1 00000042 02121620
felid n 1 1 ~ 1 0 02120997
feline n 1 2 ~ %p 1 1 02120997
tom n 1 1 @i 1 0 02439929
true_cat n 1 2 @ ~ 1 0 02121620
""",
    "index.verb": "breathe v 1 2 @ + 1 1 00001740  \ntake_a_breath v 1 2 @ + 1 0 00001740  \n",
    "index.adj": "alive a 1 1 & 1 1 00003356  \nemergent a 1 1 & 1 1 00003553  \n",
    "index.adv": "ad r 1 0 1 0 00001837  \nanno_domini r 1 0 1 0 00001837  \n",
    "cntlist.rev": """\
breathe%2:29:00:: 1 11
cat%1:05:00:: 1 18
emergent%5:00:00:alive(p):01 1 3
feline%1:05:00:: 1 1
""",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(
            text if name == "cntlist.rev" else (LICENSE + text).replace("\n", "  \n"), encoding="utf-8"
        )
    return tmp_path


def test_rows_of_a_small_wordnet(folder):
    rows = {row["synset_id"]: row for row in read_folder(folder)}
    assert list(rows) == ["n02120997", "n02121620", "n02439929", "v00001740", "a00003553", "a00003356", "r00001837"]
    assert rows["n02121620"] == {
        "synset_id": "n02121620",
        "lemmas": ["cat", "true cat"],
        "sense_numbers": [2, 1],
        "sense_counts": [18, 0],
        "part_of_speech": "noun",
        "lexname": "noun.animal",
        "gloss": "feline mammal (having thick fur): domestic cats; wildcats",
        "examples": ["the cat sat", "a cat; or two"],
        "hypernyms": ["n02120997"],
        "instance_hypernyms": [],
        "part_meronyms": [],
        "part_holonyms": ["n02439929"],
        "license": "WordNet-3.0",
    }
    assert rows["n02120997"]["part_meronyms"] == ["n02439929"]
    assert rows["n02439929"]["instance_hypernyms"] == ["n02121620"]
    verb = rows["v00001740"]
    assert (verb["lemmas"], verb["lexname"], verb["hypernyms"]) == (
        ["breathe", "take a breath"],
        "verb.body",
        ["v00005041"],
    )
    assert verb["examples"] == ["I can breathe better"]
    # A satellite is an adjective, and is counted under its head.
    assert rows["a00003553"]["part_of_speech"] == "adjective"
    assert rows["a00003553"]["sense_counts"] == [3]
    assert rows["a00003356"]["lemmas"] == ["alive"]
    assert (rows["r00001837"]["lemmas"], rows["r00001837"]["lexname"]) == (["AD", "anno Domini"], "adv.all")


@pytest.mark.parametrize(
    ("gloss", "parts"),
    [
        ("a cat", ("a cat", [])),
        ('a cat; "it sat"; "it  slept"', ("a cat", ["it sat", "it slept"])),
        ('a cat; "it sat"- Anon.', ("a cat", ["it sat"])),
        (
            'attack on all sides: "The zebra was beset by leopards"',
            ("attack on all sides", ["The zebra was beset by leopards"]),
        ),
        ('promise of reward as in "carrot and stick"', ('promise of reward as in "carrot and stick"', [])),
        ('"quoted" first; second', ('"quoted" first; second', [])),
        ('one 5" mark; two', ("one 5 mark; two", [])),
    ],
)
def test_gloss_and_examples(gloss, parts):
    assert split_gloss(gloss) == parts


def test_a_broken_line_is_named(folder):
    with (folder / "data.noun").open("a") as file:
        file.write("00000001 05 n 09 dog 0\n")
    with pytest.raises(ValueError, match=r"data\.noun: synset 4"):
        list(read_folder(folder))
    (folder / "index.noun").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.noun"):
        list(read_folder(folder))


def test_the_real_wordnet():
    wordnet = loaded_or_skipped(load_wordnet)
    assert len(wordnet) == 117_659
    columns = wordnet.with_format("arrow")[:].to_pydict()
    assert Counter(columns["part_of_speech"]) == {"noun": 82_115, "verb": 13_767, "adjective": 18_156, "adverb": 3_621}
    ids = columns["synset_id"]
    assert len(set(ids)) == len(wordnet)
    dog = wordnet[ids.index("n02084071")]
    assert dog["lemmas"] == ["dog", "domestic dog", "Canis familiaris"]
    assert (dog["sense_numbers"], dog["sense_counts"]) == ([1, 1, 1], [42, 0, 0])
    assert dog["examples"] == ["the dog barked all night"]
    assert dog["hypernyms"] == ["n02083346", "n01317541"]
    assert dog["gloss"].startswith("a member of the genus Canis (probably")
    # Nothing is empty, and every relation leads to a synset.
    assert all(columns["gloss"])
    assert {above for row in columns["hypernyms"] for above in row} <= set(ids)
    assert set(columns["license"]) == {"WordNet-3.0"}
