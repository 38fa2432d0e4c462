"""Both stages of UniVL-DR's training, on a small set, and what they hold to."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.data.registry import load_retrieval_set
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.encoding.encoder import Encoder
from modeling_unimur.training.documents import DecodedImages, Documents
from modeling_unimur.training.mining import read_mined, write_mined
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.retrieval_judge import RetrievalJudge
from modeling_unimur.training.train_univl_dr import _Run, build, stage_arguments, train
from modeling_unimur.training.univl_dr_trainer import UniVLDRTrainer, choose_trained_parts, released_cosine
from modeling_unimur.verbalization import write_words
from tests import tiny
from tests.data.webqa_files import write_pictures, write_released
from tests.rounding import assert_same_figures, assert_same_training
from tests.training.univl_dr_set import write_recipe, write_set

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "set")


def history(folder):
    """The Trainer's log lines out of a run's last checkpoint."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


# -- the released algorithm -----------------------------------------------------------------------------------------
def test_schedule_is_the_released_one(folder, clip_folder, tmp_path):
    # Released: step += 1, then lr = 0.5 (1 + cos(pi step / total)) base; total 4: cos(pi/4), 0, -cos(pi/4), -1.
    assert [released_cosine(step, 4) for step in range(4)] == pytest.approx(
        [0.5 * (1 + math.sqrt(0.5)), 0.5, 0.5 * (1 - math.sqrt(0.5)), 0]
    )
    # With a warm-up of 3: the steps 1 and 2 have (step + 1) / 3 of the rate.
    assert [released_cosine(step, 5, 3) for step in range(5)] == pytest.approx([2 / 3, 1, 1, 0.5, 0])
    recipe = load_recipe(
        write_recipe(tmp_path / "run.json", folder, clip_folder, data={"stages": [1]}, learning_rate=5e-6)
    )
    train(recipe)
    rates = [line["learning_rate"] for line in history(tmp_path / "run/stage1") if "learning_rate" in line]
    full = [5e-6 * 0.5 * (1 + math.cos(math.pi * n / 6)) for n in range(1, 7)]
    assert rates == pytest.approx(full, abs=1e-12)
    assert rates[-1] == 0


def test_decay_spares_vectors_and_the_scale(folder, clip_folder, tmp_path):
    off = {"eval_strategy": "no", "load_best_model_at_end": False}
    recipe = load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder, **off))
    model, _ = build(recipe)
    trainer = UniVLDRTrainer(model=model, args=recipe.training)
    decayed, spared = trainer.create_optimizer().param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.2, 0.0)
    assert decayed["betas"] == (0.9, 0.98)
    assert all(weight.ndim > 1 for weight in decayed["params"])
    assert all(weight.ndim < 2 for weight in spared["params"])
    assert any(weight is model.clip.logit_scale for weight in spared["params"])
    assert any(weight is model.clip.vision_model.embeddings.class_embedding for weight in spared["params"])


# -- both stages ----------------------------------------------------------------------------------------------------
def test_both_stages_train_and_are_written_down(folder, clip_folder, tmp_path):
    recipe = load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder))
    results = train(recipe)
    output = tmp_path / "run"
    assert results == json.loads((output / "results.json").read_text())
    assert set(results) >= {"untrained", "stage1", "stage2"}
    assert set(results["stage2"]) == {"dev", "test"}
    for figures in results["stage2"].values():
        assert 0 <= figures["mrr_10"] <= 100
        assert figures["recall_20"] <= figures["recall_100"] == 100  # of 48 documents
    mined = read_mined(output / "hard_negatives-train.parquet")
    assert len(mined) == 32
    for line in history(output / "stage2"):
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
    logged = set().union(*history(output / "stage2"))
    assert {"loss", "visual_matching_loss", "textual_matching_loss", "logit_scale", "eval_mrr_10"} <= logged
    # What is saved is what was judged, and comes back by the auto classes.
    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    retrieval = RetrievalSet.load(folder)
    judge = RetrievalJudge(retrieval, Documents(retrieval), "test", processor, DecodedImages(processor))
    assert judge(model) == pytest.approx(results["stage2"]["test"])
    before = UniVLDRModel.from_backbones(str(clip_folder)).state_dict()
    stage1 = UniVLDRModel.from_pretrained(output / "stage1").state_dict()
    after = model.state_dict()
    for name in ("clip.vision_model.embeddings.patch_embedding.weight", "clip.text_projection.weight"):
        assert not torch.equal(before[name], stage1[name])
        assert not torch.equal(stage1[name], after[name])


