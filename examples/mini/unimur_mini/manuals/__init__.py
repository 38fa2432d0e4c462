"""Manuals of Debian packages as multimodal retrieval sets: passages, captioned images, and queries of several kinds.

Documents
    Paragraphs of one section, put together up to a number of words, are a passage; an image with its figure's title
    is an image document. A paragraph that stands word for word in several sections becomes one document. Such a
    document, and an image that stands in several figures, is relevant to no query: it belongs to none of its places
    more than to the others, and would join chapters of different splits.

Queries
    *text*: a sentence that links to a section of another page, without the words of its links. Relevant with grade 2
    are the passages of that section up to its first subsection (those of its first subsection where none stand
    before), with grade 1 those of its further subsections, which can be dozens: measures without grades are stricter,
    and mean the same on every page, where they count grade 2 alone. The passages with the sentence are in `excluded`.
    *figure*: the inner caption of one image of a figure. Grade 2: the image, grade 1: the figure's others. Where the
    description says so, also a sentence that links to a figure, without the words of its links.
    *heading*: a heading that stands once in the manual (passages do not hold their headings); queries of all splits
    where the description says so, and in tables of their own for every manual.
    *title*, *link*, *lead*, in tables of their own, for training only: generated; see `generated`.
    *navigational*, in tables of their own: terms of the index and the glossary, most of which stand word for word in
    their target. `pairs`, for training only: a passage's first sentence and its rest.

Splits
    By chapter of the relevant documents; a group of a divided chapter counts as a chapter. All queries search the one
    corpus, as in WebQA.

What is dropped (numbers of the manual for GIMP 2.10 in Debian 12)
    * pages without text of the manual: title, index, bibliography, preface, licence (17 of 685 pages)
    * tables of contents, navigation, headings, footnotes, formulas; titles of tables' columns
    * passages and repeated paragraphs under four words ("TODO", "Options")
    * images outside of titled figures (276): an image document would have no words
    * link sentences with fewer than four content words left ("See ... for more information"; 491 of 1,193); those
      that lead to a figure or to the bibliography (58); forms that recur four times or more ("The ... dialog is a
      dockable dialog; see ...": one question asked often, 31); the same sentence again (138, its targets are joined)
    * captions under five words ("Original image"; 493 of 969), those that stand under several figures (51) and those
      of images that do (35)
    * index entries that lead to the glossary's page alone (67 of 1,459; its own 73 terms stand for them) or to no
      passage (3)
    * queries whose relevant documents lie in several splits (20 text, 21 navigational)

What stays imperfect: a link may be incidental to its sentence ("operations like a ... will then be applied"), and some
captions tell of settings ("quality: 100") that no one could see in the image.
"""

from modeling_unimur.data.retrieval_set import RetrievalSet

from .descriptions import DEBIAN_HANDBOOK, GIMP, GNUCASH, SCIKIT_LEARN, Description
from .tables import load_manual, manual_folder, read_manual, read_tables, write_tables


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


__all__ = [
    "DEBIAN_HANDBOOK",
    "GIMP",
    "GNUCASH",
    "SCIKIT_LEARN",
    "Description",
    "debian_handbook",
    "gimp_manual",
    "gnucash_manual",
    "load_manual",
    "manual_folder",
    "read_manual",
    "read_tables",
    "scikit_learn_guide",
    "write_tables",
]
