"""Queries of a manual: sentences without the words of links, inner captions, headings, and terms of its index."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..dialogues.phrases import word_list
from .documents import Key, Manual
from .pages import Link, Paragraph, clean, parse_tree, resolve, sentence_spans

# Grades of qrels. The section or image itself is relevant; its subsections or the figure's other images are related.
RELEVANT, RELATED = 2, 1
MIN_CAPTION_WORDS = 5
# "Options" or "Overview" could be the heading of any section.
MIN_HEADING_WORDS = 2
# "See the ... section for more information" without its link asks for nothing.
MIN_CONTENT_WORDS = 4
# "The ... dialog is a dockable dialog; see the section ... for help on manipulating it" is a repeated question.
TEMPLATE_COUNT = 4
_POINTING = frozenset(word_list("pointing words"))


@dataclass
class Query:
    """One query. `relevant` maps documents to grades; `excluded` are the documents that the query was taken from."""

    kind: str
    text: str
    relevant: dict[str, int]
    excluded: list[str] = field(default_factory=list)


def content_words(text: str) -> list[str]:
    """Returns the words to search for, without function words and words that only refer to a section."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in _POINTING and len(word) > 1]


def link_sentences(manual: Manual) -> Iterator[tuple[str, Paragraph, list[Link], int, int]]:
    """Yields (page, paragraph, links, start, end) of each sentence with links."""
    for name in sorted(manual.kept, key=list(manual.pages).index):
        for paragraph in (paragraph for section in manual.pages[name].sections for paragraph in section.paragraphs):
            for start, end in sentence_spans(paragraph.text):
                links = [link for link in paragraph.links if start <= link.start < end]
                if links:
                    yield name, paragraph, links, start, end


def link_queries(manual: Manual) -> list[Query]:
    """Makes queries of sentences that link to sections of other pages. The words of the links are removed.

    The passages of all linked sections are relevant (with grade 1 in their subsections). The passages that contain the
    sentence are excluded.
    """
    report = manual.report
    found: dict[str, Query] = {}
    for name, paragraph, all_links, start, end in link_sentences(manual):
        links = [link for link in all_links if link.page != name]
        if not links:
            continue
        report["link sentences"] += 1
        targets = [link_target(manual, link) for link in links]
        relevant = graded_passages(manual, (key for key in targets if key))
        text = _without_links(paragraph, links, start, end)
        if not relevant:
            report["link sentences that lead to a figure, a source, or a section without passages"] += 1
        elif len(set(content_words(text))) < MIN_CONTENT_WORDS:
            report["link sentences with too few words left"] += 1
        elif text in found:
            report["link sentences that repeat another"] += 1
            for doc, grade in relevant.items():
                found[text].relevant[doc] = max(grade, found[text].relevant.get(doc, 0))
            found[text].excluded += manual.paragraph_documents[paragraph.text]
        else:
            found[text] = Query("text", text, relevant, list(manual.paragraph_documents[paragraph.text]))
    openings = Counter(_opening(text) for text in found)
    templates = [text for text in found if openings[_opening(text)] >= TEMPLATE_COUNT]
    report["link sentences of one form with three or more others"] = len(templates)
    for text in templates:
        del found[text]
    for query in found.values():
        query.excluded = sorted(set(query.excluded))
        query.relevant = {doc: grade for doc, grade in query.relevant.items() if doc not in query.excluded}
    return [query for query in found.values() if query.relevant]


def figure_sentences(manual: Manual) -> list[Query]:
    """Makes queries of sentences that link to a figure. The words of the links are removed.

    The images of the figure are relevant. The passages that contain the sentence are excluded.
    """
    found: dict[str, Query] = {}
    for _, paragraph, links, start, end in link_sentences(manual):
        images: list[str] = []
        for link in links:
            page = manual.pages.get(link.page)
            place = page.figure_anchors.get(link.anchor) if page is not None and link.page in manual.kept else None
            if place is not None:
                images += manual.figures.get((link.page, *place), [])
        images = [doc for doc in images if not manual.documents[doc].shared]
        text = _without_links(paragraph, links, start, end)
        if images and len(set(content_words(text))) >= MIN_CONTENT_WORDS:
            query = found.setdefault(text, Query("figure", text, {}))
            query.relevant |= dict.fromkeys(images, RELEVANT)
            query.excluded = sorted({*query.excluded, *manual.paragraph_documents[paragraph.text]})
    manual.report["sentences that link to a figure"] = len(found)
    return list(found.values())


def heading_queries(manual: Manual) -> list[Query]:
    """Makes queries of headings that occur once in the manual.

    The passages of their section are relevant, with grade 1 in its subsections.
    """
    places: dict[str, list[Key]] = defaultdict(list)
    labels = re.compile(manual.description.labels)
    for name in manual.pages:
        for number, section in enumerate(manual.pages[name].sections if name in manual.kept else ()):
            if name != manual.description.glossary:
                places[labels.sub("", section.path[-1], count=1)].append((name, number))
    queries = []
    for heading, keys in places.items():
        relevant = graded_passages(manual, keys)
        if len(keys) == 1 and relevant and len(set(content_words(heading))) >= MIN_HEADING_WORDS:
            queries.append(Query("heading", heading, relevant))
    manual.report["headings that stand several times, hold under two content words or lead to no passage"] = len(
        places
    ) - len(queries)
    return queries


