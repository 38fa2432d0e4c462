"""The anchored query is fitted on vectors alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from modeling_unimur.modeling_unimur import GATE_FEATURES, UniMuRQueryAnchor
from modeling_unimur.training.query_anchor_fit import (
    QuerySet,
    fit_correction,
    fit_gate,
    fit_query_anchor,
    fit_weights,
    mean_mrr,
)

WIDTH = 16


def anchor(correction: str = "mlp", gate: bool = True) -> UniMuRQueryAnchor:
    torch.manual_seed(0)
    config = SimpleNamespace(
        embedding_width=WIDTH,
        query_correction=correction,
        query_correction_size=32,
        query_correction_dropout=0.0,
        query_attention=0.0,
        query_gate=gate,
        visual_width=WIDTH,
    )
    made = UniMuRQueryAnchor(config)
    with torch.no_grad():
        for tensor, value in made.initial_values():
            tensor.fill_(value)
    return made.eval()


def queries(
    name: str, rows: int, seed: int, good: tuple[str, ...], noise: float = 0.7, turn: bool = False
) -> QuerySet:
    """Dialogues whose parts in `good` resemble the target; the others are random. With `turn` the readout is
    the target behind a fixed permutation, which only a trained correction undoes."""
    generator = torch.Generator().manual_seed(seed)
    targets = F.normalize(torch.randn(rows, WIDTH, generator=generator), dim=-1)
    parts = {}
    for part in ("readout", "whole", "last"):
        drawn = torch.randn(rows, WIDTH, generator=generator)
        seen = targets.flip(1) if turn and part == "readout" else targets
        parts[part] = F.normalize(seen + noise * drawn / WIDTH**0.5 if part in good else drawn, dim=-1)
    statistics = torch.rand(rows, 3, generator=generator)
    image = torch.zeros(rows, WIDTH)
    return QuerySet(name, *parts.values(), image, statistics, targets, torch.arange(rows))


@pytest.mark.parametrize("good", [("whole",), ("whole", "last"), ("whole", "readout"), ("whole", "last", "readout")])
def test_weights_follow_what_is_good_and_never_fall_below_the_encoder(good):
    fitted, some = anchor("linear", gate=False), queries("chats", 300, 1, good, noise=2.5)
    found = fit_weights(fitted, [some])
    assert found["chosen"] >= found["encoder"]
    assert found["encoder"] == pytest.approx(some.mrr(some.whole))
    assert found["chosen"] == pytest.approx(mean_mrr(fitted, [some]))
    for part in ("last", "readout"):
        weight = float(getattr(fitted, f"{part}_weight").detach())
        assert (weight >= 0.5) if part in good else (weight <= 0.25)


def test_a_useless_readout_gives_the_encoder_back():
    some = queries("chats", 300, 2, ("whole",), noise=0.1)
    fitted = anchor("linear", gate=False)
    found = fit_weights(fitted, [some])
    assert found["last_weight"] == found["readout_weight"] == 0
    assert torch.equal(fitted(*some.inputs).pooler_output, F.normalize(some.whole, dim=-1))


def test_ranks_count_distinct_targets_and_equal_groups():
    some = queries("chats", 4, 3, ("whole",), noise=0.0)
    assert some.mrr(some.whole) == 100
    same = QuerySet("chats", *(torch.cat([part, part]) for part in (*some.inputs, some.targets, some.groups)))
    assert same.mrr(same.whole) == 100
    assert same.mrr(torch.ones_like(same.whole)) < 100


def test_the_correction_learns_and_keeps_its_best_state():
    train = queries("chats", 800, 4, ("whole", "readout"), noise=2.0, turn=True)
    dev = queries("chats", 200, 5, ("whole", "readout"), noise=2.0, turn=True)
    fitted = anchor(gate=False)
    fit_weights(fitted, [dev])
    before = mean_mrr(fitted, [dev])
    merit = fit_correction(fitted, [train], [dev], seed=0, steps=200)
    assert merit > before + 3
    assert merit == pytest.approx(mean_mrr(fitted, [dev]))
    again = anchor(gate=False)
    fit_weights(again, [dev])
    fit_correction(again, [train], [dev], seed=0, steps=200)
    for one, other in zip(fitted.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_correction_that_does_not_help_stays_where_it_began():
    train, dev = (queries("chats", 300, seed, ("whole",), noise=0.1) for seed in (6, 7))
    shuffled = QuerySet("chats", *train.inputs, train.targets[torch.randperm(300)], train.groups)
    fitted = anchor(gate=False)
    fit_weights(fitted, [dev])
    before = mean_mrr(fitted, [dev])
    assert fit_correction(fitted, [shuffled], [dev], seed=0, steps=60) >= before


def test_the_gate_closes_for_a_kind_that_the_correction_harms():
    good = queries("chats", 300, 8, ("whole", "readout"), noise=1.5)
    bad = queries("questions", 300, 9, ("whole",), noise=1.5)
    good.statistics[:, 2], bad.statistics[:, 2] = 0.1, 0.9  # the share of questions tells them apart
    fitted = anchor("linear")
    ungated = copy.deepcopy(fitted)
    ungated.gate = None
    found = fit_gate(fitted, [(ungated, good), (ungated, bad)])
    assert len(found["weights"]) == len(GATE_FEATURES)
    gates = [float(fitted(*some.inputs).gate.mean().detach()) for some in (good, bad)]
    assert gates[0] > gates[1]
    assert found["with_gate"]["questions, text, left out"] > found["without_gate"]["questions, text, left out"]
    for name, some in (("chats, text, left out", good), ("questions, text, left out", bad)):
        assert found["with_gate"][name] == pytest.approx(
            some.mrr(fitted(*some.inputs).pooler_output.detach()), abs=0.2
        )


def test_all_of_it_is_fitted_and_repeatable():
    train = [queries("chats", 400, 10, ("whole", "readout")), queries("glosses", 400, 11, ("whole", "last"))]
    dev = [queries("chats", 100, 12, ("whole", "readout")), queries("glosses", 100, 13, ("whole", "last"))]
    runs = []
    for _ in range(2):
        fitted = anchor()
        found = fit_query_anchor(fitted, train, dev, seed=3, steps=40)
        runs.append(fitted)
    assert set(found) == {"weights", "corrected", "gate"}
    assert found["weights"]["chosen"] >= found["weights"]["encoder"]
    for one, other in zip(runs[0].state_dict().values(), runs[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
