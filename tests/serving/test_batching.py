"""Requests in batches: which come together, what one that fails does to the others, and how it ends."""

import asyncio
import threading
import time

import pytest

from modeling_unimur.serving.batching import Batcher
from modeling_unimur.serving.limits import Refused


def run(work, scenario, **options):
    async def main():
        batcher = Batcher(work, **options)
        batcher.start()
        try:
            return await scenario(batcher)
        finally:
            await batcher.stop()

    return asyncio.run(main())


def test_requests_that_arrive_together_are_answered_together():
    sizes, threads = [], set()

    def work(requests):
        sizes.append(len(requests))
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return [2 * request for request in requests]

    async def scenario(batcher):
        return await asyncio.gather(*(batcher.answer(number, 5) for number in range(20)))

    assert run(work, scenario, max_batch=8) == [2 * number for number in range(20)]
    assert sizes == [8, 8, 4]
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_one_that_fails_leaves_the_others_alone():
    def work(requests):
        return [ValueError("seven") if request == 7 else request for request in requests]

    async def scenario(batcher):
        answers = (batcher.answer(number, 5) for number in range(10))
        return await asyncio.gather(*answers, return_exceptions=True)

    found = run(work, scenario)
    assert [answer for answer in found if not isinstance(answer, Exception)] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert str(found[7]) == "seven"


def test_a_batch_that_breaks_is_not_the_end():
    def work(requests):
        return [1 / request for request in requests]

    async def scenario(batcher):
        with pytest.raises(ZeroDivisionError):
            await batcher.answer(0, 5)
        assert batcher.is_running
        return await batcher.answer(4, 5)

    assert run(work, scenario) == 0.25


def test_too_slow_and_too_many():
    ran = []

    def work(requests):
        ran.extend(requests)
        time.sleep(0.15)
        return requests

    async def scenario(batcher):
        first = asyncio.ensure_future(batcher.answer("first", 5))
        await asyncio.sleep(0.05)
        late = [asyncio.ensure_future(batcher.answer(name, 0.02)) for name in "ab"]
        await asyncio.sleep(0.01)
        with pytest.raises(Refused) as refused:
            await batcher.answer("c", 5)
        assert refused.value.status == 503
        for task in late:
            with pytest.raises(Refused) as refused:
                await task
            assert refused.value.status == 504
        assert await first == "first"
        return await batcher.answer("last", 5)

    assert run(work, scenario, max_batch=1, max_waiting=2, wait_seconds=0) == "last"
    assert ran == ["first", "last"]  # what nobody waits for is not run


def test_stopping_answers_what_runs_and_refuses_the_rest():
    def work(requests):
        time.sleep(0.1)
        return requests

    async def main():
        batcher = Batcher(work, max_batch=1, wait_seconds=0)
        batcher.start()
        tasks = [asyncio.ensure_future(batcher.answer(number, 5)) for number in range(3)]
        await asyncio.sleep(0.05)
        await batcher.stop()
        assert not batcher.is_running
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    assert all(isinstance(answer, Refused) and answer.status == 503 for answer in found[1:])


def test_clients_take_turns_by_what_their_requests_cost():
    order = []

    def work(requests):
        order.extend(requests)
        time.sleep(0.01)
        return requests

    async def scenario(batcher):
        heavy = [asyncio.ensure_future(batcher.answer(f"heavy {n}", 5, "one", cost=100)) for n in range(10)]
        await asyncio.sleep(0.005)
        light = [asyncio.ensure_future(batcher.answer(f"light {n}", 5, "two", cost=10)) for n in range(10)]
        return await asyncio.gather(*heavy, *light)

    run(work, scenario, max_batch=1, wait_seconds=0)
    last = max(place for place, name in enumerate(order) if name.startswith("light"))
    assert last < 14  # not behind all of the heavy ones
    assert [name for name in order if name.startswith("light")] == [f"light {n}" for n in range(10)]


def test_a_batch_is_bounded_by_its_cost():
    sizes = []

    def work(requests):
        sizes.append(len(requests))
        time.sleep(0.01)
        return requests

    async def scenario(batcher):
        return await asyncio.gather(*(batcher.answer(n, 5, cost=40) for n in range(6)), batcher.answer(9, 5, cost=500))

    run(work, scenario, max_batch=8, max_cost=100)
    assert sizes == [2, 2, 2, 1]


def test_too_many_of_one_client_leave_room_for_others():
    async def scenario(batcher):
        first = [asyncio.ensure_future(batcher.answer(n, 5, "one")) for n in range(3)]
        await asyncio.sleep(0.02)
        first.append(asyncio.ensure_future(batcher.answer(3, 5, "one")))
        await asyncio.sleep(0.01)
        with pytest.raises(Refused) as refused:
            await batcher.answer(9, 5, "one")
        assert refused.value.status == 429
        assert refused.value.headers == {"Retry-After": "1"}
        await batcher.answer("x", 5, "two")
        await asyncio.gather(*first)
        await batcher.answer(9, 5, "one")

    def work(requests):
        time.sleep(0.05)
        return requests

    run(work, scenario, max_batch=1, wait_seconds=0, max_client_waiting=3)


def test_what_cannot_be_answered_in_time_is_refused_at_once():
    def work(requests):
        time.sleep(0.1)
        return requests

    async def scenario(batcher):
        await batcher.answer("measured", 5, cost=10)
        waiting = [asyncio.ensure_future(batcher.answer(n, 60, cost=10)) for n in range(12)]
        await asyncio.sleep(0.01)
        start = time.perf_counter()
        with pytest.raises(Refused) as refused:
            await batcher.answer("late", 0.5, cost=10)
        assert time.perf_counter() - start < 0.1
        assert refused.value.status == 503
        assert refused.value.retry_after > 0
        await batcher.answer("another client's", 0.5, "other", cost=10)  # it need not wait for the first one's
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert batcher.waiting == 0
        await batcher.answer("again", 0.5, cost=10)

    run(work, scenario, max_batch=1, wait_seconds=0)


def test_two_threads_work_at_a_time():
    both = threading.Barrier(2)

    def work(requests):
        both.wait(5)
        return requests

    async def scenario(batcher):
        return await asyncio.gather(*(batcher.answer(n, 5) for n in range(4)))

    assert run(work, scenario, max_batch=1, wait_seconds=0, threads=2) == [0, 1, 2, 3]
