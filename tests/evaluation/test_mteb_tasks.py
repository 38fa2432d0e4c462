"""MTEB over releases: one retrieval task of each kind, against the embeddings themselves; dialogues; metadata."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.evaluation.tasks import TaskOptions
from modeling_unimur.evaluation.tasks.visdial import open_visdial, visdial_context
from modeling_unimur.releasing.clean_folder import write_model, write_sentence_transformers
from tests.data.published_files import write_chatir, write_visdial

pytest.importorskip("mteb")
pytestmark = pytest.mark.slow

_FILE = Path(__file__).resolve().parents[2] / "examples" / "mteb" / "own_tasks.py"
WORDS = ["a red square", "blue sky over the sea", "green grass", "who is there?", "yellow", "nothing at all"]


@pytest.fixture(scope="module")
def own_tasks():
    spec = importlib.util.spec_from_file_location("own_tasks", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _loaded(folder) -> SentenceTransformer:
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="module")
def dialogue_embedder(make_model, tmp_path_factory):
    torch.manual_seed(9)
    path = tmp_path_factory.mktemp("release") / "unimur"
    write_model(path, *make_model(), heads_only=False)
    return _loaded(path)


@pytest.fixture(scope="module")
def document_embedder(clip_folder, tmp_path_factory):
    torch.manual_seed(9)
    path = tmp_path_factory.mktemp("release") / "univl"
    UniVLDRModel.from_backbones(str(clip_folder), image_weight=0.7).save_pretrained(path)
    UniVLDRProcessor.from_backbones(str(clip_folder)).save_pretrained(path)
    write_sentence_transformers(path)
    return _loaded(path)


def _with_pictures(item: dict) -> dict:
    return {**item, **({"image": Image.open(item["image"]).convert("RGB")} if "image" in item else {})}


@pytest.mark.parametrize("category", ["t2t", "t2i", "it2i", "t2it"])
def test_a_task_of_each_kind(own_tasks, dialogue_embedder, document_embedder, pictures, category):
    embedder = document_embedder if category == "t2it" else dialogue_embedder
    asked, ranked = category.split("2")

    def item(kinds: str, number: int) -> dict:
        found = {"text": WORDS[number % len(WORDS)]} if "t" in kinds else {}
        return {**found, **({"image": str(pictures[number % len(pictures)])} if "i" in kinds else {})}

    queries = {f"q{number}": item(asked, number) for number in range(6)}
    corpus = {f"d{number}": item(ranked, number + 1) for number in range(4)}
    relevant = {f"q{number}": [f"d{number % 4}"] for number in range(6)}
    task = own_tasks.retrieval_task(f"Own{category}", category, queries, corpus, relevant)
    (found,) = own_tasks.scores(embedder, [task]).values()

    def encode(encoder, items):
        plain = [next(iter(each.values())) if len(each) == 1 else each for each in map(_with_pictures, items.values())]
        return encoder(plain, convert_to_tensor=True, show_progress_bar=False)

    scores = encode(embedder.encode_query, queries) @ encode(embedder.encode_document, corpus).T
    right = torch.tensor([number % 4 for number in range(6)])
    above = (scores > scores.gather(1, right[:, None])).sum(dim=1)
    assert found["recall_at_1"] == pytest.approx(float((above < 1).float().mean()), abs=1e-4)
    assert found["recall_at_10"] == 1
    assert found["ndcg_at_10"] == pytest.approx(float((1 / np.log2(2 + above.numpy())).mean()), abs=1e-4)


@pytest.mark.parametrize("write", [write_visdial, write_chatir])
def test_dialogues_are_embedded_as_dialogues(own_tasks, dialogue_embedder, tmp_path, write):
    """VisDial's own files to the images, and MTEB's result on disk."""
    write(tmp_path / "set")
    task = own_tasks.VisDialDialogueToImage(str(tmp_path / "set"))
    found = own_tasks.scores(dialogue_embedder, [task], tmp_path / "results")["VisDialDialogueToImage"]
    dialogs, _, _ = open_visdial(str(tmp_path / "set"), TaskOptions())
    chats = [visdial_context(dialog, len(dialog.rounds), TaskOptions()) for dialog in dialogs]
    images = [Image.open(dialog.image).convert("RGB") for dialog in dialogs]
    queries = dialogue_embedder.encode_query(chats, convert_to_tensor=True, show_progress_bar=False)
    scores = queries @ dialogue_embedder.encode_document(images, convert_to_tensor=True, show_progress_bar=False).T
    assert found["recall_at_1"] == pytest.approx(
        float((scores.argmax(dim=1) == torch.arange(3)).float().mean()), abs=1e-4
    )
    written = json.loads((tmp_path / "results" / "VisDialDialogueToImage.json").read_text())
    assert written["scores"]["val"][0]["ndcg_at_10"] == pytest.approx(found["ndcg_at_10"], abs=1e-4)


def test_dialogues_without_images_are_an_error(own_tasks, tmp_path):
    write_visdial(tmp_path)
    for path in (tmp_path / "VisualDialog_val2018").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="image"):
        own_tasks.VisDialDialogueToImage(str(tmp_path)).load_data()


@pytest.mark.parametrize("name", ["VisDialDialogueToImage", "UniMuRDialogueToImage"])
def test_the_tasks_have_the_metadata_of_contributed_ones(own_tasks, name):
    metadata = getattr(own_tasks, name).metadata
    assert metadata.is_filled() or metadata.reference is None
    assert (metadata.type, metadata.category, metadata.name) == ("Any2AnyRetrieval", "t2i", name)


@pytest.mark.parametrize("kind", ["unimur", "univl_dr"])
def test_metadata_of_releases(own_tasks, dialogue_embedder, document_embedder, kind):
    embedder = {"unimur": dialogue_embedder, "univl_dr": document_embedder}[kind]
    model = own_tasks.ReleaseEncoder(embedder)
    meta = model.mteb_model_meta
    assert meta.n_parameters == sum(weight.numel() for weight in embedder[0].model.parameters())
    assert meta.embed_dim == embedder.encode_document(["a cat"]).shape[1]
    assert meta.modalities == ["text", "image"]
    assert meta.name == f"local/{kind.split('_')[0]}"  # its folder
    assert "year" in meta.citation
