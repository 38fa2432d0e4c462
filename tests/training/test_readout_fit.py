"""A start in closed form finds targets that are a linear function of what is read."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.context_rows import TextRows
from modeling_unimur.training.dev_sets import embed_contexts
from modeling_unimur.training.prefix_store import PrefixStore
from modeling_unimur.training.readout_fit import (
    ReadContexts,
    current_readout,
    fit_readout,
    read_contexts,
    read_turns,
    refit_readout,
    set_readout,
    start_image_map,
)
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import train
from tests.rounding import assert_same_outputs
from tests.training import folder_run


def test_linear_targets_are_found(make_model):
    model, processor = make_model(ret_layers=[1, -1])
    words = ["cat", "red", "town", "cake", "guitar", "morning", "table", "balloon", "keyboard", "picture"]
    turns = [[f"{a} {b}", f"the {b}"] for a in words for b in words]
    hidden = embed_contexts(
        model, turns, DualAlignmentCollator(processor, 256)
    )  # of the untrained maps: linear, up to its length
    rows = TextRows(turns, hidden, torch.arange(len(turns)), torch.arange(len(turns)))
    with torch.no_grad():
        for layer in model.heads.readout_maps:
            torch.nn.init.normal_(layer.weight)
    before = (embed_contexts(model, turns, DualAlignmentCollator(processor, 256)) * hidden).sum(dim=1).mean()
    collator = DualAlignmentCollator(processor, max_context_tokens=40, captions_per_batch=0)
    set_readout(model, fit_readout(read_contexts(model, rows, collator), seed=0))
    after = (embed_contexts(model, turns, DualAlignmentCollator(processor, 256)) * hidden).sum(dim=1).mean()
    assert after > 0.95 > before
    assert not model.equal_calls
    assert torch.allclose(F.normalize(hidden, dim=-1), hidden, atol=1e-5)


def test_a_readout_of_states_gives_the_queries_of_the_model(make_model):
    model, processor = make_model(ret_layers=[1, -1])
    turns = [["a red cat", "and then?"], ["cake"], ["the town", "a guitar", "no, the table"]]
    states = read_turns(model, turns, DualAlignmentCollator(processor, max_context_tokens=40))
    assert states.shape == (3, 2 * model.config.language_width)
    assert_same_outputs(
        current_readout(model).queries(states), embed_contexts(model, turns, DualAlignmentCollator(processor, 256))
    )


def test_the_best_of_three_readouts_is_kept(make_model):
    model, processor = make_model(ret_layers=[1, -1])
    words = ["cat", "red", "town", "cake", "guitar", "morning", "table", "balloon", "keyboard", "picture"]
    turns = [[f"{a} {b}", f"the {b}"] for a in words for b in words]
    hidden = embed_contexts(model, turns, DualAlignmentCollator(processor, 256))
    rows = TextRows(turns, hidden, torch.arange(len(turns)), torch.arange(len(turns)))
    collator = DualAlignmentCollator(processor, max_context_tokens=40, captions_per_batch=0)

    def judge():
        return {
            "cosine": 100
            * float((embed_contexts(model, turns, DualAlignmentCollator(processor, 256)) * hidden).sum(dim=1).mean())
        }

    found = refit_readout(model, rows, collator, judge, seed=0)
    assert found["trained"] > 99.9  # they are what made the targets
    assert judge()["cosine"] == pytest.approx(max(found.values()))
    with torch.no_grad():
        for layer in model.heads.readout_maps:
            torch.nn.init.normal_(layer.weight)
    found = refit_readout(model, rows, collator, judge, seed=0)
    assert found["trained"] < 50 < 95 < found["closed_form"]
    assert abs(judge()["cosine"] - max(found.values())) < 1e-3


def test_dimensions_of_any_size_share_one_penalty():
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(300, 6, generator=generator)
    targets = F.normalize(plain @ torch.randn(6, 5, generator=generator), dim=-1)
    sizes = torch.tensor([1000.0, 1.0, 1.0, 0.01, 1.0, 50.0])
    numbers, kinds = torch.arange(300), torch.zeros(300, dtype=torch.bool)
    found = fit_readout(ReadContexts(plain, targets, numbers, kinds), seed=0)
    stretched = fit_readout(ReadContexts(plain * sizes + 7, targets, numbers, kinds), seed=0)
    assert stretched.penalty == found.penalty
    torch.testing.assert_close(stretched(plain * sizes + 7), found(plain), atol=1e-3, rtol=0)


def test_what_the_refit_reads_is_not_kept(make_model):
    model, processor = make_model(ret_layers=[1, -1])
    turns = [[f"{a} {b}"] for a in ("cat", "red", "town", "cake") for b in ("guitar", "morning", "table")]
    hidden = embed_contexts(model, turns, DualAlignmentCollator(processor, 256))
    rows = TextRows(turns, hidden, torch.arange(len(turns)), torch.arange(len(turns)))
    store = PrefixStore(model)
    collator = DualAlignmentCollator(processor, max_context_tokens=40, captions_per_batch=0, prefix_store=store)
    refit_readout(model, rows, collator, lambda: {"none": 0.0}, seed=0, steps=2)
    assert len(store) == 0
    assert collator.prefix_store is store


def captioned(model, processor, rows: int = 60) -> "list[dict]":
    """Rows whose picture features are a linear function of their caption's words."""
    words = ["cat", "red", "town", "cake", "guitar", "morning", "table", "balloon", "keyboard", "picture"]
    table, generator = model.get_input_embeddings().weight, torch.Generator().manual_seed(0)
    there = torch.randn(table.shape[1], model.config.visual_width, generator=generator)
    found = []
    for row in range(rows):
        caption = f"{words[row % 10]} {words[row // 10]}"
        ids = torch.tensor(processor.tokenizer(caption, add_special_tokens=False)["input_ids"])
        mean = F.normalize(table[ids].mean(dim=0), dim=0)
        found.append({"caption": caption, "caption_visual_features": mean @ there, "target_ids": row, "words": mean})
    return found


