"""What payloads and ids may hold, and how one bad candidate among good ones is treated, in every index."""

import datetime
import enum
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_unimur.index import Added, open_index
from tests.index.vectors import random_units

VECTORS = random_units(8, 16)


class Colour(enum.IntEnum):
    RED = 1


CONVERTED = [
    (np.bool_(True), True),
    (np.int64(7), 7),
    (np.uint8(255), 255),
    (np.float32(0.5), 0.5),
    (np.float64(2.25), 2.25),
    (np.str_("cc0"), "cc0"),
    (np.array(3), 3),
    (torch.tensor(4), 4),
    (torch.tensor(0.25), 0.25),
    (Colour.RED, 1),
    ((1, "a", (None,)), [1, "a", [None]]),
    ([np.int32(1), {"deep": np.float16(0.5)}], [1, {"deep": 0.5}]),
    (Path("a/b.png"), "a/b.png"),
    (None, None),
    ("nul\0 and \u2028 and \x85 and \U0001f600", "nul\0 and \u2028 and \x85 and \U0001f600"),
    (2**63 - 1, 2**63 - 1),
    ({}, {}),
]
REFUSED = [
    datetime.date(2024, 1, 2),
    datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    np.datetime64("2024-01-02"),
    np.datetime64("2024-01-02", "ns"),
    np.timedelta64(3, "ns"),
    b"bytes",
    {"a", "set"},
    np.zeros(3),
    torch.zeros(3),
    complex(1, 2),
    np.complex64(1),
    float("nan"),
    np.float32("inf"),
    2**63,
    "half \ud800",
    {1: "key"},
    {"half \udc00": 1},
    ["deep", {"in": [object()]}],
]


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_values_are_converted_or_refused_by_name(index):
    values = [value for value, _ in CONVERTED]
    ids = [str(number) for number in range(len(values))]
    vectors = random_units(len(values), 16)
    index.add("text", ids, vectors, [{"field": value} for value in values])
    hits = index.search(vectors, 1)
    for (hit,), (_, expected) in zip(hits, CONVERTED, strict=True):
        assert hit.payload == {"field": expected}
        assert type(hit.payload["field"]) is type(expected)
    for value in [*REFUSED, nested(200), nested(100_000)]:
        with pytest.raises(ValueError, match=r"'the one'.*'field'"):
            index.add("text", ["good", "the one"], VECTORS[:2], [{}, {"field": value}])
    with pytest.raises(ValueError, match="'the one'"):
        index.add("text", ["the one"], VECTORS[:1], [{7: "seven"}])
    assert len(index) == len(values)


def test_converted_values_are_saved_and_filtered(place):
    with open_index(**place) as index:
        index.add("text", ["a", "b"], VECTORS[:2], [{"n": np.int64(3), "t": (1, 2)}, {"n": np.float32(4)}])
        index.save()
    with open_index(**place) as index:
        for where in ({"n": 3}, {"n": np.int8(3)}, {"n": {"lt": np.float64(3.5)}}, {"n": np.array([3, 9])}):
            assert [(hit.id, hit.payload) for hit in index.search(VECTORS[:1], 5, None, where)[0]] == [
                ("a", {"n": 3, "t": [1, 2]})
            ]


GOOD_IDS = ["plain", "nul\0", "ü" * 1000, " ", "a/b\\c\"'", "x" * 65_535]
BAD_IDS = ["", "\ud800", "x" * 65_536, "ü" * 40_000, None, 7]


def test_one_bad_candidate_is_named_and_the_rest_is_in(index):
    ids = [*GOOD_IDS, *BAD_IDS, "bad vector", "bad payload", "long payload"]
    vectors = random_units(len(ids), 16, seed=4)
    vectors[ids.index("bad vector")] = np.nan
    payloads = [{"n": number} for number in range(len(ids))]
    payloads[ids.index("bad payload")] = {"when": datetime.date(2024, 1, 2)}
    long = not index.keeps_objects  # what stays in memory may be as long as it is
    payloads[-1] = {"text": "ü" * 40_000}
    bad = [*BAD_IDS, "bad vector", "bad payload", *(["long payload"] if long else [])]
    with pytest.raises(ValueError, match="something in it"):
        index.add("text", ids, vectors, payloads)
    assert len(index) == 0
    added = index.add("text", ids, vectors, payloads, on_error="skip")
    assert (added.added, added.replaced) == (len(ids) - len(bad), 0)
    assert [item for item, _ in added.skipped] == bad
    assert all(reason for _, reason in added.skipped)
    good = [number for number, item in enumerate(ids) if item not in bad]
    for number, (hit,) in zip(good, index.search(vectors[good], 1), strict=True):
        assert hit.id == ids[number]
    assert index.add("text", ids[-2:-1] + ids[:1], vectors[:2], [*payloads[-2:-1], {}], on_error="skip") == Added(
        0, 1, ((ids[-2], added.skipped[bad.index("bad payload")][1]),)
    )
    with pytest.raises(ValueError, match="on_error"):
        index.add("text", ["x"], vectors[:1], on_error="ignore")
