"""Builds the tables of a manual in the MTEB layout, and keeps them in the cache."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Value
from datasets import List as ListFeature

from modeling_unimur.data.cache import build_once, cache_dir

from ..packages import debian_package
from .descriptions import Description
from .documents import Manual, build_documents
from .generated import generated_queries
from .pages import read_folder
from .queries import (
    Query,
    figure_queries,
    figure_sentences,
    heading_queries,
    lead_pairs,
    link_queries,
    navigational_queries,
)
from .splits import SHARES, query_split, split_chapters

logger = logging.getLogger(__name__)

_STRING = Value("string")
QUERY_FEATURES = Features(
    {"query_id": _STRING, "kind": _STRING, "text": _STRING, "split": _STRING, "excluded": ListFeature(_STRING)}
)
CORPUS_FEATURES = Features(dict.fromkeys(("doc_id", "kind", "text", "image", "section", "chapter"), _STRING))
QREL_FEATURES = Features({"query_id": _STRING, "doc_id": _STRING, "score": Value("int32")})
PAIR_FEATURES = Features({"query_id": _STRING, "text": _STRING, "positive": _STRING, "doc_id": _STRING})
_FEATURES = {"corpus": CORPUS_FEATURES, "pairs": PAIR_FEATURES}
for _prefix in ("", "navigational_", "heading_", "generated_"):
    _FEATURES |= {f"{_prefix}queries": QUERY_FEATURES, f"{_prefix}qrels": QREL_FEATURES}
_TRAINING = ("pairs", "generated_queries", "generated_qrels")
_SPLITS = {name: tuple(SHARES) for name in _FEATURES} | {"corpus": ("corpus",)} | dict.fromkeys(_TRAINING, ("train",))

Rows = dict[str, dict[str, list[dict[str, Any]]]]
"""Rows of each split of each table."""


def load_manual(description: Description) -> dict[str, DatasetDict]:
    """Reads a manual as a retrieval set over passages and images.

    Returns:
        The tables `queries` and `qrels` with the splits train, validation and test; `corpus` with one split of that
        name, which all queries search; tables of queries and qrels whose names begin with `navigational_`, `heading_`
        and `generated_`; and `pairs`. The column `excluded` of a query holds the passages that it was taken from. The
        `text` of a document is that of a passage or the title of an image's figure, and its `section` holds titles
        from the outermost section inwards.

    Raises:
        PackageUnavailable: if apt cannot download the package.
        FileNotFoundError: if the package holds no pages.
        ValueError: if a page cannot be read.
    """
    folder = manual_folder(description)

    def build(target: Path) -> None:
        write_tables(read_manual(folder, description), target)

    stored = build_once(cache_dir() / "data" / f"{description.name}-{description.version}", build)
    return read_tables(stored, folder)


def manual_folder(description: Description) -> Path:
    """Returns the folder of a manual's pages, which are downloaded if needed. Raises what `load_manual` raises."""
    package = debian_package(description.package)
    found = sorted(package.glob(description.folder))
    if not found:
        raise FileNotFoundError(f"{package} holds no {description.folder}: remove it, and it is fetched again")
    return found[-1]


def read_manual(folder: Path, description: Description) -> Rows:
    """Builds all tables from a folder of a manual's pages. Raises what `load_manual` raises.

    Images are paths below the folder. The numbers of dropped rows are logged.
    """
    manual = build_documents(description, read_folder(folder, description.pages))
    index = folder / description.index if description.index else None
    index_html = index.read_text(encoding="utf-8") if index is not None and index.is_file() else ""
    headings, terms = heading_queries(manual), navigational_queries(manual, index_html)
    queries = [*link_queries(manual), *figure_queries(manual)]
    if description.asks_by_figures:
        queries += figure_sentences(manual)
    if description.asks_by_headings:
        queries += headings
    split_of = split_chapters(manual, queries)
    rows: Rows = {name: {split: [] for split in splits} for name, splits in _SPLITS.items()}
    _add_queries(rows, "", manual, queries, split_of)
    _add_queries(rows, "navigational_", manual, terms, split_of)
    _add_queries(rows, "heading_", manual, headings, split_of)
    generated = generated_queries(manual, [*queries, *headings, *terms], split_of)
    _add_queries(rows, "generated_", manual, generated, split_of)
    rows["corpus"]["corpus"] = [
        {name: getattr(document, name) for name in CORPUS_FEATURES} for document in manual.documents.values()
    ]
    training = [chapter for chapter, split in split_of.items() if split == "train"]
    rows["pairs"]["train"] = [
        {"query_id": f"lead-{doc_id}", "text": first, "positive": rest, "doc_id": doc_id}
        for first, rest, doc_id in lead_pairs(manual, training)
    ]
    counts = {name: {split: len(table) for split, table in tables.items()} for name, tables in rows.items()}
    logger.info("%s: %s; %s", description.name, counts, dict(manual.report))
    return rows


def _add_queries(rows: Rows, prefix: str, manual: Manual, queries: Iterable[Query], split_of: dict[str, str]) -> None:
    numbers: Counter = Counter()
    for query in queries:
        split = query_split(manual, query, split_of)
        if split is None:
            manual.report[f"{query.kind} queries that lead into several splits"] += 1
            continue
        query_id = f"{query.kind}-{numbers[query.kind]}"
        numbers[query.kind] += 1
        row = {"query_id": query_id, "kind": query.kind, "text": query.text, "split": split}
        rows[f"{prefix}queries"][split].append(row | {"excluded": query.excluded})
        rows[f"{prefix}qrels"][split] += [
            {"query_id": query_id, "doc_id": doc, "score": grade} for doc, grade in query.relevant.items()
        ]


def write_tables(rows: Rows, folder: Path) -> None:
    """Writes one parquet file for each table and split."""
    for name, tables in rows.items():
        schema = _FEATURES[name].arrow_schema.remove_metadata()
        for split, table in tables.items():
            pq.write_table(pa.Table.from_pylist(table, schema=schema), folder / f"{name}-{split}.parquet")


def read_tables(folder: Path, manual: Path) -> dict[str, DatasetDict]:
    """Reads the files of `write_tables`. Paths of images are made absolute with the folder `manual`."""
    found: dict[str, DatasetDict] = {}
    for name, splits in _SPLITS.items():
        found[name] = DatasetDict()
        for split in splits:
            columns = pq.read_table(folder / f"{name}-{split}.parquet").to_pydict()
            if name == "corpus":
                columns["image"] = [path and str(manual / path) for path in columns["image"]]
            found[name][split] = Dataset.from_dict(columns, features=_FEATURES[name])
    return found
