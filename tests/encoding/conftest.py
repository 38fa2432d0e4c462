"""A small encoder, and folders of small pictures."""

import pytest

from modeling_unimur.encoding.encoder import Encoder
from tests.encoding.corpora import CountingEncoder, image_folder


@pytest.fixture(scope="session")
def encoder(pair):
    return Encoder(*pair)


@pytest.fixture
def counting(pair):
    """An encoder that counts what its model sees."""
    return CountingEncoder(*pair)


@pytest.fixture
def corpus(tmp_path):
    """Twelve pictures in two folders."""
    return image_folder(tmp_path / "corpus", 12)


@pytest.fixture
def release_folder(pair, tmp_path):
    """A saved model and its processor."""
    for part in pair:
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"
