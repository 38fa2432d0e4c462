"""Contexts that are texts alone: glosses and dialogues, whose right answer is a text and now and then a picture, and
texts that are their own right answer."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from .context_rows import TextRows
from .pairs import PicturePairs

SOURCES = ("glosses", "dialogues")
# Words of the glosses, and single turns of the dialogues: their own right answers, for training alone.
OWN_SOURCES = ("words", "turns")


@dataclass
class TextContext:
    """One context.

    Args:
        turns (`list[str]`): of the dialogue.
        target (`str`): the right text.
        picture (`str`): `image_id` of the right picture, empty for none.
    """

    turns: list
    target: str
    picture: str = ""


def load_texts(sources: "list[str]") -> "dict[str, dict[str, list[TextContext]]]":
    """The named sources.

    Returns:
        `dict`: source to `train`, and to `validation` and `test` unless its texts are their own right answers; nothing
        in `train` is about a picture of the other two.

    Raises:
        ValueError: for an unknown source.
    """
    unknown = sorted({*sources} - {*SOURCES, *OWN_SOURCES})
    if unknown:
        raise ValueError(f"Unknown sources of texts {unknown}: choose from {', '.join((*SOURCES, *OWN_SOURCES))}.")
    from ..data.dialogues import load_dialogue_texts, load_glosses, split_of

    found: dict[str, dict[str, list[TextContext]]] = {}
    if "glosses" in sources:
        found["glosses"] = {
            split: [TextContext([row["gloss"]], row["title"]) for row in rows]
            for split, rows in load_glosses().items()
        }
    if "dialogues" in sources:
        found["dialogues"] = {
            split: [
                TextContext([turn["content"] for turn in row["turns"]], row["target_text"], row["target_picture"])
                for row in rows
            ]
            for split, rows in load_dialogue_texts().items()
        }
    if "words" in sources:
        # A held-out thing may share its name with another one that is not held out.
        titles = [row["title"] for row in load_glosses()["train"]]
        found["words"] = _themselves(title for title in titles if split_of([title])[0] == "train")
    if "turns" in sources:
        found["turns"] = _themselves(t["content"] for row in load_dialogue_texts()["train"] for t in row["turns"])
    return found


def _themselves(texts: "Iterable[str]") -> "dict[str, list[TextContext]]":
    """Distinct texts, each its own right answer, for training alone: they measure copying."""
    return {"train": [TextContext([text], text) for text in dict.fromkeys(texts)]}


def text_rows(
    contexts: "Iterable[TextContext]",
    encode: Callable[["list[str]"], torch.Tensor],
    pairs: PicturePairs,
    image_ids: "dict[str, str]",
    image_targets: Callable[[torch.Tensor], torch.Tensor],
    own_share: float = 0.0,
) -> TextRows:
    """Contexts as rows beside those of the pictures.

    Args:
        contexts: of one split.
        encode: texts to the frozen text tower's output `(texts, width)`.
        pairs: the pictures of the same split.
        image_ids: path of a picture to its `image_id`.
        image_targets: picture numbers `(n,)` to the frozen image tower's output.
        own_share: of a context's own words in its target.

    A context with a known picture shares the id of that picture's group; equal targets share an id beyond the groups.
    """
    contexts = list(contexts)
    numbers = {image_ids[path]: number for number, path in enumerate(pairs.paths)}
    targets = list(dict.fromkeys(context.target for context in contexts))
    place = {target: number for number, target in enumerate(targets)}
    owners = torch.tensor([place[context.target] for context in contexts])
    pictures = torch.tensor([numbers.get(context.picture, -1) for context in contexts])
    first = int(pairs.groups.max()) + 1 if len(pairs.groups) else 0
    ids = torch.where(pictures >= 0, pairs.groups[pictures.clamp(min=0)], owners + first)
    turns = [context.turns for context in contexts]
    own = encode(["\n".join(some) for some in turns]) if own_share else None
    return TextRows(turns, encode(targets), owners, ids, pictures, image_targets, own, own_share)


__all__ = ["OWN_SOURCES", "SOURCES", "TextContext", "load_texts", "text_rows"]
