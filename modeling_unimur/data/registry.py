"""Sources by name: those that other packages bring, or `package.module:function`, and retrieval sets."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

_ADDRESS = re.compile(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

# Captioned images: functions without arguments that return a dataset with the columns of `captioned_images`.
IMAGES = {
    "openclipart": "unimur_mini.openclipart:load_openclipart",
    "openmoji": "unimur_mini.openmoji:load_openmoji",
    "stamps": "unimur_mini.stamps:load_stamps",
}
# Dialogues whose reply is a text: functions without arguments that return rows by split (`train`, and `validation` and
# `test` unless a text is its own reply), with `turns` (messages with `role` and `content`), `target_text` and perhaps
# `target_picture`, the `image_id` of a captioned image.
TEXTS = {
    "glosses": "unimur_mini.texts:glosses",
    "dialogues": "unimur_mini.dialogues:load_dialogue_texts",
    "questions": "unimur_mini.dialogues:load_questions",
    "chats": "unimur_mini.chats:load_chats",
    "long_dialogues": "unimur_mini.dialogues.long:load_long_dialogues",
    "long_chats": "unimur_mini.dialogues.long:load_long_chats",
    # Words of the glosses, and single turns of the dialogues: their own right answers, for training alone.
    "words": "unimur_mini.texts:words",
    "turns": "unimur_mini.texts:turns",
}
# Retrieval sets: functions without arguments that return a `RetrievalSet`.
SETS = {
    "gimp_manual": "unimur_mini.manuals:gimp_manual",
    "gnucash_manual": "unimur_mini.manuals:gnucash_manual",
    "debian_handbook": "unimur_mini.manuals:debian_handbook",
    "scikit_learn_guide": "unimur_mini.manuals:scikit_learn_guide",
    "image_dictionary": "unimur_mini.image_dictionary:load_image_dictionary",
}
# The image dictionary under its former name, which recipes may have.
_FORMER = {"picture_dictionary": SETS["image_dictionary"]}
# What runs a recipe of task `clip` without `data.images`.
CLIP_TRAINING = "unimur_mini.dual_encoder.train:train"


def is_address(source: str) -> bool:
    """Return whether a source has the form `package.module:function` and is not a file."""
    return _ADDRESS.fullmatch(source) is not None and not os.path.exists(source)


def load_module(name: str) -> ModuleType:
    """Import a module of a package that may not be installed.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
        ValueError: the package has no such module.
    """
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        remedy = "pip install unimur" if package == "unimur_mini" else f"install {package}"
        raise ImportError(f"{name} needs the package {package}, which is not installed: {remedy}.")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # a library that the module needs
        raise ValueError(f"There is no module {name}.") from error


def load_function(address: str) -> Callable[..., Any]:
    """Load `package.module:function`. The module is imported, so the address must come from a trusted recipe.

    Raises:
        ImportError, ValueError: as `load_module`; ValueError also where the module has no such function.
    """
    module, _, name = address.partition(":")
    function = getattr(load_module(module), name, None)
    if not callable(function):
        raise ValueError(f"{address}: the module {module} has no function {name}.")
    return function


def find_loader(source: str, known: dict[str, str]) -> Callable[..., Any] | None:
    """Return the loader of a source, given by its name or address. Returns None for any other text.

    Raises:
        ImportError, ValueError: as `load_function`.
    """
    address = known.get(source, source if is_address(source) else None)
    return None if address is None else load_function(address)


if TYPE_CHECKING:  # the names are asked for where `datasets` is not needed
    from .retrieval_set import RetrievalSet

# What a set is called, and whether "=PATH" follows.
NAMED = {**dict.fromkeys(SETS | _FORMER, False), "webqa": True, "folder": True}
SOURCES = tuple(f"{name}=PATH" if at_path else name for name, at_path in NAMED.items() if name not in _FORMER)


def names_a_set(source: str) -> bool:
    """Whether a source is a retrieval set's name (`gimp_manual`, `webqa=PATH`, `package.module:function`) and no file
    or folder."""
    if is_address(source):
        return True
    kind, _, path = source.partition("=")
    return kind in NAMED and bool(path) == NAMED[kind] and not os.path.exists(source)


def load_retrieval_set(
    source: str | Sequence[str],
    captions: str | None = None,
    deduplicate: str | None = None,
    setting: str | None = None,
) -> RetrievalSet:
    """Read a retrieval set, or the union of several.

    Args:
        source: `gimp_manual`, `gnucash_manual`, `debian_handbook` or `scikit_learn_guide` (manuals of Debian's
            packages, sections as groups), `image_dictionary` (clip art, emoji and stamps
            beside WordNet's definitions), `webqa=PATH` (`data.webqa.load_webqa`), `folder=PATH`, what
            `RetrievalSet.save` wrote, or `package.module:function`, a function that returns a `RetrievalSet`.
            A list of these is joined by `RetrievalSet.union`.
        captions, deduplicate, setting: for WebQA, as `load_webqa` takes them.

    Raises:
        FileNotFoundError: it is not there.
        ImportError: the package that brings it is not installed.
        ValueError: another name, an empty list, or one of the choices for a set that has none.
    """
    from .retrieval_set import RetrievalSet

    if not isinstance(source, str):
        return RetrievalSet.union({name: load_retrieval_set(name, captions, deduplicate, setting) for name in source})
    kind, _, path = source.partition("=")
    if kind == "webqa" and path:
        from .webqa.load import load_webqa

        return load_webqa(path, setting=setting or "merged", captions=captions, deduplicate=deduplicate)
    choices = {"captions": captions, "deduplicate": deduplicate, "setting": setting}
    for name, value in choices.items():
        if value is not None and (name, value) != ("captions", "raw"):
            raise ValueError(f"{name}={value!r} is a choice of webqa=PATH, and {source} has none.")
    if kind == "folder" and path:
        return RetrievalSet.load(path)
    load = find_loader(source, SETS | _FORMER)
    if load is not None:
        return load()
    raise ValueError(f"A retrieval set must be one of {', '.join(SOURCES)}, got {source!r}.")
