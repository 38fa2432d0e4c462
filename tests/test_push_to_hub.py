"""Releases pushed to a hub and loaded from it, by clients in processes of their own."""

import json
import re
import sysconfig
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load, load_file
from transformers.dynamic_module_utils import get_relative_import_files

from tests import tiny
from tests.environments import closure
from tests.hub_server import File, HubServer

ROOT = Path(__file__).parents[1]
# What `unimur release` pushes is tried on a hub in the quick tests too (releasing/test_on_hub.py).
pytestmark = pytest.mark.slow
HEADS = {
    "heads.logit_scale", "heads.readout_maps.0.bias", "heads.readout_maps.0.weight", "heads.ret_embedding",
    "heads.visual_map.bias", "heads.visual_map.weight",
}  # fmt: skip


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(hub, language_folder, clip_folder, pictures, tmp_path_factory):
    """A folder with what the author's releases compute; the hub holds the releases."""
    work = tmp_path_factory.mktemp("author")
    packages = Path(sysconfig.get_paths()["purelib"])
    done = closure.run(
        "push_release.py",
        language_folder,
        clip_folder,
        pictures[0],
        work,
        path=[ROOT, packages],
        work=work,
        **hub.environment(write=True),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return work


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An environment with torch and transformers, and without this package."""
    # Without torchvision transformers resizes pictures by Pillow, which moves embeddings by 1e-4.
    return closure.link(tmp_path_factory.mktemp("stranger"), "torch", "torchvision", "transformers")


@pytest.fixture
def load_from_hub(hub, pushed, stranger, pictures, tmp_path):
    """Loads releases where neither the package nor anything from the hub is; gives the process that did it."""

    def run(*repo_ids: str):
        environment = hub.environment()
        return closure.run(
            "load_release.py", pictures[0], tmp_path, *repo_ids, path=[stranger], work=tmp_path, **environment
        )

    return run


def files(hub: HubServer, repo_id: str) -> dict[str, File]:
    """What is on a repository's main branch."""
    repository = hub.repositories[repo_id]
    return repository.commits[repository.branches["main"]]


def assert_same(output: Path, pushed: Path, *names: str) -> None:
    for name in names:
        found, expected = (load_file(folder / f"{name}.safetensors") for folder in (output, pushed))
        assert found.keys() == expected.keys() >= {"context", "text", "image"}
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, atol=1e-5, rtol=0, msg=lambda m, at=(name, key): f"{at}: {m}"
            )


# -- what is pushed -------------------------------------------------------------------------------------------------
def test_a_heads_only_release_names_its_backbones_and_holds_none(hub, pushed):
    release = files(hub, "acme/unimur")
    assert load(release["model.safetensors"].data).keys() == HEADS
    config = json.loads(release["config.json"].data)
    assert (config["text_base_model"], config["clip_base_model"]) == ("acme/lm", "acme/clip")
    assert config["text_base_revision"] == hub.repositories["acme/lm"].tags["v1"]
    assert config["clip_base_revision"] == hub.repositories["acme/clip"].branches["main"]
    assert all(re.fullmatch(r"[0-9a-f]{40}", config[f"{part}_base_revision"]) for part in ("text", "clip"))


def test_a_full_release_holds_the_backbones_and_names_none(hub, pushed):
    release = files(hub, "acme/unimur-full")
    prefixes = {name.split(".")[0] for name in load(release["model.safetensors"].data)}
    assert prefixes == {"heads", "language_model", "clip"}
    config = json.loads(release["config.json"].data)
    assert config["heads_only"] is False
    assert not any(config.get(f"{part}_base_{key}") for part in ("text", "clip") for key in ("model", "revision"))


@pytest.mark.parametrize("name", ["unimur", "unimur-full"])
def test_a_release_brings_its_code_and_no_local_path(hub, pushed, name, language_folder, clip_folder):
    release = files(hub, f"acme/{name}")
    entry = ROOT / "modeling_unimur" / "modeling_unimur.py"
    package = {Path(path).name: Path(path).read_bytes() for path in [entry, *get_relative_import_files(entry)]}
    assert {"processing_unimur.py", "pipeline_multimodal_retrieval.py", "memory_index.py"} <= package.keys()
    assert {path: file.data for path, file in release.items() if path.endswith(".py")} == package
    assert {"config.json", "processor_config.json", "chat_template.jinja", "tokenizer.json"} <= release.keys()
    for path, file in release.items():
        for folder in (language_folder, clip_folder, pushed, ROOT):
            assert str(folder).encode() not in file.data, path


def test_a_hubs_client_finds_the_release(hub, pushed, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    api = HfApi(endpoint=hub.endpoint)
    commit = api.model_info("acme/unimur").sha
    assert [(tag.name, tag.target_commit) for tag in api.list_repo_refs("acme/unimur").tags] == [("v0.1.0", commit)]
    assert set(api.list_repo_files("acme/unimur", revision="v0.1.0")) == files(hub, "acme/unimur").keys()
    (weights,) = api.get_paths_info("acme/unimur", "model.safetensors")
    assert weights.lfs.sha256 == files(hub, "acme/unimur")["model.safetensors"].sha256


# -- what others get ------------------------------------------------------------------------------------------------
def test_a_stranger_gets_the_same_embeddings(load_from_hub, pushed, tmp_path):
    done = load_from_hub("acme/unimur", "acme/unimur-full")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(tmp_path, pushed, "unimur", "unimur-full")


def test_the_pinned_commit_wins_over_a_moved_branch(hub, load_from_hub, pushed, tmp_path):
    repository = hub.repositories["acme/lm"]
    pinned = repository.tags["v1"]
    other = tiny.language_model(tmp_path / "other", seed=77)
    weights = File((other / "model.safetensors").read_bytes(), lfs=True)
    assert weights.data != repository.commits[pinned]["model.safetensors"].data
    moved = repository.commit({**repository.commits[pinned], "model.safetensors": weights})
    assert repository.resolve("main") == moved != pinned

    before = len(hub.requests)
    done = load_from_hub("acme/unimur")
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(tmp_path, pushed, "unimur")
    asked = {path.split("/")[4] for _, path in hub.requests[before:] if path.startswith("/acme/lm/resolve/")}
    assert asked == {pinned}


def test_a_deleted_commit_is_named(hub, load_from_hub, pushed):
    repository = hub.repositories["acme/lm"]
    pinned = repository.tags["v1"]
    commit = repository.commits.pop(pinned)
    try:
        done = load_from_hub("acme/unimur")
    finally:
        repository.commits[pinned] = commit
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.match(
        rf"OSError: The frozen language model 'acme/lm' at revision {pinned} could not be loaded: .*pass "
        "language_model=<folder or Hub id>",
        last,
    ), done.stderr[-2000:]
