"""LangChain: embeddings for its vector stores, and a retriever over a filled index."""

from __future__ import annotations

from typing import Any

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
except ImportError as error:
    raise ImportError("LangChain is not installed: `pip install unimur[langchain]`.") from error

from .candidates import CandidateVectors, find


class UniMuREmbeddings(Embeddings):
    """Embeddings for LangChain's vector stores; queries and documents are embedded by their own towers.

    Args:
        retriever: a `multimodal-retrieval` pipeline; its index is not used.
        batch_size: of texts and images.
    """

    def __init__(self, retriever: Any, batch_size: int = 64):
        self._vectors = CandidateVectors(retriever, batch_size)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query, a text or a list of chat messages."""
        return self._vectors.queries([text])[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts."""
        return self._vectors.texts(texts)

    def embed_images(self, uris: list[str]) -> list[list[float]]:
        """The vectors of images by their paths, under the name that Chroma's and others' `add_images` call."""
        return self._vectors.images(uris)


class UniMuRRetriever(BaseRetriever):
    """Documents of a pipeline's index that answer a query: texts, and images with their caption as content.

    Args:
        retriever: a `multimodal-retrieval` pipeline with a filled index.
        top_k: documents in all.
        modality: `"joint"`, `"text"` or `"image"`.
        options: further ones of the pipeline's call, such as `where` and `hybrid`.
    """

    retriever: Any
    top_k: int = 5
    modality: str = "joint"
    options: dict = {}

    def _get_relevant_documents(self, query: str, *, run_manager: Any = None) -> list[Document]:
        found = find(self.retriever, query, self.top_k, self.modality, **self.options)
        return [Document(id=one.id, page_content=one.text, metadata=one.metadata) for one in found]
