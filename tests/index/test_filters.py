"""One meaning of filters, in every index."""

import numpy as np
import pytest

from modeling_unimur.index import open_index
from modeling_unimur.memory_index import conditions, matches
from tests.index.vectors import random_units

VALUES = {
    "true": True, "false": False, "one": 1, "zero": 0, "one.": 1.0, "zero.": 0.0, "two": 2, "2.5": 2.5, "minus": -1,
    "large": 2**53, "larger": 2**53 + 1, "largest": 2**63 - 1, "tiny": 1e-300,
    "'1'": "1", "'true'": "true", "a": "a", "b": "b", "empty": "", "nul": "a\0b", "quotes": "q\"\\'",
    "lines": "a\n\r\tb", "wide": "ü\u2028\U0001f600", "10": "10", "9": "9",
    "none": None, "list": [1, "a", True], "object": {"x": 1}, "no list": [],
    "numpy": np.int16(5), "bool": np.bool_(True),
}  # fmt: skip
TABLE = [
    ({"f": True}, {"true", "bool"}),
    ({"f": np.bool_(False)}, {"false"}),
    ({"f": 1}, {"one", "one."}),
    ({"f": 1.0}, {"one", "one."}),
    ({"f": np.float32(1)}, {"one", "one."}),
    ({"f": 0}, {"zero", "zero."}),
    ({"f": -0.0}, {"zero", "zero."}),
    ({"f": 5}, {"numpy"}),
    ({"f": 2**53 + 1}, {"larger"}),
    ({"f": 2.0**53}, {"large"}),
    ({"f": 2**70}, set()),
    ({"f": "1"}, {"'1'"}),
    ({"f": "true"}, {"'true'"}),
    ({"f": ""}, {"empty"}),
    ({"f": "a\0b"}, {"nul"}),
    ({"f": "q\"\\'"}, {"quotes"}),
    ({"f": "a\n\r\tb"}, {"lines"}),
    ({"f": "ü\u2028\U0001f600"}, {"wide"}),
    ({"f": "x"}, set()),
    ({"f": [1, "a", True]}, {"one", "one.", "a", "true", "bool"}),
    ({"f": [True, 0]}, {"true", "bool", "zero", "zero."}),
    ({"f": (2, "b")}, {"two", "b"}),
    ({"f": np.array([2, 5])}, {"two", "numpy"}),
    ({"f": {"gte": 1, "lte": 2}}, {"one", "one.", "two"}),
    ({"f": {"gt": 0, "lt": 1}}, {"tiny"}),
    ({"f": {"lt": 0}}, {"minus"}),
    ({"f": {"lte": 0}}, {"minus", "zero", "zero."}),
    ({"f": {"gt": 2**53}}, {"larger", "largest"}),
    ({"f": {"gt": 2**70}}, set()),
    ({"f": {"gt": np.int64(2), "lt": 3}}, {"2.5"}),
    ({"f": {"gte": "a", "lt": "b"}}, {"a", "nul", "lines"}),
    ({"f": {"lt": "2"}}, {"'1'", "10", "empty"}),
    ({"f": {"gte": "9", "lte": "9"}}, {"9"}),
    ({"f": True, "g": "x"}, set()),
    ({"g": 1}, {"missing"}),
    ({"h": 1}, set()),
]


@pytest.fixture
def filled(index):
    vectors = random_units(len(VALUES) + 1, 16)
    index.add("text", [*VALUES, "missing"], vectors, [*({"f": value} for value in VALUES.values()), {"g": 1}])
    return index


def found(index, where, top_k=100):
    return {hit.id for hit in index.search(random_units(1, 16, seed=9), top_k, None, where)[0]}


def test_all_types(filled):
    for where, expected in TABLE:
        assert found(filled, where) == expected, where
    # Again in the other order: what was asked before changes nothing.
    for where, expected in reversed(TABLE):
        assert found(filled, where) == expected, where


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), float("inf"), np.float32("nan"), 10**400, "\ud800", b"a", [], [None], {}, {"near": 1},
     {"gt": True}, {"gt": np.bool_(True)}, {"gt": None}, {"gt": [1]}, object(), np.datetime64("2024-01-01"), [[1]]],
)  # fmt: skip
def test_what_compares_with_nothing_is_refused(value):
    with pytest.raises(ValueError, match="'f'"):
        conditions({"f": value})


def test_few_matches_among_many_that_look_like_them(place):
    """Milvus' own booleans equal numbers: enough true hits are found behind the false ones."""
    count = 600
    vectors = np.repeat(random_units(1, 16), count, axis=0)
    payloads = [{"f": 1} if number % 100 == 99 else {"f": True} for number in range(count)]
    with open_index(**place) as index:
        index.add("text", [str(number) for number in range(count)], vectors, payloads)
        assert found(index, {"f": 1}, 3) <= {str(number) for number in range(99, count, 100)}
        assert len(found(index, {"f": 1}, 3)) == 3
        assert len(found(index, {"f": 1})) == 6


def test_a_missing_key_of_a_payload_matches_nothing():
    assert not matches({}, conditions({"f": 1}))
    assert matches({}, conditions(None))
