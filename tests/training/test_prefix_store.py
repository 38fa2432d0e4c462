"""Kept prefixes: within their memory, on disk for the next run, never those of another language model."""

import torch

from modeling_unimur.training.prefix_store import PrefixStore
from tests.rounding import assert_same_outputs

_TEXTS = ["a cat", "the red balloon over the town", "no", "she plays guitar in the morning"]


def _fill(model, processor, **kwargs):
    store = PrefixStore(model, **kwargs)
    batch = processor.process_rendered(_TEXTS)
    return store, store.states(batch["input_ids"], batch["attention_mask"])


def test_the_next_run_finds_what_was_kept(make_model, tmp_path, monkeypatch):
    model, processor = make_model()
    store, states = _fill(model, processor, folder=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    store.flush()
    store.flush()  # nothing new: nothing written
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    again = PrefixStore(model, folder=tmp_path)
    assert (len(again), again.bytes) == (len(store), store.bytes)
    monkeypatch.setattr("modeling_unimur.training.prefix_store.prefix_states", None)  # it must not be asked
    batch = processor.process_rendered(_TEXTS)
    assert torch.equal(again.states(batch["input_ids"], batch["attention_mask"]), states)


def test_another_language_model_finds_nothing(make_model, tmp_path):
    model, processor = make_model()
    store, _ = _fill(model, processor, folder=tmp_path)
    store.flush()
    with torch.no_grad():
        next(model.language_model.parameters()).add_(1e-3)
    assert len(PrefixStore(model, folder=tmp_path)) == 0
    with torch.no_grad():
        next(model.language_model.parameters()).sub_(1e-3)


def test_memory_is_bounded(make_model):
    model, processor = make_model()
    everything, states = _fill(model, processor)
    some, same = _fill(model, processor, max_bytes=everything.bytes // 2)
    assert 0 < len(some) < len(everything)
    assert some.bytes <= everything.bytes // 2
    assert_same_outputs(same, states)


def test_contexts_in_another_batch_get_the_same_states(make_model):
    model, processor = make_model()
    store, states = _fill(model, processor)
    batch = processor.process_rendered(_TEXTS[:1])
    alone = store.states(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(alone[0], states[0, :, :, -alone.shape[3] :])
