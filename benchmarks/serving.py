"""`unimur serve` under load: clients that hold chats of several turns, with bad requests among the good ones.

    python benchmarks/serving.py [--quick] [--model FOLDER] [--clients N] [--seconds S]

A server process answers 64 clients for two minutes over an index of random vectors. Every client holds chats of five
turns, one request a turn; every twentieth request is oversized or malformed:

- `errors`: good requests that were not answered with 200, and bad ones that were not refused with the right status;
- `p50_ms`, `p99_ms`: of good requests, as the client sees them; `rps`: good requests a second;
- `mib_early`, `mib_late`: the server's resident memory after a quarter of the time and at the end;
- `mean_batch`: requests that the model answered together; `requests`, `refused`: how many there were.

Then a second server, whose index has two candidates so that a search costs nothing, answers the same clients at
`/retrieve` and at `/v1/embeddings` by turns, four times in the same time:

- `retrieve_...`, `embeddings_...`: `errors`, `p50_ms`, `p99_ms`, `rps` and `requests` of each;
- `embeddings_over_retrieve`: the ratio of the two `p50_ms`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil

from benchmarks.harness import ROOT, argument_parser, random_unit_vectors, report, watched
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.index import open_index
from modeling_unimur.modeling_open_clip import space_name

CLIENTS, SECONDS, CANDIDATES = 64, 120.0, 10_000
QUICK_CLIENTS, QUICK_SECONDS, QUICK_CANDIDATES = 8, 3.0, 200
TURNS, BAD_EVERY = 5, 20
# Searched at no cost.
_FEW = 2
# Each path is asked so often, by turns.
_ROUNDS = 2
_UPLOAD_BYTES = 100_000
_SENTENCES = (
    "look who slept on my keyboard this morning",
    "do you have a picture of the lighthouse",
    "she plays guitar on the beach at night",
    "no, but the birthday cake was good",
    "what a day, the red balloon is over the town",
)


def make_index(model_folder: Path, folder: Path, count: int, seed: int) -> None:
    """An exact index of random vectors, half of them texts."""
    model, processor = UniMuRModel.from_pretrained(model_folder), UniMuRProcessor.from_pretrained(model_folder)
    rng, width = np.random.default_rng(seed), model.config.embedding_width
    with open_index(folder, width, space_name(model, processor), "memory") as index:
        for kind in ("text", "image"):
            names = [f"{kind} {number}" for number in range(count // 2)]
            index.add(kind, names, random_unit_vectors(rng, len(names), width), [{kind: name} for name in names])
        index.save()


class Client(threading.Thread):
    """A client that sends requests to `path` until it is told to stop, with `more` beside the messages. `number` and
    `first` (the number of its first request) make its chats differ from those of all others."""

    def __init__(self, port: int, number: int, stopped: threading.Event, path: str, more: dict, first: int):
        super().__init__(daemon=True)
        self.port, self.number, self.stopped = port, number, stopped
        self.path, self.more, self.first = path, more, first
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self.refused = 0

    def run(self) -> None:
        connection, asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120), self.first
        while not self.stopped.is_set():
            messages = []
            for turn in range(TURNS):
                text = f"{self.number} {asked}: {_SENTENCES[(self.number + turn) % len(_SENTENCES)]}"
                messages.append({"role": "user" if turn % 2 == 0 else "assistant", "content": text})
                asked += 1
                if asked % BAD_EVERY == 7:
                    large = asked % (2 * BAD_EVERY) == 7
                    self._ask(connection, b" " * (_UPLOAD_BYTES + 1) if large else b"{no json", 413 if large else 422)
                self._ask(connection, json.dumps({**self.more, "messages": messages}).encode(), 200)
                if self.stopped.is_set():
                    break
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, body: bytes, expected: int) -> None:
        start = time.perf_counter()
        try:
            connection.request("POST", self.path, body, {"X-Client": f"client {self.number}"})
            response = connection.getresponse()
            response.read()
            status = str(response.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status = repr(error)
            if expected == 413:  # a server may close the connection while the rest is being sent
                self.refused += 1
                return
        if status != str(expected):
            self.errors.append(f"{status} in place of {expected}")
        elif expected == 200:
            self.seconds.append(time.perf_counter() - start)
        else:
            self.refused += 1


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB."""
    return psutil.Process(pid).memory_info().rss / 2**20


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"{path}: {response.status}")
        return response.read().decode()
    finally:
        connection.close()


