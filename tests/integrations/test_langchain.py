"""LangChain's own vector store and retrievers over UniMuR."""

import asyncio

import numpy as np
import pytest

from modeling_unimur.integrations.candidates import find
from tests.integrations.conftest import TEXTS

pytest.importorskip("langchain_core")
pytestmark = pytest.mark.slow


def test_its_vector_store(filled):
    from langchain_core.vectorstores import InMemoryVectorStore

    from modeling_unimur.integrations.langchain import UniMuREmbeddings

    store = InMemoryVectorStore(UniMuREmbeddings(filled))
    store.add_texts(TEXTS)
    found = store.similarity_search_with_score("guitar", k=3)
    expected = find(filled, "guitar", 3, "text")
    assert [document.page_content for document, _ in found] == [one.text for one in expected]
    np.testing.assert_allclose([score for _, score in found], [one.score for one in expected], atol=1e-5)


def test_its_retriever(filled, pictures):
    from modeling_unimur.integrations.langchain import UniMuREmbeddings, UniMuRRetriever

    retriever = UniMuRRetriever(retriever=filled, top_k=4, options={"where": {"n": [0, 1]}})
    documents = retriever.invoke("guitar")
    assert {document.page_content for document in documents} == set(TEXTS[:2])
    assert {document.metadata["kind"] for document in documents} == {"text"}
    assert [d.id for d in asyncio.run(retriever.ainvoke("guitar"))] == [d.id for d in documents]
    images = UniMuRRetriever(retriever=filled, top_k=1, modality="image").invoke("guitar")
    assert images[0].metadata["image"].endswith(".png")
    vector = UniMuREmbeddings(filled).embed_images([str(pictures[0])])[0]
    assert len(vector) == filled.model.config.embedding_width
