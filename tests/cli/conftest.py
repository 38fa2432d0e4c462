"""Small pictures and results for the tests of the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.cli.gallery import GalleryImage


@pytest.fixture
def make_picture(tmp_path):
    """A function that writes a one-coloured PNG and returns its GalleryImage."""

    def make(name: str, colour: str, title: str | None = None, source: str = "openmoji") -> GalleryImage:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), colour).save(path)
        return GalleryImage(path, title or Path(name).stem, source, "CC-BY-SA-4.0", "OpenMoji")

    return make


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """The cache folder of the project, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("UNIMUR_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def release_folder(pair, tmp_path_factory):
    """A full release of the small random model, as the command line opens it."""
    model, processor = pair
    folder = tmp_path_factory.mktemp("release")
    saved = MultimodalRetrievalPipeline(model=model, processor=processor)
    model.config.heads_only = False
    saved.save_pretrained(folder)
    return folder


@pytest.fixture
def image_folder(tmp_path):
    """A person's folder: good pictures of several formats in two folders, two bad ones, and other files."""
    folder = tmp_path / "my pictures"
    (folder / "holiday <2019>").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("one.png", "two.JPG", "holiday <2019>/three.webp", "holiday <2019>/مرحبا.gif"):
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "one.png").read_bytes()[:60])
    (folder / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "holiday <2019>" / "round").symlink_to(folder, target_is_directory=True)
    return folder
