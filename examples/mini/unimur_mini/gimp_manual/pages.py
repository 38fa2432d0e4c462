"""The manual's pages (DocBook's XHTML), read into sections with paragraphs, links and figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

_VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta"}
_SECTIONS = {"appendix", "chapter", "part", "preface", "refentry", "reference", "simplesect", "glossary"} | {
    f"sect{level}" for level in range(1, 6)
}
# Navigation, repeated tables of contents, and sources of single words.
_SKIPPED = {"navheader", "navfooter", "titlepage", "toc", "footnotes", "equation", "informalequation"}
_BLOCKS = {"blockquote", "div", "dl", "dt", "dd", "li", "ol", "p", "pre", "table", "tbody", "td", "th", "tr", "ul"}
_NUMBER = re.compile(r"^(?:(?:Chapter|Appendix|Part|Figure)\s+)?(?:[0-9]+|[A-Z]|[IVX]+)(?:\.[0-9]+)*\.\s+")


@dataclass
class Link:
    """Words of a paragraph (`start`, `end` into its text) that lead to `page`, to the element `anchor` of it."""

    start: int
    end: int
    page: str
    anchor: str


@dataclass
class Paragraph:
    """One paragraph, list item or described term; white space is single spaces."""

    text: str
    links: list[Link] = field(default_factory=list)


@dataclass
class Picture:
    """An image of a figure: its path below the manual's folder and its inner caption, "" where it has none."""

    image: str
    caption: str


@dataclass
class Figure:
    """A titled figure; it may show several images."""

    title: str
    pictures: list[Picture]


@dataclass
class Section:
    """A section without its subsections, which are sections of their own.

    `path` holds the titles from the section's page down to the section; `parent` is its number in `Page.sections`,
    -1 for the first.
    """

    path: tuple[str, ...]
    parent: int = -1
    paragraphs: list[Paragraph] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Page:
    """One file. `anchors` gives the section (its number in `sections`) in which each id stands."""

    name: str
    up: str
    sections: list[Section] = field(default_factory=list)
    anchors: dict[str, int] = field(default_factory=dict)
    figure_anchors: set[str] = field(default_factory=set)
    untitled_pictures: int = 0
    missing_pictures: int = 0


class _Tree(HTMLParser):
    """Feeds an element tree; closes what the source leaves open."""

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

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open[-1] != tag:
                self.builder.end(self.open.pop())
            self.builder.end(self.open.pop())

    def handle_data(self, data: str) -> None:
        if self.open:
            self.builder.data(data)


def parse_tree(html: str) -> Element:
    """The `html` element of a page.

    Raises:
        ValueError: there is no element in it.
    """
    parser = _Tree()
    parser.feed(html)
    parser.close()
    while parser.open:
        parser.builder.end(parser.open.pop())
    try:
        return parser.builder.close()
    except AssertionError as error:
        raise ValueError("no HTML element in the page") from error


def clean(text: str) -> str:
    """Single spaces, and none before a mark."""
    return re.sub(r"\s+([,;:.!?)])", r"\1", " ".join(text.split()))


def plain_text(element: Element) -> str:
    """The element's words."""
    return clean("".join(element.itertext()))


def without_number(title: str) -> str:
    """ "Figure 14.127. Crop tool" -> "Crop tool"; "4.4. Crop" -> "Crop"."""
    return _NUMBER.sub("", title)


def read_page(name: str, html: str) -> Page:
    """Sections of one page.

    Args:
        name: the file's name, as links spell it.
        html: its content.

    Raises:
        ValueError: the page has no body; the message names it.
    """
    root = parse_tree(html)
    body = root.find(".//body")
    if body is None:
        raise ValueError(f"{name}: not a page of the manual: it has no <body>")
    up = next((link.get("href", "") for link in root.iter("link") if link.get("rel") == "up"), "")
    title = next((plain_text(element) for element in root.iter("title")), name)
    page = Page(name, up)
    _Reader(page).section(body, (without_number(title),), -1, outermost=True)
    return page


