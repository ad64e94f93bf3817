"""What a benchmark measures, as frozen values: they come from the processes that measure as JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Training:
    """One policy's training, measured.

    ``samples`` are items per second, one per repeat, and ``noun`` is what those are called (`Splits.noun`); ``steps``
    those that were timed, of which ``skipped`` had a non-finite gradient. ``flops_forward`` and ``flops_step`` are
    floating-point operations (two per multiply-add) of one batch; ``uncounted`` names operations that could not be
    counted. ``matrix_flops`` is the measured rate, per second, of the product that ``matrix`` describes, in the
    policy's compute dtype. ``memory_of`` says whose peak ``memory_bytes`` is. ``emulated`` is float16 on a device
    without float16 arithmetic. ``images`` is the size of the training set, ``image_bytes`` what all of them take
    decoded; ``normalised_by`` so many of them were, 0 where none is. ``devices`` share each batch: rates are those of
    all of them together, but ``matrix_flops`` and ``memory_bytes`` are one's. ``from_cache``: whether the compiled
    program was in the user's cache, None without one. ``memory_limit``: the bytes that ``memory_bytes`` may reach.
    ``remat``: what ``train.remat`` came to, in a line.

    ``waited`` is the share of the time in which the device had no data. With `--feed` there are also items per second
    of the step alone, on one batch again and again, and of the feed alone, None where it brings nothing.
    """

    policy: str
    samples: tuple[float, ...]
    batch_size: int
    steps: int
    skipped: int
    compile_seconds: float
    memory_bytes: int
    memory_of: str
    flops_forward: int
    flops_step: int
    uncounted: tuple[str, ...]
    matrix: str
    matrix_flops: float
    device: str
    device_kind: str
    emulated: bool
    source: str
    images: int
    image_bytes: int
    normalised_by: int
    model: str
    parameters: int
    input_shape: tuple[int, ...]
    feed: str
    xla: str
    noun: str = "images"
    devices: int = 1
    from_cache: bool | None = None
    memory_limit: int = 0
    remat: str = ""
    waited: float = 0.0
    step_alone_per_s: float | None = None
    feed_alone_per_s: float | None = None

    @property
    def images_per_s(self) -> float:
        """The repeats' median."""
        return statistics.median(self.samples)

    @property
    def steps_per_s(self) -> float:
        """The repeats' median."""
        return self.images_per_s / self.batch_size

    @property
    def spread(self) -> float:
        """From the slowest repeat to the fastest, as a share of the median."""
        return (max(self.samples) - min(self.samples)) / self.images_per_s

    @property
    def mfu(self) -> float | None:
        """Share of ``matrix_flops`` of all devices that training reaches (MFU), None where not everything could be
        counted."""
        if self.uncounted or not self.flops_step:
            return None
        return self.flops_step * self.steps_per_s / (self.matrix_flops * self.devices)


def row_name(policy: str, batch: int) -> str:
    """What a row of training is called; without a ``batch`` (0) by its policy alone."""
    return f"{policy}, batch {batch:,}" if batch else policy


@dataclass(frozen=True)
class Failed:
    """A row that could not be measured: its name, and why in one line."""

    name: str
    error: str


@dataclass(frozen=True)
class TrainingBench:
    """A pipeline's rows, in the order of the policies asked for, and of rising batches within each. ``largest``: of
    each policy the largest batch that fits, where that was looked for."""

    pipeline: str
    settings: dict[str, Any]
    versions: dict[str, str]
    rows: tuple[Training, ...]
    failed: tuple[Failed, ...]
    largest: dict[str, int] | None = None

    def ratio(self, row: Training) -> float | None:
        """Items per second of ``row`` as a multiple of float32's with the same batch; None where there is no such
        row."""
        batch = row.batch_size
        base = next((one for one in self.rows if one.policy == "float32" and one.batch_size == batch), None)
        return row.images_per_s / base.images_per_s if base else None

    @property
    def batches(self) -> bool:
        """Whether rows have different batches."""
        return len({row.batch_size for row in self.rows}) > 1

    @property
    def apart(self) -> bool:
        """Whether feed and step were measured apart, too."""
        return any(row.step_alone_per_s is not None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, medians and shares included."""
        return {
            "kind": "training",
            "pipeline": self.pipeline,
            "settings": self.settings,
            "versions": self.versions,
            "policies": [self._row(row) for row in self.rows],
            "failed": [asdict(one) for one in self.failed],
            **({} if self.largest is None else {"largest_batches": self.largest}),
        }

    def _row(self, row: Training) -> dict[str, Any]:
        own = {
            "images_per_s": {"median": row.images_per_s, "min": min(row.samples), "max": max(row.samples)},
            "steps_per_s": row.steps_per_s,
            "spread": row.spread,
            "mfu": row.mfu,
            "ratio_to_float32": self.ratio(row),
        }
        return {**asdict(row), **own}


@dataclass(frozen=True)
class Cell:
    """One batch size in one runtime: ``calls`` timed one after another, each with its answers on the host.

    ``warm_up_seconds`` is what the calls before them took: compilation and allocation.
    """

    batch_size: int
    calls: int
    p50_ms: float
    p99_ms: float
    images_per_s: float
    warm_up_seconds: float


@dataclass(frozen=True)
class Inference:
    """One runtime's cells by rising batch size.

    ``note`` says why there are none where the runtime cannot be had, ``error`` why there are fewer than requested; both
    are empty otherwise, but that ``note`` has the settings of a runtime that takes some. ``computed_by`` is the
    library, its version and the device.
    """

    runtime: str
    computed_by: str
    device: str
    cells: tuple[Cell, ...]
    note: str = ""
    error: str = ""


@dataclass(frozen=True)
class InferenceBench:
    """A version directory's rows, one per runtime; ``inputs`` are the shapes of one sample by name."""

    version: str
    inputs: dict[str, tuple[int | str, ...]]
    settings: dict[str, Any]
    versions: dict[str, str]
    rows: tuple[Inference, ...]
    failed: tuple[Failed, ...]

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "kind": "inference",
            "version": self.version,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "settings": self.settings,
            "versions": self.versions,
            "runtimes": [asdict(row) for row in self.rows],
            "failed": [asdict(one) for one in self.failed],
        }
