"""FROMAGe's losses (Koh et al., ICML 2023), written out as its code computes them, and the switches for them."""

import pytest
import torch
from torch.nn import functional as F
from transformers import OPTConfig, OPTForCausalLM

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.training.collators import DualAlignmentCollator, caption_inputs
from tests import tiny

# `fromage_opt6.7b_cc3m.yaml` and the converter set these.
PROCESSOR = {"start_after_pictures": True, "caption_ends": False, "start_each_caption": True}
COLLATOR = {"max_caption_tokens": 22, "keep_context": "first"}
LONG = "a cat slept on my keyboard and the red balloon over the town says what a beautiful morning it is, 0123456789!"
CAPTIONS = ["a cat", LONG, "the red balloon over the town", "she plays guitar"]
SPARE = 5  # rows of the table beyond the tokens, as OPT's 50,272 have


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """An OPT with spare rows in its table, and a CLIP."""
    folder = tmp_path_factory.mktemp("fromage")
    tokenizer = tiny.tokenizer(bos=True)
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer) + SPARE, hidden_size=32, ffn_dim=64, word_embed_proj_dim=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    language = OPTForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in language.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
    language.save_pretrained(folder / "opt")
    tokenizer.save_pretrained(folder / "opt")
    return str(folder / "opt"), str(tiny.clip(folder / "clip"))


def fromage(backbones, tokens=1, processor=None, **config):
    """An untrained model with every switch as released, but for those that are given, in float64."""
    made = UniMuRProcessor.from_backbones(
        *backbones, max_context_tokens=128, num_visual_tokens=tokens, **{**PROCESSOR, **(processor or {})}
    )
    released = {"ret_in_caption_loss": True, "loss_vocab_size": made.ret_token_ids[0]}
    torch.manual_seed(1)
    model = UniMuRModel.from_backbones(
        *backbones, processor=made, projection_dim=16, map_image_targets=True, textual_matching_weight=0.0,
        ret_token_loss_weight=1.0, **{**released, **config},
    )  # fmt: skip
    with torch.no_grad():
        model.heads.ret_embedding.mul_(20)  # as long as the words
    return model.double(), made


def rows_of(model, pooled):
    return [
        {
            "turns": [caption], "visual_features": None, "target_image_features": pooled[n],
            "target_text_features": None, "target_ids": torch.tensor(n), "caption": caption,
            "caption_visual_features": pooled[n],
        }
        for n, caption in enumerate(CAPTIONS)
    ]  # fmt: skip


class Reference:
    """`FromageModel.forward` and the loop of `main.py`, a sequence at a time."""

    def __init__(self, model, processor, pooled):
        self.model, self.pooled, tokenizer = model, pooled, processor.tokenizer
        self.ret = len(tokenizer) - 1  # the last token
        table = model.get_input_embeddings().weight[: self.ret]
        self.table = torch.cat([table, model.heads.ret_embedding])  # resized to the tokenizer
        self.tokens = []
        for caption in CAPTIONS:
            ids = [tokenizer.bos_token_id, *tokenizer(caption, add_special_tokens=False)["input_ids"], self.ret]
            self.tokens.append([*ids[:23], self.ret] if len(ids) > 24 else ids)

    def hidden(self, embeds):
        return self.model.language_model.model.decoder(inputs_embeds=embeds[None]).last_hidden_state[0]

    def cross_entropy(self, sequences, labels):
        """Mean over the labels of all sequences, each of the token before it."""
        logits = torch.cat([(self.hidden(embeds) @ self.table.T)[:-1] for embeds in sequences])
        return F.cross_entropy(logits, torch.cat([torch.tensor(row[1:]) for row in labels]))

    def caption_loss(self, together):
        maps = self.model.heads.visual_map
        visual = F.linear(self.pooled, maps.weight, maps.bias).reshape(len(CAPTIONS), -1, self.table.shape[1])
        parts = [
            (torch.cat([image, self.table[ids[:-1]]]), [-100] * len(image) + ids[:-1])
            for image, ids in zip(visual, self.tokens, strict=True)
        ]
        rows = [parts[n : n + together] for n in range(0, len(parts), together)]
        return self.cross_entropy(
            [torch.cat([embeds for embeds, _ in row]) for row in rows],
            [[label for _, labels in row for label in labels] for row in rows],
        )

    def retrieval_losses(self):
        """Next-token loss over caption and [RET], and the contrastive one."""
        sequences = [self.table[ids] for ids in self.tokens]
        readout, fc = self.model.heads.readout_maps[0], self.model.heads.image_target_map
        query = torch.stack([F.linear(self.hidden(embeds)[-1], readout.weight, readout.bias) for embeds in sequences])
        image = F.linear(self.pooled, fc.weight, fc.bias)
        query, image = query / query.norm(dim=1, keepdim=True), image / image.norm(dim=1, keepdim=True)
        logits = self.model.heads.logit_scale.exp() * image @ query.T
        right = torch.arange(len(CAPTIONS))
        contrastive = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        return self.cross_entropy(sequences, self.tokens), contrastive


