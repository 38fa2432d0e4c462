"""Retrieval sets by the name that a recipe or a command gives."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .registry import SETS, find_loader, is_address

if TYPE_CHECKING:  # the names are asked for where `datasets` is not needed
    from .retrieval_set import RetrievalSet

# What a set is called, and whether "=PATH" follows.
NAMED = {**dict.fromkeys(SETS, False), "webqa": True, "folder": True}
SOURCES = tuple(f"{name}=PATH" if at_path else name for name, at_path in NAMED.items())


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
    """Reads a retrieval set, or the union of several.

    Args:
        source: `gimp_manual`, `gnucash_manual`, `debian_handbook` or `scikit_learn_guide` (manuals of Debian's
            packages, sections as groups), `picture_dictionary` (clip art, emoji and stamps
            beside WordNet's definitions), `webqa=PATH` (`data.webqa.load_webqa`), `folder=PATH`, what
            `RetrievalSet.save` wrote, or `package.module:function`, a function that returns a `RetrievalSet`.
            A list of these is joined by `RetrievalSet.union`.
        captions, deduplicate, setting: of WebQA, as `load_webqa` takes them.

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
    load = find_loader(source, SETS)
    if load is not None:
        return load()
    raise ValueError(f"A retrieval set must be one of {', '.join(SOURCES)}, got {source!r}.")


__all__ = ["SOURCES", "load_retrieval_set", "names_a_set"]
