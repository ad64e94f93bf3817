"""What the server counts, in Prometheus' form with Triton's names where Triton has one.

With several worker processes prometheus_client keeps the numbers in files (PROMETHEUS_MULTIPROC_DIR), and each worker
answers for all of them.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Row = TypeVar("Row")

_MODEL = ("model", "version")
_COUNTERS = {
    "request_success": "Number of successful inference requests",
    "request_failure": "Number of failed inference requests",
    "count": "Number of inferences performed (a batch of n rows is n)",
    "exec_count": "Number of model executions performed (a batch is one)",
    "request_duration_us": "Cumulative inference request duration in microseconds",
    "queue_duration_us": "Cumulative inference queuing duration in microseconds",
    "compute_input_duration_us": "Cumulative compute input duration in microseconds",
    "compute_infer_duration_us": "Cumulative compute inference duration in microseconds",
    "compute_output_duration_us": "Cumulative compute output duration in microseconds",
}
_KEPT = 256  # requests, or executions, that are counted together
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# prometheus_client writes `_total` after every counter's name, which Triton's lack; and when each counter was made.
_SUFFIX = re.compile(r"^((?:# (?:HELP|TYPE) )?nv_\w+?)_total\b", re.MULTILINE)
_CREATED = re.compile(r"^(?:# (?:HELP|TYPE) )?\w+_created\b.*\n", re.MULTILINE)


class Metrics:
    """The registry of one app."""

    def __init__(self) -> None:
        self._many = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._registry = CollectorRegistry()
        self._versions: dict[tuple[str, str], VersionMetrics] = {}
        own = CollectorRegistry() if self._many else self._registry
        self.counters = {
            name: Counter(f"nv_inference_{name}", about, _MODEL, registry=own) for name, about in _COUNTERS.items()
        }
        self.pending = Gauge(
            "nv_inference_pending_request_count",
            "Instantaneous number of pending requests awaiting execution per-model",
            _MODEL,
            registry=own,
            multiprocess_mode="livesum",
        )
        self.last = Gauge(
            "tfhalf_last_inference_seconds",
            "Unix time of the last execution",
            _MODEL,
            registry=own,
            multiprocess_mode="max",
        )
        self.batch_rows = Histogram(
            "tfhalf_batch_rows",
            "Rows of an execution",
            _MODEL,
            registry=own,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )
        self.seconds = Histogram(
            "tfhalf_request_duration_seconds", "From request to answer", _MODEL, registry=own, buckets=_SECONDS
        )
        self.http = Counter("tfhalf_http_requests", "Answers by status", ("status",), registry=own)
        self.loads = Counter("tfhalf_version_loads", "Versions loaded, by outcome", ("model", "outcome"), registry=own)
        if self._many:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        self._count()
        text = generate_latest(self._registry).decode()
        return _SUFFIX.sub(r"\1", _CREATED.sub("", text)).encode()

    def of(self, model: str, version: int) -> VersionMetrics:
        """The counters of one version, looked up once."""
        labels = (model, str(version))
        if labels in self._versions:
            return self._versions[labels]
        names = {
            "success": "request_success",
            "failure": "request_failure",
            "rows": "count",
            "executions": "exec_count",
            "duration": "request_duration_us",
            "queue": "queue_duration_us",
            "compute_input": "compute_input_duration_us",
            "compute_infer": "compute_infer_duration_us",
            "compute_output": "compute_output_duration_us",
        }
        counters: dict[str, Any] = {key: self.counters[name].labels(*labels) for key, name in names.items()}
        self._versions[labels] = VersionMetrics(
            **counters,
            pending=self.pending.labels(*labels),
            last=self.last.labels(*labels),
            batch_rows=self.batch_rows.labels(*labels),
            request_seconds=self.seconds.labels(*labels),
            kept=0 if self._many else _KEPT,  # another process may be asked at any time
        )
        return self._versions[labels]

    def _count(self) -> None:
        for version in list(self._versions.values()):  # another is being loaded, by a thread
            version.count()

    def totals(self) -> dict[tuple[str, str], dict[str, float]]:
        """``{(model, version): {name: value}}`` of everything that is counted for versions."""
        self._count()
        totals: dict[tuple[str, str], dict[str, float]] = {}
        for family in self._registry.collect():
            for sample in family.samples:
                if "version" in sample.labels and "le" not in sample.labels:
                    key = sample.labels["model"], sample.labels["version"]
                    totals.setdefault(key, {})[sample.name.removesuffix("_total")] = sample.value
        return totals


@dataclass(frozen=True)
class VersionMetrics:
    """Children of the counters for one version; durations in microseconds but for ``seconds``.

    A dozen counters take as long as a small net. So what happens is kept, ``kept`` requests and executions at most, and
    counted together: when there are as many, or somebody is to know.
    """

    success: Any
    failure: Any
    rows: Any
    executions: Any
    duration: Any
    queue: Any
    compute_input: Any
    compute_infer: Any
    compute_output: Any
    pending: Any
    last: Any
    batch_rows: Any
    request_seconds: Any
    kept: int
    _batches: deque[tuple[int, float]] = field(default_factory=deque)  # rows, and when
    _requests: deque[tuple[float, int, int, int, int]] = field(default_factory=deque)

    def batch(self, rows: int) -> None:
        """One execution."""
        self._batches.append((rows, time.time()))
        if len(self._batches) > self.kept:
            self._count_batches()

    def request(self, seconds: float, queue_ns: int, input_ns: int, run_ns: int, output_ns: int) -> None:
        """One request that was answered."""
        self._requests.append((seconds, queue_ns, input_ns, run_ns, output_ns))
        if len(self._requests) > self.kept:
            self._count_requests()

    def count(self) -> None:
        """Count what is kept."""
        self._count_batches()
        self._count_requests()

    def _count_batches(self) -> None:
        popped = _popped(self._batches)
        if popped:
            self.executions.inc(len(popped))
            self.rows.inc(sum(rows for rows, _ in popped))
            self.last.set(popped[-1][1])
        for rows, _ in popped:
            self.batch_rows.observe(rows)

    def _count_requests(self) -> None:
        popped = _popped(self._requests)
        if not popped:
            return
        seconds, queue_ns, input_ns, run_ns, output_ns = (sum(column) for column in zip(*popped, strict=True))
        self.success.inc(len(popped))
        self.duration.inc(seconds * 1e6)
        self.queue.inc(queue_ns / 1e3)
        self.compute_input.inc(input_ns / 1e3)
        self.compute_infer.inc(run_ns / 1e3)
        self.compute_output.inc(output_ns / 1e3)
        for row in popped:
            self.request_seconds.observe(row[0])


def _popped(rows: deque[Row]) -> list[Row]:
    """What is there, each for one thread alone."""
    popped = []
    with suppress(IndexError):  # another thread takes some, too
        while rows:
            popped.append(rows.popleft())
    return popped
