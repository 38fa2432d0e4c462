"""A batch in chunks gives the losses and the gradients of the whole batch."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from modeling_unimur.training.collators import caption_inputs
from modeling_unimur.training.gradient_cache import gradient_cached_step, label_counts, split_rows
from modeling_unimur.training.prefix_store import prefix_states
from tests.test_query_anchor import shake

_TEXTS = ["a cat", "the red balloon over the town", "she plays guitar", "no", "what a beautiful morning", "cake", "my"]
_SHOWN = (0, 3, 4)  # contexts with a picture
# Everything that trains: maps on the targets, two temperatures, two [RET], two layers, four losses.
_EVERYTHING = {
    "projection_dim": 16,
    "map_image_targets": True,
    "map_text_targets": True,
    "separate_logit_scales": True,
    "ret_token_loss_weight": 0.5,
    "caption_loss_weight": 0.7,
    "ret_layers": [1, -1],
}

_ANCHOR = {"query_anchor": "encoder", "query_attention": 1.0, "query_correction": "mlp", "query_gate": True}


def batch_for(processor, rows: int = len(_TEXTS), captions: int = 5, visual: int = 48, width: int = 24) -> dict:
    """Contexts of unequal length, some with pictures, targets that are shared or missing, captions of their own."""
    generator = torch.Generator().manual_seed(0)

    def features(count, size):
        return torch.randn(count, size, generator=generator, dtype=torch.float64)

    token = processor.image_token
    texts = [token + text if row in _SHOWN else text for row, text in enumerate(_TEXTS[:rows])]
    batch = dict(processor.process_rendered(texts))
    batch["visual_features"] = features(sum(row in _SHOWN for row in range(rows)), visual)
    batch["target_image_features"] = features(rows, visual)
    batch["target_text_features"] = features(rows, width)
    batch["target_ids"] = torch.tensor([0, 1, 2, 0, 4, 5, 2][:rows])
    batch["target_image_mask"] = torch.tensor([True, True, False, True, True, True, False][:rows])
    batch.update(caption_inputs(processor, _TEXTS[:captions], 24))
    batch["caption_visual_features"] = features(captions, visual)
    return batch


def gradients(model) -> dict:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same(found: dict, wanted: dict, **tolerance) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def everything(make_model):
    torch.manual_seed(0)
    model, processor = make_model(processor={"num_ret_tokens": 2}, **_EVERYTHING)
    return model.double(), processor


@pytest.fixture(scope="module")
def anchored(make_model):
    """The same with anchored queries, every part of which has a gradient."""
    torch.manual_seed(0)
    model, processor = make_model(processor={"num_ret_tokens": 2}, **_EVERYTHING, **_ANCHOR)
    shake(model)
    return model.double(), processor


def anchors_for(processor, rows: int = len(_TEXTS)) -> dict:
    """What anchored queries need of the contexts of `batch_for`, and of their pictures."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(rows, 2, 24, generator=generator, dtype=torch.float64)
    features[3] = 0  # a picture without words
    batch = processor.process_anchors([[{"role": "user", "content": text}] for text in _TEXTS[:rows]])
    return {"anchor_features": features, "turn_statistics": batch["turn_statistics"]}


@pytest.mark.parametrize("queries", ["plain", "anchored"])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_equals_the_direct_step(everything, anchored, queries, chunk):
    model, processor = everything if queries == "plain" else anchored
    batch = batch_for(processor)
    if queries != "plain":
        batch.update(anchors_for(processor))
    outputs = model(**batch)
    outputs.loss.backward()
    wanted = gradients(model)
    found = gradient_cached_step(model, batch, chunk, bare=model, backward=torch.Tensor.backward)
    # The caches' and the plain path's sums differ in their last digits; the method adds nothing to that.
    assert_same(gradients(model), wanted, atol=1e-9, rtol=1e-6)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(wanted) == trained
    for name in ("loss", "caption_loss", "visual_matching_loss", "textual_matching_loss", "ret_token_loss"):
        assert found[name].item() == pytest.approx(outputs[name].item(), rel=1e-6), name  # the sum is float32
        assert not found[name].requires_grad
    torch.testing.assert_close(found.multimodal_embeds, outputs.multimodal_embeds.detach(), atol=1e-9, rtol=0)


