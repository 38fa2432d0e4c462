"""Manuals of Debian packages as multimodal retrieval sets; examples/mini/README.md says what they hold."""

from modeling_unimur.data.retrieval_set import RetrievalSet

from .descriptions import DEBIAN_HANDBOOK, GIMP, GNUCASH, SCIKIT_LEARN, Description
from .tables import load_manual


def _retrieval_set(description: Description) -> RetrievalSet:
    """A manual with its sections as groups; headings of training chapters that are no queries of `train` are the split
    `headings`, and generated questions the split `generated`. Raises: as `load_manual`."""
    tables = load_manual(description)
    further = {"generated": "generated"} | ({} if description.asks_by_headings else {"headings": "heading"})
    for split, kind in further.items():
        for name in ("queries", "qrels"):
            if len(table := tables[f"{kind}_{name}"]["train"]):
                tables[name][split] = table
    return RetrievalSet.from_tables(tables, group="section")


def gimp_manual() -> RetrievalSet:
    """GIMP's manual: screenshots, and captions of single images. Raises: as `load_manual`."""
    return _retrieval_set(GIMP)


def gnucash_manual() -> RetrievalSet:
    """GnuCash's guide and manual: accounting explained, and windows. Raises: as `load_manual`."""
    return _retrieval_set(GNUCASH)


def debian_handbook() -> RetrievalSet:
    """The Debian Administrator's Handbook: prose on systems. Raises: as `load_manual`."""
    return _retrieval_set(DEBIAN_HANDBOOK)


def scikit_learn_guide() -> RetrievalSet:
    """scikit-learn's user guide: machine learning explained, and plots. Raises: as `load_manual`."""
    return _retrieval_set(SCIKIT_LEARN)
