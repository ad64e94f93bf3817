"""Requests that are computed on the event loop's own thread: which ones, and that all else is as with the queue."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import numpy as np
import pytest
from serve_helpers import run

from tfhalf.errors import RequestError
from tfhalf.serve.batching.batcher import BatchDone, Batcher
from tfhalf.serve.batching.inline import LONGEST, Inline
from tfhalf.serve.batching.request import Job
from tfhalf.serve.settings import Batching

FAST, SLOW = LONGEST / 10, LONGEST * 10


class Model:
    """Doubles ``x`` after ``seconds``; keeps the threads it ran on, and refuses to run twice at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.threads: list[threading.Thread] = []
        self.fails = False
        self._alone = threading.Lock()

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self._alone.acquire(blocking=False)
        try:
            self.threads.append(threading.current_thread())
            if self.seconds:
                time.sleep(self.seconds)
            if self.fails:
                raise ValueError("no such thing")
            return {"y": feeds["x"] * 2}
        finally:
            self._alone.release()

    @property
    def last_inline(self) -> bool:
        return self.threads[-1] is threading.current_thread()


def one(value: float = 1.0, rows: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, 2), value, np.float32)}


async def alone(batcher: Batcher, value: float = 1.0) -> Job:
    """A request that nobody is beside: the event loop has come round since the last one."""
    await asyncio.sleep(0.001)
    job = batcher.submit(one(value), 1)
    np.testing.assert_array_equal((await job.future)["y"], [[2 * value] * 2])
    return job


async def until_inline(batcher: Batcher, model: Model) -> None:
    """Requests one by one, until one is computed here: on a busy machine a fast one may take long."""
    for _ in range(1000):
        await alone(batcher)
        if model.last_inline:
            return
    pytest.fail("no request was computed inline")


def test_a_few_that_came_alone_and_were_fast() -> None:
    inline = Inline(fixed=True)
    for _ in range(3):
        assert not inline.begins(1, others=False)
        inline.ran(1, FAST)
    assert inline.begins(1, others=False)


def decided(*, rows: int = 1) -> Inline:
    """One that has just let a request in and seen it end."""
    inline = Inline(fixed=True)
    for _ in range(3):
        inline.begins(rows, others=False)
        inline.ran(rows, FAST)
    assert inline.begins(rows, others=False)
    inline.busy = False
    inline.end_turn()
    return inline


def test_company_ends_it_until_three_came_alone_again() -> None:
    inline = decided()
    assert not inline.begins(1, others=True)
    assert [inline.begins(1, others=False) for _ in range(4)] == [False, False, False, True]


def test_a_second_one_in_a_turn_of_the_loop_is_company() -> None:
    inline = decided()
    assert inline.begins(1, others=False)
    inline.busy = False
    assert not inline.begins(1, others=False)
    inline.end_turn()
    assert not inline.begins(1, others=False)


def test_nothing_begins_beside_one_on_another_loop() -> None:
    inline = decided()
    assert inline.begins(1, others=False)
    inline.end_turn()
    assert not inline.begins(1, others=False)


def test_a_slow_one_counts_at_once_and_fast_ones_little_by_little() -> None:
    inline = decided()
    inline.ran(1, SLOW)
    assert not inline.begins(1, others=False)
    inline.ran(1, FAST)
    assert not inline.begins(1, others=False)
    for _ in range(30):
        inline.ran(1, FAST)
    assert inline.begins(1, others=False)


def test_each_number_of_rows_has_a_time_of_its_own() -> None:
    inline = decided(rows=2)
    assert not inline.begins(1, others=False), "never measured"
    inline.ran(3, SLOW)
    assert not inline.begins(3, others=False)
    assert inline.begins(2, others=False)


@pytest.mark.parametrize(("fixed", "rows"), [(False, 1), (True, 17)])
def test_open_sizes_and_many_rows_never_are(fixed: bool, rows: int) -> None:
    inline = Inline(fixed)
    for _ in range(10):
        assert not inline.begins(rows, others=False)
        inline.ran(rows, FAST)