@pytest.mark.parametrize("tokens", [1, 2])
def test_pictures_start_as_their_words(make_model, tokens):
    model, processor = make_model(processor={"num_visual_tokens": tokens})
    rows = captioned(model, processor)
    start_image_map(model, rows, DualAlignmentCollator(processor, 24), seed=0)
    features = torch.stack([row["caption_visual_features"] for row in rows])
    with torch.no_grad():
        inputs = model.heads.visual_inputs(features).reshape(len(rows), tokens, -1)
    for part in range(1, tokens):
        assert_same_outputs(inputs[:, part], inputs[:, 0])
    table = model.get_input_embeddings().weight.detach()
    apart = inputs[:, 0] - table.mean(dim=0)
    assert float(apart.norm(dim=1).mean()) == pytest.approx(float(table.norm(dim=1).mean()), rel=0.02)
    words = torch.stack([row["words"] for row in rows]).detach()
    cosines = F.normalize(apart, dim=-1) @ F.normalize(words - words.mean(dim=0), dim=-1).T
    assert (cosines.argmax(dim=1) == torch.arange(len(rows))).float().mean() > 0.9


def test_no_captions_to_start_from(make_model):
    model, processor = make_model()
    rows = [{**row, "caption": None} for row in captioned(model, processor)]
    with pytest.raises(ValueError, match="captions"):
        start_image_map(model, rows, DualAlignmentCollator(processor, 24), seed=0)


@pytest.mark.parametrize("trains", [True, False])
def test_a_readout_that_does_not_train_stays_the_closed_form(language_folder, clip_folder, tmp_path, trains):
    images = folder_run.write_pictures(tmp_path / "images")
    path = folder_run.write_recipe(tmp_path / "recipe.yaml", images, language_folder, clip_folder, max_steps=8)
    run = [f"data.train_readout={str(trains).lower()}", "data.closed_form_start=true"]
    train(
        load_recipe(path, [*run, f"training.output_dir={tmp_path / 'run'}", "training.load_best_model_at_end=false"])
    )
    first, last = (
        load_file(tmp_path / "run" / name) for name in ("checkpoint-4/model.safetensors", "model.safetensors")
    )
    moved = {name for name, weight in last.items() if not torch.equal(weight, first[name])}
    readout = {name for name in last if "readout_maps" in name}
    assert moved & readout == (readout if trains else set())
    assert "heads.ret_embedding" in moved
