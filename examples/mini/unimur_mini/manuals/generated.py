"""Questions generated from a manual's training chapters: titles, link texts and first sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from .documents import Manual
from .pages import sentence_spans
from .queries import RELEVANT, Query, content_words, graded_passages, link_sentences, link_target
from .splits import query_split

MIN_WORDS = 2
MIN_LEAD_WORDS = 5


def generated_queries(manual: Manual, asked: Iterable[Query], split_of: Mapping[str, str]) -> list[Query]:
    """Generates questions of the kinds `title`, `link` and `lead`, without questions of other tables (`asked`)."""
    asked = list(asked)
    held_out = {
        doc for query in asked if query_split(manual, query, split_of) != "train"
        for doc in (*query.relevant, *query.excluded)
    }  # fmt: skip
    allowed = {
        doc_id
        for doc_id, document in manual.documents.items()
        if document.kind == "text"
        and not document.shared
        and split_of[document.chapter] == "train"
        and doc_id not in held_out
    }
    taken = {_key(query.text) for query in asked}
    found: dict[str, Query] = {}
    for query in (*_titles(manual, allowed), *_links(manual, allowed), *_leads(manual, allowed)):
        key = _key(query.text)
        if key in taken or len(set(content_words(query.text))) < MIN_WORDS:
            continue
        if key in found:  # a question of several sections has several answers
            found[key].relevant |= query.relevant
            found[key].excluded += query.excluded
        else:
            found[key] = query
    for query in found.values():
        query.excluded = sorted(set(query.excluded) - query.relevant.keys())
    return list(found.values())


def section_title(section: str) -> str:
    """Returns the title of a section, followed by the title of the section that contains it."""
    return ", ".join(reversed(section.split(" > ")[-2:]))


def _sections(manual: Manual, allowed: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for doc_id in manual.documents:
        if doc_id in allowed:
            found[manual.documents[doc_id].section].append(doc_id)
    return found


def _titles(manual: Manual, allowed: set[str]) -> Iterator[Query]:
    for section, docs in _sections(manual, allowed).items():
        yield Query("title", section_title(section), dict.fromkeys(docs, RELEVANT))


def _leads(manual: Manual, allowed: set[str]) -> Iterator[Query]:
    for docs in _sections(manual, allowed).values():
        for doc_id in docs if len(docs) > 1 else ():
            text = manual.documents[doc_id].text
            start, end = sentence_spans(text)[0]
            lead = text[start:end].strip()
            if len(content_words(lead)) >= MIN_LEAD_WORDS:
                yield Query("lead", lead, {doc: RELEVANT for doc in docs if doc != doc_id}, [doc_id])


def _links(manual: Manual, allowed: set[str]) -> Iterator[Query]:
    for name, paragraph, links, _, end in link_sentences(manual):
        sources = manual.paragraph_documents[paragraph.text]
        for link in links:
            key = link_target(manual, link) if link.page != name else None
            relevant = {} if key is None else graded_passages(manual, [key])
            answers = {doc: grade for doc, grade in relevant.items() if doc in allowed and doc not in sources}
            if RELEVANT in answers.values() and allowed.issuperset(sources):
                yield Query("link", paragraph.text[link.start : min(link.end, end)].strip(), answers, list(sources))


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
