"""Pipelines of releases with workers, spawned and forked, where this package is not installed."""

import pytest

from modeling_unimur import UniMuRModel, UniMuRProcessor
from tests.environments import closure
from tests.environments.floor import floor_folder
from tests.hub_cache import publish


@pytest.fixture(scope="module")
def releases(tmp_path_factory, pair, language_folder, clip_folder):
    """A full release, a heads-only one, and the cache of the Hub for the latter."""
    work = tmp_path_factory.mktemp("releases")
    for part in pair:
        part.save_pretrained(work / "full")
    publish(work / "cache", "acme/lm", language_folder, "a1" * 20)
    publish(work / "cache", "acme/clip", clip_folder, "b2" * 20)
    hub = {"cache_dir": str(work / "cache")}
    processor = UniMuRProcessor.from_backbones("acme/lm", "acme/clip", **hub)
    model = UniMuRModel.from_backbones("acme/lm", "acme/clip", processor=processor, hub_arguments=hub)
    for part in (model, processor):
        part.save_pretrained(work / "heads")
    return work


@pytest.mark.parametrize("oldest", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_strangers_pipelines_have_workers(releases, pictures, tmp_path, oldest):
    stranger = closure.link(tmp_path / "stranger", "torch", "torchvision", "transformers")
    done = closure.run(
        "stream_release.py",
        pictures[0],
        releases / "full",
        releases / "heads",
        path=[floor_folder(), stranger] if oldest else [stranger],
        work=tmp_path,
        HF_HUB_CACHE=str(releases / "cache"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