def test_training_brings_the_loss_down(folder, clip_folder, tmp_path):
    run = write_recipe(
        tmp_path / "run.json", folder, clip_folder, data={"stages": [1]}, max_steps=30, eval_strategy="no",
        save_strategy="steps", save_steps=30, load_best_model_at_end=False,
    )  # fmt: skip
    train(load_recipe(run))
    losses = [line["loss"] for line in history(tmp_path / "run/stage1") if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_figures_are_in_the_precision_of_the_steps(folder, clip_folder, tmp_path):
    recipe = load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder, data={"stages": [1]}, bf16=True))
    results = train(recipe)["stage1"]["test"]
    model, processor = AutoModel.from_pretrained(tmp_path / "run"), AutoProcessor.from_pretrained(tmp_path / "run")
    retrieval = RetrievalSet.load(folder)
    whole, half = (
        RetrievalJudge(
            retrieval, Documents(retrieval), "test", processor, DecodedImages(processor), precision=precision
        )
        for precision in (None, torch.bfloat16)
    )
    assert half(model) == pytest.approx(results)
    assert (half.embed(model) - whole.embed(model)).abs().max() > 1e-4
    logged = [line["eval_mrr_10"] for line in history(tmp_path / "run/stage1") if "eval_mrr_10" in line]
    assert logged


def test_final_figures_may_be_left_out(folder, clip_folder, tmp_path):
    data = {"stages": [1], "final_figures": False}
    results = train(load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder, data=data)))
    assert results["untrained"] == results["stage1"] == {}
    assert (tmp_path / "run/model.safetensors").is_file()


def test_a_run_cut_off_goes_on_to_the_same_weights(folder, clip_folder, tmp_path):
    whole = load_recipe(write_recipe(tmp_path / "whole.json", folder, clip_folder))
    train(whole)
    # Cut off in the middle of stage 2: stage 1 is finished, of stage 2 there is a checkpoint.
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", cut)
    shutil.rmtree(cut / "stage2/checkpoint-6")
    (cut / "stage2/model.safetensors").unlink()
    noted = json.loads((cut / "results.json").read_text())
    del noted["stage2"]
    (cut / "results.json").write_text(json.dumps(noted))
    recipe = load_recipe(write_recipe(tmp_path / "cut.json", folder, clip_folder))
    results = train(recipe, resume=True)
    assert_same_figures(results, json.loads((tmp_path / "whole/results.json").read_text()))
    assert_same_training(*(UniVLDRModel.from_pretrained(place).state_dict() for place in (cut, tmp_path / "whole")))
    # A folder with checkpoints is not written over unasked.
    with pytest.raises(ValueError, match="--overwrite"):
        train(recipe)


def test_laptop_recipe_leaves_what_is_frozen(folder, clip_folder, tmp_path):
    recipe = load_recipe(
        write_recipe(
            tmp_path / "run.json",
            folder,
            clip_folder,
            model={"image_tower": "frozen", "text_layers": 1, "config": {"learn_image_weight": True}},
            data={"sampler": "hard_in_batch", "false_negative_threshold": 0.999, "mine_every": 2},
        )
    )
    train(recipe)
    before = UniVLDRModel.from_backbones(str(clip_folder), learn_image_weight=True).state_dict()
    after = UniVLDRModel.from_pretrained(tmp_path / "run").state_dict()
    trained = {name for name in before if not torch.equal(before[name], after[name])}
    text = "clip.text_model."
    assert not any(name.startswith("clip.vision_model.") for name in trained)
    assert not any(name.startswith((f"{text}embeddings", f"{text}encoder.layers.0")) for name in trained)
    assert any(name.startswith(f"{text}encoder.layers.1") for name in trained)
    assert {"clip.visual_projection.weight", "clip.text_projection.weight", "fusion.image_weight"} <= trained