def figure_queries(manual: Manual) -> list[Query]:
    """Makes queries of inner captions. Their image has grade 2, the other images of its figure have grade 1."""
    report = manual.report
    captions: dict[str, list] = defaultdict(list)
    for image in manual.images:
        if image.caption:
            captions[image.caption].append(image)
    queries = []
    for caption, images in captions.items():
        if len(re.findall(r"\w+", caption)) < MIN_CAPTION_WORDS:
            report["captions under five words"] += len(images)
            continue
        report["captions of five words or more"] += len(images)
        usable = [image for image in images if not manual.documents[image.doc_id].shared]
        if not usable:
            report["captions of images in several figures"] += len(images)
            continue
        figures = {frozenset([image.doc_id, *image.siblings]) for image in images}
        if len(figures) > 1 or len(usable) < len(images):
            report["captions of several figures"] += len(images)
            continue
        siblings = [doc for image in usable for doc in image.siblings if not manual.documents[doc].shared]
        relevant = dict.fromkeys(siblings, RELATED) | {image.doc_id: RELEVANT for image in usable}
        report["captions that repeat another of their figure"] += len(images) - 1
        queries.append(Query("figure", caption, relevant))
    return queries


def navigational_queries(manual: Manual, index_html: str) -> list[Query]:
    """Makes queries of the terms of the index and the glossary, which lead to sections.

    The term of a sub-entry follows the term of its entry.
    """
    report, glossary = manual.report, manual.description.glossary
    targets: dict[str, set[Key]] = defaultdict(set)
    for term, links in index_entries(index_html, manual.description.index):
        report["index entries"] += 1
        for link in links:
            key = link_target(manual, link)
            # Where the index links to the glossary, it names only the page. The terms of the glossary are added below.
            if key and key != (glossary, 0):
                targets[term].add(key)
        if term not in targets:
            report["index entries that lead to the glossary alone"] += 1
    if glossary in manual.pages:
        for number, section in enumerate(manual.pages[glossary].sections[1:], start=1):
            report["glossary entries"] += 1
            targets[section.path[-1]].add((glossary, number))
    queries = []
    for term, keys in targets.items():
        relevant = graded_passages(manual, sorted(keys))
        if relevant:
            queries.append(Query("navigational", term, relevant))
        else:
            report["terms whose sections have no passages"] += 1
    return queries


def index_entries(html: str, name: str) -> Iterator[tuple[str, list[Link]]]:
    """Yields (term, links) of the index, which is the page `name`. The term of a sub-entry is "entry, sub-entry"."""
    if not html:
        return
    for division in (element for element in parse_tree(html).iter("div") if element.get("class") == "indexdiv"):
        for entries in division.findall("dl"):
            yield from _entries(entries, "", name)


def _entries(element, above: str, name: str) -> Iterator[tuple[str, list[Link]]]:
    term = above
    for child in element:
        if child.tag == "dt":
            hrefs = [a.get("href", "") for a in child.findall("a") if a.get("class") == "indexterm"]
            links = [Link(0, 0, *resolve(name, href)) for href in hrefs]
            own = clean(child.text or "").rstrip(", ")
            term = f"{above}, {own}" if above else own
            # "See" and "see also" link to other entries of the index.
            if own and links and not own.lower().startswith("see "):
                yield term, links
        elif child.tag == "dd":
            for inner in child.findall("dl"):
                yield from _entries(inner, term, name)


def lead_pairs(manual: Manual, chapters: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (first sentence, rest, passage) of passages in some chapters.

    Both texts have at least five content words.
    """
    wanted = set(chapters)
    for document in manual.documents.values():
        if document.kind != "text" or document.shared or document.chapter not in wanted:
            continue
        first_end = sentence_spans(document.text)[0][1]
        first, rest = document.text[:first_end].strip(), document.text[first_end:].strip()
        if min(len(content_words(first)), len(content_words(rest))) >= 5:
            yield first, rest, document.doc_id


def graded_passages(manual: Manual, keys: Iterable[Key]) -> dict[str, int]:
    """Returns the grades of the passages of some sections by id."""
    relevant: dict[str, int] = {}
    for key in keys:
        own, further = manual.passages_of(key)
        for grade, documents in ((RELEVANT, own), (RELATED, further)):
            for doc in documents:
                relevant[doc] = max(grade, relevant.get(doc, 0))
    return relevant


def _opening(text: str) -> str:
    # Sentences of one form differ in their names.
    unnamed = re.sub(r"“[^”]*”|(?<!^)\b[A-Z]\w*", "", text)
    return " ".join(re.findall(r"\w+", unnamed.lower())[:6])


def link_target(manual: Manual, link: Link) -> Key | None:
    """Returns the section that a link leads to, or None for a figure or a target outside the manual."""
    if link.page not in manual.kept:
        return None
    page = manual.pages[link.page]
    if not link.anchor:
        return link.page, 0
    if link.anchor in page.figure_anchors or link.anchor not in page.anchors:
        return None
    return link.page, page.anchors[link.anchor]


def _without_links(paragraph: Paragraph, links: list[Link], start: int, end: int) -> str:
    text, position = "", start
    for link in sorted(links, key=lambda link: link.start):
        text += paragraph.text[position : link.start] + " "
        position = max(position, min(link.end, end))
    text += paragraph.text[position:end]
    # Removes brackets and quotation marks that held only the link.
    text = re.sub(r"[(\[“\"]\s*[)\]”\"]", " ", text)
    text = re.sub(r",(?:\s*,)+", ",", clean(text)).strip(" ,;:")
    return re.sub(r"[,;:]+(?=[.!?]$)", "", text)
