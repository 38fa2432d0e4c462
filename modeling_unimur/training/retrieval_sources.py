"""Retrieval sets by the name that a recipe or a command gives."""

from ..data.retrieval_set import RetrievalSet

SOURCES = ("gimp_manual", "picture_dictionary", "webqa=PATH", "folder=PATH")


def load_retrieval_set(source: str, captions: str = "raw") -> RetrievalSet:
    """Reads a retrieval set.

    Args:
        source: `gimp_manual` (Debian's package, sections as groups), `picture_dictionary` (clip art, emoji and stamps
            beside WordNet's definitions), `webqa=PATH` (`data.webqa.load_webqa`), or `folder=PATH`, what
            `RetrievalSet.save` wrote.
        captions: of UniVL-DR's `data.zip`, as `load_webqa` takes them.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: another name, or captions where there is no choice.
    """
    kind, _, path = source.partition("=")
    if kind == "webqa" and path:
        from ..data.webqa.load import load_webqa

        return load_webqa(path, captions=captions)
    if captions != "raw":
        raise ValueError(f"captions={captions!r} is a choice of webqa=PATH; {source} has one kind of captions.")
    if kind == "folder" and path:
        return RetrievalSet.load(path)
    if source == "gimp_manual":
        from ..data.gimp_manual import load_gimp_manual

        return RetrievalSet.from_tables(load_gimp_manual(), group="section")
    if source == "picture_dictionary":
        from ..data.picture_dictionary import load_picture_dictionary

        return load_picture_dictionary()
    raise ValueError(f"A retrieval set is one of {', '.join(SOURCES)}, not {source!r}.")


__all__ = ["SOURCES", "load_retrieval_set"]
