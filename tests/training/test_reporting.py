"""What a run reports reaches a backend's files and the log of the run."""

import importlib.util
import json

import pytest
from transformers import TrainingArguments

from modeling_unimur.training.arguments import RetrievalTrainingArguments
from modeling_unimur.training.callbacks import require_reporters
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.trainer import RetrievalTrainer
from tests.training.test_trainer import Rows, arguments

_TERMS = {"loss", "caption_loss", "visual_matching_loss", "textual_matching_loss", "ret_token_loss"}
_SCALES = {"logit_scale", "text_logit_scale"}


def settings(folder, **kwargs):
    """Arguments with an evaluation every second step."""
    shared = {"max_steps": 8, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    base = arguments(folder, **{**shared, "save_strategy": "steps", **kwargs.pop("base", {})})
    fields = {name: getattr(base, name) for name in (*shared, "per_device_train_batch_size", "learning_rate", "seed")}
    return RetrievalTrainingArguments(
        output_dir=str(folder), save_strategy="steps", use_cpu=True, remove_unused_columns=False, **fields, **kwargs
    )


def train(make_model, args, figures, resume=None):
    model, processor = make_model(separate_logit_scales=True, ret_token_loss_weight=0.1)
    model.config.heads_only = True
    numbers = iter(figures)
    trainer = RetrievalTrainer(
        model=model,
        args=args,
        train_dataset=Rows(),
        eval_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor, captions_per_batch=2),
        recalls=lambda _: {"title_image_r10": next(numbers)},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_every_term_reaches_tensorboards_files_and_the_log(make_model, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="pip install unimur[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = train(make_model, settings(tmp_path / "run", report_to="tensorboard"), [10.0, 20.0, 30.0, 25.0])
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    told = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert {f"train/{name}" for name in _TERMS | _SCALES} <= set(told)
    assert told["eval/title_image_r10"] == [(2, 10.0), (4, 20.0), (6, 30.0), (8, 25.0)]
    lines = json.loads((tmp_path / "run" / "training_log.json").read_text())
    assert lines == trainer.state.log_history
    for name in _TERMS | _SCALES:
        logged = [(line["step"], line[name]) for line in lines if name in line]
        assert [step for step, _ in logged] == [2, 4, 6, 8]
        assert told[f"train/{name}"] == [(step, pytest.approx(value, rel=1e-6)) for step, value in logged]
    first = {name: told[f"train/{name}"][0][1] for name in _TERMS | _SCALES}
    weighted = sum(first[name] for name in _TERMS - {"loss", "ret_token_loss"}) + 0.1 * first["ret_token_loss"]
    assert first["loss"] == pytest.approx(weighted, rel=1e-5)
    assert all(first[name] == pytest.approx(1 / 0.07, rel=0.05) for name in _SCALES)


def test_early_stopping_keeps_the_best_and_its_count_over_a_resumption(make_model, tmp_path):
    args = settings(
        tmp_path, report_to="none", early_stopping_patience=2, load_best_model_at_end=True,
        metric_for_best_model="title_image_r10", greater_is_better=True, base={"max_steps": 20},
    )  # fmt: skip
    for resume, figures in ((None, [10.0, 30.0, 20.0, 29.0]), ("checkpoint-6", [29.0]), ("checkpoint-8", [])):
        trainer = train(make_model, args, figures, resume and str(tmp_path / resume))
        assert trainer.state.global_step == 8
        assert trainer.state.best_global_step == 4
        assert trainer.state.best_metric == 30.0


def test_early_stopping_without_evaluations_is_told(tmp_path):
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        RetrievalTrainingArguments(output_dir=str(tmp_path), use_cpu=True, early_stopping_patience=2)


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_backend_names_its_extra(name, tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=name)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else find(wanted))
    with pytest.raises(ImportError, match=rf"unimur\[{name}\]"):
        require_reporters(args)
    require_reporters(TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"))
