"""`/v1/embeddings` and `/v1/rerank`: the vectors are the pipeline's, and what clients send is read or refused."""

import base64
import json

import numpy as np
import pytest
import torch

from modeling_unimur.modeling_open_clip import image_vectors, text_vectors
from modeling_unimur.serving.limits import Refused, ServingLimits
from modeling_unimur.serving.openai_requests import read_embedding_request, read_rerank_request
from tests.serving.conftest import TEXTS

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
KEY = "a secret of the operator"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def served(start):
    return start("--served-name", "tiny", "--max-inputs", 100)


@pytest.fixture(scope="module")
def guarded(start):
    return start("--api-key", KEY)


def post(served, path: str, body: dict, **headers) -> tuple[int, dict]:
    status, answer = served.ask(json.dumps({"model": "tiny", **body}), path=f"/v1/{path}", **headers)
    return status, json.loads(answer)


def matrix(answer: dict) -> np.ndarray:
    assert [row["index"] for row in answer["data"]] == list(range(len(answer["data"])))
    return np.array([row["embedding"] for row in answer["data"]], dtype=np.float32)


def encoded(picture) -> str:
    with open(picture, "rb") as file:
        return base64.b64encode(file.read()).decode()


def test_inputs_are_queries_or_candidates(served, retriever, pair):
    model, processor = pair
    status, answer = post(served, "embeddings", {"input": TEXTS})
    assert status == 200
    assert (answer["object"], answer["model"]) == ("list", "tiny")
    count = sum(len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    np.testing.assert_allclose(matrix(answer), retriever.embed(TEXTS).numpy(), atol=TOLERANCE)
    _, alone = post(served, "embeddings", {"input": TEXTS[1], "input_type": "query"})
    np.testing.assert_allclose(matrix(alone), matrix(answer)[1:2], atol=TOLERANCE)
    _, answer = post(served, "embeddings", {"input": TEXTS, "input_type": "document"})
    expected = text_vectors(model, processor.process_texts(TEXTS)).numpy()
    np.testing.assert_allclose(matrix(answer), expected, atol=TOLERANCE)


def test_more_inputs_than_are_read_at_once(served, retriever):
    texts = [f"{TEXTS[number % 3]} {number}" for number in range(70)]
    _, answer = post(served, "embeddings", {"input": texts, "input_type": "document"})
    few = [0, 63, 64, 69]
    _, expected = post(served, "embeddings", {"input": [texts[n] for n in few], "input_type": "document"})
    np.testing.assert_allclose(matrix(answer)[few], matrix(expected), atol=TOLERANCE)


def test_messages_with_an_image(served, retriever, pictures):
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(pictures[0])}"}},
        {"type": "text", "text": "look"},
    ]
    messages = [{"role": "user", "content": "hello"}, {"role": "user", "content": parts}]
    status, answer = post(served, "embeddings", {"messages": messages})
    assert status == 200
    read = [{"type": "image", "image": str(pictures[0])}, parts[1]]
    expected = retriever.embed([[messages[0], {"role": "user", "content": read}]])
    np.testing.assert_allclose(matrix(answer), expected.numpy(), atol=TOLERANCE)


def test_an_image_as_a_candidate(served, pair, pictures):
    message = {"role": "user", "content": [{"type": "image", "image": encoded(pictures[1])}]}
    status, answer = post(served, "embeddings", {"messages": [message], "input_type": "document"})
    assert status == 200
    expected = image_vectors(pair[0], pair[1].process_images([str(pictures[1])])).numpy()
    np.testing.assert_allclose(matrix(answer), expected, atol=TOLERANCE)
    message["content"].append({"type": "text", "text": "a caption"})
    status, answer = post(served, "embeddings", {"messages": [message], "input_type": "document"})
    assert (status, answer["error"]["type"]) == (422, "invalid_request_error")


def test_formats_of_the_vectors(served):
    _, plain = post(served, "embeddings", {"input": TEXTS})
    _, packed = post(served, "embeddings", {"input": TEXTS, "encoding_format": "base64"})
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed["data"]]
    np.testing.assert_allclose(np.stack(rows), matrix(plain), atol=TOLERANCE)
    _, short = post(served, "embeddings", {"input": TEXTS, "dimensions": 4})
    expected = torch.nn.functional.normalize(torch.from_numpy(matrix(plain)[:, :4]), dim=-1).numpy()
    np.testing.assert_allclose(matrix(short), expected, atol=TOLERANCE)
    assert post(served, "embeddings", {"input": TEXTS, "dimensions": 10_000})[0] == 422


