"""open_clip and `CLIPModel`: there, back, and a clear word where one has no place for the other."""

import json
from collections import Counter

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, CLIPImageProcessor, CLIPModel

from conversion.convert_open_clip_to_hf import convert, convert_back, main
from conversion.open_clip_configs import clip_config, open_clip_config
from tests import tiny
from tests.conversion import clip_checkpoints as checkpoints


def variant(name: str) -> dict:
    """A configuration of open_clip that fits, in one of its forms."""
    cfg = checkpoints.model_cfg(quick_gelu=name == "quick_gelu")
    if name == "custom text":
        cfg["custom_text"] = True
    if name == "other numbers":
        cfg["vision_cfg"] |= {"head_width": 32, "mlp_ratio": 2.5, "norm_kwargs": {"eps": 1e-3}}
        cfg["text_cfg"] |= {"heads": 4, "pool_type": "eos", "eos_id": 41, "act_kwargs": {"approximate": "tanh"}}
    return cfg


VARIANTS = ("quick_gelu", "gelu", "custom text", "other numbers")


def source_folder(folder, cfg: dict, preprocess: dict | None = None) -> torch.nn.Module:
    """A model of open_clip and its folder as the Hub has it, with a tokenizer of few words."""
    model = checkpoints.plain(cfg)
    tiny.tokenizer(eos=True).save_pretrained(folder)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    about = {"model_cfg": cfg, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    return model


def texts(cfg: dict) -> torch.Tensor:
    """Texts that end as the model's do."""
    rows = checkpoints.texts()
    return rows.where(rows != checkpoints.VOCABULARY - 1, cfg["text_cfg"].get("eos_id", checkpoints.VOCABULARY - 1))


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_there_and_back(name, tmp_path):
    cfg = variant(name)
    (tmp_path / "source").mkdir()
    plain = source_folder(tmp_path / "source", cfg, {"mean": [0.5, 0.4, 0.3], "resize_mode": "squash"})
    folder = convert(tmp_path / "source", tmp_path / "clip")
    pixels, words = torch.randn(2, 3, 32, 32), texts(cfg)
    images_expected, texts_expected = plain.encode_image(pixels), plain.encode_text(words)
    assert (texts_expected[0] - texts_expected[1]).abs().max() > 1e-2
    model = AutoModel.from_pretrained(folder)
    assert type(model) is CLIPModel
    for found, expected in (
        (model.get_image_features(pixels).pooler_output, images_expected),
        (model.get_text_features(words).pooler_output, texts_expected),
    ):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    processor = AutoImageProcessor.from_pretrained(folder)
    assert list(processor.image_mean) == [0.5, 0.4, 0.3]
    assert processor.do_center_crop is False

    back = convert_back(folder, tmp_path / "back")
    again = open_clip.create_model(f"local-dir:{back}").eval()
    torch.testing.assert_close(again.encode_image(pixels), images_expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again.encode_text(words), texts_expected, atol=1e-5, rtol=1e-5)
    about = json.loads((back / "open_clip_config.json").read_text())
    assert about["preprocess_cfg"]["mean"] == [0.5, 0.4, 0.3]
    assert about["preprocess_cfg"]["resize_mode"] == "squash"
    assert open_clip.get_tokenizer(f"local-dir:{back}")(["a cat"]).shape == (1, 12)
    written = load_file(back / "open_clip_model.safetensors")
    for key, value in plain.state_dict().items():
        assert torch.equal(written[key.removeprefix("text.")], value), key


def test_every_architecture_of_open_clip_fits_or_is_named():
    fits, reasons = [], Counter()
    for name in open_clip.list_models():
        cfg = open_clip.get_model_config(name)
        try:
            config = clip_config(cfg)
        except ValueError as error:
            reasons[str(error).split("has ")[1].split("=")[0]] += 1
            continue
        fits.append(name)
        # Back again it is the same architecture.
        assert clip_config(open_clip_config(config)).to_dict() == config.to_dict()
    assert {"ViT-B-32", "ViT-B-32-quickgelu", "ViT-L-14", "ViT-H-14", "ViT-bigG-14", "ViT-B-16-plus-240"} <= set(fits)
    assert len(fits) > 30
    assert "vision_cfg.timm_model_name" in reasons
    assert "vision_cfg.layers (a ResNet)" in reasons
    assert "text_cfg.no_causal_mask" in reasons or "init_logit_bias" in reasons


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["vision_cfg"].update(timm_model_name="resnet18"), r"vision_cfg\.timm_model_name='resnet18'"),
        (lambda c: c["vision_cfg"].update(layers=[1, 1, 1, 1]), "ResNet"),
        (lambda c: c["vision_cfg"].update(attentional_pool=True), "attentional_pool=True"),
        (lambda c: c["vision_cfg"].update(image_size=[32, 40]), r"vision_cfg\.image_size=\[32, 40\]"),
        (lambda c: c["text_cfg"].update(pool_type="last"), r"text_cfg\.pool_type='last'"),
        (lambda c: c["text_cfg"].update(pool_type="eos", eos_id=2), "eos of id 2"),
        (lambda c: c["text_cfg"].update(a_new_switch=1), r"text_cfg\.a_new_switch=1"),
        (lambda c: c.update(multimodal_cfg={}), "multimodal_cfg"),
        (lambda c: c.update(init_logit_bias=-10), "init_logit_bias=-10"),
    ],
)
def test_what_clip_has_no_place_for(change, message):
    cfg = checkpoints.model_cfg()
    change(cfg)
    with pytest.raises(ValueError, match=rf"{message}.*OpenCLIPModel\.from_open_clip"):
        clip_config(cfg)


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="configuration"):
        convert("ViT-B-33", tmp_path / "clip")
    with pytest.raises(ValueError, match="weights"):
        convert("ViT-B-32", tmp_path / "clip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"open_clip_config\.json"):
        convert(tmp_path / "empty", tmp_path / "clip")
    (tmp_path / "empty" / "open_clip_config.json").write_text(json.dumps({"model_cfg": checkpoints.model_cfg()}))
    with pytest.raises(FileNotFoundError, match="weights"):
        convert(tmp_path / "empty", tmp_path / "clip")
    save_file({"logit_scale": torch.tensor(1.0)}, tmp_path / "empty" / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"token_embedding\.weight"):
        convert(tmp_path / "empty", tmp_path / "clip", tokenizer=tmp_path)
    assert not (tmp_path / "clip").exists()


def test_a_clip_of_the_hub_on_the_command_line(tmp_path, monkeypatch, capsys):
    folder = tiny.clip(tmp_path / "clip")  # its texts end with token 1, not with the highest
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    monkeypatch.setattr("sys.argv", ["convert", "--to-open-clip", str(folder), str(tmp_path / "open")])
    main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "open")
    about = json.loads((tmp_path / "open" / "open_clip_config.json").read_text())
    assert about["model_cfg"]["text_cfg"]["pool_type"] == "eos"
    assert about["model_cfg"]["text_cfg"]["eos_id"] == 1
    assert about["preprocess_cfg"]["resize_mode"] == "shortest"
    model = CLIPModel.from_pretrained(folder)
    model.config.vision_config.hidden_act = "silu"
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="activations"):
        convert_back(folder, tmp_path / "other")
