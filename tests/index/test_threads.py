"""Threads that share an index: no candidate gets another's vector, and none is lost."""

import sys
import threading

import numpy as np
import pytest

from modeling_unimur.index import open_index
from tests.index.vectors import random_units

THREADS, ROUNDS, BATCH = 4, 12, 5


@pytest.fixture
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_many_threads(place, quick_switches):
    vectors = random_units(THREADS * ROUNDS * BATCH, 16).reshape(THREADS, ROUNDS, BATCH, 16)
    names = [[[f"{t}-{r}-{n}" for n in range(BATCH)] for r in range(ROUNDS)] for t in range(THREADS)]
    failures = []
    with open_index(**place) as index:

        def work(thread):
            try:
                for number in range(ROUNDS):
                    ids = names[thread][number]
                    index.add("text", ids, vectors[thread, number], [{"of": item} for item in ids])
                    for row, hits in enumerate(index.search(vectors[thread, number], 1)):
                        assert hits[0].id == ids[row]
                        assert hits[0].payload == {"of": ids[row]}
                    index.search(vectors[thread, number, :1], 3, where={"of": ids[0]})
                    index.remove("text", ids[:1])
                    index.add("text", ids[1:2], vectors[thread, number, 1:2], [{"of": ids[1]}])
                    assert ("text", ids[0]) not in index
                    assert index.count("text") >= BATCH - 1
                    if number == ROUNDS // 2:
                        index.save()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        index.save()
    with open_index(**place) as index:
        left = [item for thread in names for ids in thread for item in ids[1:]]
        assert len(index) == len(left)
        hits = index.search(np.ascontiguousarray(vectors[:, :, 1:].reshape(-1, 16)), 1)
        assert [hit.id for (hit,) in hits] == left
        assert all(hit.payload == {"of": hit.id} for (hit,) in hits)


def test_a_newer_version_waits_for_a_search(tmp_path):
    folder, vectors = tmp_path / "index", random_units(2, 16)
    with open_index(folder, 16, "m@1", index="memory") as writer:
        writer.add("text", ["a"], vectors[:1])
        writer.save()
        reader = open_index(folder, read_only=True)
        writer.add("text", ["b"], vectors[1:])
        writer.save()
    with reader.guard:  # as a search, or an answer of several, holds it
        refreshing = threading.Thread(target=reader.refresh)
        refreshing.start()
        refreshing.join(0.2)
        assert refreshing.is_alive()
        assert len(reader) == 1
    refreshing.join(10)
    assert len(reader) == 2
