"""Retrieval sets by the name that a recipe or a command gives."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names are asked for where `datasets` is not needed
    from .retrieval_set import RetrievalSet

# What a set is called, and whether "=PATH" follows.
NAMED = {"gimp_manual": False, "picture_dictionary": False, "webqa": True, "folder": True}
SOURCES = tuple(f"{name}=PATH" if at_path else name for name, at_path in NAMED.items())


def names_a_set(source: str) -> bool:
    """Whether a source is a retrieval set's name (`gimp_manual`, `webqa=PATH`, ...) and no file or folder."""
    kind, _, path = source.partition("=")
    return kind in NAMED and bool(path) == NAMED[kind] and not os.path.exists(source)


def load_retrieval_set(
    source: str, captions: str | None = None, deduplicate: str | None = None, setting: str | None = None
) -> RetrievalSet:
    """Reads a retrieval set.

    Args:
        source: `gimp_manual` (Debian's package, sections as groups), `picture_dictionary` (clip art, emoji and stamps
            beside WordNet's definitions), `webqa=PATH` (`data.webqa.load_webqa`), or `folder=PATH`, what
            `RetrievalSet.save` wrote.
        captions, deduplicate, setting: of WebQA, as `load_webqa` takes them.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: another name, or one of the choices for a set that has none.
    """
    from .retrieval_set import RetrievalSet

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
    if source == "gimp_manual":
        from .gimp_manual import load_gimp_manual

        return RetrievalSet.from_tables(load_gimp_manual(), group="section")
    if source == "picture_dictionary":
        from .picture_dictionary import load_picture_dictionary

        return load_picture_dictionary()
    raise ValueError(f"A retrieval set is one of {', '.join(SOURCES)}, not {source!r}.")


__all__ = ["SOURCES", "load_retrieval_set", "names_a_set"]
