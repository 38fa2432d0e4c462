"""LlamaIndex's own index and retrievers over UniMuR."""

import asyncio

import numpy as np
import pytest

from modeling_unimur.integrations.candidates import find
from tests.integrations.conftest import TEXTS

pytest.importorskip("llama_index.core")
pytestmark = pytest.mark.slow


def test_its_index(filled):
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    from modeling_unimur.integrations.llama_index import UniMuREmbedding

    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=UniMuREmbedding(filled))
    found = index.as_retriever(similarity_top_k=3).retrieve("guitar")
    expected = find(filled, "guitar", 3, "text")
    assert [node.get_content() for node in found] == [one.text for one in expected]
    np.testing.assert_allclose([node.score for node in found], [one.score for one in expected], atol=1e-5)


def test_its_retriever(filled, pictures):
    from llama_index.core.schema import ImageNode

    from modeling_unimur.integrations.llama_index import UniMuREmbedding, UniMuRRetriever

    nodes = UniMuRRetriever(filled, top_k=9).retrieve("guitar")
    assert [node.node.node_id for node in nodes] == [one.id for one in find(filled, "guitar", 9, "joint")]
    shown = [node.node for node in nodes if isinstance(node.node, ImageNode)]
    assert len(shown) == len(pictures)
    assert all(node.image_path.endswith(".png") for node in shown)
    embedding = UniMuREmbedding(filled)
    alone = embedding.get_image_embedding(str(pictures[0]))
    np.testing.assert_allclose(asyncio.run(embedding.aget_image_embedding(str(pictures[0]))), alone, atol=1e-5)
    np.testing.assert_allclose(embedding.get_image_embedding_batch([str(pictures[0])])[0], alone, atol=1e-5)
