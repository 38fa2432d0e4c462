"""Manuals of Debian packages as multimodal retrieval sets. examples/mini/README.md describes their content."""

from modeling_unimur.data.retrieval_set import RetrievalSet

from .descriptions import DEBIAN_HANDBOOK, GIMP, GNUCASH, SCIKIT_LEARN, Description
from .tables import load_manual


def _retrieval_set(description: Description) -> RetrievalSet:
    """Returns a manual whose groups are its sections. Raises what `load_manual` raises.

    The split `headings` holds the headings of training chapters that are not queries of `train`, and the split
    `generated` the generated questions.
    """
    tables = load_manual(description)
    further = {"generated": "generated"} | ({} if description.asks_by_headings else {"headings": "heading"})
    for split, kind in further.items():
        for name in ("queries", "qrels"):
            if len(table := tables[f"{kind}_{name}"]["train"]):
                tables[name][split] = table
    return RetrievalSet.from_tables(tables, group="section")


def gimp_manual() -> RetrievalSet:
    """Returns GIMP's manual: screenshots, and captions of single images. Raises what `load_manual` raises."""
    return _retrieval_set(GIMP)


def gnucash_manual() -> RetrievalSet:
    """Returns GnuCash's guide and manual: accounting, and screenshots. Raises what `load_manual` raises."""
    return _retrieval_set(GNUCASH)


def debian_handbook() -> RetrievalSet:
    """Returns the Debian Administrator's Handbook: prose on systems. Raises what `load_manual` raises."""
    return _retrieval_set(DEBIAN_HANDBOOK)


def scikit_learn_guide() -> RetrievalSet:
    """Returns scikit-learn's user guide: machine learning, and plots. Raises what `load_manual` raises."""
    return _retrieval_set(SCIKIT_LEARN)
