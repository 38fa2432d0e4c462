"""Sources that other packages bring: each has a name here, or is given by its address `package.module:function`."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

_ADDRESS = re.compile(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

# Captioned images: functions without arguments that return a dataset with the columns of `picture_table`.
PICTURES = {
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
    "picture_dictionary": "unimur_mini.picture_dictionary:load_picture_dictionary",
}
# What runs a recipe of task `clip` without `data.images`.
CLIP_TRAINING = "unimur_mini.dual_encoder.train:train"


def is_address(source: str) -> bool:
    """Whether a source is written `package.module:function`, and is no file."""
    return _ADDRESS.fullmatch(source) is not None and not os.path.exists(source)


def load_module(name: str) -> ModuleType:
    """Imports a module that another package may bring.

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
    """The function `package.module:function`. Its module is imported, so the address must come from a trusted recipe.

    Raises:
        ImportError, ValueError: as `load_module`; ValueError also where the module has no such function.
    """
    module, _, name = address.partition(":")
    function = getattr(load_module(module), name, None)
    if not callable(function):
        raise ValueError(f"{address}: the module {module} has no function {name}.")
    return function


def find_loader(source: str, known: dict[str, str]) -> Callable[..., Any] | None:
    """What loads a source out of a table of names, or one that is given by its address; None for any other text.

    Raises:
        ImportError, ValueError: as `load_function`.
    """
    address = known.get(source, source if is_address(source) else None)
    return None if address is None else load_function(address)


__all__ = ["CLIP_TRAINING", "PICTURES", "SETS", "TEXTS", "find_loader", "is_address", "load_function", "load_module"]
