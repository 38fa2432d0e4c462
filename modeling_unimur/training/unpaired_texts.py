"""Contexts that are texts alone: glosses, dialogues and chats, whose right answer is a text and perhaps an image, and
texts that are their own right answer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ..data.registry import TEXTS, find_loader
from .context_rows import TextRows
from .pairs import ImagePairs


@dataclass
class TextContext:
    """One context.

    Args:
        turns (`list[str]`): of the dialogue.
        target (`str`): the right text.
        image (`str`): `image_id` of the right image, empty for none.
    """

    turns: list
    target: str
    image: str = ""


Splits = dict[str, list[TextContext]]


def _own_chats(path: str) -> Splits:
    from ..data.own_chats import read_own_chats, split_own_chats

    rows, _ = read_own_chats(path)
    return {split: _told(part) for split, part in split_own_chats(rows).items()}


def _told(rows: "Iterable[dict]") -> "list[TextContext]":
    """Rows with `turns` and `target_text`, and `target_picture` where they have one."""
    return [
        TextContext([turn["content"] for turn in row["turns"]], row["target_text"], row.get("target_picture", ""))
        for row in rows
    ]


_PATH_LOADERS: "dict[str, Callable[[str], Splits]]" = {"chats": _own_chats}
# What `adapt` and the linear baseline read without being told: all of it comes from WordNet and the images' words.
DEFAULT_SOURCES = ("glosses", "dialogues")


def load_texts(sources: "list[str]") -> "dict[str, Splits]":
    """The named sources.

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
        name, at_path, path = source.partition("=")
        if at_path and name in _PATH_LOADERS and path:
            found[source] = _PATH_LOADERS[name](path)
        elif (load := find_loader(source, TEXTS)) is not None:
            found[source] = {split: _told(rows) for split, rows in load().items()}
        else:
            choices = [*TEXTS, *(f"{name}=PATH" for name in _PATH_LOADERS)]
            raise ValueError(f"Unknown source of texts {source!r}: choose from {', '.join(choices)}.")
    return found


def text_rows(
    contexts: "Iterable[TextContext]",
    encode: Callable[["list[str]"], torch.Tensor],
    pairs: ImagePairs,
    image_ids: "dict[str, str]",
    image_targets: Callable[[torch.Tensor], torch.Tensor],
    own_share: float = 0.0,
) -> TextRows:
    """Contexts as rows beside those of the images.

    Args:
        contexts: of one split.
        encode: texts to the frozen text tower's output `(texts, width)`.
        pairs: the images of the same split.
        image_ids: path of an image to its `image_id`.
        image_targets: image numbers `(n,)` to the frozen image tower's output.
        own_share: of a context's own words in its target.

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


__all__ = ["DEFAULT_SOURCES", "Splits", "TextContext", "load_texts", "text_rows"]
