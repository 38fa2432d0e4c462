"""kill -9 at random moments, two builders at once, two ranks."""

import multiprocessing
import os
import random
import signal
import socket
import time

import numpy as np
import pytest

from modeling_unimur.data.row_store import RowStore
from modeling_unimur.encoding.build import build_index
from tests.encoding.corpora import (
    CountingEncoder,
    assert_same_content,
    content,
    image_folder,
    options,
    picture,
)

FORK = multiprocessing.get_context("fork")
IMAGES, CHUNK = 40, 4


def in_a_process(work, *arguments) -> multiprocessing.Process:
    process = FORK.Process(target=work, args=arguments)
    process.start()
    return process


def change(folder, round_number: int) -> None:
    """One picture more, one changed, one removed."""
    picture(folder / f"new{round_number}.png", 1000 + round_number)
    picture(folder / "a" / f"{2 * (round_number % 10)}.png", 2000 + round_number)
    (folder / "b" / f"{2 * (round_number % 10) + 1}.png").unlink(missing_ok=True)


def kill_often(pair, tmp_path, kills: int, seed: int) -> None:
    folder, uri, log = image_folder(tmp_path / "corpus", IMAGES), tmp_path / "index", tmp_path / "log"
    encoder = CountingEncoder(*pair, log=log)
    settings = options(chunk_size=CHUNK)
    start = time.perf_counter()
    build_index(folder, encoder, tmp_path / "first", settings)
    whole, draw = time.perf_counter() - start, random.Random(seed)
    log.unlink()
    contents = {path.read_bytes() for path in folder.rglob("*.png")}
    landed = 0
    for number in range(kills):
        process = in_a_process(build_index, folder, encoder, uri, settings)
        time.sleep(draw.uniform(0, 1.1 * whole))
        if process.is_alive():
            landed += 1
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if (uri / "CURRENT").exists():  # never an index that cannot be read
            for (_, name), (_, vector) in content(uri).items():
                assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4), name
        for shards in (tmp_path / "index.encoding" / "vectors").glob("*"):
            RowStore(shards)
        if number % 3 == 2:
            change(folder, number)
            contents |= {path.read_bytes() for path in folder.rglob("*.png")}
    report = build_index(folder, encoder, uri, settings)
    assert landed
    assert report.items == len(list(folder.rglob("*.png")))
    # A kill loses no more than the chunk in flight; what was replaced before its turn came is never encoded.
    present = {path.read_bytes() for path in folder.rglob("*.png")}
    assert len(present) <= log.stat().st_size <= len(contents) + CHUNK * landed
    build_index(folder, encoder, tmp_path / "anew", settings)
    assert_same_content(content(uri), content(tmp_path / "anew"))


def test_killed_at_some_moments(pair, tmp_path):
    kill_often(pair, tmp_path, kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_at_twenty_moments(pair, tmp_path, seed):
    kill_often(pair, tmp_path, kills=20, seed=seed)


def test_two_builders_are_told_of_each_other(pair, corpus, tmp_path):
    class Slow(CountingEncoder):
        def vectors(self, kind, inputs):
            time.sleep(30)

    process = in_a_process(build_index, corpus, Slow(*pair), tmp_path / "index", options())
    try:
        while not (tmp_path / "index.encoding" / "manifest.sqlite").exists():
            time.sleep(0.02)
        with pytest.raises(BlockingIOError, match="another process"):
            build_index(corpus, CountingEncoder(*pair), tmp_path / "index", options())
    finally:
        process.kill()
        process.join()


def _rank(rank, port, folder, pair, uri, log) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    report = build_index(folder, CountingEncoder(*pair, log=log / f"rank{rank}"), uri, options(chunk_size=3))
    if rank == 0:
        (log / "report").write_text(f"{report.items} {report.encoded} {report.skipped} {report.unchanged}")


def two_ranks(folder, pair, uri, log) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log.mkdir(exist_ok=True)
    processes = [in_a_process(_rank, rank, port, folder, pair, uri, log) for rank in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def test_two_ranks_equal_one_process(pair, encoder, corpus, tmp_path):
    (corpus / "bad.png").write_text("x")
    build_index(corpus, encoder, tmp_path / "one", options())
    two_ranks(corpus, pair, tmp_path / "two", tmp_path / "log")
    assert_same_content(content(tmp_path / "two"), content(tmp_path / "one"))
    assert (tmp_path / "log" / "report").read_text() == "12 12 1 0"
    # Both had a part of the work.
    assert sorted((tmp_path / "log" / f"rank{rank}").stat().st_size for rank in range(2)) == [6, 6]
    two_ranks(corpus, pair, tmp_path / "two", tmp_path / "log")
    assert (tmp_path / "log" / "report").read_text() == "12 0 1 13"
