"""Hybrid search: BM25 over the words of an index's texts and captions, fused with the cosines.

Words come from the payloads: `text` of a text, `caption` of an image. All of them are one BM25, so that texts and
images have comparable scores. After a change of the index, the next hybrid search or save reads all words again.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..memory_index import KINDS, Hit, RetrievalIndex, VectorIndex, conditions, matches, require_positive
from .base import is_database

RRF = "rrf"
# The constant of reciprocal rank fusion in Cormack, Clarke and Buettcher (SIGIR 2009).
RRF_K = 60
# So many of the best by cosine and of the best by BM25 are fused (more, where more hits are asked for).
FUSED_DEPTH = 100
# Weights of BM25 that `compare_weights` tries, beside reciprocal rank fusion.
WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))
# What names the words of a candidate in its payload.
WORD_FIELDS = {"text": "text", "image": "caption"}
_FILE = "words.safetensors"
_NO_DATABASE = "{} is no index in a folder: hybrid search takes FAISS or 'memory', not Milvus, Qdrant or LanceDB."
# Words of one character too, unlike the default of bm25s: "size 8".
_WORD = r"(?u)\b\w+\b"


def split_words(texts: Sequence[str]) -> list[list[str]]:
    """The words of texts in lower case, without English stop words. A letter and its accent may be one character or
    two."""
    composed = [unicodedata.normalize("NFC", text) for text in texts]
    return _bm25s().tokenize(composed, token_pattern=_WORD, stopwords="en", return_ids=False, show_progress=False)


class WordIndex:
    """BM25 (Lucene's form, k1 1.5, b 0.75, the defaults of bm25s) of documents. Raises ImportError where bm25s is not
    installed."""

    def __init__(self, documents: Sequence[str]):
        words = split_words(documents)
        self.count, self._ranker = len(words), None
        if any(words):
            self._ranker = _bm25s().BM25()
            self._ranker.index(words, show_progress=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of the scores."""
        return sum(array.nbytes for array in self._arrays().values())

    def scores(self, words: Sequence[str]) -> np.ndarray:
        """Scores `(documents,)` of a query's words, which `split_words` made; 0 where no word is shared."""
        known = [word for word in words if self._ranker is not None and word in self._ranker.vocab_dict]
        return self._ranker.get_scores(known) if known else np.zeros(self.count, np.float32)

    def save(self, path: Path) -> None:
        """Writes one file."""
        vocabulary = {} if self._ranker is None else self._ranker.vocab_dict
        text = json.dumps(vocabulary, ensure_ascii=False).encode("utf-8", "surrogatepass")
        arrays = {"vocabulary": np.frombuffer(text, np.uint8), "count": np.array([self.count]), **self._arrays()}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)

    @classmethod
    def load(cls, path: Path) -> WordIndex:
        """Reads what `save` wrote. Raises FileNotFoundError where there is no such file."""
        arrays = load_file(path)
        found = cls(())
        found.count = int(arrays["count"][0])
        if "indptr" in arrays:
            found._ranker = _bm25s().BM25()
            found._ranker.scores = {name: arrays[name] for name in ("data", "indices", "indptr")}
            found._ranker.scores["num_docs"] = found.count
            text = arrays["vocabulary"].tobytes().decode("utf-8", "surrogatepass")
            found._ranker.vocab_dict = json.loads(text)
            found._ranker.nonoccurrence_array = None
        return found

    def _arrays(self) -> dict[str, np.ndarray]:
        scores = {} if self._ranker is None else self._ranker.scores
        return {name: array for name, array in scores.items() if isinstance(array, np.ndarray)}


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise ImportError("BM25 needs bm25s: `pip install unimur[hybrid]`.") from error
    return bm25s


# -- the words of an index --------------------------------------------------------------------------------------------
def require_words(uri: str | os.PathLike) -> None:
    """Checks that an index in this place can keep words, before anything is encoded. Raises ValueError for a database,
    and ImportError where bm25s is not installed."""
    if is_database(uri):
        raise ValueError(_NO_DATABASE.format(uri))
    _bm25s()


def keep_words(index: RetrievalIndex) -> None:
    """Lets an index keep the words of its candidates beside their vectors; `save` writes them. Raises: as
    `require_words`, and PermissionError for an index that was opened for reading."""
    _require_folder(index)
    index.require_writer()
    _bm25s()
    index.keeps_words = True
    index.forget_words()


def write_words(index: RetrievalIndex, folder: Path) -> dict:
    """Writes the words of an index that keeps them into a version's folder; returns what is to be known about them."""
    if not getattr(index, "keeps_words", False):  # the code of an earlier release has no words
        return {}
    words_of(index).save(folder / _FILE)
    return {"words": True}


