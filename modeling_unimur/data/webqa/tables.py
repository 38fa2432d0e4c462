"""From documents and questions to the tables of a retrieval set, a batch of rows in memory at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict, astuple
from pathlib import Path

import pyarrow as pa
from datasets.arrow_writer import ParquetWriter
from tqdm.auto import tqdm

from ..image_bytes import read_image_bytes
from .layouts import Document, Question

logger = logging.getLogger(__name__)

REPORT_FILE = "report.json"
DEDUPLICATE = ("none", "texts", "all")
_CORPUS = pa.schema([(name, pa.string()) for name in ("doc_id", "kind", "text", "image", "title")])
_IDS = pa.list_(pa.string())
_OF_SPLIT = {
    "queries": pa.schema([(name, pa.string()) for name in ("query_id", "text", "kind")]),
    "qrels": pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.int32())]),
    "hard_negatives": pa.schema([("query_id", pa.string()), ("image", _IDS), ("text", _IDS)]),
}


class _Spilled:
    """Documents and questions in a database on disk, and which documents stay: the last mention of an id, and of equal
    contents (by `deduplicate` of `write_tables`) the first."""

    def __init__(self, path: Path, deduplicate: str):
        self.deduplicate, self.unreadable = deduplicate, 0
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32000;
            CREATE TABLE documents (place INTEGER PRIMARY KEY, doc_id TEXT UNIQUE, kind TEXT, text TEXT, image TEXT,
                                    title TEXT, content BLOB);
            CREATE TABLE questions (place INTEGER PRIMARY KEY, record TEXT);
            BEGIN;
            """
        )

    def add(self, place: int, record: Document | Question) -> None:
        """Takes a record; `place` is its number among all."""
        if isinstance(record, Question):
            self.database.execute("INSERT INTO questions VALUES (?, ?)", (place, json.dumps(asdict(record))))
            return
        row = (place, *astuple(record), self._content(record))
        self.database.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def _content(self, document: Document) -> bytes:
        if document.kind == "text" and self.deduplicate != "none":
            return _digest(b"text", document.text.encode("utf-8", "surrogatepass"))
        if self.deduplicate == "all" and document.image:
            try:
                caption = document.text.encode("utf-8", "surrogatepass")
                return _digest(b"image", caption, read_image_bytes(document.image))
            except (OSError, ValueError):
                self.unreadable += 1
        return _digest(b"id", document.doc_id.encode("utf-8", "surrogatepass"))

    def resolve(self) -> int:
        """Decides what stays of all documents so far; returns the number of ids that another id stands for."""
        self.database.execute(
            "CREATE TABLE stays AS SELECT content, MIN(place) AS first FROM documents GROUP BY content"
        )
        self.database.execute("CREATE UNIQUE INDEX by_content ON stays (content)")
        query = "SELECT (SELECT COUNT(*) FROM documents) - (SELECT COUNT(*) FROM stays)"
        return self.database.execute(query).fetchone()[0]

    def corpus(self) -> Iterable[dict]:
        """The documents that stay, in the order of their places."""
        columns = ", ".join(_CORPUS.names)
        query = f"SELECT {columns} FROM documents JOIN stays ON place = first ORDER BY place"
        return (dict(zip(_CORPUS.names, row, strict=True)) for row in self.database.execute(query))

    def questions(self) -> Iterable[Question]:
        """All questions in their order."""
        for (record,) in self.database.execute("SELECT record FROM questions ORDER BY place"):
            yield Question(**json.loads(record))

    def document(self, doc_id: str) -> str | None:
        """The id of the document that stands for an id; None for an id that was never mentioned."""
        query = (
            "SELECT kept.doc_id FROM documents AS named JOIN stays USING (content) "
            "JOIN documents AS kept ON kept.place = first WHERE named.doc_id = ?"
        )
        found = self.database.execute(query, (doc_id,)).fetchone()
        return found and found[0]


def _digest(*parts: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.digest()


def write_tables(records: Iterable[Document | Question], folder: Path, deduplicate: str = "texts") -> Counter:
    """Writes `corpus`, and `queries`, `qrels` and `hard_negatives` of each split, as `RetrievalSet.load` reads them,
    into an empty folder.

    Relevance and negatives name the documents that stay. A copy of a relevant document is no negative. What was left
    out is counted, in the log and in `report.json`.

    Args:
        records: documents and questions, in any order.
        folder: an empty one.
        deduplicate: which documents are merged: `none`, equal `texts`, or `all`, with images of equal bytes and
            caption.

    Raises:
        ValueError: no document, or no question with a relevant one; or another word for `deduplicate`.
    """
    if deduplicate not in DEDUPLICATE:
        raise ValueError(f"deduplicate={deduplicate!r}: choose from {', '.join(DEDUPLICATE)}.")
    report: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        spilled = _Spilled(Path(aside, "records"), deduplicate)
        with closing(spilled.database):
            for place, record in enumerate(tqdm(records, desc="Reading WebQA", unit="record", unit_scale=True)):
                if isinstance(record, Document) and not (record.text or record.image):
                    report["documents that are empty"] += 1
                    continue
                report["mentions"] += isinstance(record, Document)
                spilled.add(place, record)
            report["ids of equal contents"] = spilled.resolve()
            report["images that cannot be read"] = spilled.unreadable
            with ParquetWriter(path=str(folder / "corpus-corpus.parquet"), schema=_CORPUS) as corpus:
                for row in spilled.corpus():
                    corpus.write(row)
                    report[f"{row['kind']} documents"] += 1
                    report["images without a file"] += row["kind"] == "image" and not row["image"]
                corpus.finalize()
            _write_questions(spilled, folder, report)
    counts = {name: count for name, count in report.items() if count}
    if not any(name.endswith(" queries") for name in counts):
        raise ValueError(f"No document with a question that it answers was found ({counts or 'nothing at all'}).")
    (folder / REPORT_FILE).write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    logger.info("WebQA: %s", counts)
    return report


def _write_questions(spilled: _Spilled, folder: Path, report: Counter) -> None:
    def known(ids: Iterable[str]) -> list[str]:
        """Documents that stand for these ids, each once."""
        found = [spilled.document(doc_id) for doc_id in ids]
        report["ids of no document"] += sum(doc_id is None for doc_id in found)
        return list(dict.fromkeys(doc_id for doc_id in found if doc_id is not None))

    writers: dict[str, list[ParquetWriter]] = {}
    with ExitStack() as stack:
        for question in spilled.questions():
            positives = known((*question.images, *question.texts))
            if not positives or not question.text:
                report["questions without a text or a known document"] += 1
                continue
            split, own = question.split, {"query_id": question.query_id}
            if split not in writers:
                files = {str(folder / f"{name}-{split}.parquet"): schema for name, schema in _OF_SPLIT.items()}
                writers[split] = [ParquetWriter(path=path, schema=schema) for path, schema in files.items()]
                for writer in writers[split]:
                    stack.callback(writer.finalize)
            queries, qrels, hard_negatives = writers[split]
            queries.write({**own, "text": question.text, "kind": question.kind})
            for doc_id in positives:
                qrels.write({**own, "doc_id": doc_id, "score": 1})
            negatives = {"image": known(question.image_negatives), "text": known(question.text_negatives)}
            kept = {name: [doc for doc in ids if doc not in positives] for name, ids in negatives.items()}
            copies = sum(map(len, negatives.values())) - sum(map(len, kept.values()))
            report["negatives that are copies of a relevant document"] += copies
            hard_negatives.write({**own, **kept})
            report[f"{split} queries"] += 1
            report[f"{split} relevances"] += len(positives)
