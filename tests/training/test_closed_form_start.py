"""A start in closed form finds targets that are a linear function of what is read."""

import torch
from torch.nn import functional as F

from modeling_unimur.training.closed_form_start import start_in_closed_form
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.context_rows import TextRows
from modeling_unimur.training.dev_sets import embed_contexts
from modeling_unimur.training.refit_readout import refit_readout


def test_linear_targets_are_found(make_model):
    model, processor = make_model(ret_layers=[1, -1])
    words = ["cat", "red", "town", "cake", "guitar", "morning", "table", "balloon", "keyboard", "picture"]
    turns = [[f"{a} {b}", f"the {b}"] for a in words for b in words]
    hidden = embed_contexts(model, processor, turns)  # of the untrained maps: linear, up to its length
    rows = TextRows(turns, hidden, torch.arange(len(turns)), torch.arange(len(turns)))
    with torch.no_grad():
        for layer in model.heads.readout_maps:
            torch.nn.init.normal_(layer.weight)
    before = (embed_contexts(model, processor, turns) * hidden).sum(dim=1).mean()
    collator = DualAlignmentCollator(processor, max_context_tokens=40, captions_per_batch=0)
    start_in_closed_form(model, rows, collator, seed=0)
    after = (embed_contexts(model, processor, turns) * hidden).sum(dim=1).mean()
    assert after > 0.95 > before
    assert not model.equal_calls
    assert torch.allclose(F.normalize(hidden, dim=-1), hidden, atol=1e-5)


def test_the_best_of_three_readouts_is_kept(make_model):
    model, processor = make_model(ret_layers=[1, -1])
    words = ["cat", "red", "town", "cake", "guitar", "morning", "table", "balloon", "keyboard", "picture"]
    turns = [[f"{a} {b}", f"the {b}"] for a in words for b in words]
    hidden = embed_contexts(model, processor, turns)
    rows = TextRows(turns, hidden, torch.arange(len(turns)), torch.arange(len(turns)))
    collator = DualAlignmentCollator(processor, max_context_tokens=40, captions_per_batch=0)

    def judge():
        return {"cosine": 100 * float((embed_contexts(model, processor, turns) * hidden).sum(dim=1).mean())}

    found = refit_readout(model, rows, collator, judge, seed=0)
    assert found["trained"] > 99.9  # they are what made the targets
    assert judge()["cosine"] == max(found.values())
    with torch.no_grad():
        for layer in model.heads.readout_maps:
            torch.nn.init.normal_(layer.weight)
    found = refit_readout(model, rows, collator, judge, seed=0)
    assert found["trained"] < 50 < 95 < found["closed_form"]
    assert abs(judge()["cosine"] - max(found.values())) < 1e-3
