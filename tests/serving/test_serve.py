"""`unimur serve` as a process of its own: answers, refusals, health, metrics, and how it stops."""

import base64
import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.index.second_stage import Reranker
from modeling_unimur.modeling_open_clip import image_vectors
from modeling_unimur.serving.answers import Answerer
from modeling_unimur.serving.public_names import PublicNames
from modeling_unimur.serving.requests import RetrievalRequest
from tests import tiny
from tests.hits import answered, assert_same_answer, assert_same_hits
from tests.serving.conftest import TEXTS

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def served(start):
    return start("--max-upload-bytes", 20_000, "--max-upload-seconds", 1, "--max-turns", 6)


def public(answer: dict) -> dict:
    """An answer of the pipeline as the server shows it."""
    return {kind: [PublicNames().hit(hit) for hit in hits] for kind, hits in answer.items()}


def chat(turns: int, name: str = "") -> list[dict]:
    return [{"role": "user", "content": f"{TEXTS[turn % 3]} {turn} {name}"} for turn in range(turns)]


def test_answers_are_the_pipeline_s(served, retriever, pictures):
    for turns in range(1, 5):
        status, answer = served.retrieve(chat(turns), top_k=4)
        assert status == 200
        assert_same_answer(answer, public(retriever(chat(turns), top_k=4)))
    with open(pictures[0], "rb") as file:
        encoded = base64.b64encode(file.read()).decode()
    parts = [{"type": "text", "text": "look"}, {"type": "image", "image": encoded}]
    status, answer = served.retrieve([{"role": "user", "content": parts}], modality="joint", where={"n": [1, 2]})
    assert status == 200
    assert {hit["id"] for hit in answer["joint"]} == set(TEXTS[1:])
    status, answer = served.retrieve("birthday guitar", hybrid=1, modality="text")
    assert status == 422
    assert "--bm25" in answer["error"]
    status, answer = served.retrieve(chat(1), top_k=4, coherent=True)
    assert status == 200
    expected = retriever(chat(1), top_k=4, coherent=True)
    assert_same_answer(answer, public(expected))
    assert "cosine" in answer["image"][0]
    status, answer = served.retrieve(chat(1), top_k=4, modality="pair")
    assert status == 200
    pairs = retriever(chat(1), top_k=4, modality="pair")
    for kind in ("text", "image"):
        assert_same_hits([pair[kind] for pair in answer["pair"]], [PublicNames().hit(pair[kind]) for pair in pairs])
    assert [pair["score"] for pair in answer["pair"]] == pytest.approx([pair["score"] for pair in pairs], abs=1e-5)


def test_many_at_once_and_bad_ones_among_them(served, retriever):
    bad = [
        (422, b"{no json"), (413, b"x" * 30_000), (422, json.dumps({"messages": "hi", "top_k": 0}).encode()),
        (422, json.dumps({"messages": chat(7)}).encode()),
    ]  # fmt: skip
    expected = {name: public(retriever(chat(2, name), top_k=3)) for name in "abcd"}
    failures = []

    def client(number: int) -> None:
        try:
            for turn in range(6):
                name = "abcd"[(number + turn) % 4]
                status, answer = served.retrieve(chat(2, name), top_k=3)
                assert status == 200, answer
                assert_same_answer(answer, expected[name])
                wanted, body = bad[(number + turn) % 4]
                assert served.ask(body)[0] == wanted
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_newer_version_of_the_index_is_taken_over(retriever, pair, tmp_path):
    retriever.save_index(tmp_path / "index")
    reader = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    reader.load_index(tmp_path / "index", read_only=True)
    answerer = Answerer(reader, refresh_seconds=0)
    writer = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    writer.load_index(tmp_path / "index")
    asked = [RetrievalRequest([{"role": "user", "content": "hi"}], top_k=9)]
    assert len(answered(answerer, asked)[0]["text"]) == 3
    writer.add(texts=["one more"])
    writer.save_index()
    assert len(answered(answerer, asked)[0]["text"]) == 4
    # A version that is damaged takes nothing away.
    writer.add(texts=["and another"])
    writer.save_index()
    next((tmp_path / "index").glob("v*/items.jsonl")).write_text("spoilt")
    assert len(answered(answerer, asked)[0]["text"]) == 4


def test_words_of_requests_that_are_ranked_together(retriever, pair):
    own = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    own.add(texts=["she plays guitar", "the birthday cake"])
    asked = [
        RetrievalRequest([{"role": "user", "content": words}], hybrid=hybrid, words=words)
        for words, hybrid in (("guitar", 1.0), ("cake", 1.0), ("cake", "rrf"))
    ]
    answers = answered(Answerer(own), asked)
    assert [[hit["text"] for hit in row["text"]] for row in answers[:2]] == [
        ["she plays guitar"],
        ["the birthday cake"],
    ]
    assert len(answers[2]["text"]) == 2
    assert {"score", "cosine", "bm25"} <= set(answers[2]["text"][0])


