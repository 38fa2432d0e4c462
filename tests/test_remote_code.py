"""The code in a release folder, run where this package is not installed, by the newest and the oldest transformers."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports

from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.releasing.clean_folder import write_sentence_transformers
from tests import tiny
from tests.environments import closure
from tests.environments.floor import floor_folder, pins
from tests.environments.load_release import embeddings
from tests.hub_cache import publish
from tests.test_query_anchor import shake

PACKAGE = Path(__file__).parents[1] / "modeling_unimur"
FLAT = sorted(path for path in PACKAGE.glob("*.py") if path.name not in ("__init__.py", "auto_classes.py"))
# What only a release of UniVL-DR holds.
UNIVL_DR = {path for path in FLAT if path.stem.endswith("univl_dr")}
# Besides the standard library; a stranger has torch and transformers, which bring the rest but Pillow.
ALLOWED = {"torch", "transformers", "huggingface_hub", "safetensors", "numpy", "PIL", "tqdm", "tokenizers"}


# -- the files as they are ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("file", FLAT, ids=lambda file: file.stem)
def test_flat_file_imports_only_what_a_release_has(file):
    for sibling in get_relative_import_files(file):
        assert Path(sibling) in FLAT, sibling
    assert set(get_imports(file)) - set(sys.stdlib_module_names) <= ALLOWED
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1
            assert node.level == 0 or node.module, "`from . import x` is not followed"
            assert node.level == 1 or (node.module or "").split(".")[0] != "modeling_unimur"


def test_the_model_files_bring_every_flat_file():
    unimur, univl_dr = (
        {PACKAGE / f"modeling_{name}.py", *map(Path, get_relative_import_files(PACKAGE / f"modeling_{name}.py"))}
        for name in ("unimur", "univl_dr")
    )
    assert unimur == set(FLAT) - UNIVL_DR
    assert univl_dr >= UNIVL_DR
    own = {PACKAGE / f"{part}_unimur.py" for part in ("configuration", "modeling", "processing")}
    assert not (own | {PACKAGE / "prefix_cache.py"}) & univl_dr


@pytest.mark.parametrize(
    "name",
    [
        *("modeling_unimur", "processing_unimur", "configuration_unimur", "modeling_open_clip"),
        *("modeling_univl_dr", "processing_univl_dr", "configuration_univl_dr"),
    ],
)
def test_entry_files_exist_under_the_names_that_configurations_hold(name):
    assert (PACKAGE / f"{name}.py").is_file()
    assert all((PACKAGE / f"{sibling}.py").is_file() for sibling in get_relative_imports(PACKAGE / f"{name}.py"))


# -- releases -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def releases(tmp_path_factory, make_model, language_folder, clip_folder):
    """A full release on CLIP, a full one on open_clip, a heads-only one, and the hub's cache for the latter."""
    work = tmp_path_factory.mktemp("releases")
    torch.manual_seed(3)
    on_clip = make_model(
        processor={"readout_prompt": " so:", "num_ret_tokens": 2, "num_visual_tokens": 2}, ret_layers=[1, -1]
    )
    on_open_clip = make_model(clip=tiny.open_clip_folder(work / "tower", "timm_hf"))
    for name, parts in (("on-clip", on_clip), ("on.open_clip", on_open_clip)):
        for part in parts:
            part.save_pretrained(work / name)
    cache = work / "cache"
    publish(cache, "acme/lm", language_folder, "a1" * 20)
    publish(cache, "acme/clip", clip_folder, "b2" * 20)
    hub = {"cache_dir": str(cache)}
    processor = UniMuRProcessor.from_backbones("acme/lm", "acme/clip", **hub)
    anchor = {"query_anchor": "encoder", "query_correction": "mlp", "query_gate": True}
    model = UniMuRModel.from_backbones("acme/lm", "acme/clip", processor=processor, hub_arguments=hub, **anchor)
    shake(model)
    for part in (model, processor):
        part.save_pretrained(work / "heads")
    return work


@pytest.fixture(scope="module")
def expected(releases, pictures):
    """What the package computes on each release."""
    found = {}
    for name in ("on-clip", "on.open_clip", "heads"):
        folder, hub = str(releases / name), {"cache_dir": str(releases / "cache")}
        model, processor = UniMuRModel.from_pretrained(folder, **hub), UniMuRProcessor.from_pretrained(folder)
        retriever = pipeline("multimodal-retrieval", model=model, processor=processor)
        found[name] = embeddings(model, processor, retriever, pictures[0])
    return found


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An environment with torch, transformers and open_clip_torch, and without this package."""
    return closure.link(tmp_path_factory.mktemp("stranger"), "torch", "transformers", "open_clip_torch")


def assert_same(output: Path, expected: dict, *names: str) -> None:
    for name in names:
        found = load_file(output / f"{name}.safetensors")
        assert found.keys() == expected[name].keys()
        for key, value in expected[name].items():
            torch.testing.assert_close(
                found[key], value, atol=1e-5, rtol=0, msg=lambda m, at=(name, key): f"{at}: {m}"
            )


def test_a_stranger_gets_the_same_embeddings(stranger, releases, expected, pictures, tmp_path):
    names = ("on-clip", "on.open_clip", "heads")
    done = closure.run(
        "load_release.py",
        pictures[0],
        tmp_path,
        *(releases / name for name in names),
        path=[stranger],
        work=tmp_path,
        HF_HUB_CACHE=str(releases / "cache"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(tmp_path, expected, *names)


def test_the_oldest_transformers_gets_the_same_embeddings(stranger, releases, expected, pictures, tmp_path):
    names = ("on-clip", "on.open_clip", "heads")
    done = closure.run(
        "load_release.py",
        pictures[0],
        tmp_path,
        *(releases / name for name in names),
        path=[floor_folder(), stranger],
        work=tmp_path,
        HF_HUB_CACHE=str(releases / "cache"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(tmp_path, expected, *names)


@pytest.fixture(params=["newest", "oldest"])
def versions(request) -> list:
    """Folders that go before the stranger's."""
    return [floor_folder()] if request.param == "oldest" else []


