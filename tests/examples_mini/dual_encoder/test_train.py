"""Training the projection of a small dual encoder on a folder of pictures."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_unimur import OpenCLIPModel
from modeling_unimur.training.pairs import ImagePairs
from modeling_unimur.training.recipes import load_recipe
from tests import tiny
from tests.rounding import assert_same_training
from tests.training.folder_run import write_pictures
from unimur_mini.dual_encoder import train as train_clip

pytestmark = pytest.mark.usefixtures("cache")


HEADS = {"trained alone": {}, "gated": {"zero_shot_temperature": 2.0, "gate_rank": 8}}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def clip(tmp_path, request):
    """The small encoder of timm and transformers towers with a `ImageHead` of three classes."""
    folder = tiny.open_clip_folder(tmp_path / "clip")
    config = OpenCLIPModel.from_pretrained(folder).config
    config.picture_head = {"hidden_features": 24, "dropout": 0.1, "classes": 3, **request.param}
    torch.manual_seed(0)
    model = OpenCLIPModel(config)
    head = model.model.visual.head
    head.class_vectors.data.normal_()
    if head.gate is not None:
        head.zero_shot_vectors.normal_()
    model.save_pretrained(folder)
    return folder


def recipe_file(path, pictures, clip, output, **training):
    recipe = {
        "task": "clip",
        "model": {"clip": str(clip)},
        "data": {"sources": [f"folder={pictures}"], "feature_workers": 0},
        "training": {
            "output_dir": str(output),
            "per_device_train_batch_size": 16,
            "learning_rate": 0.01,
            "max_steps": 12,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": 7,
            "dataloader_drop_last": True,
            "use_cpu": True,
            "seed": 3,
            **training,
        },
    }
    path.write_text(json.dumps(recipe))
    return path


def test_trains_saves_and_resumes_to_the_same_weights(tmp_path, clip):
    pictures = write_pictures(tmp_path / "pictures")
    whole = tmp_path / "whole"
    results = train_clip.train(load_recipe(recipe_file(tmp_path / "one.json", pictures, clip, whole)))
    trained = load_file(whole / "projection.safetensors")
    gate = ("mean", "components", "precisions", "residual_precision", "threshold")
    is_gated = "zero_shot_temperature" in OpenCLIPModel.from_pretrained(clip).config.picture_head
    assert {key.removeprefix("model.visual.head.") for key in trained} == {
        *("norm.weight", "norm.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"),
        *("class_vectors", "class_scale", "class_weight", "model.logit_scale"),
        *(f"gate.{name}" for name in gate if is_gated),
    }
    before = OpenCLIPModel.from_pretrained(clip).state_dict()
    after = OpenCLIPModel.from_pretrained(whole).state_dict()
    for key, value in before.items():
        assert torch.equal(value, after[key]) == (key not in trained), key
    assert results == json.loads((whole / "results.json").read_text())
    tests = results["pictures"]["test"]
    ranks = np.array(json.loads((whole / "ranks.json").read_text())["title_image"])
    assert len(ranks) == tests
    assert results["test"]["title_image_r10"] == pytest.approx(100 * (ranks <= 10).mean())

    # A run that goes on from the checkpoint in the middle of an epoch draws the same texts.
    again = recipe_file(
        tmp_path / "two.json",
        pictures,
        clip,
        tmp_path / "again",
        resume_from_checkpoint=str(whole / "checkpoint-7"),
    )
    train_clip.train(load_recipe(again))
    assert_same_training(load_file(tmp_path / "again/projection.safetensors"), trained)


def test_twins_count_as_right(clip):
    torch.manual_seed(0)
    model = OpenCLIPModel.from_pretrained(clip).eval()
    width = model.config.vision_width
    pooled = torch.rand(6, width)
    pooled[1] = pooled[0]
    pairs = ImagePairs(
        paths=list("abcdef"),
        titles=list("abcdef"),
        groups=torch.arange(6),
        pooled=pooled,
        texts=list("abcdef"),
        owners=torch.arange(6),
        text_features=torch.randn(6, model.config.projection_dim),
        title_rows=torch.arange(6),
    )
    groups = train_clip.twin_groups(pairs)
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == 5
    with torch.no_grad():
        apart, together = (train_clip.title_ranks(model, pairs, g)["title_image"] for g in (None, groups))
    assert (together <= apart).all()
    assert (together[:2] < apart[:2]).any()
