"""`unimur mine`: a file of hard negatives from the command line."""

import pytest

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.cli.main import main
from modeling_unimur.training.mining import read_mined
from tests.training.univl_dr_set import write_set


@pytest.fixture(scope="module")
def model(tmp_path_factory, clip_folder):
    folder = tmp_path_factory.mktemp("model")
    UniVLDRModel.from_backbones(str(clip_folder)).save_pretrained(folder)
    UniVLDRProcessor.from_backbones(str(clip_folder)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return f"folder={write_set(tmp_path_factory.mktemp('set') / 'set')}"


def test_writes_the_file(model, source, tmp_path, capsys):
    output = str(tmp_path / "mined.jsonl")
    assert main(["mine", model, source, "--output", output, "--depth", "12", "--per-kind", "--keep", "5"]) == 0
    mined = read_mined(output)
    assert len(mined) == 32
    assert all(len(images) <= 5 and len(texts) <= 5 for images, texts in mined.values())
    assert "32 queries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: "nowhere"}, "model folder"),
        ({3: "mined.csv"}, "FILE.parquet or FILE.jsonl"),
        ({1: "wikipedia"}, "A retrieval set"),
        ({5: ["train", "--max-score", "0.5"]}, "reranker"),
        ({5: "dev"}, "the set has test, train, validation"),
    ],
)
def test_bad_input_is_told(model, source, tmp_path, capsys, change, words):
    words_of = [model, source, "--output", str(tmp_path / "mined.parquet"), "--split", "train"]
    for place, value in change.items():
        words_of[place : place + 1] = value if isinstance(value, list) else [value]
    assert main(["mine", *words_of]) == 2
    assert words in capsys.readouterr().err
