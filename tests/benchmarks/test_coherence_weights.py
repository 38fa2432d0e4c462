"""The figures of one setting of coherent replies, against rankings that are known."""

import numpy as np
import pytest

from benchmarks.coherence_weights import measure
from modeling_unimur.memory_index import Coherence

# Text 0 and image 0 agree, and text 1 and image 1. The query is nearest to text 0 and, by a little, to image 1.
TEXTS = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.0]])
IMAGES = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]])
QUERY = np.array([[0.9, 0.3, 1.6]])
RIGHT = {"text": np.array([[True, False]]), "image": np.array([[True, False]])}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("weight", "wanted"), [(0.0, [0.0, 100.0, 50.0]), (1.5, [100.0, 100.0, 100.0])])
def test_the_vote_of_the_first_text_brings_its_image_to_the_front(weight, wanted):
    candidates = {"text": unit(TEXTS), "image": unit(IMAGES)}
    found = measure(Coherence(weight=weight), [unit(QUERY)], candidates, RIGHT)
    assert found.tolist() == pytest.approx(wanted)


def test_figures_are_means_over_the_systems():
    candidates = {"text": unit(TEXTS), "image": unit(IMAGES)}
    found = measure(Coherence(weight=0), [unit(QUERY), unit(TEXTS[:1])], candidates, RIGHT)
    assert found.tolist() == pytest.approx([50.0, 100.0, 75.0])
