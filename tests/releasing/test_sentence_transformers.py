"""A release in sentence-transformers: the same embeddings, and training it on."""

import copy
import shutil
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from modeling_unimur.releasing.clean_folder import write_model, write_sentence_transformers
from tests import tiny
from tests.rounding import assert_same_outputs, assert_same_weights
from tests.test_query_anchor import shake

TEXTS = ["a cat slept on my keyboard", "no, but the birthday cake was good", "she plays guitar"]


@pytest.fixture(scope="module")
def folder(make_model, tmp_path_factory):
    torch.manual_seed(9)
    path = tmp_path_factory.mktemp("release") / "unimur"
    write_model(path, *make_model(processor={"num_visual_tokens": 2}), heads_only=False)
    return path


@pytest.fixture(scope="module")
def anchored_folder(make_model, tmp_path_factory):
    torch.manual_seed(9)
    path = tmp_path_factory.mktemp("release") / "anchored"
    model, processor = make_model(query_anchor="encoder", query_correction="mlp", query_gate=True)
    shake(model)
    write_model(path, model, processor, heads_only=False)
    return path


@pytest.fixture(params=["paper", "anchored"])
def any_embedder(request, folder, anchored_folder):
    path = folder if request.param == "paper" else anchored_folder
    return SentenceTransformer(str(path), trust_remote_code=True, device="cpu")


@pytest.fixture
def embedder(folder):
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def images(pictures):
    return [Image.open(path).convert("RGB") for path in pictures]


def ours(embedder, reading: str, batch) -> np.ndarray:
    """The model's own embeddings."""
    method = {"context": "multimodal", "text": "text", "image": "image"}[reading]
    with torch.no_grad():
        return getattr(embedder[0].model, f"get_{method}_features")(**batch).pooler_output.numpy()


