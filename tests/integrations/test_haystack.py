"""A Haystack pipeline over UniMuR."""

import numpy as np
import pytest

from modeling_unimur.integrations.candidates import find
from tests.integrations.conftest import TEXTS

pytest.importorskip("haystack")
pytestmark = pytest.mark.slow


def test_its_pipeline(filled):
    from haystack import Pipeline

    from modeling_unimur.integrations.haystack import UniMuRRetriever

    pipeline = Pipeline()
    pipeline.add_component("retriever", UniMuRRetriever(filled, top_k=4))
    dialogue = [{"role": "user", "content": "guitar"}]
    found = pipeline.run({"retriever": {"query": dialogue}})["retriever"]["documents"]
    assert [document.id for document in found] == [one.id for one in find(filled, dialogue, 4, "joint")]


def test_its_document_store(filled, pictures):
    from haystack import Document, Pipeline
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from modeling_unimur.integrations.haystack import UniMuRDocumentEmbedder, UniMuRTextEmbedder

    given = [Document(content=TEXTS[0]), Document(meta={"file_path": str(pictures[0])}), Document(content=TEXTS[1])]
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    store.write_documents(UniMuRDocumentEmbedder(filled, batch_size=1).run(given)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", UniMuRTextEmbedder(filled))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    found = pipeline.run({"embedder": {"text": "guitar"}})["retriever"]["documents"]
    scores = {one.text: one.score for one in find(filled, "guitar", 3, "text")}
    texts = [document for document in found if document.content]
    assert len(found) == 3
    np.testing.assert_allclose([one.score for one in texts], [scores[one.content] for one in texts], atol=1e-5)