def test_a_lone_client_of_a_fast_model_is_answered_here() -> None:
    async def work() -> None:
        model, done = Model(), list[BatchDone]()
        batcher = Batcher(model, Batching(), fixed=True, on_batch=done.append)
        await until_inline(batcher, model)
        await asyncio.sleep(0.001)
        job = batcher.submit(one(3), 1, time.monotonic() + 60)
        if job.future.done():  # unless the last one was held up
            assert job.timer is None
            assert (job.batch, job.rows) == (1, 1)
            assert job.run_ns > 0
        np.testing.assert_array_equal((await job.future)["y"], [[6, 6]])
        assert batcher.pending == 0
        assert len(done) == len(model.threads)
        assert all((batch.rows, batch.requests) == (1, 1) for batch in done)
        with pytest.raises(RequestError) as late:
            batcher.submit(one(), 1, time.monotonic() - 1)
        assert late.value.status == 504
        await batcher.drain()

    run(work)


def test_a_slow_model_is_the_threads() -> None:
    async def work() -> None:
        model = Model()
        model.seconds = SLOW
        batcher = Batcher(model, Batching(), fixed=True)
        for _ in range(10):
            await alone(batcher)
        assert threading.current_thread() not in model.threads
        await batcher.drain()

    run(work)


def test_one_that_becomes_slow_holds_up_the_loop_once() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(), fixed=True)
        await until_inline(batcher, model)
        model.threads.clear()
        model.seconds = SLOW
        for _ in range(10):
            await alone(batcher)
        assert threading.current_thread() not in model.threads[1:]
        model.seconds = 0.0
        await until_inline(batcher, model)
        await batcher.drain()

    run(work)


def test_those_that_come_together_share_a_batch() -> None:
    async def work() -> None:
        model, done = Model(), list[BatchDone]()
        batcher = Batcher(model, Batching(), fixed=True, on_batch=done.append)
        await until_inline(batcher, model)
        await asyncio.sleep(0.001)
        done.clear()
        jobs = [batcher.submit(one(n), 1) for n in range(20)]
        for n, job in enumerate(jobs):
            np.testing.assert_array_equal((await job.future)["y"], [[2 * n] * 2])
        assert sum(batch.rows for batch in done) == 20
        assert len(done) < 10, "the first alone, the others by the thread"
        await batcher.drain()

    run(work)


def test_an_error_is_the_request_s_own() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(), fixed=True, blame=400)
        await until_inline(batcher, model)
        model.fails = True
        await asyncio.sleep(0.001)
        with pytest.raises(RequestError, match="no such thing") as error:
            await batcher.submit(one(), 1).future
        assert error.value.status == 400
        model.fails = False
        await until_inline(batcher, model)
        assert batcher.pending == 0
        await batcher.drain()

    run(work)


def test_one_that_is_closed_takes_nothing_and_its_thread_ends() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(), fixed=True)
        await until_inline(batcher, model)
        draining = asyncio.ensure_future(batcher.drain())
        await asyncio.sleep(0)
        count = len(model.threads)
        with pytest.raises(RequestError) as error:
            batcher.submit(one(), 1)
        assert error.value.status == 503
        assert len(model.threads) == count
        await asyncio.wait_for(draining, 10)

    run(work)


def test_two_event_loops_never_compute_at_once() -> None:
    """`Model` would fail; and each request gets its own answer, alone or in a crowd."""
    model, done = Model(), list[BatchDone]()
    batchers: list[Batcher] = []
    ready = threading.Barrier(2)

    async def client(seed: int) -> int:
        chance, sent = random.Random(seed), 0
        ready.wait(10)
        for _ in range(150):
            count = chance.choice((1, 1, 1, 1, 1, 1, 6))
            jobs = [batchers[0].submit(one(seed + n), 1) for n in range(count)]
            for n, job in enumerate(jobs):
                np.testing.assert_array_equal((await job.future)["y"], [[2 * (seed + n)] * 2])
            sent += count
            await asyncio.sleep(chance.choice((0, 0, 0.0005)))
        return sent

    async def work() -> None:
        batchers.append(Batcher(model, Batching(), fixed=True, on_batch=done.append))
        second = asyncio.to_thread(asyncio.run, client(1000))
        sent = await asyncio.gather(client_beside(), second)
        assert sum(batch.rows for batch in done) == sum(sent)
        assert batchers[0]._admission.waiting == batchers[0].pending == 0
        await batchers[0].drain()

    async def client_beside() -> int:
        await asyncio.sleep(0.01)  # the other loop starts first, and waits
        return await client(0)

    run(work)