@pytest.mark.parametrize(
    ("sampler", "fusion"), [("unbalanced", "concat"), ("image_only", "image"), ("text_only", "caption")]
)
def test_other_samplers_and_fusions(folder, clip_folder, tmp_path, sampler, fusion):
    rng = np.random.default_rng(0)
    ids = RetrievalSet.load(folder).corpus["doc_id"][:]
    mined = {
        query: tuple([doc for doc in rng.permutation(ids)[:12] if doc.startswith(kind)] for kind in ("image", "text"))
        for query in RetrievalSet.load(folder).queries["train"]["query_id"]
    }
    write_mined(mined, tmp_path / "mined.jsonl")
    recipe = load_recipe(
        write_recipe(
            tmp_path / "run.json",
            folder,
            clip_folder,
            model={"config": {"fusion": fusion}},
            data={"stages": [2], "sampler": sampler, "hard_negatives": str(tmp_path / "mined.jsonl")},
            max_steps=3,
        )
    )
    results = train(recipe)
    assert "stage1" not in results
    assert not (tmp_path / "run/stage1").exists()


def test_a_set_may_bring_its_own_hard_negatives(folder, clip_folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    recipe = load_recipe(
        write_recipe(
            tmp_path / "run.json",
            tmp_path / "set",
            clip_folder,
            data={"stages": [2], "hard_negatives": "own"},
            max_steps=1,
            per_device_train_batch_size=2,
        )
    )
    with pytest.raises(ValueError, match="hard negatives"):
        train(recipe)
    mined = {name: (["image-blue-cake"], ["text-red-town"]) for name in ("text-query-red-cat", "image-query-red-cat")}
    write_mined(mined, tmp_path / "set/hard_negatives-train.parquet")
    assert _Run(recipe).mined() == mined
    train(recipe)


def test_stage_two_reads_verbalizations(folder, clip_folder, tmp_path):
    retrieval = RetrievalSet.load(folder)
    write_words({"image-red-cat": "on my keyboard"}, tmp_path / "words.jsonl")
    data = {"verbalizations": str(tmp_path / "words.jsonl")}
    run = _Run(load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder, data=data)))
    (_, raw), (_, joined) = run.sets[1], run.sets[2]
    number = raw.numbers["image-red-cat"]
    assert raw.texts == [text or "" for text in retrieval.corpus["text"][:]]
    assert joined.texts[number] == f"{raw.texts[number]} [SEP] on my keyboard"
    assert joined.texts[:number] == raw.texts[:number]


