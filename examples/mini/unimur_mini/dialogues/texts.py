"""The datasets: dialogues with the text they lead to, and glosses with their titles, each in its fixed splits."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence

from datasets import DatasetDict
from tqdm.auto import tqdm

from modeling_unimur.data.captioned_images import load_captioned_images

from ..kept_rows import SPLITS, as_datasets, columns, kept, rows_of
from ..wordnet import load_wordnet
from .builder import Dialogue, make_dialogue
from .lexicon import Lexicon
from .pools import Pool, link_images, make_pools, make_question_pools, take
from .questions import make_questions
from .things import free_gloss, split_of

logger = logging.getLogger(__name__)

SIZE = 24_000
# Each held-out split, as a share of the dialogues in training.
HELD_OUT_SHARE = 0.1
# Raised whenever the dialogues change, so that those cached by an older version are not read.
VERSION = 1
QUESTIONS_VERSION = 1

Make = Callable[..., "Dialogue | None"]
DIALOGUE_FEATURES = columns(*Dialogue.__annotations__)
_GLOSS_FEATURES = columns("gloss", "title", "synset_id", "part_of_speech", "target_picture", "group", "license")


def load_dialogue_texts() -> DatasetDict:
    """Dialogues built from WordNet and the installable images' words, made once and kept in the cache.

    Nothing in a dialogue names what it is about; `target_text` does: the title, the gloss or a sentence whose
    embedding the dialogue should lead to.

    Returns:
        `train`, `validation` and `test` with the columns of `Dialogue`; `target_picture` is an `image_id` of the same
        split of `split_by_title`, empty where no image has the thing's name.

    Raises:
        PackageUnavailable: WordNet or all sources of images are missing.
    """
    name = f"dialogues-{VERSION}-0-{SIZE}"
    return kept(name, lambda: build_dialogues(*_words(), seed=0, size=SIZE))


def build_dialogues(lexicon: Lexicon, images: Sequence[dict], *, seed: int, size: int) -> DatasetDict:
    """The dialogues that `load_dialogue_texts` keeps, from a lexicon and rows of `load_captioned_images`: `size` in
    `train`, as far as there is enough to talk about; the other two splits have a tenth each."""
    return _told(make_pools(lexicon, images, random.Random(seed), most=size), make_dialogue, seed=seed, size=size)


def load_questions() -> DatasetDict:
    """Dialogues of five to ten questions and answers about one thing, made once and kept in the cache.

    `form` is `caption_questions`: pieces of a caption (of an image, a gloss, an example sentence) are asked for or
    asked about, among questions that nothing is known of; the caption is the target and no message holds most of it.
    Or it is `twenty_questions`: about a thing that nobody names, with its title as the target.

    Returns, Raises: as `load_dialogue_texts`; `target_kind` is `caption` or `title`.
    """
    name = f"questions-{QUESTIONS_VERSION}-0-{SIZE // 2}"
    return kept(name, lambda: build_questions(*_words(), seed=0, size=SIZE // 2))


def build_questions(lexicon: Lexicon, images: Sequence[dict], *, seed: int, size: int) -> DatasetDict:
    """The dialogues that `load_questions` keeps, from a lexicon and rows of `load_captioned_images`."""
    pools = make_question_pools(lexicon, images, random.Random(seed), most=size)
    return _told(pools, make_questions, seed=seed, size=size)


def _told(pools: Sequence[Pool], make: Make, *, seed: int, size: int) -> DatasetDict:
    parts = {}
    for split in SPLITS:
        wanted = size if split == "train" else max(1, int(size * HELD_OUT_SHARE))
        rows = _split_rows(pools, split, make, seed=seed, size=wanted)
        random.Random(f"{seed}:{split}").shuffle(rows)
        parts[split] = rows
    return as_datasets(parts, DIALOGUE_FEATURES)


def load_glosses() -> DatasetDict:
    """Reverse dictionary: definitions that do not name the word, with the word, in the splits of the dialogues. Named
    people and places are left out unless an image has their name.

    Returns:
        `train`, `validation` and `test` with `gloss` (without what stood in brackets), `title` (the image's title, or
        the lemma most often used), `synset_id, part_of_speech, target_picture, group, license`.

    Raises: as `load_dialogue_texts`.
    """
    return kept(f"glosses-{VERSION}", lambda: build_glosses(*_words()))


def build_glosses(lexicon: Lexicon, images: Sequence[dict]) -> DatasetDict:
    """The pairs that `load_glosses` keeps."""
    linked, _ = link_images(lexicon, images)
    parts: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for key, row in tqdm(lexicon.synsets.items(), desc="Reading glosses", unit="synset"):
        own = linked.get(key, [])
        names = [*row["lemmas"], *(image["title"] for image in own)]
        gloss = free_gloss(lexicon, row, names) if own or lexicon.common_name(key).islower() else ""
        if not gloss:
            continue
        split, group = split_of(names)
        shown = next((image for image in own if split_of([image["title"]])[0] == split), None)
        parts[split].append(
            {
                "gloss": gloss,
                "title": shown["title"] if shown else lexicon.common_name(key),
                "synset_id": key,
                "part_of_speech": row["part_of_speech"],
                "target_picture": shown["image_id"] if shown else "",
                "group": group,
                "license": row["license"],
            }
        )
    return as_datasets(parts, _GLOSS_FEATURES)


def _split_rows(pools: Sequence[Pool], split: str, make: Make, *, seed: int, size: int) -> list[Dialogue]:
    rows: list[Dialogue] = []
    said: set[tuple[str, ...]] = set()
    failed = 0
    for pool in pools:
        things = [thing for thing in pool.things if thing.split == split]
        # There are more nouns than can be used: the last pool makes up for what the others lack.
        wanted = size - len(rows) if pool is pools[-1] else round(size * pool.share)
        jobs = list(take(pool, split, wanted))
        for thing, number in tqdm(jobs, desc=f"Writing dialogues ({split}, {pool.name})", unit="dialogue"):
            row = make(thing, things, seed=seed, number=number)
            texts = tuple(turn["content"] for turn in row["turns"]) if row else ()
            if row is None or texts in said:
                failed += 1
                continue
            said.add(texts)
            rows.append(row)
    logger.info(
        "Dialogues, %s: %d (%s); %d could not be told", split, len(rows), Counter(row["form"] for row in rows), failed
    )
    return rows


def _words() -> tuple[Lexicon, list[dict]]:
    return Lexicon(rows_of(load_wordnet())), rows_of(load_captioned_images())
