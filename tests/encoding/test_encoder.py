"""Queries, documents and the towers' vectors, each as the model computes them one by one."""

import pytest
import torch
from torch.nn import functional as F

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.encoding.encoder import Encoder, embed_by_length

TEXTS = ["a red balloon over the town", "cat", "", "two words", "cat"]


@pytest.fixture(params=["unimur", "univl_dr"])
def parts(request, pair, clip_folder):
    if request.param == "unimur":
        return pair
    return UniVLDRModel.from_backbones(str(clip_folder)), UniVLDRProcessor.from_backbones(str(clip_folder))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_of_like_length_come_back_in_their_order(batch_size):
    seen, lengths = [], []

    def embed(some):
        seen.append(len(some))
        lengths.extend(map(len, some))
        return torch.tensor([[float(len(text))] for text in some])

    found = embed_by_length(TEXTS, embed, batch_size)
    assert found.flatten().tolist() == list(map(len, TEXTS))
    assert lengths == sorted(map(len, TEXTS))
    assert max(seen) <= batch_size
    assert embed_by_length([], embed, width=3).shape == (0, 3)


def test_queries_are_the_model_s(parts):
    model, processor = parts
    queries = [text for text in TEXTS if text]
    found = Encoder(model, processor).encode_queries(queries, batch_size=2)
    with torch.no_grad():
        alone = [model.get_multimodal_features(**processor.process_queries([one])).pooler_output[0] for one in queries]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("keep", ["first", "latest"])
def test_texts_are_the_text_tower_s(parts, keep):
    model, processor = parts
    texts = [*TEXTS, " ".join(TEXTS) * 20]
    found = Encoder(model, processor).encode_texts(texts, keep)
    with torch.no_grad():
        alone = [model.encode_texts(**processor.process_texts([text], keep=keep))[0] for text in texts]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_images_are_the_image_tower_s_and_bad_ones_are_zeros(parts, pictures, tmp_path, caplog):
    model, processor = parts
    (tmp_path / "bad.png").write_bytes(b"no image")
    encoder = Encoder(model, processor)
    found = encoder.encode_images(
        [pictures[0], str(tmp_path / "bad.png"), pictures[1]], batch_size=2, with_pooled=True
    )
    assert found.readable.tolist() == [True, False, True]
    assert not found.vectors[1].any()
    assert len(found.pooled) == 3
    assert "1 of 3" in caplog.text
    with torch.no_grad():
        wanted = model.get_image_features(**processor.process_images([pictures[1]])).pooler_output[0]
    torch.testing.assert_close(F.normalize(found.vectors[2], dim=-1), wanted, atol=1e-5, rtol=0)
    nothing = encoder.encode_images([str(tmp_path / "bad.png")])
    assert nothing.vectors.shape == (1, found.vectors.shape[1])


def test_the_model_evaluates_meanwhile_and_trains_on(parts):
    model, processor = parts
    model.train()
    modes = []
    whole = processor.process_queries

    class Watched:
        def process_queries(self, queries):
            modes.append(model.training)
            return whole(queries)

    with pytest.raises(ValueError, match="empty"):
        Encoder(model, processor).encode_queries([""])
    assert model.training
    Encoder(model, Watched()).encode_queries(["cat"])
    assert modes == [False]
    assert model.training
    model.eval()


def test_a_model_without_a_dual_encoder_has_no_space(make_model):
    with pytest.raises(ValueError, match="dual encoder"):
        _ = Encoder(*make_model(clip=None, projection_dim=16)).name
