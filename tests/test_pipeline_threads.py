"""Several threads on one pipeline: nothing is lost, and nobody gets another's answer."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image
from transformers import pipeline

WORDS = ["a cat slept on my keyboard", "she plays guitar", "what a beautiful morning", "do you have a picture?"]
THREADS = 8


@pytest.fixture
def short_turns():
    """Threads take turns after a few instructions, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def chat(thread: int, turns: int, picture) -> list:
    """Chats that begin alike, so that threads go on from one another's."""
    messages = [{"role": "user", "content": WORDS[turn % 4]} for turn in range(turns)]
    messages[1] = {"role": "user", "content": [{"type": "image", "image": picture}]}
    return [*messages, {"role": "user", "content": f"thread {thread % 3}, turn {turns}"}]


def in_threads(work) -> list:
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(work, thread) for thread in range(THREADS)]]


def test_chats(pair, pictures, short_turns):
    retriever = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    retriever.add(texts=WORDS)
    chats = [[chat(thread, turns, pictures[0]) for turns in range(2, 7)] for thread in range(THREADS)]
    expected = [retriever.embed(dialogues) for dialogues in chats]
    retriever.chats.max_bytes = 400_000  # so that chats are thrown out meanwhile
    found = in_threads(lambda thread: [retriever.rank(expected[thread]), [retriever(c) for c in chats[thread]]])
    for ranked, answers in found:
        for mine, theirs in zip(answers, ranked, strict=True):
            scores = [{hit["id"]: hit["score"] for hit in answer["text"]} for answer in (mine, theirs)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert retriever.chats.num_bytes <= 400_000


def test_owners(pair, pictures, short_turns):
    retriever = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    dialogues = [chat(0, turns, pictures[0]) for turns in range(2, 6)]
    expected = retriever.embed(dialogues)
    found = in_threads(lambda thread: retriever.embed(dialogues, owners=[f"client {thread % 2}"] * len(dialogues)))
    for vectors in found:
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_candidates(pair, pictures, short_turns):
    retriever = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    retriever.add(texts=["the first"])
    alone = pipeline("multimodal-retrieval", model=pair[0], processor=pair[1])
    alone.add(texts=[f"thread {thread}, text {n}" for thread in range(THREADS) for n in range(6)])

    def work(thread: int) -> None:
        for number in range(6):
            text = f"thread {thread}, text {number}"
            assert retriever.add(texts=[text, "to be removed"], text_ids=[text, f"no {thread}"])["texts"] == 2
            assert retriever.embed(text).shape == (1, 24)
            assert retriever(text, top_k=1)["text"]
            retriever.remove(texts=[f"no {thread}"])

    in_threads(work)
    assert retriever.index.count("text") == 6 * THREADS + 1
    found, wanted = (
        {hit["id"]: hit["score"] for hit in made("hi", top_k=99)["text"] if hit["id"] != "the first"}
        for made in (retriever, alone)
    )
    assert found == pytest.approx(wanted, abs=1e-5)
    in_threads(lambda thread: retriever.add(images=[Image.new("RGB", (20, 20), (thread * 20, 3, 90))]))
    assert retriever.index.count("image") == THREADS