def words_of(index: RetrievalIndex) -> WordIndex:
    """BM25 of an index's candidates, by row: texts first, then images. An index in memory that no folder has yet keeps
    words from the first call on.

    Raises:
        ValueError: an index in a database; one in a folder that keeps no words, or whose words are damaged.
        ImportError: bm25s is not installed.
    """
    _require_folder(index)
    if not index.keeps_words:
        if index.home is not None:
            raise ValueError(
                f"The index in {index.home} keeps no words: `unimur index update SOURCE --index {index.home} --bm25` "
                "adds them, or `modeling_unimur.index.hybrid.keep_words(index)` and `save`."
            )
        keep_words(index)
    if index.words is None:
        index.words = _saved_words(index) or WordIndex(_documents(index))
    return index.words


def _require_folder(index: VectorIndex) -> None:
    if not hasattr(index, "parts"):
        raise ValueError(_NO_DATABASE.format(f"This {type(index).__name__}"))


def _saved_words(index: RetrievalIndex) -> WordIndex | None:
    """The words in the folder; None where rows have changed since, or a newer version has taken the place of it."""
    if None in (index.home, index.version) or not index.has_saved_words:
        return None
    try:
        found = WordIndex.load(Path(index.home, index.version, _FILE))
    except FileNotFoundError:
        return None
    if found.count != sum(len(part.ids) for part in index.parts.values()):
        raise ValueError(f"The index in {index.home} is damaged: its words are of {found.count} rows; build it again.")
    return found


def _documents(index: RetrievalIndex) -> list[str]:
    found = []
    for kind in KINDS:
        part = index.parts[kind]
        for row in range(len(part.ids)):
            words = part.payload(row).get(WORD_FIELDS[kind])
            found.append(words if isinstance(words, str) else "")
    return found


# -- search -----------------------------------------------------------------------------------------------------------
def check_hybrid(hybrid: float | str) -> float | str:
    """Returns a way to fuse. Raises ValueError for what is neither a weight of BM25 from 0 to 1 nor `"rrf"`."""
    is_weight = isinstance(hybrid, (int, float)) and not isinstance(hybrid, bool) and 0 <= hybrid <= 1
    if not is_weight and not (isinstance(hybrid, str) and hybrid == RRF):
        raise ValueError(f"hybrid must be a weight of BM25 from 0 to 1, or {RRF!r}; got {hybrid!r:.60}.")
    return hybrid


