"""Curves of training logs: what is read, what is averaged, what is drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.curves import draw_curves, main, mean_and_spread, read_log, series


def log(seed: int = 0, terms=("caption_loss", "visual_matching_loss"), steps: int = 6) -> list:
    """A log as Trainer writes it."""
    rng, lines = np.random.default_rng(seed), []
    for step in range(10, 10 * steps + 1, 10):
        values = {name: float(3 - step / 50 + 0.1 * rng.standard_normal()) for name in terms}
        lines.append({"loss": 3.0, "grad_norm": 1.0, "learning_rate": 1e-3, "epoch": 0.1, "step": step, **values})
        if step % 20 == 0:
            lines.append({"eval_title_image_r1": 1.0, "eval_title_image_r10": step / 2.0, "step": step})
    return [*lines, {"train_runtime": 1.0, "train_loss": 2.0, "total_flos": 1.0, "step": 10 * steps}]


def test_series_holds_the_figures_and_no_times():
    found = series(log())
    assert set(found) == {
        "loss",
        "caption_loss",
        "visual_matching_loss",
        "eval_title_image_r1",
        "eval_title_image_r10",
    }
    assert found["eval_title_image_r10"] == {20: 10.0, 40: 20.0, 60: 30.0}


def test_mean_and_spread_are_over_the_steps_that_all_runs_have():
    steps, mean, spread = mean_and_spread([{1: 1.0, 2: 2.0, 3: 9.0}, {1: 3.0, 2: 2.0}])
    assert steps.tolist() == [1, 2]
    assert mean.tolist() == [2.0, 2.0]
    assert spread.tolist() == pytest.approx([2**0.5, 0.0])
    assert mean_and_spread([{1: 1.0}])[2].tolist() == [0.0]


def test_a_log_is_read_from_its_file_or_the_folder_of_its_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training_log\.json"):
        read_log(tmp_path)
    (tmp_path / "training_log.json").write_text(json.dumps(log()))
    assert read_log(tmp_path) == read_log(tmp_path / "training_log.json") == log()


def ink(path, box=None) -> dict:
    """Number of pixels of each colour."""
    picture = Image.open(path).convert("RGB")
    colours, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(colour): count for colour, count in zip(colours.tolist(), counts.tolist(), strict=True)}


_BLUE, _RED, _GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)


def test_every_arm_has_its_colour_and_its_band(tmp_path):
    arms = {
        "both": [log(seed) for seed in range(5)],
        "visual": [log(seed + 9, ("visual_matching_loss",)) for seed in range(5)],
    }
    drawn = ink(draw_curves(arms, tmp_path / "deep" / "curves.png"))
    alone = ink(draw_curves({"both": arms["both"][:1]}, tmp_path / "one.png"))
    assert drawn[_BLUE] > 300
    assert drawn[_RED] > 100
    assert _GREEN not in drawn
    assert _RED not in alone
    band = tuple(round(255 - 0.18 * (255 - channel)) for channel in _BLUE)
    near = [colour for colour in drawn if max(abs(a - b) for a, b in zip(colour, band, strict=True)) <= 1]
    assert sum(drawn[colour] for colour in near) > 1000
    assert sum(alone.get(colour, 0) for colour in near) < 100  # the soft edge of the line, and no band


def test_what_is_drawn_can_be_chosen(tmp_path):
    run = log()
    chosen = Image.open(draw_curves({"run": [run]}, tmp_path / "a.png", ["loss"], title="One run"))
    usual = Image.open(draw_curves({"run": [run]}, tmp_path / "b.png"))
    assert chosen.width < usual.width  # one panel beside three


def test_an_empty_log_draws_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing"):
        draw_curves({"run": [[]]}, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_the_command(tmp_path, capsys):
    for seed in range(2):
        (tmp_path / f"run{seed}").mkdir()
        (tmp_path / f"run{seed}" / "training_log.json").write_text(json.dumps(log(seed)))
    output = tmp_path / "curves.svg"
    assert main([str(output), f"both={tmp_path}/run0,{tmp_path}/run1"]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert "<svg" in output.read_text()
    with pytest.raises(SystemExit):
        main([str(output), "both"])
    assert "ARM=RUN" in capsys.readouterr().err
