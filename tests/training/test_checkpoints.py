"""Which checkpoint a run goes on from, on a checkpoint that Trainer wrote."""

import shutil

import pytest

from modeling_unimur.training.arguments import RetrievalTrainingArguments
from modeling_unimur.training.checkpoints import checkpoints, starting_point, why_incomplete
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.trainer import RetrievalTrainer
from tests.training.test_trainer import Rows, arguments

_FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


@pytest.fixture(scope="module")
def written(make_model, tmp_path_factory):
    """A run's output folder with checkpoint-1 and checkpoint-2."""
    folder = tmp_path_factory.mktemp("run")
    model, processor = make_model()
    model.config.heads_only = True
    RetrievalTrainer(
        model=model,
        args=arguments(folder, max_steps=2, save_strategy="steps", save_steps=1),
        train_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor, captions_per_batch=2),
    ).train()
    return folder


@pytest.fixture
def run(written, tmp_path):
    """A copy to damage, and its arguments."""
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run", RetrievalTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("file", _FILES)
@pytest.mark.parametrize("damage", [cut, lambda file: file.write_bytes(b"")])
def test_a_cut_file_is_seen(run, file, damage):
    folder, _ = run
    assert why_incomplete(folder / "checkpoint-2") is None
    damage(folder / "checkpoint-2" / file)
    assert why_incomplete(folder / "checkpoint-2") == f"{file} is damaged"


def test_a_missing_file_is_seen(run):
    folder, _ = run
    (folder / "checkpoint-2" / "trainer_state.json").unlink()
    assert why_incomplete(folder / "checkpoint-2") == "no trainer_state.json"
    (folder / "checkpoint-1" / "model.safetensors").unlink()
    assert why_incomplete(folder / "checkpoint-1") == "no weights"


def test_goes_on_from_the_last_complete_one(run, caplog):
    folder, args = run
    assert starting_point(args, resume=True) == str(folder / "checkpoint-2")
    assert not caplog.records
    cut(folder / "checkpoint-2" / "optimizer.pt")
    for _ in range(2):  # what is set aside is out of the way for good
        assert starting_point(args, resume=True) == str(folder / "checkpoint-1")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "checkpoint-2 is incomplete (optimizer.pt is damaged)" in caplog.text
    assert "goes on from checkpoint-1" in caplog.text
    assert (folder / "incomplete-checkpoint-2").is_dir()
    cut(folder / "checkpoint-1" / "model.safetensors")
    assert starting_point(args, resume=True) is None
    assert "starts from the beginning" in caplog.text


def test_checkpoints_go_by_number(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-x", "incomplete-checkpoint-11"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_what_becomes_of_a_run_must_be_said(run):
    folder, args = run
    with pytest.raises(ValueError, match=r"--resume.*--overwrite"):
        starting_point(args)
    shutil.copytree(folder / "checkpoint-1", folder / "incomplete-checkpoint-3")
    (folder / "results.json").write_text("{}")
    assert starting_point(args, overwrite=True) is None
    assert {path.name for path in folder.iterdir()} == {"results.json", "training_log.json"}


def test_starts_where_there_is_nothing(tmp_path):
    args = RetrievalTrainingArguments(output_dir=str(tmp_path / "none"), use_cpu=True)
    assert [starting_point(args, **how) for how in ({}, {"resume": True}, {"overwrite": True})] == [None] * 3


@pytest.mark.parametrize("value", [True, "true"])
def test_the_recipe_may_ask_for_it_too(run, value):
    folder, args = run
    args.resume_from_checkpoint = value
    assert starting_point(args) == str(folder / "checkpoint-2")


def test_a_named_checkpoint(run, tmp_path):
    folder, args = run
    args.resume_from_checkpoint = str(folder / "checkpoint-1")
    assert starting_point(args) == str(folder / "checkpoint-1")
    cut(folder / "checkpoint-1" / "scheduler.pt")
    with pytest.raises(ValueError, match=r"checkpoint-1 .*scheduler\.pt"):
        starting_point(args)
    args.resume_from_checkpoint = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        starting_point(args)


def test_weights_alone_cannot_be_continued(run):
    folder, args = run
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / "checkpoint-2" / name).unlink()
    with pytest.raises(ValueError, match="optimizer"):
        starting_point(args, resume=True)
