"""The queue: batches, bounds, deadlines, fairness, and answers that are their own request's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serve_helpers import run

from tfhalf.errors import RequestError
from tfhalf.serve.batching.batcher import Batcher
from tfhalf.serve.settings import Batching


class Model:
    """Doubles ``x``; held back while ``gate`` is closed; keeps the shapes of its batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[np.ndarray] = []
        self.fail: Callable[[np.ndarray], bool] = lambda x: False

    def __call__(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self.gate.wait(10)
        if self.fail(feeds["x"]):
            raise ValueError("no such thing")
        self.batches.append(feeds["x"].copy())
        return {"y": feeds["x"] * 2}

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def rows(count: int, value: float = 1.0, width: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.full((count, width), value, np.float32)}


async def held(model: Model, batcher: Batcher) -> Any:
    """Close the gate with one row in it, so that what comes next waits."""
    model.gate.clear()
    first = batcher.submit(rows(1, -1), 1)
    while batcher.pending:
        await asyncio.sleep(0.001)
    return first


def test_what_waits_is_one_batch_and_each_gets_its_own_answer() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=16))
        first = await held(model, batcher)
        jobs = [batcher.submit(rows(n, n), n) for n in (1, 2, 3)]
        model.gate.set()
        for n, job in zip((1, 2, 3), jobs, strict=True):
            np.testing.assert_array_equal((await job.future)["y"], np.full((n, 2), 2.0 * n))
            assert job.batch == 6
        await first.future
        assert model.sizes == [1, 6]
        await batcher.drain()

    run(work)


def test_a_lone_client_does_not_wait() -> None:
    async def work() -> None:
        batcher = Batcher(Model(), Batching(max_delay_ms=20_000))
        start = time.perf_counter()
        for _ in range(3):
            await batcher.submit(rows(1), 1).future
            await asyncio.sleep(0.02)
        await batcher.drain()
        assert time.perf_counter() - start < 20

    run(work)


def test_a_fast_client_alone_does_not_wait_either() -> None:
    """Its requests come one upon the other's answer: nobody else can come in between."""

    async def work() -> None:
        batcher, waits = Batcher(Model(), Batching(max_delay_ms=500)), []
        for _ in range(30):
            start = time.perf_counter()
            await batcher.submit(rows(1), 1).future
            waits.append(time.perf_counter() - start)
        # Without an end to the waiting, each would take four usual gaps, and these grow with it.
        assert sorted(waits)[15] < 0.2, waits
        await batcher.drain()

    run(work)


def test_a_second_client_is_waited_for_again() -> None:
    """Once two requests are there at once, after any number of a single client's."""

    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=64, max_delay_ms=200))
        for _ in range(10):
            await batcher.submit(rows(1), 1).future
        model.batches.clear()
        jobs = []
        for _ in range(20):
            jobs += [batcher.submit(rows(1), 1), batcher.submit(rows(1), 1)]
            await asyncio.sleep(0.001)
        await asyncio.gather(*(job.future for job in jobs))
        assert len(model.batches) <= 8, model.sizes
        await batcher.drain()

    run(work)


def test_a_burst_is_waited_for() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=64, max_delay_ms=200))
        jobs = []
        for _ in range(20):
            jobs.append(batcher.submit(rows(1), 1))
            await asyncio.sleep(0.001)
        await asyncio.gather(*(job.future for job in jobs))
        assert len(model.batches) <= 4, model.sizes
        await batcher.drain()

    run(work)


def test_other_shapes_and_dtypes_are_never_joined() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=64))
        await held(model, batcher)
        kinds = [rows(1, 1, 2), rows(1, 2, 3), {"x": np.ones((1, 2), np.float64)}, rows(1, 4, 2), rows(1, 5, 3)]
        jobs = [batcher.submit(feeds, 1) for feeds in kinds]
        model.gate.set()
        for feeds, job in zip(kinds, jobs, strict=True):
            answer = (await job.future)["y"]
            assert answer.dtype == feeds["x"].dtype
            np.testing.assert_array_equal(answer, feeds["x"] * 2)
        assert sorted(model.sizes[1:]) == [1, 2, 2]
        await batcher.drain()

    run(work)


def test_padding_goes_to_the_ladder_and_is_taken_off_again() -> None:
    async def work() -> None:
        model = Model()
        batching = Batching(max_batch=8)
        batcher = Batcher(model, batching, ladder=batching.ladder)
        for n in (1, 5, 7, 8):
            answer = (await batcher.submit(rows(n, n), n).future)["y"]
            np.testing.assert_array_equal(answer, np.full((n, 2), 2.0 * n))
        assert model.sizes == [1, 6, 8, 8]
        assert set(model.sizes) <= set(batching.ladder)
        assert (model.batches[1][5:] == 0).all()
        await batcher.drain()

    run(work)


def test_the_ladder_wastes_a_third_at_most() -> None:
    ladder = Batching(max_batch=64).ladder
    assert ladder == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    assert Batching(max_batch=100).ladder[-1] == 100
    for n in range(1, 65):
        size = next(step for step in ladder if step >= n)
        assert (size - n) / size < 1 / 3


