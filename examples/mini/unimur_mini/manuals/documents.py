"""Makes documents of sections: passages of text, and images with the title of their figure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from .descriptions import Description
from .pages import Page, Paragraph

LONE_WORDS = 8
# "TODO", "Options" or "General" are not passages.
MIN_PASSAGE_WORDS = 4
Key = tuple[str, int]
"""Name of a page, and number of the section on it."""


@dataclass
class Document:
    """A passage, whose `image` is "", or an image, whose `text` is the title of its figure."""

    doc_id: str
    kind: str
    text: str
    image: str
    section: str
    chapter: str
    shared: bool = False


@dataclass
class PlacedImage:
    """An image in a figure: its document, the other documents of the figure, and its inner caption."""

    doc_id: str
    siblings: list[str]
    caption: str
    chapter: str


@dataclass
class Manual:
    """The documents of a manual and their places. Documents of several sections (`shared`) identify none of them."""

    description: Description
    pages: dict[str, Page]
    kept: frozenset[str]
    documents: dict[str, Document] = field(default_factory=dict)
    passages: dict[Key, list[str]] = field(default_factory=lambda: defaultdict(list))
    paragraph_documents: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    images: list[PlacedImage] = field(default_factory=list)
    figures: dict[tuple[str, int, int], list[str]] = field(default_factory=dict)
    report: Counter = field(default_factory=Counter)

    def passages_of(self, key: Key) -> tuple[list[str], list[str]]:
        """Returns the passages of a section before its subsections, and the passages of its subsections.

        If there are none before the subsections, those of the first subsection ("Overview") take their place.
        """
        sections = self.pages[key[0]].sections
        inner = [number for number, section in enumerate(sections) if section.parent == key[1]]
        own, further = list(self.passages.get(key, [])), []
        for number in inner:
            first, rest = self.passages_of((key[0], number))
            if own:
                further += first + rest
            else:
                own, further = first, further + rest
        return own, further


def page_chain(pages: dict[str, Page], name: str) -> list[str]:
    """Returns the page and the pages above it except the book's first page, outermost first.

    Raises:
        ValueError: if the pages form a circle.
    """
    chain = [name]
    while (up := pages[chain[-1]].up) in pages and not f"/{up}".endswith("/index.html"):
        if up in chain:
            raise ValueError(f"{name}: its way up comes back to {up}")
        chain.append(up)
    return chain[::-1]


def chapter_of(description: Description, pages: dict[str, Page], name: str) -> str:
    """Returns the title of the page's chapter or appendix, and in a divided chapter of the chapter and its group."""
    chain = page_chain(pages, name)
    title = {part: pages[part].sections[0].path[0] for part in chain}
    # Parts contain chapters; the book also contains appendices.
    level = 1 if len(chain) > 1 and chain[0] in description.parts else 0
    chapter = title[chain[level]]
    if chain[level] in description.divided and len(chain) > level + 1:
        chapter += f": {title[chain[level + 1]]}"
    return chapter


def build_documents(description: Description, pages: dict[str, Page]) -> Manual:
    """Builds passages and images of all pages. `report` counts what was merged or left out."""
    kept = [name for name in pages if not re.fullmatch(description.left_out, name)]
    manual = Manual(description, pages, frozenset(kept))
    manual.report["pages left out"] = len(pages) - len(kept)
    stands: dict[str, set[Key]] = defaultdict(set)
    for name in kept:
        for number, section in enumerate(pages[name].sections):
            for paragraph in section.paragraphs:
                stands[paragraph.text].add((name, number))
    repeated = {text for text, keys in stands.items() if len(keys) > 1}
    shared: dict[str, str] = {}
    for name in kept:
        chapter = chapter_of(description, pages, name)
        chain = [pages[part].sections[0].path[0] for part in page_chain(pages, name)[:-1]]
        manual.report["images whose file is absent"] += pages[name].missing_images
        manual.report["images without a title"] += pages[name].untitled_images
        for number, section in enumerate(pages[name].sections):
            path = " > ".join([*chain, *section.path])
            stem = f"{name.removesuffix('.html').replace('/', '-')}-{number}"
            groups = _pack([p for p in section.paragraphs if p.text not in repeated], description.passage_words)
            long_enough = [group for group in groups if len(" ".join(group).split()) >= MIN_PASSAGE_WORDS]
            manual.report["passages under four words"] += len(groups) - len(long_enough)
            for count, group in enumerate(long_enough):
                document = Document(f"text-{stem}-{count}", "text", " ".join(group), "", path, chapter)
                manual.documents[document.doc_id] = document
                manual.passages[name, number].append(document.doc_id)
                for text in group:
                    manual.paragraph_documents[text].append(document.doc_id)
            for text in (p.text for p in section.paragraphs if p.text in repeated):
                manual.report["repeated paragraphs"] += 1
                if text not in shared and len(text.split()) >= MIN_PASSAGE_WORDS:
                    shared[text] = f"text-shared-{len(shared)}"
                    document = Document(shared[text], "text", text, "", path, chapter, shared=True)
                    manual.documents[document.doc_id] = document
                    manual.paragraph_documents[text].append(document.doc_id)
    manual.report["documents they became"] = len(shared)
    _add_images(manual, kept)
    return manual


def _pack(paragraphs: list[Paragraph], most_words: int) -> list[list[str]]:
    groups: list[list[str]] = []
    words = 0
    for paragraph in paragraphs:
        length = len(paragraph.text.split())
        # A line that only introduces the next paragraph, or ends the previous one, stays with it.
        if groups and (words + length <= most_words or min(words, length) < LONE_WORDS):
            groups[-1].append(paragraph.text)
            words += length
        else:
            groups.append([paragraph.text])
            words = length
    return groups


def _add_images(manual: Manual, kept: list[str]) -> None:
    found: dict[tuple[str, str], Document] = {}
    places: dict[str, set[tuple[str, int, int]]] = defaultdict(set)
    for name in kept:
        chapter = chapter_of(manual.description, manual.pages, name)
        chain = [manual.pages[part].sections[0].path[0] for part in page_chain(manual.pages, name)[:-1]]
        for number, section in enumerate(manual.pages[name].sections):
            for count, figure in enumerate(section.figures):
                path = " > ".join([*chain, *section.path])
                ids = []
                for image in figure.images:
                    content = figure.title, image.file
                    if content not in found:
                        stem = name.removesuffix(".html").replace("/", "-")
                        doc_id = f"image-{stem}-{number}-{count}-{len(ids)}"
                        found[content] = Document(doc_id, "image", figure.title, image.file, path, chapter)
                        manual.documents[doc_id] = found[content]
                    else:
                        manual.report["repeated images of one title"] += 1
                    ids.append(found[content].doc_id)
                    # For an image in two figures, it is unknown which of them a caption means.
                    places[image.file].add((name, number, count))
                manual.figures[name, number, count] = ids
                for doc_id, image in zip(ids, figure.images, strict=True):
                    siblings = [other for other in dict.fromkeys(ids) if other != doc_id]
                    manual.images.append(PlacedImage(doc_id, siblings, image.caption, chapter))
    for document in found.values():
        document.shared = len(places[document.image]) > 1
    manual.report["images in several figures"] = sum(len(where) > 1 for where in places.values())
