"""Adaptive batching: a bounded queue of requests, and a thread that joins their rows and has them computed.

A request that comes alone to a fast model is computed where it is submitted (`Inline`): queue and thread are for those
that have company, or take their time.

The thread takes what waits whenever it is free, so batches grow with the load by themselves. Only a thread that is free
waits for more rows, at most ``max_delay_ms`` after the oldest request, and only while requests arrive so fast that
another is likely within that time. How fast they arrive does not say from how many clients: one that sends its next
request when it has its answer is fast, too, and alone. So waits in vain end the waiting, until two requests are there
at once.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tfhalf.errors import RequestError
from tfhalf.serve.batching.admission import Admission
from tfhalf.serve.batching.inline import Inline
from tfhalf.serve.batching.padding import Joiner
from tfhalf.serve.batching.request import Arrays, Chunk, Job, State, complete, finish, finish_on_loops
from tfhalf.serve.settings import Batching
from tfhalf.text import one_line

Finish = Callable[[list[Job]], None]  # hands requests their answers

_SMOOTHING = 0.2  # weight of the newest gap between arrivals
_GAPS = 4  # a pause of so many usual gaps ends the waiting: whoever was to come has come
_IN_VAIN = 3  # waits in a row that brought nobody, after which nobody is waited for


class BatchDone(NamedTuple):
    """What one execution was: ``rows`` of ``requests`` in a batch of ``size`` (padding included), in nanoseconds."""

    rows: int
    size: int
    requests: int
    join_ns: int
    run_ns: int


class Batcher:
    """The queue of one model version. `submit` is called on an event loop; ``run`` there or by the thread, one at a
    time."""

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        batching: Batching,
        *,
        ladder: Sequence[int] | None = None,
        row_seconds: float | None = None,
        fixed: bool = False,
        blame: int = 500,
        on_batch: Callable[[BatchDone], None] = lambda _: None,
        name: str = "model",
    ) -> None:
        """
        Args:
            run: what computes a batch.
            ladder: sizes that batches are padded to.
            row_seconds: what a row of a full batch takes when nothing else goes on.
            fixed: whether rows are all of one size; only such are computed inline.
            blame: status of a request whose computation fails though it is alone: 500, or 400 where it may be its own
                fault.
            on_batch: told of each execution, by whichever thread it was on; one at a time.
        """
        self._run, self._batching, self._on_batch, self._name = run, batching, on_batch, name
        self._blame = blame
        self._join = Joiner(ladder)
        self._admission = Admission(batching, row_seconds)
        self._inline = Inline(fixed)
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._queue: deque[Job] = deque()
        self._waiting = 0  # requests that wait
        self._idle = False
        self._closing = False
        self._gap = math.inf
        self._last = -math.inf
        self._in_vain = 0
        self._thread = threading.Thread(target=self._work, name=f"batches of {name}", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Requests that wait for their first row to be computed."""
        return self._waiting

    @property
    def closing(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._closing

    def expect(self) -> bool:
        """Whether a request of one row that is about to be read will find room; then it counts until the event loop
        comes round to reading it."""
        if not self._admission.admits(1):
            return False
        if not self._admission.expected:
            asyncio.get_running_loop().call_soon(self._admission.clear_expected)
        self._admission.expected += 1
        return True

    def check_admission(self) -> None:
        """Refuse a request where `submit` would refuse one of a single row, before its body is read.

        Raises:
            RequestError: 429.
        """
        if not self._admission.admits(1):
            raise self.refusal()

    def refusal(self) -> RequestError:
        """What is answered where there is no room."""
        return RequestError(429, f"the queue of {self._name} is full; ask again later", self._admission.seconds)

    def submit(self, feeds: Arrays, rows: int, deadline: float | None = None) -> Job:
        """Queue ``rows`` rows, or compute them at once; their answer comes in the job's ``future``.

        Args:
            feeds: by input name, each [rows, ...] in the model's dtype.
            deadline: `time.monotonic` after which the rest need not be computed.

        Raises:
            RequestError: 429, the queue is full; 503, it is closed; 504, the deadline has passed.
        """
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            raise RequestError(504, "the deadline passed before the request was queued; it was not computed")
        job = Job(feeds, rows, deadline, asyncio.get_running_loop(), now)
        with self._lock:
            if self._closing:
                raise RequestError(503, f"{self._name} is being taken down; ask again", retry_after=1)
            if not self._admission.admits(rows):
                raise self.refusal()
            others = bool(self._waiting or self._admission.running)
            if others:
                self._in_vain = 0
            self._count_arrival(now)
            inline = self._inline.begins(rows, others)
            if not inline:
                self._enqueue(job)
        if inline:
            self._compute_inline(job)
        elif deadline is not None:
            job.timer = job.loop.call_later(deadline - now, self._expire, job)
        return job

    def _count_arrival(self, now: float) -> None:
        if self._last > 0:
            # Clipped, so that one pause between bursts does not hide how fast a burst comes.
            gap = min(now - self._last, self._batching.max_delay_ms / 500)
            self._gap = gap if math.isinf(self._gap) else self._gap + _SMOOTHING * (gap - self._gap)
        self._last = now

    def _enqueue(self, job: Job) -> None:
        self._admission.enter(job.rows, job.rows)
        self._waiting += 1
        self._queue.append(job)
        if self._idle or self._admission.waiting >= self._batching.max_batch:
            self._condition.notify()

    def _compute_inline(self, job: Job) -> None:
        """Here and now, as the only one: the thread begins nothing meanwhile."""
        job.loop.call_soon(self._inline.end_turn)
        try:
            self._compute([job.take(job.rows)], finish)
        finally:
            with self._lock:
                self._inline.busy = False
                if self._admission.waiting or self._closing:  # by another event loop
                    self._condition.notify()

    def drop(self, job: Job) -> None:
        """Its client is gone: what was not computed of it never is."""
        with self._lock:
            self._remove(job, State.DROPPED)
        job.forget()

    def _expire(self, job: Job) -> None:
        with self._lock:
            expired = self._remove(job, State.EXPIRED)
        if expired:
            job.fail(RequestError(504, "the deadline passed while the request waited; it was not computed"))

    def _remove(self, job: Job, state: State) -> bool:
        """Take a job that still waits out of the counts; its place in the queue is skipped when it is reached."""
        if job.state is not State.WAITING or job.taken == job.rows:
            return False
        self._count_out(job)
        job.state = state
        return True

    def _count_out(self, job: Job) -> None:
        self._admission.leave(job.rows, job.rows - job.taken)
        if not job.taken:
            self._waiting -= 1

    async def drain(self) -> None:
        """Take nothing new, and return when all that was accepted is answered and the thread has ended."""
        with self._lock:
            self._closing = True
            self._condition.notify_all()
        while self._thread.is_alive():
            await asyncio.sleep(0.01)

    def abandon(self) -> None:
        """Answer whatever still waits with 503."""
        with self._lock:
            self._closing = True
            left = [job for job in self._queue if self._remove(job, State.DROPPED)]
            self._condition.notify_all()
        for job in left:
            job.fail(RequestError(503, f"{self._name} was stopped before the request was computed", retry_after=1))

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while chunks := self._take():
            self._compute(chunks, finish_on_loops)

    def _compute(self, chunks: list[Chunk], answer: Finish) -> None:
        """Have a batch computed, and its requests answered by ``answer``."""
        start, rows = time.perf_counter_ns(), sum([chunk.rows for chunk in chunks])
        try:
            feeds, size = self._join(chunks)
            joined = time.perf_counter_ns()
            outputs = self._run(feeds)
            ended = time.perf_counter_ns()
        except Exception as error:  # noqa: BLE001  # whatever a runtime raises is that request's answer, not the server's end
            self._inline.ran(rows, (time.perf_counter_ns() - start) / 1e9)
            self._recover(chunks, error, answer)
            return
        requests = 1 if len(chunks) == 1 else len({id(chunk.job) for chunk in chunks})
        # Before the answers go out: whoever has one finds it counted.
        self._on_batch(BatchDone(rows, size, requests, joined - start, ended - joined))
        answer(complete(chunks, outputs, ended - joined))
        seconds = (ended - start) / 1e9
        self._admission.ran(rows, seconds)
        self._inline.ran(rows, seconds)

    def _take(self) -> list[Chunk]:
        with self._lock:
            self._admission.running = 0
            while True:
                while not self._admission.waiting or self._inline.busy:
                    if self._closing and not self._inline.busy:
                        self._queue.clear()  # expired and dropped ones
                        return []
                    self._idle = True
                    self._condition.wait()
                    self._idle = False
                wait = self._linger()
                if wait > 0:
                    last = self._last
                    self._condition.wait(wait)
                    self._in_vain = 0 if self._last != last else self._in_vain + 1
                    continue
                chunks = self._fill()
                if chunks:
                    self._admission.running = sum(chunk.rows for chunk in chunks)
                    return chunks

    def _linger(self) -> float:
        """Seconds to wait for more rows before a batch is made of what is there."""
        if self._admission.waiting >= self._batching.max_batch or self._closing or self._in_vain >= _IN_VAIN:
            return 0.0
        while self._queue[0].state is not State.WAITING:
            self._queue.popleft()
        now = time.monotonic()
        until = min(self._queue[0].queued + self._batching.max_delay_ms / 1000, self._last + _GAPS * self._gap)
        return until - now if now + self._gap < until else 0.0

    def _fill(self) -> list[Chunk]:
        """Rows for one batch, from the front of the queue, of requests that can be joined with the first.

        A request takes at most half a batch at a time; then the others have their turns.
        """
        chunks: list[Chunk] = []
        others: list[Job] = []
        again: list[Job] = []
        space, key, now = self._batching.max_batch, None, time.monotonic()
        while space and (self._queue or again):
            if not self._queue:
                self._queue.extend(again)
                again.clear()
            job = self._queue.popleft()
            if job.state is not State.WAITING:
                continue
            if job.deadline is not None and job.deadline <= now:
                self._remove(job, State.EXPIRED)
                job.fail_soon(RequestError(504, "the deadline passed while the request waited; it was not computed"))
                continue
            if key is not None and job.key != key:
                others.append(job)
                continue
            key = job.key
            self._count_out(job)
            chunk = job.take(min(space, self._admission.turn))
            space -= chunk.rows
            if chunks and chunks[-1].job is job:  # nobody else had a turn
                chunk = Chunk(job, chunks[-1].start, chunks.pop().rows + chunk.rows)
            chunks.append(chunk)
            if job.taken < job.rows:
                self._admission.enter(job.rows, job.rows - job.taken)
                again.append(job)
        self._queue.extendleft(reversed(others))
        self._queue.extend(again)
        return chunks

    def _recover(self, chunks: list[Chunk], error: Exception, answer: Finish) -> None:
        """A batch failed: compute its requests one by one, so that only those at fault fail."""
        for chunk in chunks:
            reason: Exception | None = error
            if len(chunks) > 1:
                try:
                    start = time.perf_counter_ns()
                    outputs = self._run(self._join([chunk])[0])
                    answer(complete([chunk], outputs, time.perf_counter_ns() - start))
                    reason = None
                except Exception as own:  # noqa: BLE001  # as above
                    reason = own
            if reason is not None:
                with self._lock:
                    self._remove(chunk.job, State.DROPPED)
                why = f"{self._name} could not compute this: {one_line(reason)}"
                chunk.job.error = RequestError(self._blame, why)
                answer([chunk.job])
