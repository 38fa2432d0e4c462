"""A manual's pages, written by DocBook's stylesheets or by Sphinx: sections of paragraphs, links and figures."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

_VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
# Classes or tags of elements.
_SECTIONS = {"appendix", "chapter", "part", "preface", "refentry", "reference", "simplesect", "glossary"} | {
    "section", "sidebar", *(f"sect{level}" for level in range(1, 6))
}  # fmt: skip
# Navigation, repeated tables of contents, formulas, code with its output, references, and programs' own documentation.
_SKIPPED = {"navheader", "navfooter", "titlepage", "toc", "footnotes", "equation", "informalequation"} | {
    "citation", "contents", "docnav", "highlight", "nav", "py", "script", "sphx-glr-download-link-note", "style",
    "toctree-wrapper", "topic",
}  # fmt: skip
_HEADINGS = {f"h{level}" for level in range(1, 7)}
_MEDIA = {"mediaobject", "screenshot"}
_BLOCKS = {"blockquote", "div", "dl", "dt", "dd", "li", "ol", "p", "pre", "table", "tbody", "td", "th", "tr", "ul"}
# The text that Sphinx adds after the title of a page.
_PRODUCT = re.compile(r" — .* documentation$")
_SENTENCE = re.compile(r"(?<=[.!?])[”)\"]?\s+(?=[“(\"]?[A-Z])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|resp|cf|vs|Fig|Sec|No)\.|\b[A-Z]\.)[”)\"]?$")
_NUMBER = re.compile(r"^(?:(?:Chapter|Appendix|Part|Figure)\s+)?(?:[0-9]+|[A-Z]|[IVX]+)(?:\.[0-9]+)*\.\s+")


@dataclass
class Link:
    """Words of a paragraph, from `start` to `end` of its text, that link to the element `anchor` of `page`.

    The page may be the paragraph's own.
    """

    start: int
    end: int
    page: str
    anchor: str


@dataclass
class Paragraph:
    """One paragraph, list item or described term. All white space is normalised to single spaces."""

    text: str
    links: list[Link] = field(default_factory=list)


@dataclass
class FigureImage:
    """An image of a figure: its path below the manual's folder, and its inner caption or "" if it has none."""

    file: str
    caption: str


@dataclass
class Figure:
    """A figure with a title and one or more images.

    `source` is the page of the program that draws the figure, or "" if there is none.
    """

    title: str
    images: list[FigureImage]
    source: str = ""


@dataclass
class Section:
    """A section without its subsections, which are sections of their own.

    `path` holds the titles from the section's page down to the section. `parent` is the number of the section around
    it in `Page.sections`, or -1 for the first section.
    """

    path: tuple[str, ...]
    parent: int = -1
    paragraphs: list[Paragraph] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Page:
    """One file, which is named by its path below the manual's folder.

    `anchors` maps each id to the number of its section in `sections`. `figure_anchors` maps each id inside a figure to
    the section and the figure's position in it, or to None if the figure has no title or no image.
    """

    name: str
    up: str
    sections: list[Section] = field(default_factory=list)
    anchors: dict[str, int] = field(default_factory=dict)
    figure_anchors: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    untitled_images: int = 0
    missing_images: int = 0


class _Tree(HTMLParser):
    """Builds an element tree, and closes the elements that the source leaves open."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.builder = TreeBuilder()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in _VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open[-1] != tag:
                self.builder.end(self.open.pop())
            self.builder.end(self.open.pop())

    def handle_data(self, data: str) -> None:
        if self.open:
            self.builder.data(data)


def parse_tree(html: str) -> Element:
    """Parses a page and returns its `html` element. Raises ValueError if it contains no element."""
    parser = _Tree()
    parser.feed(html)
    parser.close()
    while parser.open:
        parser.builder.end(parser.open.pop())
    try:
        root = parser.builder.close()
    except AssertionError as error:
        raise ValueError("no HTML element in the page") from error
    for element in list(root.iter()):
        # The "¶" that Sphinx adds after headings.
        for mark in [child for child in element if child.tag == "a" and child.get("class") == "headerlink"]:
            element.remove(mark)
    return root


def clean(text: str) -> str:
    """Normalises white space to single spaces and removes it before punctuation marks."""
    return re.sub(r"\s+([,;:.!?)])", r"\1", " ".join(text.split()))


def plain_text(element: Element) -> str:
    """Returns the text of an element."""
    return clean("".join(element.itertext()))


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Returns start and end of each sentence. "e.g. This" does not end a sentence."""
    spans, start = [], 0
    for gap in _SENTENCE.finditer(text):
        end = gap.start() + len(gap.group().rstrip())
        if not _ABBREVIATION.search(text[start:end]):
            spans.append((start, end))
            start = gap.end()
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def without_number(title: str) -> str:
    """Removes the number of a title: "Figure 14.127. Crop tool" -> "Crop tool"; "4.4. Crop" -> "Crop"."""
    return _NUMBER.sub("", title)


