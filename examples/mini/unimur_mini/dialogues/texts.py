"""The datasets in their fixed splits: dialogues with their target texts, and glosses with their titles."""

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
# Size of each held-out split, as a share of the number of training dialogues.
HELD_OUT_SHARE = 0.1
# Increased whenever the dialogues change, so that those cached by an older version are not read.
VERSION = 1
QUESTIONS_VERSION = 1

Make = Callable[..., "Dialogue | None"]
DIALOGUE_FEATURES = columns(*Dialogue.__annotations__)
_GLOSS_FEATURES = columns("gloss", "title", "synset_id", "part_of_speech", "target_picture", "group", "license")


def load_dialogue_texts() -> DatasetDict:
    """Reads dialogues that are built once from WordNet and the words of the installable images, and kept in the cache.

    A dialogue does not name what it is about. `target_text` does: it is the title, the gloss or a sentence whose
    embedding the dialogue should lead to.

    Returns:
        The splits `train`, `validation` and `test` with the columns of `Dialogue`. `target_picture` is an `image_id`
        of the same split of `split_by_title`, or an empty string if no image has the name of the thing.

    Raises:
        PackageUnavailable: if WordNet or all sources of images are unavailable.
    """
    name = f"dialogues-{VERSION}-0-{SIZE}"
    return kept(name, lambda: build_dialogues(*_words(), seed=0, size=SIZE))


def build_dialogues(lexicon: Lexicon, images: Sequence[dict], *, seed: int, size: int) -> DatasetDict:
    """Builds the dialogues of `load_dialogue_texts` from a lexicon and rows of `load_captioned_images`.

    `train` has up to `size` dialogues, depending on how many things there are. The other two splits have a tenth each.
    """
    return _told(make_pools(lexicon, images, random.Random(seed), most=size), make_dialogue, seed=seed, size=size)


def load_questions() -> DatasetDict:
    """Reads dialogues of five to ten questions and answers about one thing, built once and kept in the cache.

    The column `form` has two values. In `caption_questions`, the questions are about pieces of a caption (of an image,
    a gloss or an example sentence), among other questions whose answers are unknown. The caption is the target, and no
    message contains most of it. In `twenty_questions`, they are about a thing that nobody names, whose title is the
    target.

    Returns and raises what `load_dialogue_texts` does. `target_kind` is `caption` or `title`.
    """
    name = f"questions-{QUESTIONS_VERSION}-0-{SIZE // 2}"
    return kept(name, lambda: build_questions(*_words(), seed=0, size=SIZE // 2))


def build_questions(lexicon: Lexicon, images: Sequence[dict], *, seed: int, size: int) -> DatasetDict:
    """Builds the dialogues of `load_questions` from a lexicon and rows of `load_captioned_images`."""
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
    """Reads a reverse dictionary: definitions that do not contain their word, and the word.

    Names of people and places are left out unless an image has the name.

    Returns:
        The splits `train`, `validation` and `test` of the dialogues with `gloss` (without text in brackets), `title`
        (the title of the image, or the most frequent lemma), `synset_id`, `part_of_speech`, `target_picture`, `group`
        and `license`.

    Raises what `load_dialogue_texts` raises.
    """
    return kept(f"glosses-{VERSION}", lambda: build_glosses(*_words()))


def build_glosses(lexicon: Lexicon, images: Sequence[dict]) -> DatasetDict:
    """Builds the pairs of `load_glosses`."""
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
        # There are more nouns than needed, so the last pool fills up what the others lack.
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
