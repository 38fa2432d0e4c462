"""Rows of like length run together: which they are, and that no number changes."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.utils import generic

from modeling_unimur import prefix_cache
from modeling_unimur.prefix_cache import FrozenDecoder, cache_argument, cache_of, group_by_length
from modeling_unimur.training.collators import caption_inputs


def _mask(lengths, width=None):
    width = width or max(lengths)
    return torch.tensor([[0] * (width - length) + [1] * length for length in lengths])


def test_groups_are_cut_to_their_own_longest():
    mask = _mask([3, 40, 4, 41, 3])
    parts = [part.tolist() for part in group_by_length(mask, call_cost=20)]
    assert sorted(map(sorted, parts)) == [[0, 2, 4], [1, 3]]


def test_a_part_must_save_more_than_it_costs():
    mask = _mask([3, 40, 4, 41, 3])  # 3 * 37 tokens would be saved
    assert len(group_by_length(mask, call_cost=111)) == 1
    assert len(group_by_length(mask, call_cost=110)) == 2


def test_every_row_is_in_one_part_and_kinds_stay_apart():
    lengths = torch.randint(1, 60, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    apart = torch.arange(50) % 3 == 0
    parts = group_by_length(_mask(lengths), apart, call_cost=10)
    assert sorted(torch.cat(parts).tolist()) == list(range(50))
    assert all(len(set(apart[part].tolist())) == 1 for part in parts)
    assert len(parts) > 4


@pytest.mark.parametrize("tokens_of_one", [[0, 3, 9], [5, 5, 5]])
def test_prefix_in_parts_gives_the_same_states(pair, tokens_of_one):
    model, _ = pair
    lengths = [length + 2 for length in tokens_of_one]
    mask, generator = _mask(lengths, 11), torch.Generator().manual_seed(1)
    vectors = torch.randn(3, 11, model.config.language_width, generator=generator)
    found = []
    for call_cost in (0, 10_000):
        decoder = FrozenDecoder(model.language_model, [1, -1])
        assert decoder.supports_prefix_cache
        prefix = decoder.build(vectors[:, :-1], mask[:, :-1], call_cost)
        found.append((prefix.hidden, decoder.extend(vectors[:, -1:], mask[:, -1:], prefix).states))
    for apart, together in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(apart, together, atol=1e-6, rtol=1e-5)
    kept = mask[:, :-1].bool()
    torch.testing.assert_close(found[0][0][kept], found[1][0][kept], atol=1e-6, rtol=1e-5)


def test_sliding_windows_are_not_joined(make_model, tmp_path):
    from tests import tiny

    model, _ = make_model(language=tiny.language_model(tmp_path, "mistral"))
    assert not model.frozen_decoder.supports_prefix_cache


class _OldNames(nn.Module):
    """A decoder that takes a cache as `past_key_values` alone, as those written before transformers 5.24 do."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder, self.config = decoder, decoder.config

    def forward(self, inputs_embeds, attention_mask, position_ids, past_key_values=None, **kwargs):
        kwargs[cache_argument(self.decoder)] = past_key_values
        return self.decoder(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids, **kwargs
        )


class _NewNames(_OldNames):
    """A decoder that takes it as `cache` alone, as those of transformers 5.40 do."""

    def forward(self, inputs_embeds, attention_mask, position_ids, cache=None, **kwargs):
        assert "past_key_values" not in kwargs
        return super().forward(inputs_embeds, attention_mask, position_ids, cache, **kwargs)


