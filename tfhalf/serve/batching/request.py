"""One request in the queue of a batcher, and the parts of it that batches take."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import NamedTuple

import numpy as np

from tfhalf.errors import RequestError

Arrays = dict[str, np.ndarray]
Key = tuple[tuple[str, str, tuple[int, ...]], ...]


class State(Enum):
    """``WAITING`` until all its rows are computed or it is given up."""

    WAITING = "waiting"
    EXPIRED = "expired"
    DROPPED = "dropped"
    DONE = "done"


class Chunk(NamedTuple):
    """``rows`` rows of ``job`` from row ``start`` on."""

    job: Job
    start: int
    rows: int


class Job:
    """Rows of one request. Requests of one ``key`` (names, dtypes and shapes but for the batch) may share a batch.

    ``queue_ns`` is the time until its first row was taken, ``run_ns`` that of the executions it was part of, ``batch``
    the rows of the last one, ``error`` what is raised in the place of an answer.
    """

    __slots__ = (
        "_outputs",
        "batch",
        "deadline",
        "done",
        "error",
        "feeds",
        "future",
        "loop",
        "queue_ns",
        "queued",
        "rows",
        "run_ns",
        "state",
        "taken",
        "timer",
    )

    def __init__(
        self, feeds: Arrays, rows: int, deadline: float | None, loop: asyncio.AbstractEventLoop, now: float
    ) -> None:
        self.feeds, self.rows, self.deadline, self.loop, self.queued = feeds, rows, deadline, loop, now
        self.future: asyncio.Future[Arrays] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.state = State.WAITING
        self.taken = self.done = 0
        self.queue_ns = self.run_ns = self.batch = 0
        self.error: RequestError | None = None
        self._outputs: Arrays = {}

    @property
    def key(self) -> Key:
        """What requests that share a batch have in common."""
        return tuple((name, array.dtype.str, array.shape[1:]) for name, array in self.feeds.items())

    def take(self, most: int) -> Chunk:
        """The next rows, at most ``most`` of them."""
        if not self.taken:
            self.queue_ns = int((time.monotonic() - self.queued) * 1e9)
        chunk = Chunk(self, self.taken, min(most, self.rows - self.taken))
        self.taken += chunk.rows
        return chunk

    def put(self, chunk: Chunk, outputs: Arrays, batch: int, run_ns: int) -> bool:
        """Keep the outputs of a chunk; whether they were the last."""
        self.done += chunk.rows
        self.run_ns += run_ns
        self.batch = batch
        if chunk.rows == self.rows:
            self._outputs = outputs
        elif self.state is State.WAITING:
            for name, rows in outputs.items():
                if name not in self._outputs:
                    self._outputs[name] = np.empty((self.rows, *rows.shape[1:]), rows.dtype)
                self._outputs[name][chunk.start : chunk.start + chunk.rows] = rows
        if self.done == self.rows and self.state is State.WAITING:
            self.state = State.DONE
            return True
        return False

    def finish(self) -> None:
        """Resolve the future, or have it raise ``error``; on its loop."""
        if self.error is not None:
            self.fail(self.error)
            return
        self._stop_timer()
        if not self.future.done():
            self.future.set_result(self._outputs)

    def fail(self, error: RequestError) -> None:
        """Have the future raise; on its loop."""
        self._stop_timer()
        if not self.future.done():
            self.future.set_exception(error)

    def fail_soon(self, error: RequestError) -> None:
        """`fail`, from another thread."""
        self.loop.call_soon_threadsafe(self.fail, error)

    def forget(self) -> None:
        """Nobody waits for it any more; on its loop."""
        self._stop_timer()
        self.future.cancel()

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def complete(chunks: list[Chunk], outputs: Arrays, run_ns: int) -> list[Job]:
    """The jobs whose last rows these outputs are; each keeps its own."""
    done = []
    at, batch = 0, sum([chunk.rows for chunk in chunks])
    for chunk in chunks:
        rows = {
            name: array if len(array) == chunk.rows else array[at : at + chunk.rows] for name, array in outputs.items()
        }
        at += chunk.rows
        if chunk.job.put(chunk, rows, batch, run_ns):
            done.append(chunk.job)
    return done


def finish(jobs: list[Job]) -> None:
    """On their event loop."""
    for job in jobs:
        job.finish()


def finish_on_loops(jobs: list[Job]) -> None:
    """From another thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, own in by_loop.items():
        loop.call_soon_threadsafe(finish, own)
