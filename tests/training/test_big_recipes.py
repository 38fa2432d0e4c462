"""The recipes at the papers' size: their configurations, their sizes, and two steps of each on small stand-ins."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, OPTConfig, OPTForCausalLM, Qwen3Config, SiglipConfig

from modeling_unimur import UniMuRConfig, UniMuRModel
from modeling_unimur.cli.main import main
from modeling_unimur.training.alignment_data import load_data
from modeling_unimur.training.collators import all_rows
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import build
from tests import tiny
from tests.test_fromage_losses import COLLATOR, PROCESSOR
from tests.tiny import siglip
from tests.training.cc3m_files import write_tsv

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BIG = {path.stem: path for path in sorted(RECIPES.glob("*_cc3m.yaml"))}

# As the Hub's configurations have them.
OPT_6_7B = OPTConfig(
    hidden_size=4096, word_embed_proj_dim=4096, ffn_dim=16384, num_hidden_layers=32, num_attention_heads=32,
    vocab_size=50272, max_position_embeddings=2048,
)  # fmt: skip
CLIP_L14 = CLIPConfig(
    text_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12},
    vision_config={
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "patch_size": 14, "image_size": 224,
    },
    projection_dim=768,
)  # fmt: skip
QWEN3_0_6B = Qwen3Config(
    hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8,
    head_dim=128, vocab_size=151936, tie_word_embeddings=True,
)  # fmt: skip
SIGLIP2_B16 = SiglipConfig(text_config={"vocab_size": 256000}, vision_config={"image_size": 224, "patch_size": 16})

_QWEN_HEADS = (768 + 1) * 1024 + 3 * (1024 + 1) * 768 + 1024 + 2
SIZES = {
    "unimur_opt6.7b_clip_l14_cc3m": (OPT_6_7B, CLIP_L14, 7_348_993, 768),
    "fromage_opt6.7b_cc3m": (OPT_6_7B, CLIP_L14, 5_513_729, 256),
    "unimur_qwen3_siglip2_cc3m": (QWEN3_0_6B, SIGLIP2_B16, _QWEN_HEADS, 768),
}


def config_of(recipe, text, clip):
    return UniMuRConfig(
        text_config=text,
        clip_config=clip,
        num_visual_tokens=recipe.model.processor.get("num_visual_tokens", 1),
        ret_token_ids=[1],
        image_token_id=2,
        **recipe.model.config,
    )


def test_every_big_recipe_is_tested_here():
    assert set(SIZES) == set(BIG)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_papers(name):
    text, clip, trained, width = SIZES[name]
    config = config_of(load_recipe(BIG[name]), text, clip)
    assert config.embedding_width == width
    with torch.device("meta"):
        model = UniMuRModel(config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    if text is OPT_6_7B:
        assert sum(p.numel() for p in model.language_model.parameters()) == 6_658_473_984
        assert sum(p.numel() for p in model.clip.parameters()) == 427_616_513


def test_the_papers_values():
    recipe = load_recipe(BIG["unimur_opt6.7b_clip_l14_cc3m"])
    assert recipe.training.per_device_train_batch_size == 120
    fromage = load_recipe(BIG["fromage_opt6.7b_cc3m"])
    assert fromage.training.per_device_train_batch_size == 180
    for chosen in (recipe, fromage):
        args = chosen.training
        assert (args.learning_rate, args.max_steps, args.warmup_steps) == (3e-4, 20_000, 100)
        assert (args.adam_beta1, args.adam_beta2, args.weight_decay, args.max_grad_norm) == (0.9, 0.95, 0.0, 1.0)
        assert args.bf16
        assert chosen.data.concatenate_captions == 0.5
        assert chosen.data.feature_options().stored == torch.bfloat16


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Small models of the same classes by recipe, and a small Conceptual Captions."""
    folder = tmp_path_factory.mktemp("big")
    opt, clip = tiny.language_model(folder / "opt", "opt", bos=True), tiny.clip(folder / "clip")
    qwen = tiny.language_model(folder / "qwen3", "qwen3", num_hidden_layers=28)
    counts = {"cc3m": 40, "cc3m_validation": 8, "cc3m_test": 8}
    sources = [
        f"{name}={write_tsv(folder / 'data' / f'{name}.tsv', count, seed)}"
        for seed, (name, count) in enumerate(counts.items())
    ]
    return {
        "unimur_opt6.7b_clip_l14_cc3m": (opt, clip, sources),
        "fromage_opt6.7b_cc3m": (opt, clip, sources),
        "unimur_qwen3_siglip2_cc3m": (qwen, siglip(folder / "siglip", 1), sources),
    }