def search(
    index: RetrievalIndex,
    vectors: np.ndarray,
    texts: Sequence[str],
    hybrid: float | str,
    top_k: int = 10,
    kind: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> list[list[Hit]]:
    """The best candidates of each query by cosines and words, best first; `score` is the fused one, beside `cosine`
    and `bm25`. The `FUSED_DEPTH` best by cosine and the `FUSED_DEPTH` best by BM25 are fused (`fuse`); each has
    both scores.

    Args:
        index: in memory or in a folder, with words.
        vectors: queries, shape `(queries, width)`, unit length.
        texts: words of the same queries.
        hybrid: weight of BM25 from 0 to 1, or `"rrf"`.
        top_k, kind, where: of `VectorIndex.search`; `where` holds for both parts.

    Raises:
        ValueError: as `VectorIndex.search` and `words_of`; other numbers of texts and vectors; an index whose vectors
            cannot be read back.
        ImportError: bm25s is not installed.
    """
    check_hybrid(hybrid)
    require_positive("top_k", top_k)
    found = candidates(index, vectors, texts, max(FUSED_DEPTH, top_k), kind, where)
    return [fuse(hits, hybrid)[:top_k] for hits in found]


def candidates(
    index: RetrievalIndex,
    vectors: np.ndarray,
    texts: Sequence[str],
    depth: int = FUSED_DEPTH,
    kind: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> list[list[Hit]]:
    """What is fused: the `depth` best of each query by cosine, and the `depth` best by BM25 that are not among them,
    with both scores; as `search` takes and raises."""
    if texts is None or len(texts) != len(vectors):
        given = "no" if texts is None else len(texts)
        raise ValueError(f"Hybrid search needs the words of each query: {len(vectors)} vectors and {given} texts.")
    matrix, checked = index.matrix_of(vectors), conditions(where)
    with index.guard:
        words = words_of(index)
        dense = index.search(matrix, depth, kind, where)
        starts = dict(zip(KINDS, (0, len(index.parts[KINDS[0]].ids)), strict=True))
        found = []
        for vector, query, hits in zip(matrix, split_words(texts), dense, strict=True):
            scores = words.scores(query)
            rows = [starts[hit.kind] + index.parts[hit.kind].rows[hit.id] for hit in hits]
            row_hits = [
                replace(hit, cosine=hit.score, bm25=float(scores[row])) for hit, row in zip(hits, rows, strict=True)
            ]
            known = set(rows)
            more = _best_by_words(index, scores, starts, depth, kind, checked)
            for one, part in index.parts.items():
                new = [(row, payload) for name, row, payload in more if name == one and starts[one] + row not in known]
                cosines = part.vectors(np.array([row for row, _ in new])) @ vector if new else ()
                for (row, payload), cosine in zip(new, map(float, cosines), strict=True):
                    bm25 = float(scores[starts[one] + row])
                    row_hits.append(Hit(part.ids[row], cosine, one, payload, cosine=cosine, bm25=bm25))
            found.append(row_hits)
    return found


def _best_by_words(
    index: RetrievalIndex, scores: np.ndarray, starts: dict[str, int], depth: int, kind: str | None, where: tuple
) -> list[tuple[str, int, dict]]:
    """Kind, row and payload of the `depth` best that share a word with the query and that `where` holds for."""
    shared = np.flatnonzero(scores > 0)
    if kind is not None:
        shared = shared[(shared >= starts[KINDS[1]]) == (kind == KINDS[1])]
    if not where and len(shared) > depth:
        shared = shared[np.sort(np.argpartition(-scores[shared], depth - 1)[:depth])]
    best: list[tuple[str, int, dict]] = []
    for place in shared[np.argsort(-scores[shared], kind="stable")].tolist():
        one = KINDS[place >= starts[KINDS[1]]]
        row = place - starts[one]
        payload = index.parts[one].payload(row)
        if matches(payload, where):
            best.append((one, row, payload))
            if len(best) == depth:
                break
    return best


def fuse(hits: Sequence[Hit], hybrid: float | str) -> list[Hit]:
    """One query's candidates by their fused scores, best first; of equal scores the higher cosine comes first.

    - A weight `w`: `(1 - w) * cosine + w * bm25`, each scaled to 0 to 1 over the candidates (minimum and maximum).
      With 1, candidates that share no word are left out.
    - `"rrf"`: the sum of `1 / (60 + rank)` over both rankings of the candidates; one that shares no word has no rank
      by BM25.
    """
    order, scores = fuse_scores(
        np.array([hit.cosine for hit in hits], np.float64), np.array([hit.bm25 for hit in hits], np.float64), hybrid
    )
    return [replace(hits[at], score=float(scores[at])) for at in order.tolist()]


def fuse_scores(cosines: np.ndarray, bm25: np.ndarray, hybrid: float | str) -> tuple[np.ndarray, np.ndarray]:
    """The fusion of `fuse` on bare scores, which evaluation shares.

    Args:
        cosines, bm25 (`(candidates,)`): both scores of one query's candidates.
        hybrid: weight of BM25 from 0 to 1, or `"rrf"`.

    Returns:
        the numbers of the candidates, best first, without those that are left out; and the fused scores
            `(candidates,)`.
    """
    if hybrid == RRF:
        scores = 1 / (RRF_K + _ranks(cosines)) + np.where(bm25 > 0, 1 / (RRF_K + _ranks(bm25)), 0.0)
    else:
        scores = (1 - hybrid) * _scaled(cosines) + hybrid * _scaled(bm25)
    order = np.lexsort((-cosines, -scores))
    return order[bm25[order] > 0] if hybrid == 1 else order, scores


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks from 1; of equal scores the first comes first."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def _scaled(scores: np.ndarray) -> np.ndarray:
    if not len(scores):
        return scores
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.zeros_like(scores)


# -- the weight -------------------------------------------------------------------------------------------------------
def compare_weights(
    found: Sequence[Sequence[Hit]], relevant: Sequence[set[str]], top_k: int = 10
) -> dict[float | str, tuple[float, float]]:
    """MRR and recall at `top_k`, from 0 to 1, of each of `WEIGHTS` and of `"rrf"`: 0 is the vectors alone, 1 BM25
    alone. `found` is that of `candidates`, `relevant` the ids that answer each query."""
    settings = (*WEIGHTS, RRF)
    return {one: measure_rankings([fuse(hits, one) for hits in found], relevant, top_k) for one in settings}


def measure_rankings(
    rankings: Sequence[Sequence[Hit]], relevant: Sequence[set[str]], top_k: int = 10
) -> tuple[float, float]:
    """MRR and recall at `top_k`, from 0 to 1, of rankings, best first."""
    reciprocals, recalls = [], []
    for hits, wanted in zip(rankings, relevant, strict=True):
        right = [hit.id in wanted for hit in hits[:top_k]]
        reciprocals.append(1 / (right.index(True) + 1) if True in right else 0.0)
        recalls.append(sum(right) / len(wanted))
    return float(np.mean(reciprocals)), float(np.mean(recalls))


def best_weight(measures: Mapping[float | str, tuple[float, float]]) -> float | str:
    """The setting with the highest MRR; of equal ones the first."""
    return max(measures, key=lambda hybrid: measures[hybrid][0])
