"""An image dictionary as a multimodal retrieval set: drawings, photographs and emoji beside definitions.

examples/mini/README.md describes its documents and queries.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from modeling_unimur.data.cache import build_once, cache_dir
from modeling_unimur.data.captioned_images import load_captioned_images
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.data.titles import split_of_title, title_group

from .dialogues.lexicon import CONCRETE, Lexicon
from .dialogues.pools import link_images
from .dialogues.stems import content_stems, hidden_stems, says
from .dialogues.things import free_gloss, split_of
from .kept_rows import SPLITS, rows_of
from .wordnet import load_wordnet

logger = logging.getLogger(__name__)

# About the number of images: the two halves of WebQA have about the same size, too.
NUM_DEFINITIONS = 6000
# Share of the definitions that are entries with their word, and the fewest words of a sentence that uses the word.
_ENTRY_SHARE, _USAGE_WORDS = 1 / 3, 4
# A tag that more images have does not identify any of them.
_MOST_TAGGED = 3
# Number of tags of an image that become queries: the remaining ones must still describe it.
_MOST_GIVEN = 2
_MOST_TAGS = 8
_DESCRIPTION_WORDS = range(3, 31)
_COLUMNS = ("doc_id", "kind", "text", "image", "group", "source", "license")
_NO_SENTENCE = re.compile(r"<|https?:|www\.|inkscape|\.svg|\.png|public domain|collection|clip ?art", re.IGNORECASE)
_TAG = re.compile(r"[a-z][a-z' -]{2,24}")
# Increased whenever the rows change, so that tables cached by an older version are not read.
TABLE_VERSION = 2


def load_image_dictionary() -> RetrievalSet:
    """Reads the image dictionary: about 5,700 images and 6,100 texts. It is built once and kept in the cache.

    Returns:
        The set with the splits train, validation and test. `queries` also has the columns `kind` ("image" or "text":
        the kind of document that mainly answers the query), `form` and `excluded`; `corpus` also has `group`, `source`
        and `license`.

    Raises:
        PackageUnavailable: if WordNet or all sources of images are unavailable.
    """

    def build(folder: Path) -> None:
        rows, images = rows_of(load_wordnet()), rows_of(load_captioned_images())
        for image in images:
            # Relative paths allow the cache to be moved.
            image["image"] = os.path.relpath(image["image"], folder)
        build_image_dictionary(Lexicon(rows), images).save(folder)

    return RetrievalSet.load(build_once(cache_dir() / "data" / f"picture-dictionary-{TABLE_VERSION}", build))


def build_image_dictionary(
    lexicon: Lexicon, images: Sequence[dict], num_definitions: int = NUM_DEFINITIONS
) -> RetrievalSet:
    """Builds the set from a lexicon and from rows of `load_captioned_images`.

    Beside the definitions of words that name images, it holds at most `num_definitions` definitions.
    """
    maker = _Maker(lexicon, [image for image in images if image["title"].strip()])
    maker.add_tag_queries()
    maker.add_descriptions()
    maker.add_images_and_sentences()
    maker.add_glosses()
    maker.add_definitions(num_definitions)
    return maker.finish()


class _Maker:
    """Collects the documents and queries of the set."""

    def __init__(self, lexicon: Lexicon, images: Sequence[dict]):
        self.lexicon, self.images = lexicon, images
        self.group = {image["image_id"]: title_group(image["title"]) for image in images}
        self.split = {image["image_id"]: split_of_title(image["title"]) for image in images}
        self.held_out: dict[str, set[str]] = defaultdict(set)
        self.corpus: list[dict] = []
        self.of_group: dict[str, list[str]] = defaultdict(list)
        self.sentences: dict[str, str] = {}
        self.asked: list[dict] = []

    # -- documents ----------------------------------------------------------------------------------------------------
    def _add(self, *values: str) -> None:
        document = dict(zip(_COLUMNS, values, strict=True))
        self.corpus.append(document)
        self.of_group[document["group"]].append(document["doc_id"])

    def add_images_and_sentences(self) -> None:
        said: dict[str, str] = {}
        for image in self.images:
            image_id, title = image["image_id"], " ".join(image["title"].replace("_", " ").split())
            group = self.group[image_id]
            hidden = self.held_out[image_id]
            named = hidden_stems([title])
            tags = [tag for tag in _tags(image) if tag not in hidden and not content_stems(tag) <= named]
            text = ", ".join([title, *tags[:_MOST_TAGS]])
            self._add(image_id, "image", text, image["image"], group, image["source"], image["license"])
            sentence = " ".join(image["description"].split())
            if image["source"] == "stamps" and sentence:
                if sentence not in said:
                    said[sentence] = f"sentence/{image_id}"
                    self._add(said[sentence], "text", sentence, "", group, "stamps", image["license"])
                self.sentences[image_id] = said[sentence]

    def add_definitions(self, count: int) -> None:
        """Adds definitions, and as many queries for definitions as there are queries for images in each split."""
        usable: list[tuple[str, str, dict]] = []
        linked = {query["synset"] for query in self.asked if query["form"] == "gloss"}
        for key, row in self.lexicon.synsets.items():
            if key in linked or row["lexname"] not in CONCRETE or row["instance_hypernyms"]:
                continue
            gloss = free_gloss(self.lexicon, row, row["lemmas"])
            if gloss and self.lexicon.common_name(key).islower():
                usable.append((_order(key), gloss, row))
        usable.sort(key=lambda entry: entry[0])
        asked = Counter(query["split"] for query in self.asked)
        wanted = {"usage": Counter({split: number // 2 for split, number in asked.items()})}
        wanted["word"] = asked - wanted["usage"]
        entries = int(count * _ENTRY_SHARE)
        for _, gloss, row in usable:
            if count == 0:
                break
            key = row["synset_id"]
            word = self.lexicon.common_name(key)
            usage = _usage(row["examples"], word) if entries else ""
            if not usage and entries >= count:
                continue
            count, entries = count - 1, entries - bool(usage)
            form, query, text = ("usage", usage, f"{word}: {gloss}") if usage else ("word", word, gloss)
            self._add(f"gloss/{key}", "text", text, "", title_group(word), "wordnet", row["license"])
            split, _ = split_of(row["lemmas"])
            if wanted[form][split] > 0:
                wanted[form][split] -= 1
                self._ask(form, query, split, [f"gloss/{key}"], name=word)

    # -- queries ------------------------------------------------------------------------------------------------------
    def _ask(
        self, form, text, split, relevant, name: str = "", excluded: Sequence[str] = (), synset: str = ""
    ) -> None:
        query = {"form": form, "text": text, "split": split, "relevant": list(dict.fromkeys(relevant))}
        self.asked.append(query | {"name": name, "excluded": list(excluded), "synset": synset})

    def add_tag_queries(self) -> None:
        """Adds queries from tags that few images have, all of one split. An image gives at most two of its tags."""
        tagged: dict[str, list[dict]] = defaultdict(list)
        for image in self.images:
            if image["source"] != "stamps":  # tags of stamps are names of folders
                for tag in _tags(image):
                    tagged[tag].append(image)
        for tag in sorted(tagged, key=_order):
            shown = tagged[tag]
            names = [image["title"].replace("_", " ") for image in shown]
            splits = {self.split[image["image_id"]] for image in shown}
            emoji = all(image["source"] == "openmoji" for image in shown)
            known = emoji or bool(self.lexicon.noun_of_title(tag))
            if len(shown) > _MOST_TAGGED or len(splits) > 1 or not known or not _TAG.fullmatch(tag):
                continue
            rest = [other for image in shown for other in _tags(image) if other != tag]
            if says(tag, hidden_stems([*names, *rest])) or any(
                len(self.held_out[p["image_id"]]) >= _MOST_GIVEN for p in shown
            ):
                continue
            for image in shown:
                self.held_out[image["image_id"]].add(tag)
            self._ask("tag", tag, splits.pop(), [image["image_id"] for image in shown], name=tag)

    def add_descriptions(self) -> None:
        """Adds queries from descriptions of clip art that say more than its title."""
        written = Counter(image["description"].casefold() for image in self.images)
        for image in self.images:
            text = " ".join(image["description"].split())
            fresh = content_stems(text) - content_stems(image["title"].replace("_", " "))
            usable = image["source"] == "openclipart" and text.isascii() and not _NO_SENTENCE.search(text)
            once = written[image["description"].casefold()] == 1
            if usable and once and len(text.split()) in _DESCRIPTION_WORDS and len(fresh) >= 2:
                image_id = image["image_id"]
                twins = [other for other, group in self.group.items() if group == self.group[image_id]]
                self._ask("description", text, self.split[image_id], [image_id], excluded=twins)

    def add_glosses(self) -> None:
        """Adds queries from definitions of things that images show."""
        linked, _ = link_images(self.lexicon, self.images)
        for key in sorted(linked):
            row, shown = self.lexicon.synsets[key], [image["image_id"] for image in linked[key]]
            names = [*row["lemmas"], *(image["title"] for image in linked[key])]
            gloss = free_gloss(self.lexicon, row, names)
            split, _ = split_of(names)
            relevant = [image_id for image_id in shown if self.split[image_id] == split]
            if not gloss or not relevant:
                continue
            relevant += [self.sentences[image_id] for image_id in relevant if image_id in self.sentences]
            # Images that have the name in another sense, or that belong to another split.
            groups = dict.fromkeys(self.group[image_id] for image_id in shown)
            near = [doc for group in groups for doc in self.of_group[group]]
            near += [doc for lemma in row["lemmas"] for doc in self.of_group[title_group(lemma)]]
            self._ask("gloss", gloss, split, relevant, excluded=near, synset=key)

    def finish(self) -> RetrievalSet:
        queries: dict[str, list[dict]] = {split: [] for split in SPLITS}
        qrels: dict[str, list[dict]] = {split: [] for split in SPLITS}
        for number, query in enumerate(self.asked):
            query_id = f"{query['form']}-{number}"
            relevant = set(query["relevant"])
            same = self.of_group[title_group(query["name"])] if query["name"] else []
            if query["form"] == "usage":  # an entry of another sense does not answer it
                same = [doc for doc in same if not doc.startswith("gloss/")]
            near = [*query["excluded"], *same]
            queries[query["split"]].append(
                {
                    "query_id": query_id,
                    "text": query["text"],
                    "kind": "text" if query["form"] in ("word", "usage") else "image",
                    "form": query["form"],
                    "excluded": [doc for doc in dict.fromkeys(near) if doc not in relevant],
                }
            )
            qrels[query["split"]] += [{"query_id": query_id, "doc_id": doc, "score": 1} for doc in query["relevant"]]
        counts = {split: dict(Counter(row["form"] for row in rows)) for split, rows in queries.items()}
        kinds = Counter(row["kind"] for row in self.corpus)
        logger.info("Image dictionary: %s; queries %s", dict(kinds), counts)
        filled = [split for split in SPLITS if queries[split]]
        return RetrievalSet.from_rows(
            {split: queries[split] for split in filled}, self.corpus, {split: qrels[split] for split in filled}
        )


def _tags(image: dict) -> list[str]:
    return list(dict.fromkeys(" ".join(tag.replace("_", " ").split()).casefold() for tag in image["tags"]))


def _usage(examples: Sequence[str], word: str) -> str:
    """Returns the longest sentence that contains the word, or "" if there is none."""
    pattern = re.compile(rf"\b{re.escape(word)}\w{{0,2}}\b", re.IGNORECASE)
    found = [text for text in examples if pattern.search(text) and len(text.split()) >= _USAGE_WORDS]
    return max(found, key=len, default="")


def _order(name: str) -> str:
    """Returns a hash to sort by, which gives a random order that is the same on every machine."""
    return hashlib.sha256(name.encode()).hexdigest()
