"""The registry's task of UniVL-DR: figures a query, settings, and the folder of a retrieval set."""

import json

import numpy as np
import pytest

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.cli.main import main
from modeling_unimur.evaluation.report import load_result, merge_results
from modeling_unimur.evaluation.tasks.webqa import open_set
from modeling_unimur.evaluation.universal import universal_result
from modeling_unimur.evaluation.universal.task import RetrievalTask
from tests.data.webqa_files import write_released
from tests.evaluation.universal_sets import TOPICS, TopicEncoder, retrieval_set


@pytest.fixture(scope="module")
def result():
    task = RetrievalTask.from_set(retrieval_set(), "test")
    encoders = {"good": TopicEncoder(noise=0.0), "blind": TopicEncoder(blind=True)}
    return universal_result(task, encoders, {"path": "x", "split": "test"})


def test_every_setting_has_its_queries(result):
    values = result.systems["good"].values
    assert len(result.query_ids) == 2 * len(TOPICS)
    for setting, count in (("text", len(TOPICS)), ("image", len(TOPICS)), ("both", 2 * len(TOPICS))):
        assert np.isfinite(values[f"{setting} mrr@10"]).sum() == count
    assert np.nanmean(values["image mrr@10"]) == 100
    assert np.nanmean(result.systems["blind"].values["image mrr@10"]) < 100
    assert "BM25" in result.systems
    assert "BM25 & good" in result.systems
    assert "both mrr@10" in result.main


def test_it_is_a_result_like_the_others(result, tmp_path):
    result.save(tmp_path / "run")
    merged = merge_results([load_result(tmp_path / "run"), result])
    assert list(merged.systems) == list(result.systems)
    assert "minus good" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.parametrize(("setting", "documents"), [("merged", 9), ("released", 10)])
def test_the_report_says_the_setting(setting, documents, tmp_path, clip_folder, monkeypatch, capsys):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    for name in ("webqa", "model"):
        (tmp_path / name).mkdir()
    write_released(tmp_path / "webqa")
    path = tmp_path / "webqa" / "all_docs.json"
    path.write_text(path.read_text().replace('"fact 5"', '"fact 2"'))
    UniVLDRModel.from_backbones(str(clip_folder)).save_pretrained(tmp_path / "model")
    UniVLDRProcessor.from_backbones(str(clip_folder)).save_pretrained(tmp_path / "model")
    asked = [
        "evaluate",
        "webqa",
        "--data",
        tmp_path / "webqa",
        "--model",
        tmp_path / "model",
        "--output",
        tmp_path / "r",
    ]
    assert main([*map(str, asked), "--setting", setting]) == 0
    assert f"setting {setting}" in capsys.readouterr().out
    report = (tmp_path / "r" / "table.md").read_text()
    assert f"setting {setting}" in report
    data = json.loads((tmp_path / "r" / "results.json").read_text())["data"]
    assert (data["setting"], data["documents"]) == (setting, documents)
    assert main([*map(str, asked), "--setting", "released", "--captions", "expanded"]) != 0  # it has no such captions


def test_folder_of_a_retrieval_set(tmp_path):
    retrieval_set().save(tmp_path)
    assert len(open_set(str(tmp_path)).corpus) == 2 * len(TOPICS)
    assert len(open_set(f"folder={tmp_path}").corpus) == 2 * len(TOPICS)
    with pytest.raises(FileNotFoundError):
        open_set(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="setting='released'"):
        open_set(str(tmp_path), setting="released")
