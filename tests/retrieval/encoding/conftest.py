"""A small encoder, and folders of small pictures."""

import pytest

from modeling_unimur.retrieval.encoding.encoder import CorpusEncoder
from tests.retrieval.encoding.corpora import CountingEncoder, picture_folder


@pytest.fixture(scope="session")
def encoder(pair):
    return CorpusEncoder(*pair)


@pytest.fixture
def counting(pair):
    """An encoder that counts what its model sees."""
    return CountingEncoder(*pair)


@pytest.fixture
def corpus(tmp_path):
    """Twelve pictures in two folders."""
    return picture_folder(tmp_path / "corpus", 12)
