"""What the frameworks share: vectors of queries, texts and images of a pipeline, and its hits as documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..encoding.encoder import Encoder

_BATCH = 64


class CandidateVectors:
    """Queries and candidates of a pipeline as lists of numbers, of length one; `batch_size` texts or images at a
    time."""

    def __init__(self, retriever: Any, batch_size: int = _BATCH):
        self.retriever, self.batch_size = retriever, batch_size
        self.encoder = Encoder(retriever.model, retriever.processor)

    def queries(self, queries: Sequence[Any]) -> list[list[float]]:
        """Vectors of dialogues, which are texts or lists of chat messages."""
        return self.retriever.embed(list(queries), batch_size=self.batch_size).tolist()

    def texts(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of candidate texts."""
        return self._candidates("text", texts, self.retriever.processor.process_texts)

    def images(self, images: Sequence[Any]) -> list[list[float]]:
        """Vectors of candidate images, which are paths or images of Pillow."""
        return self._candidates("image", images, self.retriever.processor.process_images)

    def _candidates(self, kind: str, items: Sequence[Any], read) -> list[list[float]]:
        found: list[list[float]] = []
        for first in range(0, len(items), self.batch_size):
            found += self.encoder.vectors(kind, read(list(items[first : first + self.batch_size]))).tolist()
        return found


class FoundCandidate(NamedTuple):
    """A hit of a pipeline.

    Args:
        id, score, kind: those of the hit.
        text: the text, or the caption of an image, which is "" for an image without one.
        image: the path of an image, None for a text.
        payload: what else the index holds about it.
    """

    id: str
    score: float
    kind: str
    text: str
    image: str | None
    payload: dict

    @property
    def metadata(self) -> dict:
        """The payload with id, kind, score and the path of an image."""
        image = {} if self.image is None else {"image": self.image}
        return {**self.payload, **image, "id": self.id, "kind": self.kind, "score": self.score}


def find(retriever: Any, query: Any, top_k: int, modality: str, **options) -> list[FoundCandidate]:
    """The `top_k` candidates that answer a dialogue (a text or a list of chat messages), the best first; `modality` is
    `"joint"`, `"text"` or `"image"`, and `options` are further ones of the pipeline's call, such as `where`.

    Raises:
        ValueError: another modality.
    """
    if modality not in ("joint", "text", "image"):
        raise ValueError(f"modality must be 'joint', 'text' or 'image', which give one list; got {modality!r:.40}.")
    answer = retriever(query, top_k=top_k, modality=modality, **options)
    hits = answer[modality] if isinstance(answer, dict) else answer
    return [_found(hit, hit.get("kind", modality)) for hit in hits]


def _found(hit: dict, kind: str) -> FoundCandidate:
    left = {name: value for name, value in hit.items() if name not in ("id", "score", "kind", "text", "image")}
    image = None
    if kind == "image":
        image = hit.get("image") or hit["id"]
    text = hit.get("text") if kind == "text" else hit.get("caption")
    return FoundCandidate(hit["id"], float(hit["score"]), kind, text if isinstance(text, str) else "", image, left)
