"""The spaces of candidates: SigLIP, SigLIP 2, and ready embeddings of any encoder; CLIP and open_clip have tests of
their own."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModel, pipeline

from modeling_unimur import UniMuRModel, UniMuRProcessor
from tests import tiny


@pytest.mark.parametrize("version", [1, 2])
def test_siglip(version, tmp_path, make_model, pictures):
    folder = tiny.siglip(tmp_path / "siglip", version)
    model, processor = make_model(clip=folder)
    own = AutoModel.from_pretrained(folder).eval()
    images, texts = processor.process_images(pictures), processor.process_texts(["a cat", "two words more"])
    assert set(texts) == {"input_ids"}  # its text tower was trained on padded texts without a mask
    assert texts["input_ids"].shape[1] == 16
    wide = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (90, 20), "red")}]}
    context = processor.process_context([[wide], "hello", pictures[0]])
    with torch.inference_mode():
        got, want = model.get_image_features(**images).pooler_output, own.get_image_features(**images).pooler_output
        torch.testing.assert_close(got, F.normalize(want, dim=-1), atol=1e-5, rtol=0)
        got, want = model.get_text_features(**texts).pooler_output, own.get_text_features(**texts).pooler_output
        torch.testing.assert_close(got, F.normalize(want, dim=-1), atol=1e-5, rtol=0)
        unified = model.get_multimodal_features(**context).pooler_output
        assert unified.shape == (3, 32)
        assert model.generate(**processor.process_prompt(pictures[0]), max_new_tokens=3).shape[1] <= 3
        model.save_pretrained(tmp_path / "release")
        processor.save_pretrained(tmp_path / "release")
        loaded = UniMuRModel.from_pretrained(tmp_path / "release")
        again = UniMuRProcessor.from_pretrained(tmp_path / "release").process_context([[wide], "hello", pictures[0]])
        torch.testing.assert_close(loaded.get_multimodal_features(**again).pooler_output, unified, atol=1e-6, rtol=0)


def test_ready_embeddings_of_any_encoder(tmp_path, make_model, pictures):
    model, processor = make_model(clip=None, projection_dim=20)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    retriever = pipeline("multimodal-retrieval", model=str(tmp_path), trust_remote_code=True)
    query = retriever.embed("hello")
    retriever.add_embeddings("text", ["far", "near"], torch.stack([-query[0], query[0]]), ["far", "near"])
    assert [hit["id"] for hit in retriever("hello", modality="text")["text"]] == ["near", "far"]
    with pytest.raises(ValueError, match="20 dimensions"):
        retriever.add_embeddings("text", ["x"], torch.zeros(1, 3), ["x"])
    with pytest.raises(ValueError, match="ready embeddings"):
        retriever(pictures[0])
    with pytest.raises(ValueError, match="ready embeddings"):
        retriever.add(texts=["x"])
    targets = torch.randn(2, 20)
    loss = model(**processor.process_context(["a", "b"]), target_text_features=targets).loss
    loss.backward()
    assert model.heads.ret_embedding.grad.abs().sum() > 0
