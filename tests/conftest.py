"""Fixtures: small random models of real architectures; the real mini where it is built."""

import os
from pathlib import Path

# No test may ask a hub for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Small models gain nothing from more threads, and lose much where others use the processor too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from modeling_unimur import UniMuRModel, UniMuRProcessor
from tests import tiny

# Processes that tests start import both packages from this checkout, whatever is installed.
ROOT = Path(__file__).parents[1]
_PATH = [str(ROOT), str(ROOT / "examples" / "mini"), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATH))


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory):
    return tiny.language_model(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return tiny.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def make_model(language_folder, clip_folder):
    """Builds an untrained model and its processor on the small backbones, or on others."""

    def make(language=None, clip=clip_folder, processor=None, **config):
        language = str(language or language_folder)
        clip = None if clip is None else str(clip)
        made = UniMuRProcessor.from_backbones(language, clip, max_context_tokens=128, **(processor or {}))
        return UniMuRModel.from_backbones(language, clip, processor=made, **config), made

    return make


@pytest.fixture(scope="session")
def pair(make_model):
    """A model and a processor that tests only read."""
    return make_model()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Four pictures that differ, as files."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for number in range(4):
        path = folder / f"picture{number}.png"
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder for one test, which `UNIMUR_CACHE` names."""
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="session")
def _own_records_of_sources(tmp_path_factory):
    """Indexes of tests are not noted in the user's cache."""
    folder = tmp_path_factory.mktemp("index_sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling_unimur.data.source_folders.records_folder", lambda: folder)
        yield