def gradients(model, loss):
    names = ("ret_embedding", "logit_scale", "visual_map.weight", "readout_maps.0.weight", "image_target_map.weight")
    trained = dict(model.heads.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, [trained[name] for name in names]), strict=True))


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("together", [1, 2])
def test_losses_and_gradients_are_those_of_the_released_code(backbones, tokens, together):
    model, processor = fromage(backbones, tokens)
    pooled = torch.randn(len(CAPTIONS), 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    collator = DualAlignmentCollator(processor, concatenate_captions=float(together == 2), **COLLATOR)
    out = model(**collator(rows_of(model, pooled)))
    reference = Reference(model, processor, pooled)
    assert max(map(len, reference.tokens)) == 24  # one is cut
    expected = [reference.caption_loss(together), *reference.retrieval_losses()]
    found = [out.caption_loss, out.ret_token_loss, out.visual_matching_loss]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-6, atol=0)
    torch.testing.assert_close(out.loss.double(), sum(expected), rtol=1e-6, atol=0)
    wanted = gradients(model, sum(expected))
    for name, gradient in gradients(model, sum(found)).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-9, msg=name)


SWITCHES = {
    "start_after_pictures": ({"processor": {"start_after_pictures": False}}, {}, {"caption_loss"}),
    "caption_ends": ({"processor": {"caption_ends": True}}, {}, {"caption_loss"}),
    "start_each_caption": ({"processor": {"start_each_caption": False}}, {}, {"caption_loss"}),
    "ret_in_caption_loss": ({"ret_in_caption_loss": False}, {}, {"caption_loss"}),
    "loss_vocab_size": ({"loss_vocab_size": None}, {}, {"caption_loss", "ret_token_loss"}),
    "keep_context": ({}, {"keep_context": "latest"}, {"ret_token_loss", "visual_matching_loss"}),
    "max_caption_tokens": ({}, {"max_caption_tokens": 24, "max_context_tokens": 22}, {"caption_loss"}),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_changes_the_losses_that_it_says(backbones, switch):
    changed, collated, moved = SWITCHES[switch]
    pooled = torch.randn(len(CAPTIONS), 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = []
    for options, collating in (({}, {}), (changed, collated)):
        model, processor = fromage(backbones, **options)
        collator = DualAlignmentCollator(processor, concatenate_captions=1.0, **{**COLLATOR, **collating})
        with torch.no_grad():
            found.append(model(**collator(rows_of(model, pooled))))
    terms = ("caption_loss", "ret_token_loss", "visual_matching_loss")
    assert {name for name in terms if abs(found[0][name] - found[1][name]) > 1e-6} == moved


def test_the_switches_are_off_by_default_and_saved(backbones, tmp_path):
    plain = UniMuRProcessor.from_backbones(*backbones)
    names = ("start_after_pictures", "start_each_caption", "squash_images")
    assert not any(getattr(plain, name) for name in names)
    assert plain.caption_ends
    model, processor = fromage(backbones, processor={"squash_images": True})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = UniMuRProcessor.from_pretrained(tmp_path)
    assert all(getattr(again, name) for name in names)
    assert not again.caption_ends
    config = UniMuRModel.from_pretrained(tmp_path).config
    assert (config.ret_in_caption_loss, config.loss_vocab_size) == (True, processor.ret_token_ids[0])


@pytest.mark.parametrize("size", [0, -1, 10_000])
def test_a_vocabulary_that_is_none_is_refused(backbones, size):
    with pytest.raises(ValueError, match="loss_vocab_size"):
        fromage(backbones, loss_vocab_size=size)


def test_a_token_beyond_the_vocabulary_is_named(backbones):
    model, processor = fromage(backbones, loss_vocab_size=8)
    with pytest.raises(ValueError, match="loss_vocab_size=8"):
        model(**processor.process_context("a cat"))
    captions = caption_inputs(processor, ["a cat"])
    with pytest.raises(ValueError, match="loss_vocab_size=8"):
        model(**captions, caption_visual_features=torch.zeros(1, 48).double())


def test_images_are_squashed_as_in_the_released_evaluations(backbones, pictures):
    from PIL import Image

    _, processor = fromage(backbones, processor={"squash_images": True})
    _, plain = fromage(backbones)
    side = plain.image_processor.crop_size["height"]
    shown = [Image.open(path).convert("RGB") for path in pictures]  # 56 x 40
    squashed = plain.process_images([image.resize((side, side)) for image in shown])["pixel_values"]
    torch.testing.assert_close(processor.process_images(shown)["pixel_values"], squashed)
    assert not torch.allclose(plain.process_images(shown)["pixel_values"], squashed)