def test_a_second_stage_rescores_what_does_not_refuse_it(pair, pictures, tmp_path):
    own = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    own.add(texts=["she plays guitar", "the birthday cake"], images=pictures[:1])
    second = Reranker(CrossEncoder(str(tiny.cross_encoder(tmp_path)), device="cpu"))
    messages = [{"role": "user", "content": "cake"}]
    asked = [
        ({}, {"reranker": second}), ({"rerank": True}, {"reranker": second}), ({"rerank": False}, {}),
        ({"hybrid": "rrf"}, {"hybrid": "rrf", "reranker": second}), ({"coherent": True}, {"coherent": True}),
    ]  # fmt: skip
    requests = [RetrievalRequest(messages, words="cake", **options) for options, _ in asked]
    answers = answered(Answerer(own, reranker=second), requests)
    for answer, (_, options) in zip(answers, asked, strict=True):
        assert_same_answer(answer, public(own("cake", **options)))
    assert "first_score" in answers[0]["text"][0]
    assert second.skipped  # the image has no caption
    for answerer, options, word in (
        (Answerer(own, reranker=second), {"coherent": True}, "coherent"),
        (Answerer(own), {}, "second stage"),
    ):
        (refused,) = answered(answerer, [RetrievalRequest(messages, rerank=True, **options)])
        assert refused.status == 422
        assert word in str(refused)


def test_the_command_opens_the_second_stage(start, tmp_path):
    served = start("--reranker", tiny.cross_encoder(tmp_path))
    status, answer = served.retrieve("birthday guitar")
    assert status == 200
    assert all("first_score" in hit for hit in answer["text"])
    assert b"unimur_hits_not_rescored 4.0" in served.ask(None, "GET", "/metrics")[1]


def test_the_second_stage_ranks_documents(start, retriever, pair, pictures, tmp_path):
    folder = tiny.cross_encoder(tmp_path)
    served = start("--reranker", folder, "--served-name", "tiny")
    encoded = base64.b64encode(Path(pictures[0]).read_bytes()).decode()
    texts = ["she plays guitar", "the birthday cake", "a letter from home"]
    documents = [texts[0], {"image": encoded}, {"text": texts[1]}, texts[2]]
    body = {"model": "tiny", "query": [{"role": "user", "content": "birthday"}], "documents": documents}
    status, answer = served.ask(json.dumps(body), path="/v1/rerank")
    assert status == 200
    scores = CrossEncoder(str(folder), device="cpu").predict([("birthday", text) for text in texts])
    expected = dict(zip((0, 2, 3), scores.tolist(), strict=True))
    results = json.loads(answer)["results"]
    assert [row["index"] for row in results] == [*sorted(expected, key=lambda at: -expected[at]), 1]
    found = {row["index"]: row["relevance_score"] for row in results}
    assert {at: found[at] for at in expected} == pytest.approx(expected, abs=1e-5)
    image = image_vectors(pair[0], pair[1].process_images([str(pictures[0])]))
    assert found[1] == pytest.approx(float(retriever.embed(["birthday"])[0] @ image[0]), abs=1e-5)
    assert b"unimur_hits_not_rescored 1.0" in served.ask(None, "GET", "/metrics")[1]


def test_an_index_without_words_is_named_without_its_folder(pair, tmp_path):
    own = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    own.add(texts=["she plays guitar"])
    own.save_index(tmp_path / "index")
    (answer,) = answered(
        Answerer(own), [RetrievalRequest([{"role": "user", "content": "hi"}], hybrid=0.5, words="hi")]
    )
    assert answer.status == 422
    assert "no words" in str(answer)
    assert str(tmp_path) not in str(answer)


def test_a_slow_upload_is_given_up(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as slow:
        slow.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        assert served.retrieve("hi")[0] == 200  # the others go on
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_health_and_metrics(served):
    status, body = served.ask(None, "GET", "/health")
    assert (status, json.loads(body)["candidates"]) == (200, {"text": 3, "image": 4})
    served.retrieve("hi")
    status, body = served.ask(None, "GET", "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
    assert float(lines['unimur_requests_total{status="200"}']) >= 1
    assert float(lines["unimur_batched_requests"]) >= float(lines["unimur_batches"]) >= 1
    assert float(lines["unimur_request_seconds_count"]) >= 1
    assert served.ask(None, "GET", "/nothing")[0] == 404


@pytest.mark.slow
def test_it_stops_when_what_has_begun_is_answered(start):
    served = start()
    body = json.dumps({"messages": "hi"}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    begun = [socket.create_connection(("127.0.0.1", served.port), timeout=30) for _ in range(3)]
    for connection in begun:
        connection.sendall(head + body[:5])
    time.sleep(0.5)
    served.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert served.process.poll() is None
    for connection in begun:
        connection.sendall(body[5:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.close()
    assert served.process.wait(40) in (0, -signal.SIGTERM)
    with pytest.raises(OSError, match="refused"):
        served.ask(None, "GET", "/health")
