"""What one client can do to a server that others use."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


def resident_mib(served) -> float:
    with open(f"/proc/{served.process.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


@pytest.fixture(scope="module")
def served(start):
    return start(
        "--max-header-seconds", 1, "--max-upload-seconds", 1, "--max-connections", 40, "--max-client-connections", 30
    )


def encoded(image: Image.Image, kind: str = "PNG") -> str:
    file = io.BytesIO()
    image.save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def images(*sources: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": [{"type": "image", "image": s} for s in sources]}]})


BAD = [
    b"", b"{", b"null", b"[" * 50_000, b"\x00", b"\xff", b'{"messages": "\\ud800"}', b'{"messages": "a\\u0000b"}',
    b'{"messages": "hi", "where": {"a": NaN}}', b'{"messages": "hi", "where": {"a": -Infinity}}',
    b'{"messages": "hi", "where": {"a\\ud800": 1}}',
    b'{"messages": "hi", "top_k": "\\ud800"}', b'{"messages": "hi", "modality": "\\ud800"}',
    b'{"messages": {"role": "user", "content": "hi"}}', b'{"messages": [[]]}', b'{"messages": [{"role": "user"}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "image", "image": ""}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "text", "text": null}]}]}',
    b'{"messages": [{"role": "\\ud800", "content": "hi"}]}', b'{"\\ud800": 1, "messages": "hi"}',
    b'{"messages": "hi", "where": ' + b'{"a":' * 500 + b"1" + b"}" * 501,
    json.dumps({"messages": "hi", "where": {"a": list(range(100_000))}}).encode(),
    json.dumps({"messages": "hi", "where": {str(n): n for n in range(1000)}}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("body", BAD)
def test_a_bad_request_is_told_in_one_sentence(served, body):
    status, answer = served.ask(body)
    assert status == 422
    reason = json.loads(answer)["error"]
    assert 0 < len(reason) < 400
    assert reason.endswith(".")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/retrieve"), ("PUT", "/retrieve"), ("GET", "/"), ("GET", "/v1/embeddings"),
                         ("GET", "/%00"), ("POST", "/health"), ("GET", "/../../etc/passwd")],
)  # fmt: skip
def test_other_addresses_are_refused(served, method, path):
    assert served.ask(None, method, path)[0] in (404, 405)


def test_small_uploads_of_large_images_take_little_memory(served):
    served.ask(images(encoded(Image.new("RGB", (800, 600)))))
    before = resident_mib(served)
    large = encoded(Image.new("1", (5000, 4000)))
    narrow = encoded(Image.new("1", (1, 6_000_000)))
    start = time.perf_counter()
    assert served.ask(images(*[large] * 16))[0] == 422
    assert served.ask(images(narrow))[0] == 422
    assert time.perf_counter() - start < 5
    peak = [0.0]
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.is_set():
            peak[0] = max(peak[0], resident_mib(served))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    statuses = []
    askers = [threading.Thread(target=lambda: statuses.append(served.ask(images(*[large] * 3))[0])) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    stopped.set()
    watcher.join()
    assert statuses == [200] * 6
    assert peak[0] - before < 700
    served.ask(images(large))
    time.sleep(1.5)
    served.ask(images(large))
    time.sleep(0.5)
    assert resident_mib(served) - before < 150


def test_connections_that_send_no_headers_are_closed(served):
    silent, slow = served.connect(), served.connect()
    slow.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\n")
    begun = time.perf_counter()
    assert served.retrieve("hi")[0] == 200
    stopped = threading.Event()

    def trickle() -> None:
        while not stopped.wait(0.2):
            try:
                slow.sendall(b"X-A: b\r\n")
            except OSError:
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert silent.recv(1000) == b""
    assert time.perf_counter() - begun < 5
    stopped.set()
    thread.join()


def test_a_body_behind_the_answer_cannot_trickle(served):
    connection = served.connect()
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    ended, closed = time.perf_counter() + 10, False
    while time.perf_counter() < ended and not closed:
        time.sleep(0.2)
        try:
            connection.sendall(b"x")
            connection.settimeout(0.01)
            closed = connection.recv(1000) == b""
        except TimeoutError:
            pass
        except OSError:
            closed = True
    assert closed


def test_one_client_cannot_open_all_connections(served):
    opened = [served.connect() for _ in range(30)]
    time.sleep(0.3)
    with served.connect() as further:
        assert further.recv(1000).startswith(b"HTTP/1.1 429 ")
    time.sleep(1.5)  # they were silent
    assert served.retrieve("hi")[0] == 200
    for connection in opened:
        connection.close()


def test_a_log_is_not_filled_by_what_clients_send(served):
    before = served.log.stat().st_size
    for _ in range(50):
        with served.connect() as connection:
            connection.sendall(b"no http\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert served.ask(None, "GET", "/health", Connection="upgrade", Upgrade="websocket")[0] == 200
    assert served.log.stat().st_size - before < 2000


def test_a_client_that_leaves_is_not_waited_for(served):
    body = json.dumps({"messages": "hi"}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for _ in range(20):
        with served.connect() as connection:
            connection.sendall(head + body)
    assert served.retrieve("hi")[0] == 200
    for _ in range(50):
        if json.loads(served.ask(None, "GET", "/health")[1])["waiting"] == 0:
            break
        time.sleep(0.1)
    assert json.loads(served.ask(None, "GET", "/health")[1])["waiting"] == 0


def test_a_heavy_client_does_not_starve_a_light_one(start):
    """From one address no turns are taken; what one address may have waiting is bounded, and the queue is short."""
    served = start("--max-client-waiting", 4, "--max-batch-tokens", 1000)
    heavy = json.dumps({"messages": "word " * 9000})
    stopped, statuses = threading.Event(), []

    def ask() -> None:
        while not stopped.is_set():
            statuses.append(served.ask(heavy)[0])

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        status, _ = served.ask(None, "GET", "/health")
        seconds.append(time.perf_counter() - begun)
        assert status == 200
    stopped.set()
    for thread in threads:
        thread.join()
    assert np.median(seconds) < 1
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
