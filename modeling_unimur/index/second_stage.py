"""The second stage of a search: a model of sentence-transformers reads a query and a candidate together and rescores
the best hits of the first stage.

A `CrossEncoder` reads both as one input; a `MultiVectorEncoder` compares their token vectors (late interaction,
MaxSim). The query is a text: all turns of a dialogue, as BM25 takes it. A candidate is its text or its caption, and
its image where the model reads images.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.image_bytes import read_image_bytes
from ..image_loading import load_image
from ..memory_index import Hit, ThreadLock, require_positive
from .hybrid import WORD_FIELDS

# How many hits of the first stage are rescored by default.
RERANK_TOP_K = 50
# Why a candidate keeps its place behind those that were rescored.
NO_QUERY, NO_WORDS, UNREADABLE, NO_SCORE = (
    "query without words", "candidate without words", "unreadable image", "score that is not a number",
)  # fmt: skip
# What a model supports that reads an image with its caption.
_CAPTIONED = ("image", "text")
_MULTI_VECTOR = ("MultiVectorEncoder", "ColBERT")
# Ends of architectures that have no head for scores: sentence-transformers would add a random one.
_HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining")
_MISSING = "There is no model at {}: name a folder or a Hub id of a CrossEncoder or MultiVectorEncoder."


class Candidate(NamedTuple):
    """What a second stage reads: a text or a caption, and an image (an object, bytes or an address)."""

    words: str
    image: Any = None


class Reranker:
    """Rescores hits. Threads may share one.

    Args:
        model: a `CrossEncoder` with one label, or a `MultiVectorEncoder`.
        batch_size: pairs, or texts, that pass the model together.

    Attributes:
        skipped (`Counter`): candidates that could not be rescored so far, by reason.

    Raises:
        ValueError: another kind of model, or a cross-encoder with several labels.
        ImportError: sentence-transformers is not installed.
    """

    def __init__(self, model: Any, batch_size: int = 32):
        library = _sentence_transformers()
        require_positive("batch_size", batch_size)
        self.late = isinstance(model, library.MultiVectorEncoder)
        if not self.late and not isinstance(model, library.CrossEncoder):
            raise ValueError(
                f"A reranker is a CrossEncoder, a MultiVectorEncoder or an object with the method rerank, not a "
                f"{type(model).__name__}."
            )
        if not self.late and model.num_labels != 1:
            raise ValueError(f"A cross-encoder with {model.num_labels} labels gives no score to rank by; take one.")
        self.model, self.batch_size, self.skipped = model, batch_size, Counter()
        self.reads_images = model.supports("image")
        self._lock = ThreadLock()

    def rerank(self, found: Sequence[Sequence[Hit]], words: Sequence[str], top_k: int = RERANK_TOP_K) -> list:
        """Puts the first hits of each query into the order of the model's scores.

        Args:
            found: hits of each query, best first.
            words: the text of each query.
            top_k: how many hits of each are rescored.

        Returns:
            `list[list[Hit]]`: first those that were rescored, whose `score` is the model's and `first_score` that of
            the first stage; then those that could not be, and then the hits behind `top_k`, as they were.

        Raises:
            ValueError: no text for each query.
        """
        if words is None or len(words) != len(found):
            given = "no" if words is None else len(words)
            raise ValueError(f"A second stage needs the words of each query: {len(found)} queries and {given} texts.")
        pairs = [(query, candidate_of(hit)) for query, hits in zip(words, found, strict=True) for hit in hits[:top_k]]
        scores, start, reranked = self.scores(pairs), 0, []
        for hits in found:
            own = scores[start : start + len(hits[:top_k])]
            start += len(own)
            rescored = [hits[at] if math.isnan(own[at]) else _rescored(hits[at], float(own[at])) for at in order(own)]
            reranked.append([*rescored, *hits[top_k:]])
        return reranked

    def scores(self, pairs: Sequence[tuple[str, Candidate]]) -> np.ndarray:
        """Score `(pairs,)` of each query with a candidate, NaN where there is none; those are counted in `skipped`."""
        found, lost = np.full(len(pairs), np.nan), Counter()
        queries, documents, places = [], [], []
        for place, (query, candidate) in enumerate(pairs):
            try:
                documents.append(self._document(query, candidate))
            except _Skipped as error:
                lost[str(error)] += 1
            else:
                queries.append(self._text(query))
                places.append(place)
        with self._lock:
            if places and self.late:
                found[places] = self._late_interaction(queries, documents)
            elif places:
                both = list(zip(queries, documents, strict=True))
                found[places] = self.model.predict(both, batch_size=self.batch_size, show_progress_bar=False)
            found[~np.isfinite(found)] = np.nan
            lost[NO_SCORE] += int(np.isnan(found[places]).sum())
            self.skipped += lost
        return found

    def _document(self, query: str, candidate: Candidate) -> Any:
        """What the model reads of a candidate."""
        words = candidate.words.strip()
        if not query.strip():
            raise _Skipped(NO_QUERY)
        if candidate.image is None or not self.reads_images:
            if not words:
                raise _Skipped(NO_WORDS)
            return self._text(words)
        try:
            source = candidate.image
            image = load_image(
                read_image_bytes(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else source
            )
        except Exception as error:  # whatever a decoder raises
            if not words:
                raise _Skipped(UNREADABLE) from error
            return self._text(words)
        return {"text": words, "image": image} if words and self.model.supports(_CAPTIONED) else image

    def _text(self, words: str) -> Any:
        # sentence-transformers would take a text like "http://x/y.png" for an image, and fetch it.
        return {"text": words} if self.reads_images else words

    def _late_interaction(self, queries: list[str], documents: list) -> np.ndarray:
        """Each query and each text is embedded once."""
        sides = []
        for items, encode in ((queries, self.model.encode_query), (documents, self.model.encode_document)):
            keys = [_key(item) for item in items]
            once = dict(zip(keys, items, strict=True))
            vectors = encode(list(once.values()), batch_size=self.batch_size, show_progress_bar=False)
            known = dict(zip(once, vectors, strict=True))
            sides.append([known[key] for key in keys])
        return self.model.similarity_pairwise(*sides).float().cpu().numpy()


def _key(document: Any) -> str | int:
    """The text of what is a text alone; other documents are not compared."""
    text = document["text"] if isinstance(document, dict) and "image" not in document else document
    return text if isinstance(text, str) else id(document)


class _Skipped(Exception):
    """Why a candidate cannot be rescored."""


def candidate_of(hit: Hit) -> Candidate:
    """What a second stage reads of a hit: its payload's text, or its caption and image."""
    words = hit.payload.get(WORD_FIELDS[hit.kind])
    image = hit.payload.get("image") if hit.kind == "image" else None
    return Candidate(words if isinstance(words, str) else "", image)


