"""The manuals that are read, and what differs between them: where their pages are, and which of them hold text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """One manual in HTML pages, as DocBook's stylesheets or Sphinx write them.

    Args:
        name: of its tables in the cache, and of its log lines.
        package: the Debian package with the pages.
        folder: pattern of the folder in the package that links and images are resolved in; the last match counts.
        license: of the text.
        pages: patterns of the pages below the folder.
        left_out: regular expression of pages, by their path below the folder, that hold no text of the manual.
        index, glossary: pages with the printed index and the glossary, "" for none.
        parts: pages of parts, whose chapters count and not they themselves.
        divided: pages of chapters whose groups count as chapters.
        passage_words: paragraphs of one section are put together up to this many words.
        asks_by_headings: whether headings are queries of all splits; they can be trained on in any case.
        asks_by_figures: whether sentences that link to a figure are queries.
        is_trained_on: whether it has a training split; otherwise everything is for validation and test.
        labels: regular expression of labels in front of headings.
        version: raised whenever the rows change, so that tables cached by an older version are not read.
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
    # The version between stands for the help's format, not for the program.
    folder="usr/share/gimp/*/help/en",
    license="GFDL-1.2-or-later",
    # Lists of sources, the licence, names of authors, and pages that only repeat titles.
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
    # Kinds of its sidebars ("BACK TO BASICS", "TIP").
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
