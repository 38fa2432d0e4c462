"""From documents and questions to the tables of a retrieval set, a batch of rows in memory at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..image_bytes import read_image_bytes
from .layouts import Document, Question

DEDUPLICATE = ("none", "texts", "all")


def digest(*parts: str | bytes) -> int:
    """64 bits of a hash. Among a million different texts two share one with a probability of 3e-8."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(state.digest(), "little")


class Mentions:
    """Hashes of the ids and contents of documents, in the order in which they are mentioned.

    Args:
        deduplicate: `none`; `texts`: texts that are equal word for word are one document; `all`: so are images of
            the same bytes under the same caption, which takes reading all of them.

    Raises:
        ValueError: another word.
    """

    def __init__(self, deduplicate: str):
        if deduplicate not in DEDUPLICATE:
            raise ValueError(f"deduplicate={deduplicate!r}: choose from {', '.join(DEDUPLICATE)}.")
        self.deduplicate = deduplicate
        self.ids, self.contents = array("Q"), array("Q")
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, document: Document) -> None:
        """Counts a mention."""
        self.ids.append(digest(document.doc_id))
        self.contents.append(self._content(document))

    def _content(self, document: Document) -> int:
        if document.kind == "text" and self.deduplicate != "none":
            return digest("text", document.text)
        if self.deduplicate == "all" and document.image:
            try:
                return digest("image", document.text, read_image_bytes(document.image))
            except (OSError, ValueError):
                self.unreadable += 1
        return digest("id", document.doc_id)

    def resolve(self) -> Kept:
        """What stays of all mentions so far."""
        ids = np.frombuffer(self.ids, dtype=np.uint64) if len(self.ids) else np.empty(0, np.uint64)
        contents = np.frombuffer(self.contents, dtype=np.uint64) if len(self.contents) else np.empty(0, np.uint64)
        # The last mention of each id: the first one seen from behind.
        known, behind = np.unique(ids[::-1], return_index=True)
        last = len(ids) - 1 - behind
        order = np.sort(last)
        _, first, place = np.unique(contents[order], return_index=True, return_inverse=True)
        # Of every mention that an id has last, the mention that stands for it.
        standing = order[first][place.reshape(-1)]
        row_of_known = standing[np.searchsorted(order, last)]
        keep = np.zeros(len(ids), dtype=bool)
        keep[order[first]] = True
        return Kept(keep, known, row_of_known)


class Kept:
    """Mentions that stay.

    Args:
        keep (`(mentions,)`): whether a mention becomes a document.
        known (`(ids,)`): hashes of all ids in ascending order.
        rows (`(ids,)`): the mention that stands for each.
    """

    def __init__(self, keep: np.ndarray, known: np.ndarray, rows: np.ndarray):
        self.keep, self.known, self.rows = keep, known, rows
        self._names: dict[int, str] = {}
        counts = np.unique(rows, return_counts=True)
        self._shared = frozenset(counts[0][counts[1] > 1].tolist())

    @property
    def merged(self) -> int:
        """Ids that another id stands for."""
        return len(self.known) - int(self.keep.sum())

    def name(self, row: int, doc_id: str) -> None:
        """Notes the id of a mention that stays, where it stands for others too."""
        if row in self._shared:
            self._names[row] = doc_id

    def document(self, doc_id: str) -> str | None:
        """The id of the document that stands for an id, None for an id that was never mentioned."""
        wanted = np.uint64(digest(doc_id))
        place = int(np.searchsorted(self.known, wanted))
        if place == len(self.known) or self.known[place] != wanted:
            return None
        return self._names.get(int(self.rows[place]), doc_id)


logger = logging.getLogger(__name__)

REPORT_FILE = "report.json"
_BATCH = 8192
_STRINGS = pa.list_(pa.string())


def _schema(strings: str, lists: str = "") -> pa.Schema:
    return pa.schema([*((name, pa.string()) for name in strings.split()), *((n, _STRINGS) for n in lists.split())])


_CORPUS = _schema("doc_id kind text image title")
_QUESTIONS = _schema("query_id text split kind", "positives image_negatives text_negatives")
_QUERIES = _schema("query_id text kind")
_QRELS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.int32())])
_NEGATIVES = _schema("query_id", "image text")


