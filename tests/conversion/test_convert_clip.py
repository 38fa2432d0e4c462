"""CLIP under OpenAI's names: to `CLIPModel` and back, with the features of open_clip's own class."""

import json
import logging

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, CLIPConfig, CLIPModel

from conversion.clip_folder import clip_tokenizer
from conversion.clip_layout import key_pairs, to_hf
from conversion.convert_clip_to_hf import convert, convert_back, main, openai_config
from conversion.state_dicts import KeyLedger
from tests import tiny
from tests.conversion import clip_checkpoints as checkpoints


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer of few words."""
    folder = tmp_path_factory.mktemp("words")
    tiny.tokenizer(eos=True).save_pretrained(folder)
    return folder


def half(model) -> dict:
    """A state dict as UniVL-DR saves it: OpenAI's `convert_weights` has made the linear maps float16."""
    open_clip.model.convert_weights_to_lp(model, dtype=torch.float16)
    return model.state_dict()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_there_and_back(activation, words, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    plain = checkpoints.plain(checkpoints.model_cfg(activation == "quick_gelu"))
    state = half(plain)
    torch.save({"epoch": 3, "model": state}, tmp_path / "model.best.pt")
    options = {"activation": activation}
    folder = convert(tmp_path / "model.best.pt", tmp_path / "clip", tokenizer=words, **options)
    for key in state:
        assert f"\n{key} " in caplog.text

    plain.float()
    pixels, texts = torch.randn(2, 3, 32, 32), checkpoints.texts()
    images_expected, texts_expected = plain.encode_image(pixels), plain.encode_text(texts)
    assert (images_expected[0] - images_expected[1]).abs().max() > 1e-2
    assert (texts_expected[0] - texts_expected[1]).abs().max() > 1e-2
    model = AutoModel.from_pretrained(folder)
    assert model.config.text_config.hidden_act == model.config.vision_config.hidden_act == activation
    for found, expected in (
        (model.get_image_features(pixels).pooler_output, images_expected),
        (model.get_text_features(texts).pooler_output, texts_expected),
    ):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert len(AutoTokenizer.from_pretrained(folder)("a cat")["input_ids"]) > 0

    back = convert_back(folder, tmp_path / "again.pt", half=True, **options)
    again = torch.load(back, weights_only=True)["model"]
    assert again.keys() == state.keys()
    for key, value in state.items():
        assert again[key].dtype == value.dtype, key
        assert torch.equal(again[key], value), key
    whole = load_file(convert_back(folder, tmp_path / "again.safetensors", **options))
    assert all(torch.equal(whole[key], value.float()) for key, value in state.items())


def test_openais_sizes_by_names_and_shapes():
    for name, count in (("ViT-B-32-quickgelu", 151_277_313), ("ViT-L-14-quickgelu", 427_616_513)):
        cfg = open_clip.get_model_config(name)
        with torch.device("meta"):
            hf = CLIPModel(CLIPConfig(**openai_like(cfg))).state_dict()
        shapes = {pair.openai: pair.shape for pair in key_pairs(CLIPConfig(**openai_like(cfg)))}
        state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        ledger = KeyLedger({**state, "context_length": torch.tensor(77)}, name)
        config = openai_config(ledger)
        assert config.vision_config.num_attention_heads == cfg["vision_cfg"]["width"] // 64
        ledger.drop("context_length", "a constant")
        found = to_hf(ledger, config)
        ledger.report()
        assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in hf.items()}
        assert sum(value.numel() for value in state.values()) == count


def openai_like(cfg: dict) -> dict:
    """The configuration of the same CLIP on the Hub, by its sizes."""
    text, vision = cfg["text_cfg"], cfg["vision_cfg"]
    return {
        "projection_dim": cfg["embed_dim"],
        "text_config": {
            "hidden_size": text["width"],
            "intermediate_size": text["width"] * 4,
            "num_attention_heads": text["heads"],
        },
        "vision_config": {
            "hidden_size": vision["width"],
            "intermediate_size": vision["width"] * 4,
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // 64,
            "patch_size": vision["patch_size"],
        },
    }


def test_openais_tokenizer_without_a_hub():
    tokenizer = clip_tokenizer(CLIPConfig())
    samples = ["a photo of a cat", "It's 25 DOGS' birthday!", "猫が好き 🙂"]
    expected = open_clip.tokenize(samples)
    found = tokenizer(samples, padding="max_length", truncation=True, return_tensors="pt")
    for row, mask, right in zip(found["input_ids"], found["attention_mask"], expected, strict=True):
        assert row[mask.bool()].tolist() == right[right != 0].tolist()
    with pytest.raises(ValueError, match="400 tokens"):
        clip_tokenizer(CLIPConfig(text_config={"vocab_size": 400}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.ln_post.bias"), r"visual\.ln_post\.bias"),
        (lambda s: s.update({"visual.head.weight": torch.ones(3)}), r"visual\.head\.weight"),
        (lambda s: s.update({"visual.layer1.0.conv1.weight": torch.ones(1)}), "ResNet"),
        (lambda s: s.update({"text_projection": torch.ones(63, 24)}), r"\(63, 24\)"),
        (lambda s: s.update({"visual.positional_embedding": torch.ones(16, 128)}), "15 patches"),
        (lambda s: s.update({"positional_embedding": torch.ones(12, 65)}), "width 65"),
    ],
)
def test_other_weights_are_refused(change, message, words, tmp_path):
    state = dict(checkpoints.plain(checkpoints.model_cfg()).state_dict())
    change(state)
    save_file(state, tmp_path / "clip.safetensors")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "clip.safetensors", tmp_path / "clip", tokenizer=words)
    assert not (tmp_path / "clip").exists()


def test_a_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "ViT-B-32.pt")
    with pytest.raises(ValueError, match="TorchScript archive"):
        convert(tmp_path / "ViT-B-32.pt", tmp_path / "clip")


def test_back_only_what_the_layout_can_say(tmp_path):
    folder = tiny.clip(tmp_path / "clip")  # QuickGELU, heads of 8 and 12, texts that end with token 1
    for options, message in (
        ({"activation": "gelu"}, "computes quick_gelu, and the reader of the file gelu"),
        ({}, "heads of 64"),
        ({"output": "clip.bin"}, "written as .safetensors or .pt"),
    ):
        output = tmp_path / options.pop("output", "clip.pt")
        with pytest.raises(ValueError, match=message):
            convert_back(folder, output, **options)
    with pytest.raises(ValueError, match="type opt"):
        convert_back(tiny.language_model(tmp_path / "opt", "opt"), tmp_path / "clip.pt")
    assert not (tmp_path / "clip.pt").exists()


def test_command_line(words, tmp_path, monkeypatch, capsys):
    state = checkpoints.plain(checkpoints.model_cfg()).state_dict()
    state["input_resolution"] = torch.tensor(32)  # the constants of OpenAI's own files
    save_file(state, tmp_path / "clip.safetensors")
    arguments = [str(tmp_path / "clip.safetensors"), str(tmp_path / "clip"), "--tokenizer", str(words)]
    monkeypatch.setattr("sys.argv", ["convert", *arguments])
    main()
    monkeypatch.setattr(
        "sys.argv", ["convert", "--to-openai", str(tmp_path / "clip"), str(tmp_path / "b.safetensors")]
    )
    main()
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "clip"), str(tmp_path / "b.safetensors")]
    back = load_file(tmp_path / "b.safetensors")
    del state["input_resolution"]
    assert back.keys() == state.keys()
    assert json.loads((tmp_path / "clip" / "config.json").read_text())["model_type"] == "clip"
    with pytest.raises(FileExistsError):
        main()