def read_folder(folder: Path) -> dict[str, Page]:
    """Every page of the folder by name, in the order of the names; images whose file is absent are left out.

    Raises:
        FileNotFoundError: no page is there.
        ValueError: a page cannot be read.
    """
    files = sorted(folder.glob("*.html"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no .html file: give the folder of the GIMP manual's pages")
    pages = {path.name: read_page(path.name, path.read_text(encoding="utf-8")) for path in files}
    for page in pages.values():
        for figure in (figure for section in page.sections for figure in section.figures):
            there = [picture for picture in figure.pictures if (folder / picture.image).is_file()]
            page.missing_pictures += len(figure.pictures) - len(there)
            figure.pictures = there
    return pages


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
        kind = element.get("class", "")
        if kind in _SECTIONS:
            # The page's own element is the section that the page is.
            if outermost:
                self._anchors(element.find("div[@class='titlepage']"), number)
                for child in element:
                    self.walk(child, number)
            else:
                head = element.find("div[@class='titlepage']")
                title = next((plain_text(e) for e in element.iter() if e.get("class") == "title"), "")
                self._flush_term(number)
                new = len(self.page.sections)
                self.section(element, (*self.page.sections[number].path, without_number(title)), number)
                self._anchors(head, new)
                if element.get("id"):
                    self.page.anchors[element.get("id", "")] = new
        elif kind in _SKIPPED:
            if kind == "titlepage":
                self._anchors(element, number)
        elif kind in {"figure", "informalfigure"}:
            self._figure(element, number)
        elif kind in {"mediaobject", "screenshot"}:
            self.page.untitled_pictures += len(list(element.iter("img")))
        elif element.tag == "dl" and any(e.get("class") == "glossterm" for e in element.iter("span")):
            self._glossary(element, number)
        elif element.tag in {"th", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "br"}:
            self._anchors(element, number)
        elif any(child.tag in _BLOCKS for child in element.iter() if child is not element):
            self._mixed(element, number)
        else:
            self._leaf([element], number)

    def _mixed(self, element: Element, number: int) -> None:
        if element.get("id"):
            self.page.anchors[element.get("id", "")] = number
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
        # Positions of links are counted in the cleaned text, so that a link's spaces belong to what is around it.
        text, links = "", []
        for run, href in parts:
            piece = re.sub(r"\s+", " ", run)
            if not text or text[-1] in " “(":
                piece = piece.lstrip()
            if re.match(r" ?[,;:.!?)”]", piece):
                text, piece = text.rstrip(), piece.lstrip()
            start = len(text)
            text += piece
            page, _, anchor = href.partition("#")
            if href and "://" not in href and page and page != self.page.name and piece.strip():
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
            if inner.get("id"):
                self.page.anchors[inner.get("id", "")] = number

    def _figure(self, element: Element, number: int) -> None:
        ids = {inner.get("id", "") for inner in element.iter() if inner.get("id")}
        self.page.figure_anchors |= ids
        self.page.anchors.update(dict.fromkeys(ids, number))
        title = without_number(next((plain_text(e) for e in element.iter("p") if e.get("class") == "title"), ""))
        pictures = []
        for media in (inner for inner in element.iter() if inner.get("class") in {"mediaobject", "screenshot"}):
            captions = [inner for inner in media.iter("div") if inner.get("class") == "caption"]
            caption = " ".join(map(plain_text, captions))
            # Among a caption's words stand icons.
            icons = {id(image) for inner in captions for image in inner.iter("img")}
            images = [image.get("src", "") for image in media.iter("img") if id(image) not in icons]
            pictures += [Picture(image, caption) for image in images if image]
        if title and pictures:
            self.page.sections[number].figures.append(Figure(title, pictures))
        else:
            self.page.untitled_pictures += len(pictures)

    def _glossary(self, element: Element, parent: int) -> None:
        number = parent
        for child in element:
            if child.tag == "dt":
                number = len(self.page.sections)
                self.page.sections.append(Section((*self.page.sections[parent].path, plain_text(child)), parent))
                self._anchors(child, number)
            else:
                self.walk(child, number)


def _runs(element: Element, href: str = "") -> Iterator[tuple[str, str]]:
    """(words, the link's address or "") in the order of the text."""
    if element.tag == "a":
        href = element.get("href", "")
    if element.text:
        yield element.text, href
    for child in element:
        # Marks of footnotes are not words.
        if child.tag != "sup" or "footnote" not in child.get("class", ""):
            yield from _runs(child, href)
        if child.tag == "br":
            yield " ", ""
        if child.tail:
            yield child.tail, href