class _Writer:
    """Rows to a parquet file, a batch at a time."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.schema, self.rows = schema, []
        self.file = pq.ParquetWriter(path, schema)

    def add(self, row: dict) -> None:
        self.rows.append(row)
        if len(self.rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self.file.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows = []

    def close(self) -> None:
        if self.rows:
            self._flush()
        self.file.close()


def _rows(path: Path) -> Iterator[dict]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            yield from batch.to_pylist()


def write_tables(records: Iterable[Document | Question], folder: Path, deduplicate: str = "texts") -> Counter:
    """Writes `corpus`, and `queries`, `qrels` and `hard_negatives` of each split, as `RetrievalSet.load` reads them.

    Relevance and negatives name the documents that stay. A copy of a relevant document is no negative. What was left
    out is counted, in the log and in `report.json`.

    Args:
        records: documents and questions, in any order.
        folder: an empty one.
        deduplicate: as `Mentions` takes it.

    Raises:
        ValueError: no document, or no question with a relevant one.
    """
    report: Counter[str] = Counter()
    mentions = Mentions(deduplicate)
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        spilled, asked = Path(aside, "documents"), Path(aside, "questions")
        documents, questions = _Writer(spilled, _CORPUS), _Writer(asked, _QUESTIONS)
        try:
            for record in tqdm(records, desc="Reading WebQA", unit="record", unit_scale=True):
                if isinstance(record, Question):
                    questions.add(
                        {
                            "query_id": record.query_id,
                            "text": record.text,
                            "split": record.split,
                            "kind": record.kind,
                            "positives": list(record.positives),
                            "image_negatives": list(record.image_negatives),
                            "text_negatives": list(record.text_negatives),
                        }
                    )
                elif record.text or record.image:
                    mentions.add(record)
                    documents.add({name: getattr(record, name) for name in _CORPUS.names})
                else:
                    report["documents that are empty"] += 1
        finally:
            documents.close()
            questions.close()
        kept = mentions.resolve()
        corpus = _Writer(folder / "corpus-corpus.parquet", _CORPUS)
        for number, row in enumerate(_rows(spilled)):
            if kept.keep[number]:
                kept.name(number, row["doc_id"])
                corpus.add(row)
                report[f"{row['kind']} documents"] += 1
                report["images without a file"] += row["kind"] == "image" and not row["image"]
        corpus.close()
        report["mentions"] = len(mentions)
        report["ids of equal contents"] = kept.merged
        report["images that cannot be read"] = mentions.unreadable
        _write_questions(_rows(asked), folder, kept, report)
    counts = {name: count for name, count in report.items() if count}
    if not any(name.endswith(" queries") for name in counts) or not mentions:
        raise ValueError(f"No document with a question that it answers was found ({counts or 'nothing at all'}).")
    (folder / REPORT_FILE).write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    logger.info("WebQA: %s", counts)
    return report


def _write_questions(questions: Iterable[dict], folder: Path, kept: Kept, report: Counter) -> None:
    writers: dict[str, tuple[_Writer, _Writer, _Writer]] = {}
    try:
        for row in questions:
            positives = _known(row["positives"], kept, report)
            if not positives or not row["text"]:
                report["questions without a text or a known document"] += 1
                continue
            split = row["split"]
            if split not in writers:
                writers[split] = tuple(
                    _Writer(folder / f"{name}-{split}.parquet", schema)
                    for name, schema in (("queries", _QUERIES), ("qrels", _QRELS), ("hard_negatives", _NEGATIVES))
                )
            queries, qrels, negatives = writers[split]
            queries.add({name: row[name] for name in _QUERIES.names})
            for doc_id in positives:
                qrels.add({"query_id": row["query_id"], "doc_id": doc_id, "score": 1})
            found = {}
            for name in ("image", "text"):
                shown = _known(row[f"{name}_negatives"], kept, report)
                found[name] = [doc_id for doc_id in shown if doc_id not in positives]
                report["negatives that are copies of a relevant document"] += len(shown) - len(found[name])
            negatives.add({"query_id": row["query_id"], **found})
            report[f"{split} queries"] += 1
            report[f"{split} relevances"] += len(positives)
    finally:
        for writer in (writer for three in writers.values() for writer in three):
            writer.close()


def _known(ids: Iterable[str], kept: Kept, report: Counter) -> list[str]:
    """Documents that stand for these ids, each once."""
    found = [kept.document(doc_id) for doc_id in ids]
    report["ids of no document"] += sum(doc_id is None for doc_id in found)
    return list(dict.fromkeys(doc_id for doc_id in found if doc_id is not None))


__all__ = ["DEDUPLICATE", "REPORT_FILE", "Kept", "Mentions", "digest", "write_tables"]