def kinds_of(element: Element) -> set[str]:
    """Returns the tag and the classes of an element."""
    return {element.tag, *element.get("class", "").split()}


def resolve(name: str, href: str) -> tuple[str, str]:
    """Returns the page and the anchor that a link on the page `name` leads to. External addresses have the page ""."""
    path, _, anchor = href.partition("#")
    if "://" in href or path.startswith("mailto:"):
        return "", ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name, anchor


def _id(element: Element) -> str:
    return element.get("id") or (element.get("name", "") if element.tag == "a" else "")


def read_page(name: str, html: str) -> Page:
    """Reads the sections of a page, whose `name` is its path below the manual's folder.

    Raises:
        ValueError: if the page has no body.
    """
    root = parse_tree(html)
    body = root.find(".//*[@role='main']")
    if body is None:
        body = root.find(".//body")
    if body is None:
        raise ValueError(f"{name}: not a page of the manual: it has no <body>")
    up = next((link.get("href", "") for link in root.iter("link") if link.get("rel") == "up"), "")
    title = next((plain_text(element) for element in root.iter("title")), name)
    page = Page(name, resolve(name, up)[0] if up else "")
    _Reader(page).section(body, (without_number(_PRODUCT.sub("", title)),), -1, outermost=True)
    return page


def read_folder(folder: Path, patterns: Sequence[str] = ("*.html",)) -> dict[str, Page]:
    """Reads all pages of a folder, sorted by their path below it. Images whose file is missing are left out.

    Raises:
        FileNotFoundError: if there are no pages.
        ValueError: if a page cannot be read.
    """
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    if not files:
        raise FileNotFoundError(f"{folder} holds no {' or '.join(patterns)}: give the folder of the manual's pages")
    names = [path.relative_to(folder).as_posix() for path in files]
    pages = {name: read_page(name, path.read_text(encoding="utf-8")) for name, path in zip(names, files, strict=True)}
    for page in pages.values():
        for figure in (figure for section in page.sections for figure in section.figures):
            if not figure.title:
                _take_words_of_source(figure, folder)
            there = [image for image in figure.images if (folder / image.file).is_file()]
            page.missing_images += len(figure.images) - len(there)
            figure.images = there
    return pages


def _take_words_of_source(figure: Figure, folder: Path) -> None:
    """Takes a figure's title, and a first sentence as inner caption, from the page of the program that draws it."""
    source = read_page(figure.source, (folder / figure.source).read_text(encoding="utf-8"))
    figure.title = source.sections[0].path[-1]
    text = next((paragraph.text for section in source.sections for paragraph in section.paragraphs), "")
    for image in figure.images:
        image.caption = text[: sentence_spans(text)[0][1]].strip() if text else ""


