"""Batches of mixed rows give the model what each row means."""

import pytest
import torch

from modeling_unimur.training.collators import DualAlignmentCollator, render_turns
from modeling_unimur.training.prefix_store import PrefixStore, prefix_states
from tests.rounding import assert_same_outputs


def _row(model, turns, seed, picture=False, target_picture=True, caption="a tree"):
    generator = torch.Generator().manual_seed(seed)
    joint, visual = model.config.joint_width, model.config.visual_width
    return {
        "turns": turns,
        "visual_features": torch.randn(1, visual, generator=generator) if picture else None,
        "target_image_features": torch.randn(joint, generator=generator) if target_picture else None,
        "target_text_features": torch.randn(joint, generator=generator),
        "target_ids": seed,
        "caption": caption if target_picture else None,
        "caption_visual_features": torch.randn(visual, generator=generator),
    }


@pytest.fixture
def rows(pair):
    model, _ = pair
    return [
        _row(model, ["a cat"], 0),
        _row(model, ["hello there", "what do you want"], 1, picture=True),
        _row(model, ["a thing that flies"], 2, target_picture=False),
        _row(model, ["no", "yes, that one over there by the tree"], 3),
    ]


def test_rows_are_rendered_as_the_processor_writes_dialogues(pair):
    _, processor = pair
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi [RET]"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "so?"}]},
    ]
    batch = processor.process_rendered([render_turns(processor, ["hi [RET]", "so?"])])
    assert torch.equal(batch["input_ids"], processor.process_context(messages)["input_ids"])


def test_a_row_without_a_picture_takes_no_part_in_visual_matching(pair, rows):
    model, processor = pair
    batch = DualAlignmentCollator(processor, max_context_tokens=40)(rows)
    assert batch["target_image_mask"].tolist() == [True, True, False, True]
    assert "target_text_mask" not in batch
    assert batch["caption_input_ids"].shape[0] == 3
    expected = model(**batch)
    batch["target_image_features"][2] = 7.0  # never read
    assert_same_outputs(model(**batch).loss, expected.loss)


def test_the_latest_turns_survive_a_cut(pair, rows):
    _, processor = pair
    rows[1]["turns"] = ["word " * 60, "the last words"]
    batch = DualAlignmentCollator(processor, max_context_tokens=8)(rows)
    text = processor.tokenizer.decode(batch["input_ids"][1])
    assert "last words" in text
    assert "visual_features" not in batch  # the cut took the picture, and its feature with it


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_captions_run_together(pair, rows, probability):
    model, processor = pair
    batch = DualAlignmentCollator(processor, concatenate_captions=probability)(rows)
    pictures = (batch["caption_input_ids"] == processor.image_token_id).sum(dim=1).tolist()
    assert pictures == ([2, 1] if probability else [1, 1, 1])
    assert batch["caption_visual_features"].shape[0] == 3
    learned = batch["caption_labels"] != -100
    assert not (learned & (batch["caption_input_ids"] == processor.image_token_id)).any()
    assert int(learned.sum()) == 3 * (len(processor.tokenizer("a tree", add_special_tokens=False)["input_ids"]) + 1)
    assert model(**batch).caption_loss > 0


def test_kept_prefixes_give_the_same_losses_and_gradients(make_model, rows):
    model, processor = make_model(ret_layers=[1, -1], processor={"readout_prompt": " means:"})
    plain = DualAlignmentCollator(processor, max_context_tokens=40)(rows)
    store = PrefixStore(model)
    kept = DualAlignmentCollator(processor, max_context_tokens=40, prefix_store=store)
    found = []
    for batch in (plain, kept(rows), kept(rows)):
        model.zero_grad()
        output = model(**batch)
        output.loss.backward()
        found.append((output.loss.detach(), {n: p.grad.clone() for n, p in model.heads.named_parameters()}))
    assert len(store) == 3
    for loss, gradients in found[1:]:
        torch.testing.assert_close(loss, found[0][0], atol=1e-6, rtol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_full_store_computes_what_it_cannot_keep(make_model, rows):
    model, processor = make_model()
    store = PrefixStore(model, max_bytes=0)
    batch = DualAlignmentCollator(processor, max_context_tokens=40, prefix_store=store)(rows)
    assert len(store) == 0
    assert batch["prefix_states"].shape[0] == 3


def test_prefix_states_of_another_batch_are_refused(pair, rows):
    model, processor = pair
    batch = DualAlignmentCollator(processor, max_context_tokens=40, prefix_store=PrefixStore(model))(rows)
    batch["prefix_states"] = batch["prefix_states"][:2]
    with pytest.raises(ValueError, match="2 contexts"):
        model(**batch)


def test_prefixes_with_pictures_are_refused(pair):
    model, processor = pair
    batch = processor.process_rendered(["<image> a cat"])
    with pytest.raises(ValueError, match="the context"):
        prefix_states(model, batch["input_ids"])