def test_a_strangers_copies_are_the_model(stranger, versions, releases, pictures, tmp_path):
    done = closure.run(
        "copy_release.py",
        pictures[0],
        "pickle",
        *(releases / name for name in ("on-clip", "on.open_clip", "heads")),
        path=[*versions, stranger],
        work=tmp_path,
        HF_HUB_CACHE=str(releases / "cache"),
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_stranger_names_dtypes_by_part(stranger, versions, releases, expected, tmp_path):
    asked = [
        (None, ("float32", "float32", "float32")),
        ("bfloat16", ("bfloat16", "bfloat16", "bfloat16")),
        ({"language_model": "bfloat16"}, ("bfloat16", "float32", "float32")),
        ({"clip": "bfloat16", "language_model": "float16"}, ("float16", "bfloat16", "float32")),
    ]
    runs = [(name, *case) for name in ("on-clip", "on.open_clip", "heads") for case in asked]
    lines = [
        {"repo": str(releases / name), "cache": str(releases / "cache"), **({"dtype": dtype} if dtype else {})}
        for name, dtype, _ in runs
    ]
    process = closure.start("load_on_demand.py", path=[*versions, stranger], work=tmp_path)
    answers, _ = process.communicate("\n".join(map(json.dumps, lines)), timeout=300)
    assert process.returncode == 0, (tmp_path / "stderr.txt").read_text(encoding="utf-8")[-2000:]
    for (name, dtype, wanted), answer in zip(runs, map(json.loads, answers.splitlines()), strict=True):
        assert "error" not in answer, (name, dtype, answer)
        assert tuple(answer["dtypes"].values()) == wanted, (name, dtype)
        assert torch.tensor(answer["embedding"]) @ expected[name]["context"][0] > 0.99, (name, dtype)


@pytest.mark.parametrize("name", ["on-clip", pytest.param("heads", marks=pytest.mark.slow)])
def test_a_strangers_workers_compute_the_same(releases, pictures, tmp_path, name):
    stranger = closure.link(tmp_path / "stranger", "torch", "torchvision", "transformers", "sentence-transformers")
    write_sentence_transformers(releases / name)
    done = closure.run(
        "copy_release.py",
        pictures[0],
        "workers",
        releases / name,
        path=[stranger],
        work=tmp_path,
        HF_HUB_CACHE=str(releases / "cache"),
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_open_clip_one_error_names_it(releases, pictures, tmp_path):
    path = closure.link(tmp_path / "packages", "torch", "transformers", "pillow")
    assert not (path / "open_clip").exists()
    done = closure.run(
        "load_release.py",
        pictures[0],
        tmp_path,
        releases / "on-clip",
        releases / "on.open_clip",
        path=[path],
        work=tmp_path,
    )
    assert (tmp_path / "on-clip.safetensors").is_file(), done.stderr[-2000:]  # which needs no open_clip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"ImportError: .*open_clip is not installed.*`pip install open_clip_torch`", last), last


@pytest.mark.slow
def test_without_pillow_one_error_names_all_that_is_missing(releases, pictures, tmp_path):
    path = closure.link(tmp_path / "packages", "torch", "transformers")
    assert not (path / "PIL").exists()
    done = closure.run("load_release.py", pictures[0], tmp_path, releases / "on.open_clip", path=[path], work=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(r"ImportError: .*`pip install pillow`.*open_clip_torch", last), last


@pytest.mark.slow
def test_saving_again_keeps_every_file(stranger, releases, pictures, tmp_path):
    done = closure.run(
        "save_again.py", pictures[0], tmp_path, releases / "on.open_clip", path=[stranger], work=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    original = {path.name for path in (releases / "on.open_clip").glob("*.py")}
    assert original == {path.name for path in set(FLAT) - UNIVL_DR}
    for name in ("parts1", "parts2", "pipeline1", "pipeline2"):
        assert {path.name for path in (tmp_path / name).glob("*.py")} == original, name
        for file in ("config.json", "model.safetensors", "processor_config.json", "chat_template.jinja"):
            assert (tmp_path / name / file).is_file(), (name, file)


# -- the oldest versions --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("version", "works"), [("5.9.0", False), ("4.57.6", False), ("5.10.0", True), ("6.0.0.dev0", True)]
)
def test_older_versions_are_told_so(monkeypatch, version, works):
    monkeypatch.setattr("transformers.__version__", version)
    spec = importlib.util.spec_from_file_location("modeling_unimur.again", PACKAGE / "configuration_open_clip.py")
    module = importlib.util.module_from_spec(spec)
    if works:
        spec.loader.exec_module(module)
        assert pins()["transformers"] == module._OLDEST_TRANSFORMERS
    else:
        with pytest.raises(ImportError, match=rf"{pins()['transformers']}.*{version}"):
            spec.loader.exec_module(module)
