"""`unimur serve` as a process of its own, over a small model and index."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modeling_unimur import MultimodalRetrievalPipeline

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["she plays guitar", "no, but the birthday cake was good", "what a beautiful morning it is"]


class Served:
    """A server and how to ask it."""

    def __init__(self, process, port: int, log: Path):
        self.process, self.port, self.log = process, port, log

    def ask(self, body, method: str = "POST", path: str = "/retrieve", **headers) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def retrieve(self, messages, **options) -> tuple[int, dict]:
        status, body = self.ask(json.dumps({"messages": messages, **options}))
        return status, json.loads(body)


@pytest.fixture(scope="module")
def retriever(pair, pictures):
    found = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    found.add(images=pictures, texts=TEXTS, text_payloads=[{"n": n} for n in range(3)])
    return found


@pytest.fixture(scope="module")
def start(pair, retriever, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for part in pair:
        part.save_pretrained(folder / "model")
    retriever.save_index(folder / "index")
    running = []

    def begin(*options) -> Served:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["serve", "--model", folder / "model", "--index", folder / "index", "--port", port, *options]
        command = [sys.executable, "-m", "modeling_unimur.cli.main", *map(str, words)]
        environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules")}
        log = folder / f"log {len(running)}.txt"
        with open(log, "w") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file, text=True)
        running.append(process)
        served = Served(process, port, log)
        for _ in range(1800):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                if served.ask(None, "GET", "/health")[0] == 200:
                    return served
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server does not begin")

    yield begin
    for process in running:
        process.kill()
        process.wait()