def test_a_large_request_is_split_and_the_small_ones_pass_it() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=8, max_queue=32))
        await held(model, batcher)
        large = batcher.submit({"x": np.arange(100, dtype=np.float32).reshape(50, 2)}, 50)
        small = [batcher.submit(rows(1, n), 1) for n in range(3)]
        ended: list[str] = []
        large.future.add_done_callback(lambda _: ended.append("large"))
        for job in small:
            job.future.add_done_callback(lambda _: ended.append("small"))
        model.gate.set()
        answer = (await large.future)["y"]
        np.testing.assert_array_equal(answer, np.arange(100, dtype=np.float32).reshape(50, 2) * 2)
        assert ended == ["small"] * 3 + ["large"]
        assert max(model.sizes) == 8
        await batcher.drain()

    run(work)


def test_a_full_queue_says_429_and_when_to_come_back() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=4, max_queue=6))
        await held(model, batcher)
        accepted = [batcher.submit(rows(1), 1) for _ in range(6)]
        with pytest.raises(RequestError, match="full") as refused:
            batcher.submit(rows(1), 1)
        assert refused.value.status == 429
        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
        model.gate.set()
        await asyncio.gather(*(job.future for job in accepted))
        await batcher.submit(rows(1), 1).future  # there is room again
        await batcher.drain()

    run(work)


def test_large_requests_leave_half_of_the_queue_to_others() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=8, max_queue=8))
        await held(model, batcher)
        large = batcher.submit(rows(500), 500)
        with pytest.raises(RequestError, match="full"):
            batcher.submit(rows(500), 500)
        small = batcher.submit(rows(1), 1)
        model.gate.set()
        await small.future
        batcher.drop(large)
        await batcher.drain()

    run(work)


def test_a_deadline_in_the_queue_is_504_and_never_computed() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching())
        await held(model, batcher)
        late = batcher.submit(rows(1, 7), 1, time.monotonic() + 0.05)
        with pytest.raises(RequestError, match="deadline") as error:
            await late.future
        assert error.value.status == 504
        assert batcher.pending == 0
        model.gate.set()
        await batcher.submit(rows(1, 8), 1).future
        assert not any((batch == 7).any() for batch in model.batches)
        with pytest.raises(RequestError) as error:
            batcher.submit(rows(1), 1, time.monotonic() - 1)
        assert error.value.status == 504
        await batcher.drain()

    run(work)


def test_what_its_client_left_is_not_computed() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching())
        await held(model, batcher)
        gone, stays = batcher.submit(rows(1, 7), 1), batcher.submit(rows(1, 8), 1)
        batcher.drop(gone)
        model.gate.set()
        np.testing.assert_array_equal((await stays.future)["y"], [[16, 16]])
        assert gone.future.cancelled()
        assert not any((batch == 7).any() for batch in model.batches)
        await batcher.drain()

    run(work)


def test_one_bad_request_does_not_spoil_its_batch() -> None:
    async def work() -> None:
        model = Model()
        model.fail = lambda x: bool((x == 13).any())
        batcher = Batcher(model, Batching())
        await held(model, batcher)
        jobs = [batcher.submit(rows(1, value), 1) for value in (1, 13, 2)]
        model.gate.set()
        good = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        np.testing.assert_array_equal(good[0]["y"], [[2, 2]])
        np.testing.assert_array_equal(good[2]["y"], [[4, 4]])
        assert isinstance(good[1], RequestError)
        assert good[1].status == 500
        await batcher.submit(rows(1), 1).future  # and the thread lives
        await batcher.drain()

    run(work)


def test_draining_answers_what_was_accepted_and_takes_nothing_new() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching())
        await held(model, batcher)
        job = batcher.submit(rows(2), 2)
        draining = asyncio.ensure_future(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="taken down") as error:
            batcher.submit(rows(1), 1)
        assert error.value.status == 503
        model.gate.set()
        assert (await job.future)["y"].shape == (2, 2)
        await draining

    run(work)


def test_what_is_abandoned_gets_an_answer() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching())
        await held(model, batcher)
        job = batcher.submit(rows(2), 2)
        batcher.abandon()
        with pytest.raises(RequestError) as error:
            await job.future
        assert error.value.status == 503
        model.gate.set()
        await batcher.drain()

    run(work)


def test_many_requests_of_all_kinds_get_their_own_answers() -> None:
    async def work() -> None:
        model = Model()
        batcher = Batcher(model, Batching(max_batch=16, max_queue=10_000))
        generator = np.random.default_rng(0)

        async def one(k: int) -> None:
            n, width = int(generator.integers(1, 40)), int(generator.integers(1, 3))
            x = generator.normal(size=(n, width)).astype(np.float32)
            await asyncio.sleep(float(generator.uniform(0, 0.05)))
            job = batcher.submit({"x": x}, n)
            if k % 7 == 0:
                batcher.drop(job)
                return
            np.testing.assert_array_equal((await job.future)["y"], x * 2)

        await asyncio.gather(*(one(k) for k in range(300)))
        assert batcher.pending == 0
        assert batcher._admission.waiting == 0
        assert batcher._admission._large == 0
        await batcher.drain()

    run(work)
