"""Training on captioned images of a person's own, for every kind of dual encoder."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer

from modeling_unimur import OpenCLIPModel
from modeling_unimur.cli import main
from modeling_unimur.modeling_open_clip import load_dual_encoder
from modeling_unimur.training.frozen_towers import frozen_towers, project
from modeling_unimur.training.train_captioned_images import CaptionedImageModel, caption_recalls
from tests import tiny
from tests.rounding import assert_same_outputs
from tests.training.folder_run import write_pictures

pytestmark = pytest.mark.usefixtures("cache")

KINDS = ("hugging face", "custom", "timm_hf", "classes", "gated")
HEAD = {"hidden_features": 24, "dropout": 0.1}


def dual_encoder(folder, kind):
    if kind == "hugging face":
        return tiny.clip(folder)
    if kind in ("custom", "timm_hf"):
        return tiny.open_clip_folder(folder, kind)
    tiny.open_clip_folder(folder)
    config = OpenCLIPModel.from_pretrained(folder).config
    config.picture_head = {**HEAD, "classes": 5} | ({"zero_shot_temperature": 2.0} if kind == "gated" else {})
    torch.manual_seed(0)
    OpenCLIPModel(config).save_pretrained(folder)
    return folder


def loaded(folder):
    clip = load_dual_encoder(str(folder), None, dtype=torch.float32)[0].eval()
    return clip, AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_folded_maps_are_those_that_were_trained(tmp_path, kind):
    clip, _, tokenizer = loaded(dual_encoder(tmp_path / "clip", kind))
    texts, encode = ["a red cat", "a lighthouse at night"], frozen_towers(clip, tokenizer).encode_texts
    before, pooled = encode(texts), torch.rand(3, clip.config.vision_width if kind != "hugging face" else 48)
    model = CaptionedImageModel(clip, HEAD).eval()
    assert_same_outputs(model.text_embeds(before), F.normalize(before, dim=-1))
    torch.nn.init.normal_(model.text_map.weight)
    expected = model.text_embeds(before), model.image_embeds(pooled)
    model.fold().save_pretrained(tmp_path / "folded")
    tokenizer.save_pretrained(tmp_path / "folded")
    again = load_dual_encoder(str(tmp_path / "folded"), None, dtype=torch.float32)[0].eval()
    found = F.normalize(frozen_towers(again, tokenizer).encode_texts(texts), dim=-1)
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(F.normalize(project(again, pooled), dim=-1), expected[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_image_projection_and_the_text_map_train(tmp_path, kind):
    clip = loaded(dual_encoder(tmp_path / "clip", kind))[0]
    model = CaptionedImageModel(clip, None if kind == "custom" else HEAD)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = ("text_map.", "clip.logit_scale", "clip.model.logit_scale", "clip.visual_projection.")
    assert all(name.startswith((*parts, "clip.model.visual.head.")) for name in trained)
    assert {"text_map.weight"} < trained
    assert not any("classifier" in name for name in trained)


def test_a_model_without_an_image_projection_is_refused(tmp_path):
    clip = loaded(tiny.open_clip_folder(tmp_path / "clip", "clip"))[0]
    with pytest.raises(ValueError, match="OpenCLIPModel"):
        CaptionedImageModel(clip)


@pytest.mark.parametrize("kind", ["hugging face", "gated"])
def test_one_command_makes_an_ordinary_dual_encoder(tmp_path, kind, capsys):
    folder, output = dual_encoder(tmp_path / "clip", kind), tmp_path / "output"
    images = write_pictures(tmp_path / "images")
    recipe = {
        "task": "clip",
        "model": {"clip": str(folder), "image_head": HEAD},
        "data": {"images": str(images), "held_out_fraction": 0.2, "feature_workers": 0},
        "training": {
            "output_dir": str(output),
            "per_device_train_batch_size": 32,
            "learning_rate": 0.01,
            "max_steps": 12,
            "logging_steps": 4,
            "eval_strategy": "steps",
            "eval_steps": 6,
            "save_strategy": "steps",
            "save_steps": 6,
            "load_best_model_at_end": True,
            "metric_for_best_model": "caption_image_r10",
            "greater_is_better": True,
        },
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert main.main(["train", str(tmp_path / "recipe.json")]) == 0
    assert "Written to" in capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["images"] == {"train": 102, "validation": 26}
    log = json.loads((output / "training_log.json").read_text())
    assert "eval_caption_image_r1" in json.dumps(log)
    before, after = (load_dual_encoder(str(path), None)[0].state_dict() for path in (folder, output))
    for name in set(before) & set(after):
        if "trunk" in name or "vision_model" in name or "text_model" in name or "transformer" in name:
            assert torch.equal(before[name], after[name]), name
    # The folder gives the recalls that the run reports.
    clip, image_processor, tokenizer = loaded(output)
    from modeling_unimur.data.captioned_images import captioned_image_splits
    from modeling_unimur.training.frozen_features import FrozenImages, FrozenTexts

    held_out, towers = captioned_image_splits(str(images), 0.2)["validation"], frozen_towers(clip, tokenizer)
    pooled = FrozenImages(towers.image_tower, towers.encode_images, image_processor).features(list(held_out))
    texts = FrozenTexts(towers.text_tower, towers.encode_texts).features([part[0] for part in held_out.values()])
    with torch.no_grad():
        found = caption_recalls(
            F.normalize(project(clip, pooled.rows.tensor()), dim=-1),
            F.normalize(texts.rows.tensor(), dim=-1),
            torch.arange(26),
        )
    assert found == pytest.approx(results["validation"], abs=4)
    assert load_file(next(output.glob("*.safetensors")))


def test_recalls_count_every_caption():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [0, 0, 1]])
    found = caption_recalls(images, texts, torch.tensor([0, 1, 1, 2]))
    assert found["caption_image_r1"] == 75
    assert found["caption_image_r5"] == 100
    assert found["image_caption_r1"] == 100