def test_documents_are_ranked_by_their_cosines(served, retriever, pair, pictures):
    documents = [*TEXTS, {"text": "another"}, {"image": encoded(pictures[2])}, TEXTS[0]]
    status, answer = post(served, "rerank", {"query": "guitar", "documents": documents, "return_documents": True})
    assert status == 200
    model, processor = pair
    vectors = [
        text_vectors(model, processor.process_texts([*TEXTS, "another"])),
        image_vectors(model, processor.process_images([str(pictures[2])])),
        text_vectors(model, processor.process_texts(TEXTS[:1])),
    ]
    scores = (retriever.embed(["guitar"]) @ torch.cat(vectors).T)[0]
    found = {row["index"]: row["relevance_score"] for row in answer["results"]}
    assert sorted(found) == list(range(6))
    np.testing.assert_allclose([found[at] for at in range(6)], scores.numpy(), atol=TOLERANCE)
    shown = [row["relevance_score"] for row in answer["results"]]
    assert shown == sorted(shown, reverse=True)
    texts = {row["index"]: row["document"] for row in answer["results"]}
    assert (texts[0], texts[3], texts[4]) == ({"text": TEXTS[0]}, {"text": "another"}, {})
    _, best = post(served, "rerank", {"query": "guitar", "documents": documents, "top_n": 2})
    assert [row["index"] for row in best["results"]] == [row["index"] for row in answer["results"][:2]]
    assert "document" not in best["results"][0]


BAD_EMBEDDINGS = [
    {}, {"input": []}, {"input": [[1, 2]]}, {"input": [""]}, {"input": TEXTS, "messages": []}, {"messages": []},
    {"input": "a", "input_type": "passage"}, {"input": "a", "encoding_format": "int8"},
    {"input": "a", "dimensions": 0},
    {"input": "a", "dimensions": True}, {"input": "a", "unknown": 1}, {"input": ["a"] * 9}, {"model": 3, "input": "a"},
    {"messages": [{"role": "user", "content": "a"}] * 2, "input_type": "document"},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}]},
]  # fmt: skip
BAD_RERANKS = [
    {"documents": ["a"]}, {"query": "a"}, {"query": "a", "documents": []}, {"query": "a", "documents": [1]},
    {"query": "a", "documents": [{"file": "/etc/passwd"}]}, {"query": "a", "documents": ["a"], "top_n": 0},
    {"query": "a", "documents": [""]}, {"query": "a", "documents": ["a"], "return_documents": 1},
    {"query": "a", "documents": [{"image": "/etc/passwd"}]},
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_EMBEDDINGS)
def test_bad_requests_for_embeddings(body):
    with pytest.raises(Refused) as refused:
        read_embedding_request(json.dumps({"model": "tiny", **body}).encode(), ServingLimits(inputs=8))
    assert refused.value.status == 422


@pytest.mark.parametrize("body", BAD_RERANKS)
def test_bad_requests_for_a_ranking(body):
    with pytest.raises(Refused) as refused:
        read_rerank_request(json.dumps({"model": "tiny", **body}).encode(), ServingLimits(inputs=8))
    assert refused.value.status == 422


def test_a_bad_input_is_named(served):
    status, answer = post(served, "embeddings", {"input": ["good", " ", "good"]})
    assert status == 422
    assert "input[1]" in answer["error"]["message"]
    assert answer["error"]["code"] == 422


def test_the_model_is_named(served):
    listed = json.loads(served.ask(None, "GET", "/v1/models")[1])
    assert [one["id"] for one in listed["data"]] == ["tiny"]
    status, answer = post(served, "embeddings", {"model": "another", "input": "a"})
    assert status == 404
    assert "tiny" in answer["error"]["message"]


def test_the_page_of_the_requests(served):
    schema = json.loads(served.ask(None, "GET", "/openapi.json")[1])
    for path in ("/retrieve", "/v1/embeddings", "/v1/rerank"):
        body = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["required"]) <= set(body["properties"])
    assert served.ask(None, "GET", "/docs")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/retrieve", {"messages": "a"}), ("POST", "/v1/embeddings", {"model": "model", "input": "a"}),
     ("GET", "/metrics", None), ("GET", "/v1/models", None)],
)  # fmt: skip
def test_an_api_key(guarded, method, path, body):
    body = body and json.dumps(body)
    for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}, {"Authorization": "Bearer "}):
        status, answer = guarded.ask(body, method, path, **headers)
        assert status == 401
        assert KEY not in answer.decode()
    assert guarded.ask(body, method, path, Authorization=f"Bearer {KEY}")[0] == 200
    assert guarded.ask(None, "GET", "/health")[0] == 200


@pytest.mark.slow
def test_the_client_of_openai(guarded, served, retriever):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{guarded.port}/v1", api_key=KEY, max_retries=0)
    [name] = [one.id for one in client.models.list().data]
    answer = client.embeddings.create(model=name, input=TEXTS)
    found = np.array([row.embedding for row in answer.data], dtype=np.float32)
    np.testing.assert_allclose(found, retriever.embed(TEXTS).numpy(), atol=TOLERANCE)
    assert answer.usage.prompt_tokens > 0
    messages = [{"role": "user", "content": TEXTS[0]}]
    answer = client.post("/embeddings", body={"model": name, "messages": messages}, cast_to=object)
    np.testing.assert_allclose(matrix(answer), found[:1], atol=TOLERANCE)
    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(model=name, input=[""])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="another", input="a")
    stranger = openai.OpenAI(base_url=f"http://127.0.0.1:{guarded.port}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