class _Reader:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.term = ""

    def section(self, element: Element, path: tuple[str, ...], parent: int, outermost: bool = False) -> None:
        number = len(self.page.sections)
        self.page.sections.append(Section(path, parent))
        for child in element:
            self.walk(child, number, outermost)
        self._flush_term(number)

    def walk(self, element: Element, number: int, outermost: bool = False) -> None:
        kinds = kinds_of(element)
        if kinds & {"figure", "informalfigure"}:
            self._figure(element, number)
        elif element.tag == "dl" and (
            "glossary" in kinds or any(e.get("class") == "glossterm" for e in element.iter("span"))
        ):
            self._glossary(element, number)
        elif kinds & _SECTIONS:
            head = element.find("div[@class='titlepage']")
            # The outermost element is the section of the page itself.
            if outermost:
                self._anchors(head, number)
                for child in element:
                    self.walk(child, number)
            else:
                title = next(
                    (plain_text(e) for e in element.iter() if e.get("class") == "title" or e.tag in _HEADINGS), ""
                )
                self._flush_term(number)
                new = len(self.page.sections)
                self.section(element, (*self.page.sections[number].path, without_number(title)), number)
                self._anchors(head, new)
                number = new
            if _id(element):
                self.page.anchors[_id(element)] = number
        elif kinds & _SKIPPED or (element.tag == "div" and "math" in kinds):
            if "titlepage" in kinds:
                self._anchors(element, number)
        elif kinds & _MEDIA:
            self.page.untitled_images += len(list(element.iter("img")))
        elif element.tag in {"th", "hr", "br"} | _HEADINGS:
            self._anchors(element, number)
        elif any(child.tag in _BLOCKS for child in element.iter() if child is not element):
            self._mixed(element, number)
        else:
            self._leaf([element], number)

    def _mixed(self, element: Element, number: int) -> None:
        if _id(element):
            self.page.anchors[_id(element)] = number
        if element.text and element.text.strip():
            self._add(element.text, [], number)
        for child in element:
            self.walk(child, number)
            if child.tail and child.tail.strip():
                self._add(child.tail, [], number)

    def _leaf(self, elements: list[Element], number: int) -> None:
        parts: list[tuple[str, str]] = []
        for element in elements:
            self._anchors(element, number)
            parts += _runs(element)
        # Positions of links refer to the cleaned text, so spaces at the ends of a link belong to the text around it.
        text, links = "", []
        for run, href in parts:
            piece = re.sub(r"\s+", " ", run)
            if not text or text[-1] in " “(":
                piece = piece.lstrip()
            if re.match(r" ?[,;:.!?)”]", piece):
                text, piece = text.rstrip(), piece.lstrip()
            start = len(text)
            text += piece
            page, anchor = resolve(self.page.name, href) if href else ("", "")
            if page and piece.strip():
                links.append(Link(start, len(text.rstrip()), page, anchor))
        if elements[0].tag == "dt":
            if text.strip():
                self.term += (", " if self.term else "") + text.strip().rstrip(":")
        else:
            self._add(text, links, number)

    def _add(self, text: str, links: list[Link], number: int) -> None:
        body = text.rstrip()
        if not re.search(r"\w", body):
            return
        head = f"{self.term}: " if self.term else ""
        self.term = ""
        left = len(body) - len(body.lstrip())
        for link in links:
            link.start += len(head) - left
            link.end += len(head) - left
        plain = " ".join(body.split()) if not links else body.lstrip()
        self.page.sections[number].paragraphs.append(Paragraph(head + plain, links))

    def _flush_term(self, number: int) -> None:
        if self.term:
            term, self.term = self.term, ""
            self._add(term, [], number)

    def _anchors(self, element: Element | None, number: int) -> None:
        for inner in element.iter() if element is not None else ():
            if _id(inner):
                self.page.anchors[_id(inner)] = number

    def _figure(self, element: Element, number: int) -> None:
        ids = {_id(inner) for inner in element.iter()} - {""}
        self.page.anchors.update(dict.fromkeys(ids, number))
        titles = [e for e in element.iter() if e.get("class") == "title" or e.tag == "figcaption"]
        legends = [inner for inner in element.iter("div") if "legend" in kinds_of(inner)]
        title = without_number(plain_text(titles[0])) if titles else ""
        for legend in legends:  # the inner caption of Sphinx, which is part of the outer one
            title = title.removesuffix(plain_text(legend)).strip()
        media = list(_outermost(element, _MEDIA)) or [element]
        found = []
        for medium in media:
            captions = [inner for inner in medium.iter("div") if inner.get("class") == "caption"] + legends
            caption = " ".join(map(plain_text, captions))
            # Captions contain icons among their words.
            icons = {id(image) for inner in captions for image in inner.iter("img")}
            images = [image.get("src", "") for image in medium.iter("img") if id(image) not in icons]
            found += [FigureImage(resolve(self.page.name, image)[0], caption) for image in images if image]
        figures = self.page.sections[number].figures
        place = None
        sources = [
            resolve(self.page.name, e.get("href", ""))[0] for e in element.iter("a") if e.find("img") is not None
        ]
        source = next((page for page in sources if page.endswith(".html")), "")
        if (title or source) and found:
            place = number, len(figures)
            figures.append(Figure(title, found, source))
        else:
            self.page.untitled_images += len(found)
        self.page.figure_anchors.update(dict.fromkeys(ids, place))

    def _glossary(self, element: Element, parent: int) -> None:
        number = parent
        for child in element:
            if child.tag == "dt":
                number = len(self.page.sections)
                self.page.sections.append(Section((*self.page.sections[parent].path, plain_text(child)), parent))
                self._anchors(child, number)
            else:
                self.walk(child, number)


def _outermost(element: Element, kinds: set[str]) -> Iterator[Element]:
    """Yields the elements of these kinds that are not inside another such element."""
    for child in element:
        if kinds_of(child) & kinds:
            yield child
        else:
            yield from _outermost(child, kinds)


def _runs(element: Element, href: str = "") -> Iterator[tuple[str, str]]:
    """Yields words and the address of their link (or "") in the order of the text."""
    if element.tag == "a":
        href = element.get("href", "")
    if element.text:
        yield element.text, href
    for child in element:
        # Footnote marks are not words.
        if child.tag != "sup" or "footnote" not in child.get("class", ""):
            yield from _runs(child, href)
        if child.tag == "br":
            yield " ", ""
        if child.tail:
            yield child.tail, href