def on_stand_ins(name, stand_ins, output):
    """Overrides that put small models and data in the place of the big ones, for two steps."""
    language, clip, sources = stand_ins[name]
    overrides = {
        "model.language_model": language,
        "model.clip": clip,
        "model.language_model_dtype": "float32",
        "data.sources": json.dumps(sources),
        "data.feature_batch_size": 8,
        "training.output_dir": output,
        "training.max_steps": 2,
        "training.eval_steps": 1,
        "training.save_steps": 1,
        "training.logging_steps": 1,
        "training.per_device_train_batch_size": 6,
        "training.use_cpu": "true",
    }
    if "fromage" in name:  # the small vocabulary has no 50,266 tokens
        config = {**load_recipe(BIG[name]).model.config, "loss_vocab_size": 383}
        overrides["model.config"] = json.dumps(config)
    if "siglip2" in name:
        overrides["model.processor"] = json.dumps({"readout_prompt": ' means in one word: "', "max_target_tokens": 16})
    return [f"{key}={value}" for key, value in overrides.items()]


@pytest.mark.filterwarnings("error:.*cannot run a frozen prefix")
@pytest.mark.parametrize("name", sorted(BIG))
def test_two_steps_on_small_stand_ins(name, stand_ins, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "run"
    words = on_stand_ins(name, stand_ins, output)
    assert main(["cache", str(BIG[name]), *words, "--device", "cpu"]) == 0
    assert main(["train", str(BIG[name]), *words]) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["images"] == {"train": 40, "validation": 8, "test": 8}
    assert set(results["test"]) == set(results["test_untrained"])
    assert all(math.isfinite(value) for value in results["test"].values())
    history = json.loads((output / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    terms = {key for line in history for key in line}
    of_fromage = name.startswith("fromage")
    assert {"caption_loss", "visual_matching_loss", "eval_title_image_r1"} <= terms
    assert ("ret_token_loss" in terms) == of_fromage
    assert ("textual_matching_loss" in terms) != of_fromage
    assert ("title_title_r1" in results["test"]) != of_fromage  # nothing maps texts into FROMAGe's space
    heads = load_file(output / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in heads.values())
    if of_fromage:  # [RET] has the mean norm of the words, whatever the optimizer made of it
        table = OPTForCausalLM.from_pretrained(stand_ins[name][0]).get_input_embeddings().weight
        norm = heads["heads.ret_embedding"].norm(dim=1)
        torch.testing.assert_close(norm, table.norm(dim=1).mean()[None], rtol=1e-4, atol=0)


@pytest.mark.parametrize("match", [True, False])
def test_equal_captions_may_be_right_for_each_other(match, stand_ins, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    name = "fromage_opt6.7b_cc3m"
    train = write_tsv(tmp_path / "data" / "cc3m.tsv", 6)
    train.write_text(train.read_text().replace("green", "red"), encoding="utf-8")
    sources = [f"cc3m={train}", *stand_ins[name][2][1:]]
    words = [*on_stand_ins(name, stand_ins, tmp_path), f"data.sources={json.dumps(sources)}"]
    recipe = load_recipe(BIG[name], [*words, f"data.equal_captions_match={str(match).lower()}"])
    assert load_recipe(BIG[name]).data.equal_captions_match is False
    data = load_data(build(recipe)[0], recipe.model, recipe.data)
    groups = [int(row["target_ids"]) for row in all_rows(data.train)]
    assert (len(groups), len(set(groups))) == (6, 5 if match else 6)


def test_the_released_form_of_fromage():
    """The recipe sets what the losses of `tests/test_fromage_losses.py` are computed with."""
    recipe = load_recipe(BIG["fromage_opt6.7b_cc3m"])
    assert recipe.model.processor.items() >= {**PROCESSOR, "squash_images": True}.items()
    assert {name: getattr(recipe.data, name) for name in COLLATOR} == COLLATOR
    assert recipe.model.config["loss_vocab_size"] == 50_266  # of OPT's 50,272 rows, those before [RET]
    assert recipe.model.config["ret_in_caption_loss"]
    assert recipe.training.max_logit_scale is None
    assert recipe.training.rescale_ret
