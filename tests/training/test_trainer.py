"""The Trainer on small random backbones: it learns, logs its terms, and stops when something is wrong."""

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from modeling_unimur import UniMuRModel
from modeling_unimur.training.callbacks import TrainingGuard
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.trainer import RetrievalTrainer, parameter_report
from tests.rounding import assert_same_training

_WORDS = ["cat", "red balloon", "lighthouse", "birthday cake", "guitar", "beautiful morning", "town", "keyboard"]


class Rows(Dataset):
    """Eight texts, each with features of its own."""

    def __init__(self, width=24, visual=48):
        generator = torch.Generator().manual_seed(0)
        self.image, self.text = torch.randn(2, len(_WORDS), width, generator=generator)
        self.visual = torch.randn(len(_WORDS), visual, generator=generator)

    def __len__(self):
        return len(_WORDS)

    def __getitem__(self, row):
        return {
            "turns": [_WORDS[row]],
            "visual_features": self.visual[row : row + 1] if row % 4 == 0 else None,
            "caption": _WORDS[row],
            "caption_visual_features": self.visual[row],
            "target_image_features": self.image[row],
            "target_text_features": self.text[row],
            "target_ids": torch.tensor(row),
        }


def arguments(folder, **kwargs):
    defaults = {
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "max_steps": 40,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "use_cpu": True,
        "seed": 0,
    }
    return TrainingArguments(output_dir=str(folder), **{**defaults, **kwargs})


def test_learns_and_logs_every_term(make_model, tmp_path):
    model, processor = make_model()
    trainer = RetrievalTrainer(
        model=model,
        args=arguments(tmp_path),
        train_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor, captions_per_batch=4),
        callbacks=[TrainingGuard(model)],
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    for name in ("caption_loss", "visual_matching_loss", "textual_matching_loss"):
        assert lines[-1][name] < lines[0][name]
    assert lines[-1]["textual_matching_loss"] < 1.0  # ln 8 = 2.08 by chance
    assert "logit_scale" in lines[0]


def test_the_plain_trainer_trains_it(make_model, tmp_path):
    model, processor = make_model()
    trainer = Trainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(), data_collator=DualAlignmentCollator(processor)
    )
    before = model.heads.ret_embedding.detach().clone()
    loss = trainer.train().training_loss
    assert loss == loss  # not a NaN
    assert not torch.equal(before, model.heads.ret_embedding)


def test_resumes_as_if_it_had_never_stopped(make_model, tmp_path):
    def run(folder, resume=None, stop=None):
        torch.manual_seed(0)
        model, processor = make_model()
        model.config.heads_only = True
        trainer = RetrievalTrainer(
            model=model,
            args=arguments(folder, max_steps=12, save_strategy="steps", save_steps=6, per_device_train_batch_size=4),
            train_dataset=Rows(),
            data_collator=DualAlignmentCollator(processor),
        )
        trainer.train(resume_from_checkpoint=resume)
        return model.heads.state_dict()

    whole = run(tmp_path / "a")
    resumed = run(tmp_path / "b", resume=str(tmp_path / "a" / "checkpoint-6"))
    assert_same_training(resumed, whole)


def test_checkpoint_of_a_run_loads(make_model, tmp_path, language_folder, clip_folder):
    model, processor = make_model()
    model.config.heads_only = True
    RetrievalTrainer(
        model=model,
        args=arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2),
        train_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor),
        processing_class=processor,
    ).train()
    loaded = UniMuRModel.from_pretrained(
        tmp_path / "checkpoint-2", language_model=str(language_folder), clip=str(clip_folder)
    )
    for name, value in model.heads.state_dict().items():
        assert torch.equal(value, loaded.heads.state_dict()[name])


def guarded(model, processor, folder, **kwargs):
    return RetrievalTrainer(
        model=model,
        args=arguments(folder, max_steps=25),
        train_dataset=Rows(),
        data_collator=DualAlignmentCollator(processor, **kwargs),
        callbacks=[TrainingGuard(model)],
    )


def test_stops_when_a_trained_weight_gets_no_gradient(make_model, tmp_path):
    model, processor = make_model(visual_matching_weight=0.0, textual_matching_weight=0.0)
    with pytest.raises(RuntimeError, match=r"heads\.logit_scale"):
        guarded(model, processor, tmp_path).train()


def test_stops_when_nothing_trains(make_model, tmp_path):
    model, _ = make_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="is trained"):
        TrainingGuard(model).on_train_begin(None, None, None)


def test_parameter_report(pair):
    report = parameter_report(pair[0])
    assert "heads.ret_embedding: 32" in report
    assert "Trained: " in report


def test_a_batch_larger_than_the_data_is_refused(make_model, tmp_path):
    model, processor = make_model()
    given = arguments(tmp_path, per_device_train_batch_size=64, dataloader_drop_last=True)
    with pytest.raises(ValueError, match="per_device_train_batch_size"):
        RetrievalTrainer(model=model, args=given, train_dataset=Rows(), data_collator=DualAlignmentCollator(processor))
