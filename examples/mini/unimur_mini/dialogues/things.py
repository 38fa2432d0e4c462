"""Things that dialogues can be about, and everything that can be said about them without naming them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from modeling_unimur.data.titles import normalise_title, split_of_title, title_group

from ..wordnet import Synset
from .captions import Piece, caption_pieces
from .glosses import is_noun_phrase, noun_phrase, plain, statements
from .lexicon import CONCRETE, Lexicon
from .phrases import word_list
from .stems import STOP_WORDS, content_stems, hidden_stems, says

# Tags that say how or why an image was filed.
_EMPTY_TAGS = frozenset(word_list("tags without meaning"))
_BLANKS = ("___", "[...]", "thingy", "whatsit", "you-know-what", "…", "(blank)")
# Words that begin a clause, and that are left over when the clause is cut off.
_DANGLING = re.compile(rf"(?:[\s,]+(?:{'|'.join(word_list('dangling words'))}))+$")
_SPLITS = ("test", "validation", "train")
_LONGEST_DEFINITION = 24
_BEFORE_HEAD_ENDS = re.compile(
    r"\s(?:of|with|in|on|at|for|from|by|inside|under|to|and|that|which|dancing|holding)\s|[,.;:!(]"
)


@dataclass(frozen=True)
class Thing:
    """Something to talk about. Only `title`, `gloss`, `names` and `caption` contain its names.

    Args:
        thing_id: Id of its synset or its image.
        names: All lemmas, and the title of the image.
        part_of_speech, lexname: Part of speech and lexicographer file in WordNet.
        gloss: The whole definition.
        definition: A noun phrase ("a large cat that roars") without its names, or an empty string if there is none.
        short_definition: The beginning of the definition, without the facts that the statements add.
        statements: Clauses with slots (see `glosses.statements`).
        kinds, siblings, parts, wholes: Names of related things in WordNet.
        usages: Example sentences, each with a blank and in full.
        caption: A sentence about its image, which may be the target.
        details: The rest of the caption without the head noun.
        pieces: Pieces of the caption, for questions that may name the thing.
        images: Ids and titles of its images in its split.
        categories: Answers to "is it ...?".
        hidden: Stems that the dialogue must not contain.
        group, split: See `split_of`.
    """

    thing_id: str
    title: str
    names: tuple[str, ...]
    part_of_speech: str = "noun"
    lexname: str = ""
    synset_id: str = ""
    gloss: str = ""
    definition: str = ""
    short_definition: str = ""
    statements: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    siblings: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    wholes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    usages: tuple[tuple[str, str], ...] = ()
    caption: str = ""
    details: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    categories: dict[str, bool] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    group: str = ""
    split: str = "train"
    license: str = ""


def split_of(names: Iterable[str]) -> tuple[str, str]:
    """Returns the split of a thing with these names, and the group that determines it.

    `titles.split_of_title` assigns each name to a split. A thing is held out if one of its names is, where the test
    split comes first. Therefore no thing in `train` has the name of a held-out image, and the things of a group are in
    the same split.
    """
    splits = [(split_of_title(name), name) for name in names]
    for split in _SPLITS:
        name = next((name for where, name in splits if where == split), None)
        if name is not None:
            return split, title_group(name)
    return "train", ""


def free_gloss(lexicon: Lexicon, row: Synset, names: Sequence[str]) -> str:
    """Returns the definition if it contains none of these names and no other word has the same one, or ""."""
    gloss = "; ".join(plain(row["gloss"]))
    if lexicon.is_ambiguous(row["synset_id"]) or len(gloss.split()) < 3 or not all(map(content_stems, names)):
        return ""
    return "" if says(gloss, hidden_stems(names)) else gloss


def synset_thing(lexicon: Lexicon, key: str, images: Sequence[dict] = ()) -> Thing:
    """Makes a thing of a synset, with the images (rows of `load_captioned_images`) whose title is its name."""
    row = lexicon.synsets[key]
    titles = [image["title"] for image in images]
    names = tuple(dict.fromkeys([*row["lemmas"], *titles]))
    split, group = split_of(names)
    hidden = hidden_stems(names)
    pieces = plain(row["gloss"])
    noun = row["part_of_speech"] == "noun"
    here = [image for image in images if split_of_title(image["title"]) == split]
    return Thing(
        thing_id=key,
        title=lexicon.common_name(key),
        names=names,
        part_of_speech=row["part_of_speech"],
        lexname=row["lexname"],
        synset_id=key,
        gloss="; ".join(pieces),
        definition=_definition(pieces, hidden, row["lexname"], noun),
        short_definition=_short_definition(pieces, hidden, row["lexname"]) if noun else "",
        statements=tuple(statements(pieces, hidden)) if noun else (),
        kinds=_unnamed(lexicon.kinds(key), hidden) if noun else (),
        siblings=_siblings(lexicon, key, hidden) if noun else (),
        parts=_unnamed(lexicon.names(row["part_meronyms"]), hidden)[:4],
        wholes=_unnamed(lexicon.names(row["part_holonyms"]), hidden)[:3],
        tags=_tags(images, hidden),
        usages=_usages(row["examples"], row["lemmas"], hidden),
        images=tuple((image["image_id"], image["title"]) for image in here),
        categories=lexicon.categories(key) if noun else {},
        hidden=hidden,
        group=group,
        split=split,
        license=row["license"],
    )


def image_thing(lexicon: Lexicon, image: dict) -> Thing | None:
    """Makes a thing of an image without a synset, from its caption, its tags and the head noun of its title.

    Returns None if either the noun or the image is held out and the other one is not, because then nothing may be said
    about it.
    """
    title, caption = image["title"], image["description"]
    noun = head_noun(lexicon, title)
    key = lexicon.noun_of_title(noun) if noun else ""
    lemmas = lexicon.synsets[key]["lemmas"] if key else []
    split, group = split_of([title])
    if split_of([title, *lemmas])[0] != split or (noun and split_of([title, noun])[0] != split):
        return None
    # People ask for the rest of the caption, so only its noun is hidden.
    hidden = hidden_stems([noun, *lemmas]) if caption and noun else hidden_stems([title, *lemmas])
    if not caption and len(image["tags"]) < 2:
        return None
    if key and lexicon.is_disputed(noun, content_stems(image_words(image))):
        return None
    if key and lexicon.synsets[key]["lexname"] not in CONCRETE:
        key = ""
    about = synset_thing(lexicon, key) if key else None
    pieces = plain(lexicon.synsets[key]["gloss"]) if key else []
    return Thing(
        thing_id=image["image_id"],
        title=title,
        names=(title,),
        lexname=about.lexname if about else "",
        definition=_definition(pieces, hidden, about.lexname, True) if about else "",
        short_definition=_short_definition(pieces, hidden, about.lexname) if about else "",
        statements=tuple(statements(pieces, hidden)),
        kinds=_unnamed(about.kinds, hidden) if about else (),
        siblings=_unnamed(about.siblings, hidden) if about else (),
        tags=_tags([image], hidden),
        caption=caption,
        details=_details(title, noun, hidden) if caption else (),
        images=((image["image_id"], title),),
        categories=about.categories if about else {},
        hidden=hidden,
        group=group,
        split=split,
        license=image["license"],
    )


def caption_thing(
    lexicon: Lexicon,
    thing_id: str,
    caption: str,
    names: Sequence[str],
    *,
    key: str = "",
    images: Sequence[dict] = (),
    license: str,
) -> Thing:
    """Makes a thing of a caption. Questions may name it, because its own words are the target.

    Args:
        names: Names that determine the split.
        key: Id of the synset that the caption is about, or an empty string if it is unknown.
        images: Rows of `load_captioned_images` with this caption.
    """
    split, group = split_of(names)
    tags = _tags(images, frozenset())
    words = content_stems(caption)
    pieces = caption_pieces(caption, lambda word: bool(lexicon.noun_of_title(word)))
    return Thing(
        thing_id=thing_id,
        title=names[0],
        names=tuple(names),
        lexname=lexicon.synsets[key]["lexname"] if key else "",
        synset_id=key,
        caption=caption,
        pieces=(*pieces, *(Piece("tag", tag) for tag in tags[:3] if not content_stems(tag) <= words)),
        images=tuple((image["image_id"], image["title"]) for image in images),
        categories=lexicon.categories(key) if key and lexicon.synsets[key]["part_of_speech"] == "noun" else {},
        group=group,
        split=split,
        license=license,
    )


def image_words(image: dict) -> str:
    """Returns the tags and folders of an image."""
    return " ".join([*image["tags"], *image["image_id"].split("/")[1:-1]]).replace("_", " ")


def title_head(title: str) -> str:
    """Returns a title up to its first preposition: "pink bunny with an Easter egg" -> "pink bunny"."""
    return " ".join(re.findall(r"[^\W\d_][\w'-]*", _BEFORE_HEAD_ENDS.split(title)[0]))


def head_noun(lexicon: Lexicon, title: str) -> str:
    """Returns the longest head noun of a title that WordNet contains: "colorful tow truck" -> "tow truck"."""
    words = title_head(title).split()
    ends = (" ".join(words[start:]) for start in range(len(words)))
    return next((end for end in ends if lexicon.noun_of_title(end)), words[-1] if words else "")


def _unnamed(names: Iterable[str], hidden: frozenset[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not says(name, hidden))


def _definition(pieces: Sequence[str], hidden: frozenset[str], lexname: str, noun: bool) -> str:
    # For verbs and adjectives, the beginning of the definition is not enough.
    for text in (_shortened(pieces[0]) if noun else pieces[:1]) if pieces else []:
        if not 2 < len(text.split()) <= _LONGEST_DEFINITION or says(text, hidden):
            continue
        if not noun or is_noun_phrase(text):
            return noun_phrase(text, lexname) if noun else text
    return ""


def _short_definition(pieces: Sequence[str], hidden: frozenset[str], lexname: str) -> str:
    for text in _shortened(pieces[0])[:0:-1] if pieces else []:
        if len(text.split()) > 2 and is_noun_phrase(text) and not says(text, hidden):
            return noun_phrase(text, lexname)
    return ""


def _shortened(text: str) -> list[str]:
    """Returns a definition and its beginnings before each clause."""
    text = text.strip(" ,")
    cuts = [
        match.start() for match in re.finditer(r",? (?:that|which|who|used|having|with|as in|especially)\b|, ", text)
    ]
    return [text, *(_DANGLING.sub("", text[:cut].strip(" ,")) for cut in reversed(cuts))]


def _tags(images: Sequence[dict], hidden: frozenset[str]) -> tuple[str, ...]:
    words = [" ".join(tag.replace("_", " ").split()).casefold() for image in images for tag in image["tags"]]
    usable = [
        word
        for word in dict.fromkeys(words)
        if word not in _EMPTY_TAGS | STOP_WORDS
        and re.fullmatch(r"(?=.*\s|.{3,14}$)[a-z][a-z' -]{2,24}", word)
        and "sign" not in word
    ]
    return _unnamed(usable, hidden)[:6]


def _siblings(lexicon: Lexicon, key: str, hidden: frozenset[str]) -> tuple[str, ...]:
    names = [name for name in lexicon.names(lexicon.siblings(key)[:24]) if len(name.split()) < 3]
    return _unnamed((name for name in names if name.islower()), hidden)[:8]


def _usages(examples: Sequence[str], lemmas: Sequence[str], hidden: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Returns the examples in which the lemma can be replaced by a blank and that do not name the thing elsewhere."""
    found = []
    for example in examples:
        for lemma in sorted(lemmas, key=len, reverse=True):
            pattern = re.compile(
                rf"\b{re.escape(lemma[:-1] if lemma.endswith(('e', 'y')) else lemma)}\w{{0,4}}\b", re.I
            )
            if pattern.search(example):
                blank = _BLANKS[len(example) % len(_BLANKS)]
                # "an" would reveal that the word begins with a vowel.
                masked = re.sub(rf"\b([Aa])n {re.escape(blank)}", rf"\1 {blank}", pattern.sub(blank, example))
                if 3 <= len(example.split()) <= 20 and not says(masked, hidden):
                    found.append((masked, example))
                break
    return tuple(found)


def _details(title: str, noun: str, hidden: frozenset[str]) -> tuple[str, ...]:
    """Returns the words of a title before its noun, and the phrase after it."""
    before, _, after = title.partition(noun)
    words = [word for word in re.findall(r"[^\W\d_][\w'-]*", before) if normalise_title(word) not in STOP_WORDS]
    # With a plural or a verb before the noun, the title is not a simple noun phrase.
    found = [" ".join(words).casefold()] if words and not any(word.endswith("s") for word in words) else []
    match = re.match(r"\s*((?:of|with|in|on|at|for|from|by|inside|under|dancing|holding)\s[^.;:!()]+)", after)
    if match:
        found.append(match[1].strip())
    return tuple(text for text in found if not says(text, hidden))