def test_direct_losses_of_parts_do_not_add_up(everything):
    """What chunks must not do: with their own negatives and their own means, the sum is another one."""
    model, processor = everything
    batch = batch_for(processor)
    with torch.no_grad():
        whole = model(**batch)
        parts = [model(**chunk) for chunk in split_rows(batch, 3, model.config, "caption_")]
    mean = torch.stack([part.caption_loss for part in parts]).mean()
    assert abs(float(mean - whole.caption_loss)) > 1e-3


def test_dropout_draws_the_same_in_both_runs_of_a_chunk(make_model):
    model, processor = make_model(caption_loss_weight=0.0, **_ANCHOR)
    shake(model)
    model = model.double().train()
    batch = {**batch_for(processor, width=24), **anchors_for(processor)}
    batch = {name: value for name, value in batch.items() if not name.startswith(("caption_", "target_image"))}
    targets = {name: value for name, value in batch.items() if name.startswith("target_")}
    torch.manual_seed(5)
    parts = [model(**chunk, return_loss=False).multimodal_embeds for chunk in split_rows(batch, 3, model.config)]
    model(multimodal_embeds=torch.cat(parts), **targets).loss.backward()
    wanted, drawn = gradients(model), torch.rand(1)
    torch.manual_seed(5)
    gradient_cached_step(model, batch, 3, bare=model, backward=torch.Tensor.backward)
    assert_same(gradients(model), wanted, atol=1e-9, rtol=1e-6)
    assert torch.equal(torch.rand(1), drawn)  # and what is drawn next is new


def test_raw_targets_and_pictures(make_model):
    model, processor = make_model(caption_loss_weight=0.0)
    model = model.double()
    generator = torch.Generator().manual_seed(1)
    batch = batch_for(processor)
    batch = {name: value for name, value in batch.items() if "target_" not in name and "visual" not in name}
    batch["pixel_values"] = torch.randn(len(_SHOWN), 3, 32, 32, generator=generator, dtype=torch.float64)
    batch["target_pixel_values"] = torch.randn(len(_TEXTS), 3, 32, 32, generator=generator, dtype=torch.float64)
    batch["target_input_ids"] = torch.tensor([[5, 6, 1, 2], [7, 1, 2, 2]] * 4)[: len(_TEXTS)]
    batch["target_attention_mask"] = batch["target_input_ids"].ne(2).long()
    outputs = model(**batch)
    outputs.loss.backward()
    wanted = gradients(model)
    found = gradient_cached_step(model, batch, 2, bare=model, backward=torch.Tensor.backward)
    assert found.loss.item() == pytest.approx(outputs.loss.item(), rel=1e-6)
    assert_same(gradients(model), wanted, atol=1e-9, rtol=1e-6)


