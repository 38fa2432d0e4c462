"""Releases built from a training's folder, checked, tried in a fresh process, and not sent."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_unimur.cli.main import main
from modeling_unimur.releasing.bases import Base
from modeling_unimur.releasing.clean_folder import read_heads
from modeling_unimur.releasing.refusals import check_release
from modeling_unimur.releasing.release import build_release, release
from modeling_unimur.releasing.trial import try_release
from tests.cli.test_main import error_of
from tests.releasing.conftest import COMMITS

MODULES = {"modules.json", "config_sentence_transformers.json", "sentence_transformers_unimur.py"}


@pytest.fixture
def copy(tmp_path):
    """Copies a source, to be changed."""

    def make(source, **config):
        folder = tmp_path / "changed"
        shutil.copytree(source, folder)
        if config:
            old = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**old, **config}))
        return folder

    return make


# -- what it makes --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_dry_run_lists_and_tries_a_heads_only_release(heads_source, hub_cache, card, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache))  # for the fresh process, which is offline
    keep = tmp_path / "kept"
    arguments = ["release", str(heads_source), "--repo-id", "acme/unimur", "--card", str(card), "--keep", str(keep)]
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "(heads only)" in told
    assert "Left out: training_args.bin, training_log.json" in told
    assert "Loaded in a fresh process by AutoModel, AutoProcessor, pipeline, SentenceTransformer: 24 dim" in told
    assert "Nothing was sent to acme/unimur" in told
    names = {path.relative_to(keep).as_posix() for path in keep.rglob("*") if path.is_file()}
    assert names == {line.split()[-1] for line in told.splitlines() if " MB  " in line and "files" not in line}
    assert {*MODULES, "README.md", "processor_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not {"training_args.bin", "training_log.json"} & names
    tensors = load_file(keep / "model.safetensors")
    assert all(key.startswith("heads.") for key in tensors)
    before = load_file(heads_source / "model.safetensors")
    assert tensors.keys() == before.keys()
    assert all(torch.equal(tensors[key], before[key]) for key in tensors)
    config = json.loads((keep / "config.json").read_text())
    assert (config["text_base_model"], config["text_base_revision"]) == ("acme/lm", COMMITS["acme/lm"])
    assert 'model="acme/unimur"' in (keep / "README.md").read_text()


@pytest.mark.slow
def test_a_full_release_computes_the_same_in_a_fresh_process(full_source, card, tmp_path):
    made = release(full_source, "acme/full", card=card, dry_run=True, keep=tmp_path / "kept")
    assert not made.heads_only
    assert made.url is None
    assert made.trial["width"] == 24
    assert (
        load_file(tmp_path / "kept" / "model.safetensors").keys()
        == load_file(full_source / "model.safetensors").keys()
    )


def test_heads_of_a_full_source_with_named_bases(full_source, card, tmp_path):
    bases = {"text": Base("acme/lm", "c3" * 20), "clip": Base("acme/clip", "d4" * 20)}
    build_release(full_source, tmp_path / "made", heads_only=True, bases=bases, card=card, repo_id="acme/unimur")
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["heads_only"] is True
    assert (config["clip_base_model"], config["clip_base_revision"]) == ("acme/clip", "d4" * 20)
    found, expected = read_heads(tmp_path / "made"), read_heads(full_source)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_univl_dr_is_built_whole(univl_dr_source, card, tmp_path):
    expected = build_release(univl_dr_source, tmp_path / "made", card=card)
    assert expected.keys() == {"context", "shown", "image", "text"}
    assert {*MODULES, "modeling_univl_dr.py"} <= check_release(tmp_path / "made").keys()
    with pytest.raises(ValueError, match="no heads"):
        build_release(univl_dr_source, tmp_path / "again", heads_only=True, card=card)


def test_results_on_benchmarks_go_up_with_the_release(univl_dr_source, card, tmp_path):
    named = card.read_text(encoding="utf-8").replace("value: 25.0", "value: 25.0, dataset_id: acme/b, task_id: t")
    (tmp_path / "card.yaml").write_text(named, encoding="utf-8")
    build_release(univl_dr_source, tmp_path / "made", card=tmp_path / "card.yaml")
    assert ".eval_results/acme-b.yaml" in check_release(tmp_path / "made")
    (tmp_path / "made" / "more.yaml").write_text("a: 1", encoding="utf-8")
    with pytest.raises(ValueError, match=r"more\.yaml"):
        check_release(tmp_path / "made")


@pytest.mark.slow
def test_univl_dr_works_in_a_fresh_process(univl_dr_source, card):
    made = release(univl_dr_source, "acme/univl-dr", card=card, dry_run=True)
    assert not made.heads_only
    assert made.trial["roads"] == ["AutoModel", "AutoProcessor", "pipeline", "SentenceTransformer"]


# -- what it refuses ------------------------------------------------------------------------------------------------
def test_heads_without_named_bases(full_source, card, tmp_path):
    with pytest.raises(ValueError, match="--language-model-base"):
        build_release(full_source, tmp_path / "made", heads_only=True, card=card)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"text_base_model": "/data/lm"}, "'/data/lm'.*--full"),
        ({"text_base_revision": "main"}, "'main'"),
        ({"model_type": "bert"}, "bert"),
    ],
)
def test_a_source_is_refused(copy, heads_source, card, tmp_path, config, told):
    with pytest.raises(ValueError, match=told):
        build_release(copy(heads_source, **config), tmp_path / "made", card=card)


def test_packed_weights_are_refused(copy, full_source, card, tmp_path):
    config = json.loads((full_source / "config.json").read_text())
    packed = {**config["text_config"], "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    with pytest.raises(ValueError, match=r"text_config\.quantization_config.*--heads-only"):
        build_release(copy(full_source, text_config=packed), tmp_path / "made", card=card)


def test_pickled_weights_are_refused(copy, heads_source, card, tmp_path):
    folder = copy(heads_source)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="pickles"):
        build_release(folder, tmp_path / "made", card=card)


def test_an_adapter_on_a_backbone_is_not_left_behind(copy, heads_source, card, tmp_path):
    folder = copy(heads_source)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "language_model.q.lora_A.weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"adapter .*--full"):
        build_release(folder, tmp_path / "made", card=card)


def test_a_release_needs_a_card(heads_source, tmp_path):
    with pytest.raises(ValueError, match=r"licence.*--card"):
        build_release(heads_source, tmp_path / "made")


@pytest.mark.slow
def test_a_release_that_does_not_load_is_refused(heads_source, hub_cache, card, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache))
    build_release(heads_source, tmp_path / "made", card=card)
    code = tmp_path / "made" / "conversation.py"
    code.write_text(code.read_text() + "\nfrom modeling_unimur import load_image\n")
    with pytest.raises(ValueError, match=r"fresh process: .*modeling_unimur"):
        try_release(tmp_path / "made")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere", "--repo-id", "acme/x"], "nowhere"),
        (["tests", "--repo-id", "x"], "OWNER/NAME"),
        (["tests", "--repo-id", "acme/x", "--full", "--heads-only"], "not allowed with"),
        (["tests", "--repo-id", "acme/x", "--text-base", "acme/lm"], "names no commit"),
        (["tests", "--repo-id", "acme/x"], "no config.json"),
    ],
)
def test_what_a_person_can_get_wrong_is_one_line(words, told, capsys):
    status, error = error_of(capsys, "release", *words)
    assert status == 2
    assert told in error
