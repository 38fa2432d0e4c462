"""Haystack: a component that retrieves from a filled index, and one that embeds queries for its document stores."""

from __future__ import annotations

from typing import Any

try:
    from haystack import Document, component
except ImportError as error:
    raise ImportError("Haystack is not installed: `pip install unimur[haystack]`.") from error

from .candidates import CandidateVectors, find


@component
class UniMuRRetriever:
    """Documents of a pipeline's index that answer a query or a conversation.

    Args:
        retriever: a `multimodal-retrieval` pipeline with a filled index.
        top_k: documents in all.
        modality: `"joint"`, `"text"` or `"image"`.
        options: further ones of the pipeline's call, such as `where` and `hybrid`.
    """

    def __init__(self, retriever: Any, top_k: int = 10, modality: str = "joint", **options):
        self.retriever, self.top_k, self.modality, self.options = retriever, top_k, modality, options

    @component.output_types(documents=list[Document])
    def run(self, query: str | list, top_k: int | None = None) -> dict[str, list[Document]]:
        """Args: query: a text, or chat messages as dictionaries with `role` and `content`."""
        found = find(self.retriever, query, top_k or self.top_k, self.modality, **self.options)
        return {
            "documents": [Document(id=one.id, content=one.text, meta=one.metadata, score=one.score) for one in found]
        }


@component
class UniMuRTextEmbedder:
    """Embeds a query or a conversation, for a retriever over a document store.

    Args:
        retriever: a `multimodal-retrieval` pipeline; its index is not used.
    """

    def __init__(self, retriever: Any):
        self._vectors = CandidateVectors(retriever)

    @component.output_types(embedding=list[float])
    def run(self, text: str | list) -> dict[str, list[float]]:
        """Args: text: a text, or chat messages as dictionaries with `role` and `content`."""
        return {"embedding": self._vectors.queries([text])[0]}


@component
class UniMuRDocumentEmbedder:
    """Embeds documents for a document store: images by the path in `meta["file_path"]`, others by their text.

    Args:
        retriever: a `multimodal-retrieval` pipeline; its index is not used.
        batch_size: of documents.
    """

    def __init__(self, retriever: Any, batch_size: int = 64):
        self._vectors = CandidateVectors(retriever, batch_size)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Args: documents: they are not changed; the result holds copies with embeddings."""
        found: list[Document | None] = [None] * len(documents)
        images = [at for at, document in enumerate(documents) if document.meta.get("file_path")]
        texts = [at for at in range(len(documents)) if at not in set(images)]
        vectors = self._vectors.images([documents[at].meta["file_path"] for at in images])
        vectors += self._vectors.texts([documents[at].content or "" for at in texts])
        for at, vector in zip([*images, *texts], vectors, strict=True):
            found[at] = Document.from_dict({**documents[at].to_dict(flatten=False), "embedding": vector})
        return {"documents": found}
