"""LlamaIndex: a multimodal embedding, and a retriever over a filled index."""

from __future__ import annotations

import asyncio
from typing import Any

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.embeddings import MultiModalEmbedding
    from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode
    from pydantic import PrivateAttr
except ImportError as error:
    raise ImportError("LlamaIndex is not installed: `pip install unimur[llama_index]`.") from error

from .candidates import CandidateVectors, find


class UniMuREmbedding(MultiModalEmbedding):
    """Vectors of queries, texts and images for LlamaIndex's indexes.

    Args:
        retriever: a `multimodal-retrieval` pipeline; its index is not used.
        kwargs: of `MultiModalEmbedding`, such as `embed_batch_size`.
    """

    _vectors: CandidateVectors = PrivateAttr()

    def __init__(self, retriever: Any, **kwargs):
        super().__init__(**{"model_name": retriever.model.config.name_or_path or "unimur", **kwargs})
        self._vectors = CandidateVectors(retriever, self.embed_batch_size)

    @classmethod
    def class_name(cls) -> str:
        """Its name in LlamaIndex's settings."""
        return "UniMuREmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vectors.queries([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vectors.texts([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors.texts(texts)

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._vectors.images([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list) -> list[list[float]]:
        return self._vectors.images(img_file_paths)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)


class UniMuRRetriever(BaseRetriever):
    """Nodes of a pipeline's index that answer a query: texts, and images with their caption as text.

    Args:
        retriever: a `multimodal-retrieval` pipeline with a filled index.
        top_k: nodes in all.
        modality: `"joint"`, `"text"` or `"image"`.
        options: further ones of the pipeline's call, such as `where` and `hybrid`.
    """

    def __init__(self, retriever: Any, top_k: int = 5, modality: str = "joint", **options):
        super().__init__()
        self.retriever, self.top_k, self.modality, self.options = retriever, top_k, modality, options

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = find(self.retriever, query_bundle.query_str, self.top_k, self.modality, **self.options)
        return [NodeWithScore(node=_node(one), score=one.score) for one in found]


def _node(found) -> TextNode:
    shared = {"id_": found.id, "text": found.text, "metadata": found.metadata}
    return TextNode(**shared) if found.image is None else ImageNode(**shared, image_path=found.image)