def _begin(model: Path, index: Path) -> tuple[subprocess.Popen, int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "--model", model, "--index", index, "--port", port, "--max-upload-bytes", _UPLOAD_BYTES]
    command = [sys.executable, "-m", "modeling_unimur.cli.main", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        try:
            _get(port, "/health")
            return process, port
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"The server does not begin: {process.stderr.read()[-1000:]}")


@contextlib.contextmanager
def serving(model: Path, candidates: int, seed: int) -> Iterator[tuple[subprocess.Popen, int]]:
    """A server over an index of random vectors, and its port."""
    with tempfile.TemporaryDirectory() as folder:
        make_index(model, Path(folder, "index"), candidates, seed)
        process, port = _begin(model, Path(folder, "index"))
        try:
            yield process, port
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(60)


@contextlib.contextmanager
def asking(
    port: int, count: int, path: str = "/retrieve", more: dict | None = None, first: int = 0
) -> Iterator[list[Client]]:
    """Clients that ask while the block runs."""
    stopped = threading.Event()
    clients = [Client(port, number, stopped, path, more or {}, first) for number in range(count)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        stopped.set()
        for client in clients:
            client.join()


def seen(clients: list[Client], elapsed: float) -> dict[str, float]:
    """What the clients saw in so many seconds."""
    times = [second for client in clients for second in client.seconds]
    errors = [error for client in clients for error in client.errors]
    for error in sorted(set(errors))[:5]:
        print(f"{errors.count(error)} x {error}", file=sys.stderr)
    p50, p99 = 1000 * np.percentile(times, (50, 99))
    figures = {"errors": len(errors), "p50_ms": float(p50), "p99_ms": float(p99)}
    return {**figures, "rps": len(times) / elapsed, "requests": len(times)}


def compare_paths(port: int, count: int, seconds: float) -> dict[str, float]:
    """Figures of `/retrieve` and of `/v1/embeddings`, which are asked by turns."""
    model = json.loads(_get(port, "/v1/models"))["data"][0]["id"]
    paths: dict[str, dict] = {"/retrieve": {}, "/v1/embeddings": {"model": model}}
    clients: dict[str, list[Client]] = {path: [] for path in paths}
    elapsed = dict.fromkeys(paths, 0.0)
    for number in range(_ROUNDS):
        for path, more in paths.items():
            start = time.perf_counter()
            with asking(port, count, path, more, first=1_000_000 * (number + 1)) as some:
                time.sleep(seconds / (_ROUNDS * len(paths)))
            clients[path] += some
            elapsed[path] += time.perf_counter() - start
    found = {path.rpartition("/")[2]: seen(clients[path], elapsed[path]) for path in paths}
    figures = {f"{name}_{key}": value for name, one in found.items() for key, value in one.items()}
    return {**figures, "embeddings_over_retrieve": figures["embeddings_p50_ms"] / figures["retrieve_p50_ms"]}


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    count = args.clients or (QUICK_CLIENTS if args.quick else CLIENTS)
    seconds = args.seconds or (QUICK_SECONDS if args.quick else SECONDS)
    with serving(args.model, QUICK_CANDIDATES if args.quick else CANDIDATES, args.seed) as (process, port):
        start = time.perf_counter()
        with asking(port, count) as clients:
            time.sleep(seconds / 4)
            early = resident_mib(process.pid)
            time.sleep(3 * seconds / 4)
            late = resident_mib(process.pid)
        figures = seen(clients, time.perf_counter() - start)
        counted = dict(line.rsplit(" ", 1) for line in _get(port, "/metrics").splitlines() if line[0] != "#")
    with serving(args.model, _FEW, args.seed) as (_, port):
        figures |= compare_paths(port, count, seconds)
    return {
        **figures,
        "refused": sum(client.refused for client in clients),
        "mib_early": early,
        "mib_late": late,
        "mean_batch": float(counted["unimur_batched_requests"]) / float(counted["unimur_batches"]),
        "clients": count,
        "seconds": seconds,
    }


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--clients", type=int, help=f"default {CLIENTS}; quick: {QUICK_CLIENTS}")
    parser.add_argument("--seconds", type=float, help=f"default {SECONDS:g}; quick: {QUICK_SECONDS:g}")
    args = parser.parse_args()
    with watched():
        figures = run(args)
    report("serving", args, figures, [f"{args.model.name}; clients and server share the machine"])


if __name__ == "__main__":
    main()
