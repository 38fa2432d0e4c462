"""Whose turn it is, whose chat goes on, and what one client may hold."""

import pytest
import torch

from modeling_unimur import MultimodalRetrievalPipeline
from modeling_unimur.prefix_cache import FrozenDecoder
from modeling_unimur.serving.answers import Answerer
from modeling_unimur.serving.batching import FairQueue, Waiting
from modeling_unimur.serving.clients import client_host, client_key
from modeling_unimur.serving.limits import MemoryBudget, MemoryTrimmer, Refused
from modeling_unimur.serving.requests import RetrievalRequest


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        (("10.1.2.3", 5), "10.1.2.3"),
        (("2001:db8:1:2:aaaa::1", 5), "2001:db8:1:2::/64"),
        (("2001:db8:1:2:bbbb::2", 9), "2001:db8:1:2::/64"),
        (("::ffff:10.1.2.3", 5), "10.1.2.3"),
        (("testclient", 5), "testclient"),
        (None, ""),
    ],
)
def test_limits_count_by_address(peer, host):
    assert client_host(peer) == host


def test_a_key_is_of_an_address_and_a_secret():
    one = client_key(("10.0.0.1", 5), {"x-client": "a"})
    assert one == client_key(("10.0.0.1", 6), {"x-client": "a"})
    others = [
        client_key(("10.0.0.2", 5), {"x-client": "a"}),
        client_key(("10.0.0.1", 5), {"x-client": "b"}),
        client_key(("10.0.0.1", 5), {"authorization": "a"}),
        client_key(("10.0.0.1", 5), {"x-client": "a", "authorization": "b"}),
    ]
    assert len({one, *others}) == 5
    assert client_key(("10.0.0.1", 5), {}) is None
    assert client_key(("10.0.0.1", 5), {"x-client": ""}) is None


def test_chats_of_clients_are_apart(pair, monkeypatch):
    retriever = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    retriever.add(texts=["a", "b"])
    answerer, run = Answerer(retriever), []
    extend = FrozenDecoder.extend

    def counted(decoder, embeds, *args, keep=False, **kwargs):
        run.extend([embeds.shape[1]] * keep)  # a batch keeps nothing
        return extend(decoder, embeds, *args, keep=keep, **kwargs)

    monkeypatch.setattr(FrozenDecoder, "extend", counted)
    chat = [{"role": "user", "content": f"turn {number} of a chat"} for number in range(4)]

    def tokens(client: str | None, turns: int) -> int:
        run.clear()
        vector = answerer.embed([RetrievalRequest(chat[:turns], client=client)])[0]
        assert torch.nn.functional.cosine_similarity(vector, retriever.embed(chat[:turns])).item() > 1 - 1e-5
        return sum(run)

    retriever.chats.takes(chat)  # tries the language model's cache
    whole = tokens("one", 3)
    assert 0 < tokens("one", 4) < whole
    assert tokens("two", 3) == whole
    assert tokens(None, 3) == 0
    assert len(retriever.chats) == 2


def test_the_images_of_clients_are_apart(pair, pictures):
    retriever = MultimodalRetrievalPipeline(model=pair[0], processor=pair[1])
    retriever.add(texts=["a"])
    shown = []
    process = retriever.processor.process_images
    retriever.processor.process_images = lambda images: shown.append(len(images)) or process(images)
    try:
        content = [{"type": "image", "image": str(pictures[0])}]
        chat = [{"role": "user", "content": content}, {"role": "user", "content": "and?"}]
        for owner, times in (("one", 1), ("one", 1), ("two", 2), (None, 3)):
            retriever.chats.embed(chat, owner=owner)
            assert len(shown) == times
    finally:
        del retriever.processor.process_images


def test_memory_is_counted_for_all_and_for_each():
    budget = MemoryBudget(100)
    budget.take("one", 50)
    with pytest.raises(Refused) as refused:
        budget.take("one", 1)
    assert refused.value.status == 429
    budget.take("two", 40)
    with pytest.raises(Refused) as refused:
        budget.take("three", 11)
    assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
    budget.give("one", 50)
    budget.take("three", 50)
    budget.give("two", 40)
    budget.give("three", 50)
    assert budget.taken == 0


def test_memory_is_given_back_once_in_a_while():
    trimmer, calls = MemoryTrimmer(least_bytes=100, seconds=3600), []
    trimmer._trim = calls.append
    trimmer.freed(60)
    assert calls == []
    trimmer.freed(60)
    assert calls == [0]
    trimmer.freed(600)
    assert calls == [0]


def test_one_that_was_away_has_saved_up_nothing():
    queue = FairQueue()

    def put(client: str, *costs: float) -> None:
        for cost in costs:
            queue.put(Waiting(f"{client}{cost}", client, cost, None))

    put("a", 10, 10, 10)
    assert [entry.client for entry in queue.take(2, 100)] == ["a", "a"]
    put("b", 1, 1)
    assert queue.cost_before("b") == 2 + 2
    assert queue.cost_before("c") == 2
    assert [entry.client for entry in queue.take(9, 100)] == ["b", "b", "a"]
    assert len(queue) == 0
    gone = Waiting("x", "a", 1, None)
    queue.put(gone)
    queue.discard(gone)
    queue.discard(gone)
    assert (len(queue), queue.count("a")) == (0, 0)