def test_a_stage_has_its_own_arguments_and_start(folder, clip_folder, tmp_path):
    first = load_recipe(write_recipe(tmp_path / "one.json", folder, clip_folder, data={"stages": [1]}, max_steps=3))
    train(first)
    second = load_recipe(
        write_recipe(
            tmp_path / "two.json",
            folder,
            tmp_path / "one",
            data={"stages": [2], "stage2_training": {"learning_rate": 0.5, "max_steps": 2}},
        )
    )
    args = stage_arguments(second, 2)
    assert (args.learning_rate, args.max_steps) == (0.5, 2)
    assert second.training.max_steps == 6
    model, _ = build(second)
    started = UniVLDRModel.from_pretrained(tmp_path / "one").state_dict()
    assert all(torch.equal(value, started[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["clip", "custom", "timm_hf"])
def test_trained_parts_of_open_clip(tmp_path, kind):
    folder = tiny.open_clip_folder(tmp_path / "tower", kind)
    model, processor = UniVLDRModel.from_backbones(str(folder)), UniVLDRProcessor.from_backbones(str(folder))
    choose_trained_parts(model, processor.tokenizer, "frozen", 1)
    trained = {name.removeprefix("clip.model.") for name, w in model.named_parameters() if w.requires_grad}
    layers = {"clip": "transformer.resblocks", "custom": "text.transformer.resblocks"}.get(
        kind, "text.transformer.encoder.layer"
    )
    assert any(name.startswith(f"{layers}.1.") for name in trained)
    assert not any(name.startswith(f"{layers}.0.") or "embedding" in name for name in trained)
    assert "logit_scale" in trained
    assert all(name.startswith("visual.head") for name in trained if name.startswith("visual"))
    with pytest.raises(ValueError, match="2 layers"):
        choose_trained_parts(model, processor.tokenizer, text_layers=3)
    choose_trained_parts(model, processor.tokenizer, "unused", 1)
    left = {name.removeprefix("clip.model.") for name, weight in model.named_parameters() if weight.requires_grad}
    assert left == {name for name in trained if not name.startswith("visual")}


# -- the judge ------------------------------------------------------------------------------------------------------
def test_judge_ranks_both_kinds_together(folder, clip_folder):
    retrieval = RetrievalSet.load(folder)
    model = UniVLDRModel.from_backbones(str(clip_folder))
    processor = UniVLDRProcessor.from_backbones(str(clip_folder))
    documents, pictures = Documents(retrieval), DecodedImages(processor)
    judge = RetrievalJudge(retrieval, documents, "train", processor, pictures)
    vectors = Encoder(model, processor).encode_documents(documents, pictures)
    scores = Encoder(model, processor).encode_queries(judge.task.query_texts) @ vectors.T
    scores[judge.task.query_ids.index("text-query-red-cat"), documents.numbers["image-red-cat"]] = -2  # excluded
    relevant = retrieval.relevant("train")
    reciprocal, shown = [], []
    for row, query in enumerate(judge.task.query_ids):
        order = [documents.ids[number] for number in scores[row].argsort(descending=True).tolist()][:10]
        places = [place for place, doc in enumerate(order, start=1) if doc in relevant[query]]
        reciprocal.append(1 / places[0] if places else 0)
        shown += [doc.startswith("image") for doc in order]
    figures = judge(model)
    assert figures["mrr_10"] == pytest.approx(100 * np.mean(reciprocal), abs=1e-6)
    assert figures["images_10"] == pytest.approx(100 * np.mean(shown), abs=1e-6)
    fewer = RetrievalJudge(retrieval, documents, "validation", processor, pictures, max_documents=12)
    assert len(fewer.documents) == 12
    assert {doc.doc_id for doc in fewer.documents} >= {d for r in retrieval.relevant("validation").values() for d in r}


def test_webqa_as_released(tmp_path, clip_folder, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "webqa").mkdir()
    write_released(tmp_path / "webqa")
    write_pictures(tmp_path / "webqa", 4)
    released = load_recipe(Path(__file__).parents[2] / "recipes" / "univl_dr_webqa.yaml").data
    chosen = {name: getattr(released, name) for name in ("captions", "stage2_captions", "deduplicate")}
    assert chosen == {"captions": "raw", "stage2_captions": "query", "deduplicate": "none"}
    data = {"retrieval": f"webqa={tmp_path / 'webqa'}", **chosen}
    path = write_recipe(
        tmp_path / "run.yaml", tmp_path, clip_folder, data=data, max_steps=1, per_device_train_batch_size=2
    )
    results = train(load_recipe(path, ["training.eval_steps=1", "training.save_steps=1"]))
    corpora = [results[f"stage{stage}_corpus"] for stage in (1, 2)]
    assert [about["captions"] for about in corpora] == ["raw", "query"]
    assert [about["setting"] for about in corpora] == ["own", "released"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["stage2_corpus"] == corpora[1]


# -- bad input ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"sampler": "hardest"}}, "sampler"),
        ({"data": {"stages": [2, 1]}}, "stages is"),
        ({"data": {"mining_depth": 0}}, "positive"),
        ({"data": {"retrieval": "wikipedia"}}, "retrieval set"),
        ({"data": {"captions": "query"}}, "captions='query'"),
        ({"data": {"stage2_training": {"output_dir": "x"}}}, "training argument"),
        ({"data": {"mine_every": 2}, "dataloader_num_workers": 1}, "Workers"),
        ({"data": {"dev_split": "train2"}}, "'train2'"),
        ({"data": {"least_score": 9}}, "any query of"),
        ({"model": {"image_tower": "half"}}, "image_tower"),
        ({"model": {"text_layers": 9}}, "2 layers"),
        ({"gradient_cache_chunk": 2}, "leave gradient_cache_chunk"),
        ({"resume_from_checkpoint": "x"}, "--resume"),
    ],
)
def test_bad_recipes_are_told(folder, clip_folder, tmp_path, changes, words):
    changes = {"max_steps": 1, **changes}
    with pytest.raises(ValueError, match=words):
        train(load_recipe(write_recipe(tmp_path / "run.json", folder, clip_folder, **changes)))


def test_a_source_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no corpus"):
        load_retrieval_set(f"folder={tmp_path}")


# -- several sets, and the average with the start -------------------------------------------------------------------
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_saved_weights_are_a_share_of_the_trained_ones(folder, clip_folder, tmp_path, share):
    path = write_recipe(
        tmp_path / "run.json", folder, clip_folder,
        {"trained_share": share}, {"stages": [1], "final_figures": False}, max_steps=2, eval_strategy="no",
        save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    recipe = load_recipe(path)
    start = build(recipe)[0].state_dict()
    train(recipe)
    trained = UniVLDRModel.from_pretrained(tmp_path / "run/stage1").state_dict()
    saved = UniVLDRModel.from_pretrained(tmp_path / "run").state_dict()
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    for name, weight in saved.items():
        if weight.is_floating_point():
            torch.testing.assert_close(weight, torch.lerp(start[name], trained[name], share), rtol=0, atol=1e-7)


def test_several_sets_and_splits_train_together(folder, clip_folder, tmp_path):
    other = write_set(tmp_path / "other")
    (other / "queries-validation.parquet").rename(other / "queries-headings.parquet")
    (other / "qrels-validation.parquet").rename(other / "qrels-headings.parquet")
    path = write_recipe(
        tmp_path / "run.json", folder, clip_folder,
        data={"retrieval": [f"folder={folder}", f"folder={other}"], "train_splits": ["train", "headings"]},
        max_steps=2, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    recipe = load_recipe(path)
    rows = _Run(recipe).rows(1)
    assert len(rows) == 2 * 32 + 8
    assert {query.rpartition("/")[0] for query in rows.queries} == {f"folder={folder}", f"folder={other}"}
    results = train(recipe)
    assert results["documents"] == 2 * 48
    mined = read_mined(tmp_path / "run/hard_negatives-train.parquet")
    sources = {doc.rpartition("/")[0] for kinds in mined.values() for docs in kinds for doc in docs}
    assert sources == {f"folder={folder}", f"folder={other}"}


def test_captions_stand_for_images_that_are_unused(folder, clip_folder, tmp_path):
    path = write_recipe(
        tmp_path / "run.json", folder, clip_folder,
        {"image_tower": "unused"}, {"stages": [1], "train_tokens": 5, "final_figures": False}, max_steps=2,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    recipe = load_recipe(path)
    before = build(recipe)[0].state_dict()
    train(recipe)
    after = UniVLDRModel.from_pretrained(tmp_path / "run").state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert not any("vision" in name or "visual" in name for name in changed)
