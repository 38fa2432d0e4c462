"""Results on disk, one table out of many runs, and the metadata of a model card."""

import json

import numpy as np
import pytest
from huggingface_hub import ModelCard

from modeling_unimur.evaluation.model_index import eval_results, read_record, write_model_index
from modeling_unimur.evaluation.provenance import files_digest, model_revision
from modeling_unimur.evaluation.report import Figures, TaskResult, load_result, merge_results


def result(name="ours", shift=0.0, digest="d1", revision="r1", task="mmdialog"):
    rng = np.random.default_rng(0)
    ids = np.array([f"d{n // 2}/{n % 2}" for n in range(40)])
    hits = np.where(rng.random(40) < 0.5 + shift, 100.0, 0.0)
    hits[3] = np.nan
    values = {"text_r1": hits, "overall r1": np.nan_to_num(hits), "never": np.full(40, np.nan)}
    figures = Figures(
        values, {"overall r1": np.arange(1.0, 41.0)}, {"image_auc": 0.75, "nothing": float("nan")},
        {"sees": "all", "revision": revision, "source": "a/b", "seconds": 1.5},
    )  # fmt: skip
    data = {"path": "mm", "split": "test", "digest": digest}
    clusters = np.array([name.split("/")[0] for name in ids])
    return TaskResult(task, data, ids, clusters, {name: figures}, ["a note"], ("text_r1", "image_auc"), 5)


def test_saved_and_loaded(tmp_path):
    found = result()
    found.save(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    row = record["systems"][0]
    assert row["name"] == "ours"
    assert row["revision"] == "r1"
    assert row["scalars"] == {"image_auc": 0.75}
    assert set(row["figures"]) == {"text_r1", "overall r1"}
    assert row["figures"]["text_r1"]["queries"] == 39
    assert row["figures"]["text_r1"]["low"] <= row["figures"]["text_r1"]["mean"] <= row["figures"]["text_r1"]["high"]
    assert record["data"]["digest"] == "d1"
    assert record["seed"] == 5
    assert {"python", "torch", "transformers"} <= set(record["packages"])
    assert set(record["machine"]) == {"device", "cores", "threads", "system"}
    again = load_result(tmp_path)
    for name, column in found.systems["ours"].values.items():
        np.testing.assert_array_equal(again.systems["ours"].values[name], column)
    assert again.interval("ours", "overall r1") == found.interval("ours", "overall r1")
    weights = found.systems["ours"].weights["overall r1"]
    mean = np.average(found.systems["ours"].values["overall r1"], weights=weights)
    assert found.interval("ours", "overall r1").mean == pytest.approx(mean)
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(FileNotFoundError, match="no results"):
        load_result(tmp_path / "nowhere")


def test_one_table_out_of_many_runs(tmp_path):
    merged = merge_results([result(), result("theirs", 0.4), result("ours", revision="r2")])
    assert list(merged.systems) == ["ours", "theirs", "ours (r2)"]
    rows = merged.table(intervals=False)
    assert rows[0] == ["system", "text_r1", "image_auc"]
    assert rows[1][2] == "0.75"
    differences = {row[0]: row[1] for row in merged.differences("ours")}
    assert differences["theirs"].startswith("+")
    assert "*" in differences["theirs"]
    assert "*" not in differences["ours (r2)"]
    assert merged.differences("ours")[0] == ["minus ours", "text_r1"]
    text = merged.markdown()
    assert text.startswith("# mmdialog")
    assert "- a note" in text
    assert "- ours sees all." in text
    merged.save(tmp_path)
    assert list(load_result(tmp_path).systems) == list(merged.systems)


def test_runs_that_do_not_belong_together():
    with pytest.raises(ValueError, match="no runs"):
        merge_results([])
    with pytest.raises(ValueError, match="other queries"):
        merge_results([result(), result("b", digest="d2")])
    with pytest.raises(ValueError, match="one task"):
        merge_results([result(), result("b", task="vist")])
    both = merge_results([result(), result("theirs")])
    both.systems["theirs"].weights["overall r1"] = np.ones(40)
    with pytest.raises(ValueError, match="weigh"):
        both.difference("ours", "theirs", "overall r1")


# -- model cards ------------------------------------------------------------------------------------------------------
def test_figures_go_into_a_card(tmp_path):
    result().save(tmp_path / "run")
    card = tmp_path / "README.md"
    card.write_text(
        "---\nlicense: apache-2.0\nmodel-index:\n- name: UniMuR-mini\n  results:\n"
        "  - task: {type: retrieval, name: titles}\n    dataset: {type: x, name: titles}\n"
        "    metrics: [{type: recall, name: recall@1, value: 21.8}]\n---\n# A model\n\nWords stay.\n"
    )
    record = read_record(tmp_path / "run")
    assert write_model_index(card, record, "ours") == 2
    record["systems"][0]["figures"]["text_r1"]["mean"] = 12.345
    assert write_model_index(tmp_path, record, "ours") == 2
    data = ModelCard.load(card).data
    values = {entry.metric_name: entry.metric_value for entry in data.eval_results}
    assert values == {"recall@1": 21.8, "text_r1": 12.35, "image_auc": 0.75} or values["text_r1"] == 12.34
    assert {entry.dataset_revision for entry in data.eval_results} == {None, "d1"}
    assert data.model_name == "UniMuR-mini"
    assert "Words stay." in card.read_text()
    assert "license: apache-2.0" in card.read_text()


def test_cards_and_systems_that_are_not_there(tmp_path):
    result().save(tmp_path)
    record = read_record(tmp_path)
    with pytest.raises(FileNotFoundError, match="model card"):
        write_model_index(tmp_path / "x.md", record, "ours")
    with pytest.raises(ValueError, match="system 'x'"):
        eval_results(record, "x")
    with pytest.raises(FileNotFoundError, match="results"):
        read_record(tmp_path / "x")


# -- where figures come from ------------------------------------------------------------------------------------------
def test_digests_change_with_content_and_order(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    first = files_digest([one, two])
    assert first != files_digest([two, one])
    one.write_text("3")
    assert first != files_digest([one, two])


def test_revision_of_a_folder(tmp_path, clip_folder):
    assert model_revision(clip_folder) == model_revision(str(clip_folder))
    assert model_revision(clip_folder).startswith("sha256:")
    assert model_revision("owner/name") == "unknown"
    with pytest.raises(FileNotFoundError, match="no weights"):
        model_revision(tmp_path)