@pytest.mark.parametrize("names", [lambda decoder: decoder, _OldNames, _NewNames])
def test_a_cache_goes_in_under_either_name_without_a_warning(pair, names, monkeypatch):
    told: list = []
    monkeypatch.setattr(generic.logger, "warning_once", told.append)
    model, _ = pair
    language_model = SimpleNamespace(base_model=names(model.language_model.base_model))
    decoder, plain = FrozenDecoder(language_model), FrozenDecoder(model.language_model)
    vectors = torch.randn(2, 6, model.config.language_width, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(2, 6, dtype=torch.long)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = plain.extend(vectors, mask).hidden
        built = decoder.build(vectors[:, :4], mask[:, :4])
        found = decoder.extend(vectors[:, 3:], mask[:, 3:], built.cut(3), keep=True)
        again = decoder.extend(vectors[:, 4:], prefix=built).hidden  # what it goes on from has stayed as it was
    torch.testing.assert_close(found.hidden, expected[:, 3:], atol=1e-5, rtol=0)
    torch.testing.assert_close(again, expected[:, 4:], atol=1e-5, rtol=0)
    for prefix, width in ((built, 4), (found.prefix, 6)):
        assert {state.shape[2] for state in prefix.states} == {prefix.mask.shape[1]} == {width}
    assert found.prefix.num_bytes == 1.5 * built.num_bytes
    assert not told


def test_a_cache_comes_out_under_either_name():
    cache = object()
    assert cache_of({"cache": cache}) is cache_of({"past_key_values": cache}) is cache
    assert cache_of({}) is None


def _batch(processor):
    texts = ["she plays guitar", "what a beautiful morning it is " * 6, "a cat", "the red balloon over the town " * 4]
    return dict(processor.process_rendered(texts)), caption_inputs(processor, texts, max_length=40)


def test_training_in_parts_gives_the_same_losses_and_gradients(make_model, monkeypatch):
    model, processor = make_model(ret_token_loss_weight=0.5, ret_layers=[1, -1])
    contexts, captions = _batch(processor)
    generator = torch.Generator().manual_seed(2)
    targets = torch.randn(2, 4, model.config.joint_width, generator=generator)
    pictures = torch.randn(4, model.config.visual_width, generator=generator)
    calls, results = [], []
    run = FrozenDecoder.extend
    monkeypatch.setattr(FrozenDecoder, "extend", lambda self, *a, **k: calls.append(len(a[0])) or run(self, *a, **k))
    for cost in (5, 10_000):
        monkeypatch.setattr(prefix_cache, "_CALL_COST_CPU", cost)
        model.zero_grad()
        model.frozen_decoder.supports()
        calls.clear()
        output = model.train()(
            **contexts,
            **captions,
            caption_visual_features=pictures,
            target_image_features=targets[0],
            target_text_features=targets[1],
        )
        output.loss.backward()
        terms = [output.visual_matching_loss, output.textual_matching_loss, output.caption_loss, output.ret_token_loss]
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((list(calls), torch.stack(terms), gradients))
    (parts, losses, gradients), (whole, expected_losses, expected) = results
    assert whole == [4, 4, 4]  # contexts before [RET], [RET], captions
    assert len(parts) > 5
    assert parts.count(4) == 1  # [RET] of all rows at once
    torch.testing.assert_close(losses, expected_losses, atol=1e-6, rtol=1e-6)
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_a_picture_is_never_used_twice(make_model, monkeypatch):
    """Two contexts of one picture each, in parts of their own, and one picture."""
    monkeypatch.setattr(prefix_cache, "_CALL_COST_CPU", 0)
    model, processor = make_model()
    token = processor.image_token
    batch = dict(processor.process_rendered([f"{token}a cat", f"{token}the red balloon over the town"]))
    with pytest.raises(ValueError, match="places for 2"):
        model.get_multimodal_features(**batch, visual_features=torch.randn(1, model.config.visual_width))


def test_half_precision_attention_with_gradient_runs_in_float32(make_model, monkeypatch):
    model, processor = make_model()
    model.language_model.to(torch.bfloat16)
    used, config = set(), model.language_model.base_model.config
    plain = prefix_cache._float32_sdpa

    def watch(module, query, *args, **kwargs):
        used.add(config._attn_implementation)
        return plain(module, query, *args, **kwargs)

    monkeypatch.setitem(prefix_cache.AttentionInterface._global_mapping, prefix_cache._FLOAT32_SDPA, watch)
    batch = processor.process_context(["a cat on the table", "no"])
    with torch.no_grad():
        expected = model.get_multimodal_features(**batch).pooler_output
    assert not used
    found = model.get_multimodal_features(**batch).pooler_output
    found.sum().backward()
    assert used == {prefix_cache._FLOAT32_SDPA}
    assert config._attn_implementation == "sdpa"
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)
    assert model.heads.ret_embedding.grad.abs().sum() > 0


def test_no_other_module_handles_keys_and_values():
    package = Path(prefix_cache.__file__).parent
    words = ("DynamicCache", "past_key_values", "cache_utils")
    found = [path.name for path in package.rglob("*.py") if any(word in path.read_text("utf-8") for word in words)]
    assert found == ["prefix_cache.py"]
