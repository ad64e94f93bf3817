"""An inference, whichever protocol asked for it: what is to be computed, queued, waited for, and counted."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays, Job
from tfhalf.serve.http.body import Bodies
from tfhalf.serve.http.disconnect import Disconnect
from tfhalf.serve.models import images
from tfhalf.serve.models.repository import Repository
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.reading.pool import Readers
from tfhalf.serve.settings import Settings

_INFERENCE = re.compile(r"/v[12]/models/([^/:]+)(?:/(?:versions|labels)/[^/]+)?(?:/infer|/classify|:predict)")

_BODY_SECONDS = 2.0  # from the end's beginning on, for bodies that are on their way: what is not whole is not accepted


@dataclass
class Inference:
    """Inputs by name as arrays of the model's dtype, or as ``encoded`` images; ``rows`` of each.

    ``deadline`` is a `time.monotonic`. The nanoseconds are filled in by `run`.
    """

    loaded: Loaded
    asked_version: str | None
    rows: int
    feeds: Arrays
    deadline: float
    encoded: dict[str, list[bytes]] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    parsed: float = 0.0
    job: Job | None = None


@contextmanager
def counting_failures(loaded: Loaded) -> Iterator[None]:
    """Within the block a refused or failed request counts as the version's failure."""
    try:
        yield
    except RequestError:
        loaded.metrics.failure.inc()
        raise


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

    async def run(self, inference: Inference, disconnect: Disconnect | None = None) -> Arrays:
        """Queue it and wait for its outputs, by name.

        Args:
            disconnect: of its client; when it happens, the work is dropped.

        Raises:
            RequestError: 429, 503, 504, 500; or 499, the client went away.
        """
        loaded = inference.loaded
        try:
            for name, files in inference.encoded.items():
                tensor = loaded.signature.inputs[name]
                inference.feeds[name] = await images.decode(
                    files, tensor, self.settings.limits.max_pixels, inference.deadline, self.readers
                )
            inference.parsed = time.perf_counter()
            job = inference.job = self._submit(inference)
            loaded = inference.loaded
            loaded.metrics.pending.set(loaded.batcher.pending)
            if disconnect is not None:
                disconnect.then(functools.partial(loaded.batcher.drop, job))
            outputs = await job.future
        except asyncio.CancelledError:
            if inference.job is not None:
                loaded.batcher.drop(inference.job)
            if disconnect is not None and disconnect.happened:
                raise RequestError(499, "the client went away; its request was dropped") from None
            raise
        finally:
            if disconnect is not None:
                disconnect.then(None)
            loaded.metrics.pending.set(loaded.batcher.pending)
        return outputs

    def count(self, inference: Inference, ended: float) -> None:
        """Count an inference whose answer is ready since ``ended`` (`time.perf_counter`)."""
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
            if loaded.signature != inference.loaded.signature:
                raise RequestError(503, f"model {loaded.model!r} was replaced by one that takes other inputs", 1)
            inference.loaded = loaded
        return loaded.batcher.submit(inference.feeds, inference.rows, inference.deadline)
