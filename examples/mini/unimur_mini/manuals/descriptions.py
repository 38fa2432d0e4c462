"""Descriptions of the manuals: where their pages are, and which of the pages hold text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """One manual of HTML pages that were written by DocBook's stylesheets or by Sphinx.

    Args:
        name: Name of its tables in the cache and in log lines.
        package: Name of the Debian package that holds the pages.
        folder: Pattern of the folder in the package that links and images are relative to. The last match is used.
        license: License of the text.
        pages: Patterns of the pages below the folder.
        left_out: Regular expression of the pages, by their path below the folder, that hold no text of the manual.
        index, glossary: Pages with the printed index and with the glossary, or "" if there are none.
        parts: Pages of parts. Their chapters are the chapters of the manual.
        divided: Pages of chapters whose groups are treated as chapters.
        passage_words: Maximum number of words up to which paragraphs of a section are joined to a passage.
        asks_by_headings: Whether headings are queries of all splits. They can be trained on in any case.
        asks_by_figures: Whether sentences that link to a figure are queries.
        is_trained_on: Whether the manual has a training split. Otherwise it is divided into validation and test.
        labels: Regular expression of labels in front of headings.
        version: Increased whenever the rows change, so that tables cached by an older version are not read.
    """

    name: str
    package: str
    folder: str
    license: str
    pages: tuple[str, ...] = ("*.html",)
    left_out: str = ""
    index: str = ""
    glossary: str = ""
    parts: frozenset[str] = frozenset()
    divided: frozenset[str] = frozenset()
    passage_words: int = 120
    asks_by_headings: bool = True
    asks_by_figures: bool = True
    is_trained_on: bool = True
    labels: str = ""
    version: int = 2


GIMP = Description(
    name="gimp-manual",
    package="gimp-help-en",
    # The version in the path is that of the help's format, not of the program.
    folder="usr/share/gimp/*/help/en",
    license="GFDL-1.2-or-later",
    # These are lists of sources, the licence, names of authors, and pages that only repeat titles.
    left_out=r"(index|gimp-help-index|help-missing|bibliography|preface|legal|gfdl-.*)\.html",
    index="gimp-help-index.html",
    glossary="glossary.html",
    parts=frozenset({"getting-started.html", "become-a-gimp-wizard.html", "gimp-function-reference.html"}),
    # The reference part has four chapters with hundreds of pages.
    divided=frozenset({"menus.html", "filters.html", "gimp-tools.html", "dialogs.html"}),
    # Most of its paragraphs are one sentence long.
    passage_words=60,
    asks_by_headings=False,
    asks_by_figures=False,
    version=3,
)
GNUCASH = Description(
    name="gnucash-manual",
    package="gnucash-docs",
    folder="usr/share/doc/gnucash-docs",
    license="GFDL-1.1-or-later",
    pages=("gnucash-guide-en/*.html", "gnucash-help-en/*.html"),
    left_out=r".*/(index|authors|fdl.*|gfdl.*|.*license.*)\.html",
    glossary="gnucash-guide-en/gnc-glossary.html",
)
DEBIAN_HANDBOOK = Description(
    name="debian-handbook",
    package="debian-handbook",
    folder="usr/share/doc/debian-handbook/html/en-US",
    license="CC-BY-SA-3.0 or GPL-2.0-or-later",
    left_out=r"(index|preface|foreword|.*license.*|derivative-distributions)\.html",
    # Labels of sidebars ("BACK TO BASICS", "TIP").
    labels=r"(?:[A-Z'-]{2,} )+(?=\S*[a-z])",
)
SCIKIT_LEARN = Description(
    name="scikit-learn-guide",
    package="python-sklearn-doc",
    folder="usr/share/doc/python-sklearn-doc/html",
    license="BSD-3-Clause",
    pages=("modules/*.html", "tutorial/*/*.html", "datasets/*.html", "common_pitfalls.html", "glossary.html"),
    left_out=r"modules/classes\.html|.*/index\.html",
    glossary="glossary.html",
    is_trained_on=False,
)
