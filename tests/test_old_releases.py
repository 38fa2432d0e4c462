"""Releases, indexes and names of earlier versions: what was uploaded or imported then is read today.

`tests/old_releases` was written by the code of 28 November 2026, before shared modules got new names, on the small
backbones of the tests: releases of UniMuR (full, and heads alone) and of UniVL-DR without their code files, an index
folder, and what they answered then (`expected.json`). `names.json` lists the public names of all modules of that code.
"""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoProcessor

import modeling_unimur
from modeling_unimur import (
    MultimodalRetrievalPipeline,
    UniMuRConfig,
    UniMuRModel,
    UniMuRProcessor,
    UniVLDRModel,
    UniVLDRProcessor,
)
from modeling_unimur.modeling_unimur import UniMuRHeads
from tests import house

ROOT = Path(__file__).parents[1]
OLD = Path(__file__).parent / "old_releases"
COMMITTED = ROOT / "hub_cards" / "unimur-mini"
EXPECTED = json.loads((OLD / "expected.json").read_text(encoding="utf-8"))


def _keys(folder):
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return {name for name in weights.keys() if name.startswith("heads.")}  # noqa: SIM118


@pytest.fixture(scope="module")
def unimur():
    return UniMuRModel.from_pretrained(OLD / "unimur").eval(), UniMuRProcessor.from_pretrained(OLD / "unimur")


def _check_query(model, processor):
    query = MultimodalRetrievalPipeline(model=model.eval(), processor=processor).embed(EXPECTED["dialogue"])
    expected = torch.tensor(EXPECTED["unimur"]["query"])
    torch.testing.assert_close(query.flatten(), expected, atol=1e-5, rtol=1e-4)


def test_full_release(unimur):
    _check_query(*unimur)


def test_full_release_by_the_auto_classes():
    _check_query(AutoModel.from_pretrained(OLD / "unimur"), AutoProcessor.from_pretrained(OLD / "unimur"))


def test_heads_only_release_joins_its_backbones(unimur, tmp_path):
    whole, processor = unimur
    whole.language_model.save_pretrained(tmp_path / "language_model")
    whole.clip.save_pretrained(tmp_path / "clip")
    parts = {"language_model": str(tmp_path / "language_model"), "clip": str(tmp_path / "clip")}
    _check_query(UniMuRModel.from_pretrained(OLD / "unimur_heads", **parts), processor)


def test_index_is_read_with_the_release_that_made_it(unimur):
    retriever = MultimodalRetrievalPipeline(model=unimur[0], processor=unimur[1])
    retriever.load_index(OLD / "index")
    found = {hit["text"]: hit["score"] for hit in retriever(EXPECTED["dialogue"], top_k=2)["text"]}
    assert found == pytest.approx(EXPECTED["unimur"]["scores"], abs=1e-5)


def test_univl_dr_release():
    model, processor = (
        UniVLDRModel.from_pretrained(OLD / "univl_dr"),
        UniVLDRProcessor.from_pretrained(OLD / "univl_dr"),
    )
    retriever = MultimodalRetrievalPipeline(model=model.eval(), processor=processor)
    expected = EXPECTED["univl_dr"]["scores"]
    retriever.add(texts=list(expected))
    found = retriever(EXPECTED["univl_dr"]["query"], top_k=2)
    hits = found["text"] if isinstance(found, dict) else found
    assert {hit["text"]: hit["score"] for hit in hits} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("folder", ["unimur", "unimur_heads", "univl_dr"])
def test_every_field_of_a_configuration_keeps_its_value(folder):
    written = json.loads((OLD / folder / "config.json").read_text(encoding="utf-8"))
    read = AutoConfig.from_pretrained(OLD / folder).to_dict()
    apart = {"transformers_version", "auto_map", "custom_pipelines"}
    own = {name for name, value in written.items() if not isinstance(value, dict)} - apart
    assert {name: read[name] for name in own} == {name: written[name] for name in own}


def test_every_field_of_a_processor_keeps_its_value():
    written = json.loads((OLD / "unimur" / "processor_config.json").read_text(encoding="utf-8"))
    read = UniMuRProcessor.from_pretrained(OLD / "unimur").to_dict()
    own = {name for name, value in written.items() if not isinstance(value, dict)} - {"auto_map", "processor_class"}
    assert {name: read[name] for name in own} == {name: written[name] for name in own}


@pytest.mark.parametrize("folder", [OLD / "unimur", OLD / "unimur_heads", COMMITTED], ids=lambda folder: folder.name)
def test_trained_tensors_keep_their_names(folder):
    heads = UniMuRHeads(UniMuRConfig.from_pretrained(folder))
    assert _keys(folder) == {f"heads.{name}" for name in heads.state_dict()}


# -- names ------------------------------------------------------------------------------------------------------------
def _unreleased_words():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    return set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]*`", text))))


NAMES = json.loads((OLD / "names.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", NAMES)
def test_names_are_there_or_in_the_changelog(module):
    lost, words = set(NAMES[module]) - _names(house.modules().get(module)), _unreleased_words()
    if module.rpartition(".")[2] not in words:
        assert not lost - words, f"{module}: say in CHANGELOG.md what they are called now"


def _names(path):
    """What the statements of a module bind."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("name", NAMES["modeling_unimur"])
def test_names_of_the_package_itself_stay(name):
    assert hasattr(modeling_unimur, name)


def test_the_methods_that_the_first_cards_call_are_there():
    for method in ("get_multimodal_features", "get_image_features", "get_text_features"):
        assert callable(getattr(UniMuRModel, method))
    for method in ("process_context", "process_images", "process_texts", "score_retrieval"):
        assert callable(getattr(UniMuRProcessor, method))
    for method in ("add", "add_embeddings", "embed", "rank", "load_index", "save_index"):
        assert callable(getattr(MultimodalRetrievalPipeline, method))