def test_encoding_equals_the_model(any_embedder, images):
    embedder = any_embedder
    processor = embedder[0].processor
    messages = [[{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": TEXTS[1]}]]
    both = [{"text": TEXTS[0], "image": images[0]}, {"image": images[1:3], "text": TEXTS[1]}]
    shown = [
        [{"role": "user", "content": [{"type": "text", "text": TEXTS[0]}, {"type": "image", "image": images[0]}]}],
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": images[1]},
                    {"type": "image", "image": images[2]},
                    {"type": "text", "text": TEXTS[1]},
                ],
            }
        ],
    ]
    contexts = processor.process_context(TEXTS)
    for found, reading, batch in (
        (embedder.encode(TEXTS), "context", contexts),
        (embedder.encode_query(TEXTS), "context", contexts),
        (embedder.encode(both), "context", processor.process_context(shown)),
        (embedder.encode(messages), "context", processor.process_context(messages)),
        (embedder.encode(images), "image", processor.process_images(images)),
        (embedder.encode_document(images), "image", processor.process_images(images)),
        (embedder.encode_document(TEXTS), "text", processor.process_texts(TEXTS)),
        (embedder.encode_query(images[:1]), "context", processor.process_context([images[0]])),
    ):
        np.testing.assert_allclose(found, ours(embedder, reading, batch), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    assert embedder.encode(TEXTS[0]).shape == (24,) == (embedder.get_embedding_dimension(),)
    assert embedder.encode(TEXTS, batch_size=1).shape == (3, 24)


def test_a_prompt_and_a_limit_are_read(embedder):
    processor = embedder[0].processor
    found = embedder.encode(TEXTS[:1], prompt="Q: ")
    expected = ours(embedder, "context", processor.process_context([f"Q: {TEXTS[0]}"]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    embedder.max_seq_length = 6
    short = ours(embedder, "context", processor.process_context(TEXTS[:1], max_length=6))
    np.testing.assert_allclose(embedder.encode(TEXTS[:1]), short, atol=1e-5)
    assert not np.allclose(short, expected, atol=1e-3)


def test_what_cannot_be_encoded_is_named(embedder, images):
    with pytest.raises(ValueError, match="encoded apart"):
        embedder.preprocess([TEXTS[0], images[0]])
    with pytest.raises(ValueError, match="a cat slept"):
        embedder.encode_document([{"text": TEXTS[0], "image": images[0]}])
    with pytest.raises(ValueError, match="'passage'"):
        embedder.encode(TEXTS, task="passage")


@pytest.mark.parametrize("blank", ["", " \n"])
@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_an_empty_text_has_a_vector_of_its_own(any_embedder, images, method, blank):
    embedder = any_embedder
    encode = getattr(embedder, method)
    alone, rest = encode([blank]), encode(TEXTS)
    among = encode([TEXTS[0], blank, *TEXTS[1:], blank], batch_size=4)
    np.testing.assert_allclose(among, [rest[0], alone[0], rest[1], rest[2], alone[0]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(among, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(encode(blank), alone[0], atol=1e-5)
    assert np.abs(alone - rest).max(axis=1).min() > 1e-3
    if method != "encode_document":
        processor = embedder[0].processor
        nothing = {**processor.process_rendered([""]), **processor.process_anchors([[]])}
        np.testing.assert_allclose(alone, ours(embedder, "context", nothing), atol=1e-5)
        messages = [[{"role": "user", "content": blank}], [{"role": "user", "content": TEXTS[0]}]]
        np.testing.assert_allclose(encode(messages), among[[1, 0]], atol=1e-5)
        shown = {"text": blank, "image": images[0]}
        np.testing.assert_allclose(encode([shown])[0], embedder.encode_query([images[0]])[0], atol=1e-5)
        assert not np.allclose(encode([blank], prompt="Q: "), alone, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_candidates_of_several_kinds_in_one_list(embedder, images, pictures, batch_size):
    mixed = [images[0], TEXTS[0], {"image": images[1]}, {"text": TEXTS[1]}, "", pictures[2], TEXTS[2]]
    found = embedder.encode_document(mixed, batch_size=batch_size)
    for row, item in enumerate(mixed):
        np.testing.assert_allclose(found[row], embedder.encode_document([item])[0], atol=1e-5)
    texts = embedder.encode_document([*TEXTS, ""])
    np.testing.assert_allclose(found[[1, 3, 6, 4]], texts, atol=1e-5)
    np.testing.assert_allclose(found[[0, 2, 5]], embedder.encode_document(images[:3]), atol=1e-5)


@pytest.mark.parametrize("text", ["https://example.com/a.png", "look-at-this.png", "report.pdf"])
def test_a_text_is_a_text(embedder, text):
    processor = embedder[0].processor
    found = embedder.encode_document([text])
    np.testing.assert_allclose(found, ours(embedder, "text", processor.process_texts([text])), atol=1e-5)
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    expected = ours(embedder, "context", processor.process_queries(messages))
    np.testing.assert_allclose(embedder.encode_query([text]), expected, atol=1e-5)


@pytest.mark.parametrize("pair", [("a", "b"), ["a", "b"], {"text": ["a", "b"]}])
def test_pairs_of_texts_are_none(embedder, pair):
    with pytest.raises(ValueError, match="a string"):
        embedder.encode([pair])


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_addresses_are_fetched_where_the_caller_says_so(embedder, images, pictures, method, monkeypatch):
    address, fetched = "https://example.com/a.png", []

    def fetch(url):
        fetched.append(url)
        with open(pictures[0], "rb") as file:
            return file.read()

    monkeypatch.setattr(sys.modules[load_module(embedder)], "_fetch", fetch)
    encode = getattr(embedder, method)
    with pytest.raises(ValueError, match="allow_urls"):
        encode([{"image": address}])
    assert fetched == []
    expected = encode([images[0]])
    for form in (address, {"image": address}):
        np.testing.assert_allclose(encode([form], allow_urls=True), expected, atol=1e-5)
    assert fetched == [address] * 2


def load_module(embedder) -> str:
    """The name of the loaded release's own module that loads images."""
    return f"{type(embedder[0].processor).__module__.rpartition('.')[0]}.image_loading"


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_a_shorter_limit_of_one_call(embedder, method):
    long = " ".join(TEXTS)
    encode = getattr(embedder, method)
    assert not np.allclose(encode([long], max_length=7), encode([long]), atol=1e-3)
    np.testing.assert_array_equal(encode([long], max_length=10_000), encode([long]))


def test_saving_again_gives_a_release(embedder, tmp_path):
    embedder.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    assert_same_weights(again.state_dict(), embedder.state_dict())
    assert_same_outputs(again.encode(TEXTS), embedder.encode(TEXTS))
    assert {"sentence_transformers_unimur.py", "modules.json", "modeling_unimur.py", "processing_unimur.py"} <= {
        path.name for path in (tmp_path / "again").iterdir()
    }


@pytest.mark.parametrize("positive", ["image", "text"])
def test_training_on_with_a_cached_loss(folder, images, positive, tmp_path):
    embedder = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    answers = images if positive == "image" else [f"{text}!" for text in [*TEXTS, "what a morning"]]
    rows = {"anchor": [*TEXTS, "what a morning"], "positive": answers}
    loss = CachedMultipleNegativesRankingLoss(embedder, mini_batch_size=2)
    before = copy.deepcopy({key: value.clone() for key, value in embedder.state_dict().items()})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        router_mapping={"positive": "document"},
    )
    trainer = SentenceTransformerTrainer(embedder, arguments, train_dataset=Dataset.from_dict(rows), loss=loss)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.1
    changed = {key for key, value in embedder.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(".heads." in key for key in changed)


@pytest.mark.parametrize("candidates", [lambda images: images[1:], lambda images: [TEXTS[1], images[1], TEXTS[2]]])
def test_the_cached_loss_equals_the_plain_one(any_embedder, images, candidates):
    embedder = any_embedder.eval()
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    contexts = [{"text": TEXTS[0], "image": images[0]}, {"text": TEXTS[1], "image": images[:2]}, {"text": TEXTS[2]}]
    features = [embedder.preprocess(contexts), embedder.preprocess(candidates(images), task="document")]
    found = {}
    for name, loss in (
        ("plain", MultipleNegativesRankingLoss(embedder)),
        ("cached", CachedMultipleNegativesRankingLoss(embedder, mini_batch_size=1)),
    ):
        embedder.zero_grad()
        value = loss([dict(part) for part in features], None)
        value.backward()
        gradients = [p.grad.clone() for p in embedder.parameters() if p.requires_grad and p.grad is not None]
        found[name] = (value.detach(), *gradients)
    assert len(found["plain"]) == len(found["cached"]) > 4
    for plain, cached in zip(found["plain"], found["cached"], strict=True):
        torch.testing.assert_close(cached, plain, atol=1e-5, rtol=1e-4)


def test_the_encoder_of_ready_embeddings_anchors_their_queries(make_model, tmp_path):
    encoder = SentenceTransformer(str(tiny.sentence_encoder(tmp_path / "encoder")), device="cpu")
    model, processor = make_model(
        clip=None, projection_dim=32, query_anchor="encoder", anchor_base_model=str(tmp_path / "encoder")
    )
    with torch.no_grad():
        model.heads.query_anchor.readout_weight.zero_()
    write_model(tmp_path / "release", model, processor, heads_only=False)
    embedder = SentenceTransformer(str(tmp_path / "release"), trust_remote_code=True, device="cpu")
    vectors = encoder.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.encode_query(TEXTS), vectors, atol=1e-5)
    chat = [{"role": "user", "content": text} for text in TEXTS]
    both = vectors[-1] + encoder.encode("\n".join(TEXTS), normalize_embeddings=True)
    np.testing.assert_allclose(embedder.encode_query([chat])[0], both / np.linalg.norm(both), atol=1e-5)
    long = [" ".join([word, *TEXTS * 9]) for word in ("balloon", "guitar")]  # the latest words are kept
    np.testing.assert_allclose(*embedder.encode_query(long), atol=1e-5)
    assert not np.allclose(*encoder.encode(long), atol=1e-3)


def test_univl_dr_fuses_a_picture_with_its_caption(univl_dr_source, images, tmp_path):
    shutil.copytree(univl_dr_source, tmp_path / "univl-dr")
    write_sentence_transformers(tmp_path / "univl-dr")
    embedder = SentenceTransformer(str(tmp_path / "univl-dr"), trust_remote_code=True, device="cpu")
    processor = embedder[0].processor
    documents = [{"image": image, "text": text} for image, text in zip(images[:3], TEXTS, strict=True)]
    fused = processor.process_documents(images[:3], TEXTS)
    for found, reading, batch in (
        (embedder.encode_query(TEXTS), "text", processor.process_queries(TEXTS)),
        (embedder.encode_document(TEXTS), "text", processor.process_texts(TEXTS)),
        (embedder.encode_document(documents), "context", fused),
        (embedder.encode(documents), "context", fused),
        (embedder.encode_document(images), "image", processor.process_images(images)),
    ):
        np.testing.assert_allclose(found, ours(embedder, reading, batch), atol=1e-5)
    mixed = [TEXTS[0], documents[1], images[2], "", documents[0]]
    for encode in (embedder.encode, embedder.encode_document):
        found = encode(mixed, batch_size=3)
        for row, item in enumerate(mixed):
            np.testing.assert_allclose(found[row], encode([item])[0], atol=1e-5)
    np.testing.assert_allclose(
        embedder.encode_query(["", TEXTS[0]]),
        ours(embedder, "text", processor.process_texts(["", TEXTS[0]])),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="are text"):
        embedder.encode_query(documents)


def test_loading_needs_trust(folder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(folder), device="cpu")


def test_truncated_vectors_are_the_first_numbers(folder, images):
    whole, cut = (SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", **extra)
                  for extra in ({}, {"truncate_dim": 5}))  # fmt: skip
    assert cut.get_embedding_dimension() == 5
    for method, inputs in (("encode_query", TEXTS), ("encode_document", TEXTS), ("encode_document", images)):
        expected = torch.from_numpy(getattr(whole, method)(inputs))[:, :5]
        found = getattr(cut, method)(inputs, normalize_embeddings=True, convert_to_tensor=True)
        torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-6, rtol=0)
        again = torch.from_numpy(getattr(cut, method)(inputs))  # as long as they come, and compared by cosines
        torch.testing.assert_close(cut.similarity(again, again), found @ found.T, atol=1e-6, rtol=0)
