"""Rows that a training step reads: contexts with their relevant images and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..data.own_chats import read_own_chats, split_own_chats
from ..data.registry import TEXTS, find_loader
from .collators import rows_at
from .pairs import ImagePairs


class ImageRows(Dataset):
    """Uses every caption as a retrieval context of its image, in one of three forms; the seed fixes the form of each
    row.

    - the caption alone;
    - another pair's caption before it, as a dialogue that has moved on (GILL concatenates pairs so);
    - an image before it: its own, or another one, which the caption then overrules. So [RET] after an image trains.

    Args:
        pairs: a split.
        image_targets (`Callable`): image numbers `(n,)` to the frozen dual encoder's output `(n, width)`.
        visual_features (`Callable`): image numbers `(n,)` to what becomes the language model's input `(n, width)`.
        two_pairs_fraction, image_context_fraction (`float`): shares of the second and the third form.
        seed (`int`): seed of the forms and of the other pairs.
    """

    def __init__(
        self,
        pairs: ImagePairs,
        image_targets: Callable[[torch.Tensor], torch.Tensor],
        visual_features: Callable[[torch.Tensor], torch.Tensor],
        two_pairs_fraction: float = 0.0,
        image_context_fraction: float = 0.25,
        seed: int = 0,
    ):
        if min(two_pairs_fraction, image_context_fraction) < 0 or two_pairs_fraction + image_context_fraction > 1:
            raise ValueError(
                f"two_pairs_fraction={two_pairs_fraction} and image_context_fraction={image_context_fraction} are "
                "shares of one whole."
            )
        self.pairs, self.image_targets, self.visual_features = pairs, image_targets, visual_features
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(len(pairs.texts), generator=generator)
        self.two_pairs = draw < two_pairs_fraction
        self.with_image = (draw >= two_pairs_fraction) & (draw < two_pairs_fraction + image_context_fraction)
        self.others = torch.randint(len(pairs.texts), (len(pairs.texts),), generator=generator)
        self.own = torch.rand(len(pairs.texts), generator=generator) < 0.5

    def __len__(self) -> int:
        return len(self.pairs.texts)

    def __getitem__(self, row: int) -> dict:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[dict]:
        """Returns the rows of one batch with one look-up in the cached features."""
        index = torch.as_tensor(rows)
        owners = self.pairs.owners[index]
        shown = torch.where(self.own[index], owners, self.pairs.owners[self.others[index]])
        images, visual, before = self.image_targets(owners), self.visual_features(owners), self.visual_features(shown)
        texts = self.pairs.text_features[index]
        found = []
        for place, row in enumerate(rows):
            caption = self.pairs.texts[row]
            turns = [self.pairs.texts[self.others[row]], caption] if self.two_pairs[row] else [caption]
            found.append(
                {
                    "turns": turns,
                    "visual_features": before[place : place + 1] if self.with_image[row] else None,
                    "target_image_features": images[place],
                    "target_text_features": texts[place],
                    "target_ids": self.pairs.groups[owners[place]],
                    "caption": caption,
                    "caption_visual_features": visual[place],
                }
            )
        return found


class TextRows(Dataset):
    """Contexts whose relevant answer is a text, and an image where one is known. Textual matching needs no image.

    Args:
        turns (`list[list[str]]`): turns of each context.
        features (`torch.Tensor` of shape `(targets, width)`): the frozen text tower's output for each distinct target.
        owners (`torch.Tensor` of shape `(contexts,)`): which target is right.
        ids (`torch.Tensor` of shape `(contexts,)`): equal ones are right for each other, those of `ImageRows` that
            are trained along included.
        images (`torch.Tensor` of shape `(contexts,)`, *optional*): numbers of the right images, -1 for none.
        image_targets (`Callable`, *optional*): as in `ImageRows`.
        own (`torch.Tensor` of shape `(contexts, width)`, *optional*): what the text tower makes of the contexts' own
            words.
        own_share (`float`): share of these in the target.
    """

    def __init__(
        self,
        turns: list[list[str]],
        features: torch.Tensor,
        owners: torch.Tensor,
        ids: torch.Tensor,
        images: torch.Tensor | None = None,
        image_targets: Callable[[torch.Tensor], torch.Tensor] | None = None,
        own: torch.Tensor | None = None,
        own_share: float = 0.0,
    ):
        self.turns, self.features, self.owners, self.ids = turns, features, owners, ids
        self.images, self.image_targets = images, image_targets
        self.own, self.own_share = own, own_share

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, row: int) -> dict:
        image = -1 if self.images is None else int(self.images[row])
        return {
            "turns": self.turns[row],
            "visual_features": None,
            "target_image_features": None if image < 0 else self.image_targets(self.images[row : row + 1])[0],
            "target_text_features": self._text_target(row),
            "target_ids": self.ids[row],
            "caption": None,
        }

    def _text_target(self, row: int) -> torch.Tensor:
        right = self.features[self.owners[row]]
        if self.own is None or not self.own_share:
            return right
        directions = (F.normalize(vector.float(), dim=-1) for vector in (self.own[row], right))
        return sum(share * each for share, each in zip((self.own_share, 1 - self.own_share), directions, strict=True))


class MixedRows(Dataset):
    """Mixes several datasets in given shares. One pass has as many rows as all of them together.

    A dataset whose share is more than its size is repeated, one whose share is less gives a seeded choice.

    Args:
        datasets: the parts.
        shares (`list[float]`): shares of the rows, one per part; they sum to 1.
        seed (`int`): seed of the choice.
    """

    def __init__(self, datasets: Sequence[Dataset], shares: Sequence[float], seed: int = 0):
        if len(datasets) != len(shares) or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
            raise ValueError(f"{len(datasets)} datasets need as many shares that sum to 1, not {list(shares)}.")
        self.datasets = list(datasets)
        generator = torch.Generator().manual_seed(seed)
        total, places = sum(map(len, datasets)), []
        for number, (dataset, share) in enumerate(zip(datasets, shares, strict=True)):
            rows, count = [], round(total * share)
            while sum(map(len, rows)) < count:
                rows.append(torch.randperm(len(dataset), generator=generator))
            chosen = torch.cat(rows)[:count] if rows else torch.empty(0, dtype=torch.long)
            places.append(torch.stack([torch.full_like(chosen, number), chosen], dim=1))
        self.places = torch.cat(places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, row: int) -> dict:
        part, place = self.places[row].tolist()
        return self.datasets[part][place]

    def __getitems__(self, rows: Sequence[int]) -> list[dict]:
        """Returns the rows of one batch, gathered from each dataset."""
        found: dict[int, dict] = {}
        wanted = self.places[torch.as_tensor(rows)].tolist()
        for number, dataset in enumerate(self.datasets):
            order = [position for position, (part, _) in enumerate(wanted) if part == number]
            places = [wanted[position][1] for position in order]
            found.update(zip(order, rows_at(dataset, places) if places else [], strict=True))
        return [found[position] for position in range(len(rows))]


@dataclass
class TextContext:
    """A context with its relevant text.

    Args:
        turns (`list[str]`): turns of the dialogue.
        target (`str`): the right text.
        image (`str`): `image_id` of the right image, empty for none.
    """

    turns: list
    target: str
    image: str = ""


Splits = dict[str, list[TextContext]]


def _told(rows: Iterable[dict]) -> list[TextContext]:
    """Converts rows with `turns`, `target_text` and, where there is one, `target_picture`."""
    return [
        TextContext([turn["content"] for turn in row["turns"]], row["target_text"], row.get("target_picture", ""))
        for row in rows
    ]


# What `adapt` and the linear baseline read without being told: all of it comes from WordNet and the images' words.
DEFAULT_SOURCES = ("glosses", "dialogues")


def load_texts(sources: list[str]) -> dict[str, Splits]:
    """Loads sources of texts by name.

    Args:
        sources: names out of `data.registry.TEXTS`; `chats=PATH`: a person's own chats, as
            `data.own_chats.read_own_chats` takes them; or `package.module:function`, a function that returns such
            rows.

    Returns:
        `dict`: source to `train`, and to `validation` and `test` unless its texts are their own right answers; nothing
        in `train` is about an image of the other two.

    Raises:
        ValueError: for an unknown source, or a file of chats that holds none.
        FileNotFoundError: for a file that is not there.
        ImportError: for a source whose package is not installed.
        PackageUnavailable: the package of a source cannot be fetched.
    """
    found: dict[str, Splits] = {}
    for source in dict.fromkeys(sources):
        name, _, path = source.partition("=")
        if name == "chats" and path:
            splits = split_own_chats(read_own_chats(path)[0])
        elif (load := find_loader(source, TEXTS)) is not None:
            splits = load()
        else:
            raise ValueError(f"Unknown source of texts {source!r}: choose from {', '.join(TEXTS)}, chats=PATH.")
        found[source] = {split: _told(rows) for split, rows in splits.items()}
    return found


def text_rows(
    contexts: Iterable[TextContext],
    encode: Callable[[list[str]], torch.Tensor],
    pairs: ImagePairs,
    image_ids: dict[str, str],
    image_targets: Callable[[torch.Tensor], torch.Tensor],
    own_share: float = 0.0,
) -> TextRows:
    """Converts contexts to rows that train beside those of the images.

    Args:
        contexts: contexts of one split.
        encode: texts to the frozen text tower's output `(texts, width)`.
        pairs: the images of the same split.
        image_ids: path of an image to its `image_id`.
        image_targets: image numbers `(n,)` to the frozen image tower's output.
        own_share: share of a context's own words in its target.

    A context with a known image shares the id of that image's group; equal targets share an id beyond the groups.
    """
    contexts = list(contexts)
    numbers = {image_ids[path]: number for number, path in enumerate(pairs.paths)}
    targets = list(dict.fromkeys(context.target for context in contexts))
    place = {target: number for number, target in enumerate(targets)}
    owners = torch.tensor([place[context.target] for context in contexts])
    images = torch.tensor([numbers.get(context.image, -1) for context in contexts])
    first = int(pairs.groups.max()) + 1 if len(pairs.groups) else 0
    ids = torch.where(images >= 0, pairs.groups[images.clamp(min=0)], owners + first)
    turns = [context.turns for context in contexts]
    own = encode(["\n".join(some) for some in turns]) if own_share else None
    return TextRows(turns, encode(targets), owners, ids, images, image_targets, own, own_share)