def order(scores: np.ndarray) -> list[int]:
    """Places by their scores, the highest first; of equal ones the first stage's first, and those without a score
    last."""
    return np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable").tolist()


def _rescored(hit: Hit, score: float) -> Hit:
    return replace(hit, score=score, first_score=hit.score, cosine=hit.score if hit.cosine is None else hit.cosine)


# -- by name ----------------------------------------------------------------------------------------------------------
def open_reranker(reranker: Any, trust_remote_code: bool = False) -> Any:
    """What rescores: an object with the method `rerank` as it is, else a `Reranker` of the model. One that was opened
    by the same name before is taken again.

    Args:
        reranker: name or folder of a `CrossEncoder` or `MultiVectorEncoder`, or such an object.
        trust_remote_code: whether code of the model may be run.

    Raises:
        FileNotFoundError: a folder that is not there, or a model that the Hub does not have.
        ValueError: the model gives no scores: a bi-encoder, or one without a trained head.
        ImportError: sentence-transformers is not installed.
    """
    if hasattr(reranker, "rerank"):
        return reranker
    if not isinstance(reranker, (str, os.PathLike)):
        return Reranker(reranker)
    return _opened(os.fspath(reranker), trust_remote_code)


@functools.lru_cache(maxsize=2)
def _opened(name: str, trust_remote_code: bool) -> Reranker:
    library, kind = _sentence_transformers(), _kind(name)
    return Reranker(getattr(library, kind)(name, trust_remote_code=trust_remote_code))


def _kind(name: str) -> str:
    """`CrossEncoder` or `MultiVectorEncoder`: sentence-transformers makes any of both out of any model, with random
    weights where it has none."""
    about, config = (_json(name, file) for file in ("config_sentence_transformers.json", "config.json"))
    if about is config is None:
        raise FileNotFoundError(_MISSING.format(name))
    kind = (about or {}).get("model_type")
    architecture = next(iter((config or {}).get("architectures") or ()), "")
    if kind in _MULTI_VECTOR or architecture == "HF_ColBERT":
        return "MultiVectorEncoder"
    bi_encoder = kind is None and _json(name, "modules.json") is not None
    if kind not in (None, "CrossEncoder") or bi_encoder or (kind is None and architecture.endswith(_HEADLESS)):
        raise ValueError(
            f"{name} is a {kind or ('SentenceTransformer' if bi_encoder else architecture)}, which gives no scores of "
            "pairs: a reranker is a trained CrossEncoder or MultiVectorEncoder."
        )
    return "CrossEncoder"


def _json(name: str, file: str) -> Any:
    """A file of a model, in a folder or on the Hub; None where it is not there."""
    from transformers.utils import cached_file

    options = dict.fromkeys(
        ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
    )
    try:
        path = cached_file(name, file, **options)
    except OSError as error:
        raise FileNotFoundError(_MISSING.format(name)) from error
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def _sentence_transformers() -> Any:
    try:
        import sentence_transformers
    except ImportError as error:
        raise ImportError(
            "A second stage needs sentence-transformers: `pip install unimur[sentence_transformers]`."
        ) from error
    return sentence_transformers
