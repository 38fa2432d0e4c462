"""WordNet 3.0 (Debian package `wordnet-base`): synsets with their lemmas, glosses, example sentences and relations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, get_type_hints

from datasets import Dataset, Features, Value, load_from_disk
from datasets import List as ListFeature

from modeling_unimur.data.cache import build_once, cache_dir

from .packages import debian_package

WORDNET_LICENSE = "WordNet-3.0"
# Increased whenever the rows change, so that tables cached by an older version are not read.
TABLE_VERSION = 1

_FILES = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
# ss_type in wndb(5WN). A satellite is an adjective that belongs to a head adjective.
_PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}
_KEY_TYPES = {"n": 1, "v": 2, "a": 3, "r": 4, "s": 5}
_POINTERS = {"@": "hypernyms", "@i": "instance_hypernyms", "%p": "part_meronyms", "#p": "part_holonyms"}
# Names of lexicographer files in the order of their numbers, see lexnames(5WN).
_FIELDS = {
    "noun": "Tops act animal artifact attribute body cognition communication event feeling food group location motive "
    "object person phenomenon plant possession process quantity relation shape state substance time",
    "verb": "body change cognition communication competition consumption contact creation emotion motion perception "
    "possession social stative weather",
}
_LEXNAMES = (
    *("adj.all", "adj.pert", "adv.all"),
    *(f"{kind}.{field}" for kind, fields in _FIELDS.items() for field in fields.split()),
    "adj.ppl",
)
_MARKER = re.compile(r"\((?:a|p|ip)\)$")
# A quotation mark without a partner is treated as a letter.
_SEGMENT = re.compile(r'(?:"[^"]*"|[^;"]|"(?![^"]*"))+')
_EXAMPLE = re.compile(r'\W*"([^"]+)"')
# There is no semicolon before a few examples.
_RUN_ON_EXAMPLE = re.compile(r'^([^"]*\w)\s*[:,]\s*"([^"]+)"$')


class Synset(TypedDict):
    """One synset. Its lists are parallel to `lemmas`, or they hold ids of other synsets."""

    synset_id: str
    lemmas: list[str]
    sense_numbers: list[int]
    sense_counts: list[int]
    part_of_speech: str
    lexname: str
    gloss: str
    examples: list[str]
    hypernyms: list[str]
    instance_hypernyms: list[str]
    part_meronyms: list[str]
    part_holonyms: list[str]
    license: str


_COLUMNS = {str: Value("string"), list[str]: ListFeature(Value("string")), list[int]: ListFeature(Value("int32"))}
WORDNET_FEATURES = Features({name: _COLUMNS[kind] for name, kind in get_type_hints(Synset).items()})


def load_wordnet() -> Dataset:
    """Reads the 117,659 synsets of WordNet 3.0, in the order of its files: nouns, verbs, adjectives, adverbs.

    Returns:
        A dataset with the columns of `Synset`, such as `synset_id` (`n02084071`: the letter of the file and the offset
            in it), `lemmas` (with spaces for underscores), `sense_numbers` (1 is the lemma's most frequent sense),
            `sense_counts` (how often the sense occurs in WordNet's tagged texts), `lexname` (`noun.animal`) and
            `gloss` (only the definition).

    Raises:
        PackageUnavailable: if apt cannot download the package.
        ValueError: if a file is not in WordNet's format.
    """

    def build(folder: Path) -> None:
        rows = list(read_folder(debian_package("wordnet-base") / "usr/share/wordnet"))
        columns = {name: [row[name] for row in rows] for name in WORDNET_FEATURES}
        Dataset.from_dict(columns, features=WORDNET_FEATURES).save_to_disk(folder)

    return load_from_disk(build_once(cache_dir() / "data" / f"wordnet-3.0-{TABLE_VERSION}", build))


def read_folder(folder: Path) -> Iterator[Synset]:
    """Reads the synsets of a folder with WordNet's `data.*`, `index.*` and `cntlist.rev`.

    Raises:
        ValueError: if a line is not in the format of wndb(5WN). The message names the file and the synset.
    """
    counts = _sense_counts(folder / "cntlist.rev")
    for name, letter in _FILES.items():
        numbers = _sense_numbers(folder / f"index.{name}")
        heads: dict[str, str] = {}
        path = folder / f"data.{name}"
        if name == "adj":
            # The key of a satellite contains its head, which may come later in the file.
            heads = dict(_head_key(line) for line in _lines(path))
        for count, line in enumerate(_lines(path), start=1):
            try:
                yield _synset(line, letter, numbers, counts, heads)
            except (ValueError, IndexError, KeyError) as error:
                raise ValueError(f"{path}: synset {count} is not in WordNet's format: {line[:60]!r}") from error


def split_gloss(gloss: str) -> tuple[str, list[str]]:
    """Splits a gloss into definition and example sentences: `a cat; "the cat sat"` -> `("a cat", ["the cat sat"])`.

    Quotation marks inside the definition are kept. The source after an example ("- Shakespeare") is removed.
    """
    definition: list[str] = []
    examples: list[str] = []
    for segment in _SEGMENT.findall(gloss):
        example = _EXAMPLE.match(segment)
        if example and (definition or examples):
            examples.append(" ".join(example[1].split()))
        else:
            definition.append(segment)
    text = ";".join(definition).strip(" ;:,")
    run_on = _RUN_ON_EXAMPLE.match(text)
    if run_on:
        text, first = run_on.groups()
        examples.insert(0, " ".join(first.split()))
    if text.count('"') % 2:
        text = text.replace('"', "")
    return " ".join(text.split()).strip(" ;:,"), [text for text in examples if text]


def _lines(path: Path) -> Iterator[str]:
    # The file begins with the licence, whose lines begin with two spaces.
    with path.open(encoding="utf-8") as file:
        yield from (line for line in file if not line.startswith("  ") and line.strip())


def _words(fields: list[str]) -> list[tuple[str, int]]:
    pairs = [(fields[4 + 2 * k], fields[5 + 2 * k]) for k in range(int(fields[3], 16))]
    return [(_MARKER.sub("", word), int(lex_id, 16)) for word, lex_id in pairs]


def _head_key(line: str) -> tuple[str, str]:
    # In a sense key, the head keeps its syntactic marker, unlike the word.
    fields = line.split(maxsplit=6)
    return fields[0], f"{fields[4].lower()}:{int(fields[5], 16):02d}"


def _synset(
    line: str, letter: str, numbers: dict[tuple[str, str], int], counts: dict[str, int], heads: dict[str, str]
) -> Synset:
    left, _, gloss = line.partition(" | ")
    fields = left.split()
    offset, lex_file, kind = fields[0], int(fields[1]), fields[2]
    words = _words(fields)
    position = 4 + 2 * len(words)
    pointers: dict[str, list[str]] = {name: [] for name in _POINTERS.values()}
    head = ":"
    for k in range(int(fields[position])):
        symbol, target, part_of_speech = fields[position + 1 + 4 * k : position + 4 + 4 * k]
        if symbol in _POINTERS:
            pointers[_POINTERS[symbol]].append(f"{part_of_speech}{target}")
        elif symbol == "&" and kind == "s":
            head = heads[target]
    definition, examples = split_gloss(gloss.strip())
    keys = [f"{word.lower()}%{_KEY_TYPES[kind]}:{lex_file:02d}:{lex_id:02d}:{head}" for word, lex_id in words]
    return Synset(
        synset_id=f"{letter}{offset}",
        lemmas=[word.replace("_", " ") for word, _ in words],
        sense_numbers=[numbers[word.lower(), offset] for word, _ in words],
        sense_counts=[counts.get(key, 0) for key in keys],
        part_of_speech=_PARTS_OF_SPEECH[kind],
        lexname=_LEXNAMES[lex_file],
        gloss=definition,
        examples=examples,
        license=WORDNET_LICENSE,
        **pointers,
    )


def _sense_numbers(path: Path) -> dict[tuple[str, str], int]:
    """Reads the rank of the sense for each (lemma, offset). An index lists the offsets of a lemma by frequency."""
    numbers: dict[tuple[str, str], int] = {}
    for line in _lines(path):
        fields = line.split()
        for rank, offset in enumerate(fields[-int(fields[2]) :], start=1):
            numbers[fields[0], offset] = rank
    return numbers


def _sense_counts(path: Path) -> dict[str, int]:
    """Reads how often each sense key was tagged. Senses that were never tagged are absent."""
    rows = (line.split() for line in _lines(path))
    return {key: int(count) for key, _, count in rows}