def test_kept_prefixes_are_cut_to_each_chunk(make_model):
    model, processor = make_model(caption_loss_weight=0.0)
    model = model.double()
    batch = batch_for(processor)
    words = [row for row in range(len(_TEXTS)) if row not in _SHOWN]
    ids, mask = batch["input_ids"][words], batch["attention_mask"][words]
    tokens = mask.any(dim=0)
    batch = {name: value for name, value in batch.items() if not name.startswith(("caption_", "target_image"))}
    plain = model(**batch)
    plain.loss.backward()
    wanted = gradients(model)
    batch["prefix_states"] = prefix_states(model, ids[:, tokens], mask[:, tokens])
    found = gradient_cached_step(model, batch, 2, bare=model, backward=torch.Tensor.backward)
    assert found.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    assert_same(gradients(model), wanted, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("special", ["no pictures", "captions alone", "contexts alone"])
def test_batches_with_less(make_model, special):
    model, processor = make_model()
    model = model.double()
    batch = batch_for(processor)
    if special == "no pictures":
        batch.update(processor.process_rendered(_TEXTS))
        batch["visual_features"] = None
        batch["target_image_mask"] = None
    drop = {"captions alone": ("input_ids", "attention_mask", "visual", "target_"), "contexts alone": ("caption_",)}
    batch = {name: value for name, value in batch.items() if not name.startswith(drop.get(special, "-"))}
    if "target_image_features" in batch:
        batch["target_image_features"] = batch["target_image_features"][:, :24]
    outputs = model(**batch)
    outputs.loss.backward()
    wanted = gradients(model)
    found = gradient_cached_step(model, batch, 2, bare=model, backward=torch.Tensor.backward)
    assert found.loss.item() == pytest.approx(outputs.loss.item(), rel=1e-6)
    assert_same(gradients(model), wanted, atol=1e-9, rtol=1e-6)


def test_a_loss_scaler_scales_once(everything):
    """fp16 multiplies losses by a factor before each backward pass; the cached gradient must not get it twice."""
    model, processor = everything
    batch = batch_for(processor)
    model(**batch).loss.backward()
    wanted = gradients(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    gradient_cached_step(model, batch, 3, bare=model, backward=lambda loss: scaler.scale(loss).backward())
    assert_same({n: g / 2.0**12 for n, g in gradients(model).items()}, wanted, atol=1e-9, rtol=1e-6)


def test_ranks_would_reduce_once(everything):
    model, processor = everything
    inside, passes, finished = [False], [], []

    @contextmanager
    def no_sync():
        inside[0] = True
        yield
        inside[0] = False

    def backward(loss):
        passes.append(inside[0])
        loss.backward()

    def finish(loss):
        finished.append(len(passes))
        return loss

    gradient_cached_step(
        model, batch_for(processor), 3, bare=model, backward=backward, no_sync=no_sync, autocast=nullcontext,
        finish=finish,
    )  # fmt: skip
    model.zero_grad()
    assert passes == [True] * (len(passes) - 1) + [False]
    assert len(passes) == 1 + 3 + 2  # the losses, three chunks of contexts, two of captions
    assert finished == [len(passes) - 1]


def test_only_a_chunk_is_in_the_graph(everything):
    """What it is for: the largest number of contexts that one call with gradient gets is the chunk's."""
    model, processor = everything
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((torch.is_grad_enabled(), len(kwargs.get("input_ids", ())))),
        with_kwargs=True,
    )
    gradient_cached_step(model, batch_for(processor), 2, bare=model, backward=torch.Tensor.backward)
    handle.remove()
    model.zero_grad()
    assert max(rows for _, rows in seen) == 2
    assert sum(rows for grad, rows in seen if grad) == len(_TEXTS)


def test_labels_are_counted_as_the_losses_count_them(everything):
    model, processor = everything
    batch = batch_for(processor)
    contexts, captions = label_counts(model, batch)
    with torch.no_grad():
        mean = model(**batch)
        total = model(**batch, num_context_labels=1, num_caption_labels=1)
    assert total.ret_token_loss.item() == pytest.approx(mean.ret_token_loss.item() * contexts)
    assert total.caption_loss.item() == pytest.approx(mean.caption_loss.item() * captions)


def test_wrong_calls_are_told(everything):
    model, processor = everything
    with pytest.raises(ValueError, match="at least 1"):
        gradient_cached_step(model, batch_for(processor), 0, bare=model, backward=torch.Tensor.backward)
    contexts = {"input_ids": batch_for(processor)["input_ids"][1:2]}
    silent = model.config.ret_token_loss_weight
    model.config.ret_token_loss_weight = 0.0
    try:
        with pytest.raises(ValueError, match="loss reads"):
            gradient_cached_step(model, contexts, 2, bare=model, backward=torch.Tensor.backward)
    finally:
        model.config.ret_token_loss_weight = silent
