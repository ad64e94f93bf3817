"""An inference, whichever protocol asked for it: what is to be computed, queued, waited for, and counted."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays, Job
from tfhalf.serve.http.body import Bodies
from tfhalf.serve.http.disconnect import Disconnect
from tfhalf.serve.models import images, texts
from tfhalf.serve.models.repository import Repository
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.reading.pool import Readers
from tfhalf.serve.settings import Settings

_INFERENCE = re.compile(r"/v[12]/models/([^/:]+)(?:/(?:versions|labels)/[^/]+)?(?:/infer|/classify|:predict)")

_LARGE_OUTPUTS = 1 << 16  # bytes of arrays above which an answer is made of them beside the event loop
_BODY_SECONDS = 2.0  # from the end's beginning on, for bodies that are on their way: what is not whole is not accepted


P = TypeVar("P")  # a request as its protocol has it
R = TypeVar("R")  # and its answer


@dataclass
class Inference:
    """Inputs by name as arrays of the model's dtype, or as ``encoded`` images or texts; ``rows`` of each.

    ``deadline`` is a `time.monotonic`. What has a default below ``encoded`` is filled in by `Engine.infer`.
    """

    loaded: Loaded
    rows: int
    feeds: Arrays
    deadline: float
    encoded: dict[str, list[bytes]] = field(default_factory=dict)
    asked_version: str | None = None
    started: float = 0.0
    parsed: float = 0.0
    job: Job | None = None


class Engine:
    """What the protocols share: the repository, the settings, and how an inference runs."""

    def __init__(self, repository: Repository, settings: Settings) -> None:
        self.repository, self.settings = repository, settings
        self.bodies, self.readers = Bodies(settings.limits), Readers(settings.limits)
        self.draining = False
        self.in_flight = 0  # requests of any kind that are not answered yet

    @property
    def ready(self) -> bool:
        """Whether requests ought to be sent here."""
        return self.repository.ready and not self.draining

    async def drain(self, seconds: float) -> bool:
        """Take no new work and finish what there is, within ``seconds``; whether it was finished."""
        self.draining = True
        self.repository.stop_accepting()
        began = time.monotonic()
        until = began + seconds
        while self.in_flight and (now := time.monotonic()) < until:
            if now > began + min(_BODY_SECONDS, seconds / 2):
                self.bodies.stop()
            await asyncio.sleep(0.01)
        self.bodies.stop()
        finished = await self.repository.close(until - time.monotonic())
        self.readers.close()
        return finished and not self.in_flight

    def choose(self, name: str, version: str | None) -> Loaded:
        """The version that is to answer.

        Raises:
            RequestError: 404, 503.
        """
        if self.draining:
            raise RequestError(503, "the server is stopping; ask another one", retry_after=1)
        return self.repository.choose(name, version)

    def refusal(self, path: str) -> RequestError | None:
        """The answer to a POST where ``path`` asks for an inference and no version of the model has room for another
        row: a 429, which is counted. None where the request is to be read; then it counts until the event loop comes
        round to that.
        """
        match = _INFERENCE.fullmatch(path)
        model = self.repository.models.get(match[1]) if match else None
        if model is None or self.draining:
            return None
        full = None
        for loaded in model.loaded.values():
            if loaded.batcher.expect():
                return None
            full = loaded
        if full is None:
            return None
        full.metrics.failure.inc()
        return full.batcher.refusal()

    def deadline(self, seconds: float | None) -> float:
        """`time.monotonic` by which an answer is due; at most ``limits.request_seconds`` from now."""
        most = self.settings.limits.request_seconds
        return time.monotonic() + (most if seconds is None else min(seconds, most))

    async def infer(
        self,
        name: str,
        version: str | None,
        facts: dict[str, Any],
        *,
        read: Callable[[Loaded], Awaitable[P]],
        inference_of: Callable[[P, Loaded], Inference],
        write: Callable[[P, Arrays, Loaded], R],
        disconnect_of: Callable[[], AbstractContextManager[Disconnect | None]] = nullcontext,
    ) -> R:
        """An inference from what a client sent to its answer, by whichever protocol.

        Args:
            name: the model's, and ``version`` its version's, as asked for.
            facts: takes what the log line tells of it.
            read: what was sent, as the protocol's request to a version of the model.
            inference_of: that request as what is to be computed.
            write: its outputs as the protocol's answer; beside the event loop where they are large.
            disconnect_of: of the client, once everything is read.

        Raises:
            RequestError: 404, 429, 503, 504, 500, 499, or what ``read``, ``inference_of`` and ``write`` raise.
        """
        started = time.perf_counter()
        loaded = self.choose(name, version)
        facts["model"], facts["version"] = loaded.model, loaded.version
        try:
            loaded.batcher.check_admission()
            request = await read(loaded)
            inference = inference_of(request, loaded)
            inference.started, inference.asked_version = started, version
            with disconnect_of() as disconnect:
                outputs = await self._run(inference, disconnect)
            arguments = (request, outputs, inference.loaded)
            large = sum([array.nbytes for array in outputs.values()]) > _LARGE_OUTPUTS
            response = await asyncio.to_thread(write, *arguments) if large else write(*arguments)
        except RequestError:  # refused or failed: it counts as the version's failure
            loaded.metrics.failure.inc()
            raise
        self._count(inference, time.perf_counter())
        job = inference.job
        assert job is not None
        facts["version"], facts["rows"], facts["batch"] = inference.loaded.version, job.rows, job.batch
        facts["queue_ms"], facts["compute_ms"] = round(job.queue_ns / 1e6, 3), round(job.run_ns / 1e6, 3)
        return response

    async def _run(self, inference: Inference, disconnect: Disconnect | None) -> Arrays:
        """Have it computed: its outputs, by name; where its client goes away, the work is dropped."""
        for name, files in inference.encoded.items():
            tensor = inference.loaded.signature.inputs[name]
            if tensor.words:
                words = inference.loaded.lookups.by_input[name]
                inference.feeds[name] = await asyncio.to_thread(texts.numbers, files, tensor, words)
                continue
            inference.feeds[name] = await images.decode(
                files, tensor, self.settings.limits.max_pixels, inference.deadline, self.readers
            )
        inference.parsed = time.perf_counter()
        if disconnect is not None and disconnect.happened:
            raise _dropped()
        job = inference.job = self._submit(inference)
        if job.future.done():  # it was computed inline
            return job.future.result()
        return await _answered(job, inference.loaded, disconnect)

    def _count(self, inference: Inference, ended: float) -> None:
        job = inference.job
        assert job is not None
        total = ended - inference.started
        own = inference.parsed - inference.started
        rest = max(0.0, total - own - (job.queue_ns + job.run_ns) / 1e9)
        inference.loaded.metrics.request(total, job.queue_ns, int(own * 1e9), job.run_ns, int(rest * 1e9))

    def _submit(self, inference: Inference) -> Job:
        loaded = inference.loaded
        if loaded.batcher.closing:
            # It was replaced while the request was read; the one in its place answers, if it takes the same.
            loaded = self.choose(loaded.model, inference.asked_version)
            if loaded.signature != inference.loaded.signature or loaded.lookups != inference.loaded.lookups:
                raise RequestError(503, f"model {loaded.model!r} was replaced by one that takes other inputs", 1)
            inference.loaded = loaded
        return loaded.batcher.submit(inference.feeds, inference.rows, inference.deadline)


async def _answered(job: Job, loaded: Loaded, disconnect: Disconnect | None) -> Arrays:
    """The outputs of a job that waits or runs."""
    pending, batcher = loaded.metrics.pending, loaded.batcher
    pending.set(batcher.pending)
    try:
        if disconnect is not None:
            disconnect.then(functools.partial(batcher.drop, job))
        return await job.future
    except asyncio.CancelledError:
        batcher.drop(job)
        if disconnect is not None and disconnect.happened:
            raise _dropped() from None
        raise
    finally:
        if disconnect is not None:
            disconnect.then(None)
        pending.set(batcher.pending)


def _dropped() -> RequestError:
    return RequestError(499, "the client went away; its request was dropped")
