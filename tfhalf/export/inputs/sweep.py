"""Up to which size of inputs a float16 model answers like float32: inputs scaled by powers of two, up and down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tfhalf.export.islands.simulator import Arrays, Simulated
from tfhalf.progress import Progress
from tfhalf.text import one_line
from tfhalf.verify.compare import Limits, OutputParity, judge

FURTHEST = 24  # powers of two, up and down
ROWS = 2
SECONDS = 20.0
"""No further power is tried after so long."""


@dataclass(frozen=True)
class Sweep:
    """Inputs times 2**``down`` to 2**``up`` hold; unscaled, the largest of their values is ``largest``.

    ``inputs``: which are scaled; the others are as drawn or given. ``above`` and ``below`` say what goes wrong one
    power further; empty where nothing does up to 2**`FURTHEST`, or time was up before it was found.
    """

    inputs: tuple[str, ...]
    largest: float
    up: int
    down: int
    above: str
    below: str

    @property
    def up_to(self) -> float:
        """The largest value that holds."""
        return float(self.largest * 2.0**self.up)

    def to_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return {**asdict(self), "inputs": list(self.inputs), "up_to": self.up_to}


def sweep(
    subject: Simulated, kept: Iterable[str], inputs: Arrays, scaled: Sequence[str], limits: Limits, progress: Progress
) -> Sweep | None:
    """Find the powers of two by bisection, on the first few samples; None where no input has values to scale.

    A power holds where no value that float32 gives is lost, and differences keep to ``limits`` (or to one and a half
    times those of the unscaled samples, which are few).

    Args:
        kept: layers in float32.
        scaled: names of inputs.
    """
    few = subject.interface.few(inputs, ROWS)
    largest = max((float(np.abs(few[name]).max(initial=0.0)) for name in scaled), default=0.0)
    if not largest:
        return None
    islands, until = list(kept), time.perf_counter() + SECONDS

    def outputs(power: int) -> tuple[OutputParity, ...]:
        progress.status(f"sizes of inputs: 2^{power} ...")
        rows = {name: _scaled(x, power) if name in scaled else x for name, x in few.items()}
        # A value that float32 does not give either, the limit of what can be asked, is none that float16 loses.
        reference = subject.reference(rows)
        got = subject.simulate(islands, rows)
        return judge(reference, {n: np.where(np.isfinite(y), got[n], y) for n, y in reference.items()}, (), allowed)

    allowed = limits
    base = outputs(0)
    worst = [max(getattr(output, key) for output in base) for key in ("max_difference", "mean_difference")]
    allowed = replace(
        limits,
        max_difference=max(limits.max_difference, 1.5 * worst[0]),
        mean_difference=max(limits.mean_difference, 1.5 * worst[1]),
    )

    def problems_at(power: int) -> list[str]:
        try:
            return [f"{output.name}: {problem}" for output in outputs(power) for problem in output.problems]
        except Exception as error:  # noqa: BLE001  # what an operation raises of values, as Cholesky's does; it is told
            return [one_line(error, 200)]

    def furthest(sign: int) -> tuple[int, str]:
        holds, fails, why = 0, FURTHEST + 1, ""
        power = FURTHEST
        while fails - holds > 1 and time.perf_counter() < until:
            problems = problems_at(sign * power)
            if problems:
                fails, why = power, problems[0]
            else:
                holds = power
            power = (holds + fails) // 2
        return sign * holds, why if fails - holds == 1 else ""

    (up, above), (down, below) = furthest(1), furthest(-1)
    progress.clear()
    return Sweep(tuple(scaled), largest, up, down, above, below)


def _scaled(x: np.ndarray, power: int) -> np.ndarray:
    most = np.finfo(x.dtype).max
    scaled: np.ndarray = np.clip(x.astype(np.float64) * 2.0**power, -most, most).astype(x.dtype)
    return scaled
