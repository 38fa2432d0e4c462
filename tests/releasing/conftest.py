"""Model folders as a training leaves them, and a filled card."""

import pytest
import torch

from modeling_unimur import UniMuRModel, UniMuRProcessor, UniVLDRModel, UniVLDRProcessor
from tests.hub_cache import publish

COMMITS = {"acme/lm": "a1" * 20, "acme/clip": "b2" * 20}
CARD = """
title: UniMuR-test
licence: apache-2.0
intended_use: tests
out_of_scope: anything else
training: 3 steps of batch 4
training_data:
  - {name: four pictures, licence: CC0-1.0, notes: drawn at random}
results:
  - {task: dialogue -> picture, dataset: four pictures, metric: recall@1, value: 25.0}
limits: [knows nothing]
"""


@pytest.fixture(scope="session")
def hub_cache(tmp_path_factory, language_folder, clip_folder):
    """A hub's cache that holds acme/lm and acme/clip."""
    cache = tmp_path_factory.mktemp("cache")
    for (repo_id, commit), folder in zip(COMMITS.items(), (language_folder, clip_folder), strict=True):
        publish(cache, repo_id, folder, commit)
    return cache


@pytest.fixture(scope="session")
def card(tmp_path_factory):
    """A filled card."""
    path = tmp_path_factory.mktemp("card") / "card.yaml"
    path.write_text(CARD, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def heads_source(tmp_path_factory, hub_cache):
    """A folder with trained heads on backbones of the hub, and what a training leaves beside them."""
    torch.manual_seed(5)
    hub = {"cache_dir": str(hub_cache)}
    processor = UniMuRProcessor.from_backbones("acme/lm", "acme/clip", max_context_tokens=128, **hub)
    model = UniMuRModel.from_backbones("acme/lm", "acme/clip", processor=processor, hub_arguments=hub)
    folder = tmp_path_factory.mktemp("training") / "run"
    for part in (model, processor):
        part.save_pretrained(folder)
    torch.save({"lr": 1}, folder / "training_args.bin")
    (folder / "training_log.json").write_text("[]", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def full_source(tmp_path_factory, make_model):
    """A folder with heads on backbones that were folders, all of it inside."""
    torch.manual_seed(6)
    folder = tmp_path_factory.mktemp("training") / "full"
    for part in make_model():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def univl_dr_source(tmp_path_factory, clip_folder):
    """A folder with a UniVL-DR model."""
    folder = tmp_path_factory.mktemp("training") / "univl-dr"
    UniVLDRModel.from_backbones(str(clip_folder), image_weight=0.7).save_pretrained(folder)
    UniVLDRProcessor.from_backbones(str(clip_folder)).save_pretrained(folder)
    return folder
