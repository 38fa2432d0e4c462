"""What the adapters of frameworks share."""

import numpy as np
import pytest

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.integrations.candidates import CandidateVectors, find
from modeling_unimur.modeling_open_clip import image_vectors, text_vectors
from tests.integrations.conftest import TEXTS


def test_vectors_are_the_model_s(filled, pictures):
    model, processor = filled.model, filled.processor
    vectors = CandidateVectors(filled, batch_size=2)
    images = [str(path) for path in pictures]
    texts, shown = processor.process_texts(TEXTS), processor.process_images(images)
    for found, expected in (
        (vectors.queries(TEXTS), filled.embed(TEXTS)),
        (vectors.texts(TEXTS), text_vectors(model, texts)),
        (vectors.images(images), image_vectors(model, shown)),
    ):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert vectors.texts([]) == []


def test_hits_are_the_pipeline_s(filled):
    dialogue = [{"role": "user", "content": "guitar"}, {"role": "assistant", "content": "which one?"}]
    found = find(filled, dialogue, 4, "joint")
    expected = filled(dialogue, top_k=4, modality="joint")
    assert [(one.id, one.kind) for one in found] == [(hit["id"], hit["kind"]) for hit in expected]
    text = next(one for one in find(filled, dialogue, 9, "text") if one.id == TEXTS[0])
    assert (text.text, text.image, text.payload) == (TEXTS[0], None, {"n": 0})
    image = find(filled, dialogue, 1, "image")[0]
    assert image.text == "a drawing"
    assert image.image.endswith(".png")
    assert image.metadata["kind"] == "image"


def test_two_lists_are_no_list(pair):
    with pytest.raises(ValueError, match="joint"):
        find(MultimodalRetrievalPipeline(model=pair[0], processor=pair[1]), "a", 1, "both")
