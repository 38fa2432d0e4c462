"""The Space's own modules, and a small model with an index of pictures."""

import sys

import pytest
from PIL import Image

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.cli.app import SPACE

COLOURS = ["red", "green", "blue", "yellow", "black", "white"]
REPLIES = ["good morning", "what a mess", "she plays guitar"]


@pytest.fixture(scope="session")
def space_path():
    """Makes `import responder` work, as it does in a Space."""
    sys.path.insert(0, str(SPACE.parent))
    yield SPACE.parent
    sys.path.remove(str(SPACE.parent))


@pytest.fixture(scope="session")
def gallery(tmp_path_factory):
    """Pictures as files, named for their colour."""
    folder = tmp_path_factory.mktemp("gallery")
    for colour in COLOURS:
        Image.new("RGB", (64, 48), colour).save(folder / f"a_{colour}_square.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="session")
def served(pair, gallery, tmp_path_factory):
    """A full release and an index of the gallery, in folders, and the pipeline."""
    model, processor = pair
    work = tmp_path_factory.mktemp("served")
    retriever = MultimodalRetrievalPipeline(model=model, processor=processor)
    retriever.add(images=[str(path) for path in gallery], texts=REPLIES)
    retriever.save_index(work / "index")
    model.save_pretrained(work / "model", heads_only=False)
    processor.save_pretrained(work / "model")
    return work, retriever
