"""The task of dialogues: recall, consistency, time and weight of every system."""

import numpy as np
import pytest

from modeling_unimur.evaluation.compare_dialogues import ComparedDialogue
from modeling_unimur.evaluation.report import load_result
from modeling_unimur.evaluation.systems import Gallery, System, Weights
from modeling_unimur.evaluation.tasks.dialogues import compare_systems


class Fixed(System):
    """Scores that are given, one row a dialogue; a dialogue says its row."""

    sees = "nothing"
    has_vectors = False

    def __init__(self, name, text, image):
        self.name, self.table = name, {"text": np.array(text), "image": np.array(image)}

    def encode_candidates(self, gallery, kind):
        return self.table[kind]

    def encode_queries(self, dialogues):
        return [int(messages[0]["content"][0]["text"]) for messages in dialogues]

    def scores(self, queries, candidates, kind):
        return candidates[kind][queries]

    def weights(self):
        return Weights(beyond=2_000_000, total=3_000_000)


def dialogue(number, turns, text, images=()):
    messages = tuple({"role": "user", "content": [{"type": "text", "text": str(number)}]} for _ in range(turns))
    return ComparedDialogue(f"d{number}", messages, text, tuple(images))


GALLERY = Gallery(("yes", "no"), ("a", "b", "c"), ("a.png", "b.png", "c.png"), ("", "", ""))
DIALOGUES = [dialogue(0, 1, "yes", "a"), dialogue(1, 3, "no", "bc"), dialogue(2, 4, None, "c"), dialogue(3, 2, "no")]
NAN = np.nan


@pytest.fixture
def comparison():
    good = Fixed("good", [[1, 0], [0, 1], [0, 0], [1, 0]], [[3, 2, 1], [3, 1, 2], [2, 3, 1], [0, 0, 0]])
    poor = Fixed("poor", [[0, 1], [1, 0], [0, 0], [1, 0]], [[1, 2, 3], [1, 1, 1], [2, 3, 1], [0, 0, 0]])
    return compare_systems(DIALOGUES, GALLERY, [good, poor])


@pytest.mark.parametrize(
    ("system", "measure", "expected"),
    [
        ("good", "text r1", [100, 100, NAN, 0]),
        ("good", "image r1", [100, 0, 0, NAN]),
        ("good", "image r5", [100, 100, 100, NAN]),
        ("good", "image r5, long", [NAN, 100, 100, NAN]),
        ("good", "text r1, short", [100, NAN, NAN, 0]),
        ("poor", "text r1", [0, 0, NAN, 0]),
        ("poor", "image r1", [0, 0, 0, NAN]),  # equal scores stand before the right one
        # Two dialogues have both. "yes" and a are right for the first, "no" and c for the second, "no" and a for none.
        ("good", "consistency", [100, 0, NAN, NAN]),
        ("poor", "consistency", [100, 100, NAN, NAN]),  # each the other's
    ],
)
def test_figures_of_every_dialogue(comparison, system, measure, expected):
    np.testing.assert_array_equal(comparison.systems[system].values[measure], expected)


def test_times_and_weights(comparison):
    scalars = comparison.systems["good"].scalars
    assert (scalars["MB beyond"], scalars["MB in all"]) == (2, 3)
    assert scalars["ms a turn"] > 0
    untimed = compare_systems(DIALOGUES[2:3], GALLERY, [Fixed("x", np.zeros((3, 2)), np.eye(3))], timed=False)
    assert "ms a turn" not in untimed.systems["x"].scalars
    assert not any("text" in measure or "consistency" in measure for measure in untimed.measures())  # no gold text


def test_the_difference_is_paired(comparison):
    found = comparison.difference("good", "poor", "text r1")
    assert found.mean == pytest.approx(200 / 3)
    assert found.low <= found.mean <= found.high
    rows = comparison.differences("poor", ["good"])
    assert [row[0] for row in rows] == ["minus poor", "good"]


def test_what_cannot_be_compared():
    system = Fixed("one", [[1, 0]], [[1, 0, 0]])
    with pytest.raises(ValueError, match="at least one dialogue"):
        compare_systems([], GALLERY, [system])
    for systems in ([], [system, system]):
        with pytest.raises(ValueError, match="different names"):
            compare_systems(DIALOGUES[:1], GALLERY, systems)


def test_it_is_a_result_like_the_others(comparison, tmp_path):
    comparison.save(tmp_path)
    assert load_result(tmp_path).interval("good", "image r1") == comparison.interval("good", "image r1")
    text = "\n".join(comparison.lines())
    assert "good sees nothing." in text
    assert "4 dialogues, 3 images and 2 texts" in text
    assert "3 have a gold text; 3 have a gold image" in text
    assert comparison.text().splitlines()[0].split()[:3] == ["system", "image", "r1"]
