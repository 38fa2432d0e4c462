"""EfficientNet-Lite2's conversion: every tensor by its name, on random weights under the packaged names."""

import json
import re

import pytest
import timm
import torch

from conversion import convert_efficientnet_lite_to_timm as conversion
from conversion.convert_efficientnet_lite_to_timm import ARCHITECTURE, WEIGHTS_FILE, timm_state_dict


@pytest.fixture(scope="module")
def timm_tensors():
    """timm's tensors, each with values of its own."""
    torch.manual_seed(0)
    state = timm.create_model(ARCHITECTURE).state_dict()
    return {key: torch.rand_like(value) if value.is_floating_point() else value for key, value in state.items()}


@pytest.fixture(scope="module")
def packaged_tensors(timm_tensors):
    """The same tensors under EfficientNet-PyTorch's names, which this test derives from timm's."""
    blocks: list[str] = []
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    inverted = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    inverted |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    renamed = {}
    for key, tensor in timm_tensors.items():
        match = re.fullmatch(r"(blocks\.(\d+)\.\d+)\.(\w+)\.(\w+)", key)
        if match:
            if match[1] not in blocks:
                blocks.append(match[1])
            layer = (separable if match[2] == "0" else inverted)[match[3]]
            renamed[f"_blocks.{blocks.index(match[1])}.{layer}.{match[4]}"] = tensor
        else:
            layer, tensor_name = key.split(".")
            renamed[f"{outer[layer]}.{tensor_name}"] = tensor
    return renamed


def test_every_tensor_comes_to_its_place(packaged_tensors, timm_tensors):
    # The order of the packaged file is not what is relied on.
    shuffled = dict(reversed(packaged_tensors.items()))
    renamed = timm_state_dict(shuffled, timm_tensors)
    assert renamed.keys() == timm_tensors.keys()
    assert len(renamed) == 386
    for key, tensor in renamed.items():
        assert tensor is timm_tensors[key]


@pytest.mark.parametrize(
    ("packaged", "timm_name"),
    [
        ("_bn0.running_var", "bn1.running_var"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias"),
        ("_blocks.4._expand_conv.weight", "blocks.2.0.conv_pw.weight"),
        ("_blocks.20._bn2.num_batches_tracked", "blocks.6.0.bn3.num_batches_tracked"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_known_names(packaged_tensors, timm_tensors, packaged, timm_name):
    assert packaged_tensors[packaged] is timm_tensors[timm_name]
    assert timm_state_dict(packaged_tensors, timm_tensors)[timm_name] is packaged_tensors[packaged]


def test_weights_of_another_model_are_refused(packaged_tensors, timm_tensors):
    for key in ("_blocks.3._se_reduce.weight", "_blocks.99._bn1.bias", "_attention.weight"):
        with pytest.raises(ValueError, match=key):
            timm_state_dict({**packaged_tensors, key: torch.zeros(1)}, timm_tensors)


def write_package(folder, tensors):
    (folder / WEIGHTS_FILE).parent.mkdir(parents=True)
    torch.save(tensors, folder / WEIGHTS_FILE)
    (folder / "efficientnet.dist-info").mkdir()
    (folder / "efficientnet.dist-info" / "LICENSE").write_text("Apache License")
    return folder


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("_conv_stem.bias", torch.zeros(1), r"conv_stem\.bias"),
        ("_fc.weight", torch.zeros(10, 1280), r"\[10, 1280\].*\[1000, 1280\]"),
        ("_fc.bias", None, r"classifier\.bias"),
    ],
)
def test_weights_that_do_not_fit_make_no_folder(key, value, reason, packaged_tensors, tmp_path, monkeypatch):
    tensors = {name: tensor for name, tensor in {**packaged_tensors, key: value}.items() if tensor is not None}
    monkeypatch.setattr(conversion, "pip_package", lambda _: write_package(tmp_path / "package", tensors))
    with pytest.raises(RuntimeError, match=reason):
        conversion.convert(tmp_path / "models" / "lite2")
    assert not (tmp_path / "models" / "lite2").exists()


def test_folder_is_a_timm_model(packaged_tensors, timm_tensors, tmp_path, monkeypatch):
    package = write_package(tmp_path / "package", packaged_tensors)
    monkeypatch.setattr(conversion, "pip_package", lambda requirement: package)
    folder = conversion.convert(tmp_path / "models" / "lite2")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md", "LICENSE"}
    assert "url" not in json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert all(torch.equal(tensor, timm_tensors[key]) for key, tensor in model.state_dict().items())
    assert list(model.pretrained_cfg["mean"]) == [0.5, 0.5, 0.5]

    monkeypatch.setattr(conversion, "pip_package", None)
    assert conversion.convert(folder) == folder
    with pytest.raises(FileExistsError, match="converted"):
        conversion.convert(tmp_path)


def test_pickles_that_run_code_are_refused(tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_run"), "w"))

    package = tmp_path / "package"
    (package / WEIGHTS_FILE).parent.mkdir(parents=True)
    torch.save({"_fc.bias": Payload()}, package / WEIGHTS_FILE)
    monkeypatch.setattr(conversion, "pip_package", lambda requirement: package)
    with pytest.raises(Exception, match="weights_only"):
        conversion.convert(tmp_path / "models" / "lite2")
    assert not (tmp_path / "was_run").exists()
    assert list((tmp_path / "models").iterdir()) == []
