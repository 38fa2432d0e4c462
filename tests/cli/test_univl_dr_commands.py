"""The five commands of docs/univl_dr.md behind `make demo`, on a small UniVL-DR under its own model's name."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import pipeline

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.cli.errors import CommandError
from modeling_unimur.cli.main import main
from modeling_unimur.cli.retriever import model_folder
from modeling_unimur.serving.answers import Answerer
from modeling_unimur.serving.limits import ServingLimits
from modeling_unimur.serving.requests import read_request
from tests.encoding.corpora import picture
from tests.hits import answered
from tests.training.univl_dr_set import write_set


@pytest.fixture
def model(clip_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "models" / "univl-dr-mini"
    torch.manual_seed(0)
    UniVLDRModel.from_backbones(str(clip_folder)).save_pretrained(folder)
    UniVLDRProcessor.from_backbones(str(clip_folder)).save_pretrained(folder)
    return folder


@pytest.fixture
def manual(tmp_path):
    folder = tmp_path / "manual"
    for number, caption in enumerate(("a cat slept", "the red balloon")):
        picture(folder / "screenshots" / f"{number}.png", number)
        (folder / "screenshots" / f"{number}.txt").write_text(caption)
    (folder / "passages.txt").write_text("she plays guitar\nwhat a beautiful morning it is\n")
    return folder


def test_a_manual_of_screenshots_and_passages(model, manual, tmp_path, capsys):
    common = ["--model", "univl-dr-mini", "--index", str(tmp_path / "manual.index")]
    for source in ("screenshots", "passages.txt"):
        assert main(["index", "build", str(manual / source), *common, "--workers", "0"]) == 0
    capsys.readouterr()
    assert main(["index", "search", "a cat slept", *common, "--modality", "joint", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(hit["kind"] for hit in found) == ["image", "image", "text", "text"]
    assert {hit.get("caption") for hit in found if hit["kind"] == "image"} == {"a cat slept", "the red balloon"}
    # What `unimur serve` answers with.
    retriever = pipeline("multimodal-retrieval", model=str(model), trust_remote_code=True)
    retriever.load_index(tmp_path / "manual.index", read_only=True)
    turns = [{"role": role, "content": text} for role, text in (("user", "a cat"), ("assistant", "which?"))]
    asked = [
        read_request(json.dumps({"messages": messages, "modality": "joint", "top_k": 4}).encode(), ServingLimits())
        for messages in ([{"role": "user", "content": "a cat slept"}], [*turns, {"role": "user", "content": "slept"}])
    ]
    first, chat = answered(Answerer(retriever), asked)
    assert [hit["id"] for hit in first["joint"]] == [hit["id"] for hit in found]
    assert len(chat["joint"]) == 4


def test_own_models_go_by_their_names(model, tmp_path, monkeypatch):
    assert model_folder("univl-dr-mini") == model
    with pytest.raises(CommandError, match="make demo"):
        model_folder("unimur-mini")
    monkeypatch.chdir(tmp_path)  # a folder of that name comes first
    (tmp_path / "univl-dr-mini").mkdir()
    with pytest.raises(CommandError, match="not a model folder"):
        model_folder("univl-dr-mini")


@pytest.mark.parametrize("command", ["evaluate", "mine"])
def test_a_process_of_its_own_asks_nothing(model, tmp_path, command):
    source = f"folder={write_set(tmp_path / 'set')}"
    words = {
        "evaluate": ["webqa", "--data", source, "--model", str(model), "--output", str(tmp_path / "out")],
        "mine": [str(model), source, "--output", str(tmp_path / "mined.parquet")],
    }[command]
    done = subprocess.run(
        [sys.executable, "-m", "modeling_unimur.cli.main", command, *words],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "custom code" not in done.stdout + done.stderr
