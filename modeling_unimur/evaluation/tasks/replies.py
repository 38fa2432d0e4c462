"""Reads MMDialog's replies as queries over one corpus with pools per dialogue, and ranks candidates in the pools."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ...data.dialog_schema import Dialog
from ..metrics import right_ranks
from ..systems.base import KINDS, Gallery

# They take turns; who begins is the user.
_ROLES = ("user", "assistant")


@dataclass(frozen=True)
class Reply:
    """The gold elements of a reply.

    Args:
        query: number of its context.
        dialog, turn: its place.
        kinds: kinds of its elements, in order.
        golds: kind -> numbers of the right candidates, in order.
    """

    query: int
    dialog: int
    turn: int
    kinds: tuple[str, ...]
    golds: dict[str, tuple[int, ...]]


@dataclass
class ReplySet:
    """All replies of a split.

    Args:
        dialog_ids: ids of the dialogues.
        groups: for each dialogue its contexts, as chat messages.
        replies: in the order of the dialogues.
        gallery: all candidates.
        pools: kind -> for each dialogue the numbers of its negatives.
        sources: kind -> for each candidate the dialogues that it was taken from.
        lost: reason -> number of replies and candidates that were left out.
    """

    dialog_ids: list[str]
    groups: list[list[list[dict]]]
    replies: list[Reply]
    gallery: Gallery
    pools: dict[str, list[np.ndarray]]
    sources: dict[str, list[frozenset]]
    lost: Counter


def read_replies(
    dialogs: Iterable[Dialog], image_file: Callable[[str], Path | None], words: Callable[[str], str] = lambda name: ""
) -> ReplySet:
    """Reads every turn but the first as a reply; all turns before it are its context.

    Args:
        dialogs: with their negatives.
        image_file: image id to file; None where it is missing. Missing images are left out of contexts and pools, and
            as right answers.
        words: image id to what it is called, for systems that cannot see.

    Raises:
        ValueError: no dialogue has a reply.
    """
    # A candidate gets its number when it is first asked for.
    numbers = {kind: defaultdict(itertools.count().__next__) for kind in KINDS}
    owners = {kind: defaultdict(set) for kind in KINDS}
    files: dict[str, str] = {}
    found = ReplySet([], [], [], Gallery(()), {kind: [] for kind in KINDS}, {}, Counter())

    @cache
    def has(name: str) -> bool:
        path = image_file(name)
        if path is not None:
            files[name] = str(path)
        return path is not None

    queries = 0
    for dialog in tqdm(dialogs, desc="Reading dialogues", unit="dialogue"):
        number, group, messages = len(found.dialog_ids), [], []
        for place, turn in enumerate(dialog.turns):
            for name in turn.image_ids:
                has(name)
            golds: dict[str, tuple[int, ...]] = {}
            kinds = []
            for kind, value in turn.elements:
                if kind == "image" and not has(value):
                    found.lost["gold images that are missing"] += place > 0
                    continue
                kinds.append(kind)
                golds[kind] = (*golds.get(kind, ()), numbers[kind][value])
                owners[kind][value].add(number)
            if place and not any(message["content"] for message in messages):
                found.lost["replies without a readable context"] += 1
            elif place and not kinds:
                found.lost["replies of which nothing is left"] += 1
            elif place:
                group.append([message for message in messages if message["content"]])
                found.replies.append(Reply(queries, number, place, tuple(kinds), golds))
                queries += 1
            messages.append(turn.message(_ROLES[place % 2], files))
        if not group:
            found.lost["dialogues without a reply"] += 1
        names = [name for name in dialog.negative_images if has(name)]
        found.lost["negative images that are missing"] += len(dialog.negative_images) - len(names)
        for kind, items in (("text", dialog.negative_texts), ("image", names)):
            pool = [numbers[kind][item] for item in dict.fromkeys(items)]
            found.pools[kind].append(np.array(pool, dtype=np.int32))
        found.dialog_ids.append(dialog.dialog_id)
        found.groups.append(group)
    if not found.replies:
        raise ValueError("No dialogue has a reply: a dialogue needs two turns at least.")
    images = list(numbers["image"])
    found.gallery = Gallery(
        tuple(numbers["text"]), tuple(images), tuple(files[n] for n in images), tuple(map(words, images))
    )
    found.sources = {kind: [frozenset(owners[kind][item]) for item in numbers[kind]] for kind in KINDS}
    found.lost = Counter({reason: count for reason, count in found.lost.items() if count})
    return found


# -- ranking in pools that differ between dialogues -------------------------------------------------------------------
# Numbers of queries, numbers of candidates -> scores `(queries, candidates)`.
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass
class PoolRanks:
    """The ranks of the right candidates and the leading candidates.

    Args:
        ranks (`(wanted,)`): from 1 on; 0 where nothing is right, or what is right cannot be read.
        best, best_scores (`(wanted,)`): number of the candidate that leads, and its score; -1 and minus infinity in an
            empty pool.
    """

    ranks: np.ndarray
    best: np.ndarray
    best_scores: np.ndarray


def rank_in_pools(
    scorer: Scorer, queries: np.ndarray, owners: np.ndarray, golds: np.ndarray, pools: Sequence[np.ndarray]
) -> PoolRanks:
    """Ranks each relevant candidate among the negatives of its dialogue. A negative that is the right candidate itself
    does not count.

    Args:
        scorer: scorer of queries and candidates by their numbers.
        queries (`(wanted,)`): number of the query.
        owners (`(wanted,)`): number of its dialogue, in ascending order.
        golds (`(wanted,)`): number of the right candidate; -1 where there is none, and then only what leads the
            negatives is found.
        pools: for each dialogue the numbers of its negatives.

    Raises:
        ValueError: dialogues that are not in ascending order, which would score pools more than once.
    """
    queries, owners, golds = (np.asarray(column, dtype=np.int64) for column in (queries, owners, golds))
    if np.any(np.diff(owners) < 0):
        raise ValueError("Queries stand in the order of their dialogues.")
    count = len(queries)
    found = PoolRanks(np.zeros(count, np.int64), np.full(count, -1), np.full(count, -np.inf))
    bounds = np.flatnonzero(np.diff(owners, prepend=-1, append=np.iinfo(np.int64).max))
    for first, end in tqdm(list(itertools.pairwise(bounds)), desc="Pools", leave=False):
        part = slice(int(first), int(end))
        pool = np.asarray(pools[owners[first]], dtype=np.int64)
        wanted = np.unique(golds[part][golds[part] >= 0])
        every = np.concatenate([pool, wanted])
        if not len(every):
            continue
        scores = np.asarray(scorer(queries[part], every))
        right = every[None, :] == golds[part][:, None]
        # The pool, and of the right candidates that are appended to it the query's own.
        competing = right | (np.arange(len(every)) < len(pool))
        scores = np.where(competing & ~np.isnan(scores), scores, -np.inf)
        found.ranks[part] = right_ranks(scores, right)
        leads = scores.argmax(axis=1)
        found.best_scores[part] = scores[np.arange(len(scores)), leads]
        found.best[part] = np.where(np.isneginf(found.best_scores[part]), -1, every[leads])
    return found
