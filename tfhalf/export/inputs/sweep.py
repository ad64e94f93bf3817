"""Up to which size of inputs a float16 model answers like float32: inputs scaled by powers of two, up and down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from tfhalf.artifacts.comparison import Limits, OutputParity
from tfhalf.artifacts.record import Sweep
from tfhalf.export.islands.simulator import Arrays, Simulated
from tfhalf.progress import Progress
from tfhalf.text import one_line
from tfhalf.verify.compare import compare_outputs

FURTHEST = 24  # powers of two, up and down
ROWS = 2
SECONDS = 20.0
"""No further power is tried after so long."""


def sweep(
    simulator: Simulated, kept: Iterable[str], inputs: Arrays, scaled: Sequence[str], limits: Limits, progress: Progress
) -> Sweep | None:
    """Find the powers of two by bisection, on the first few samples; None where no input has values to scale.

    A power holds where no value that float32 gives is lost, and differences keep to ``limits`` (or to one and a half
    times those of the unscaled samples, which are few).

    Args:
        kept: layers in float32.
        scaled: names of inputs.
    """
    few = simulator.interface.few(inputs, ROWS)
    largest = max((float(np.abs(few[name]).max(initial=0.0)) for name in scaled), default=0.0)
    if not largest:
        return None
    islands, until = list(kept), time.perf_counter() + SECONDS

    def outputs(power: int) -> tuple[OutputParity, ...]:
        progress.status(f"sizes of inputs: 2^{power} ...")
        rows = {name: _scaled(x, power) if name in scaled else x for name, x in few.items()}
        # A value that float32 does not give either, the limit of what can be expected, is not one that float16 loses.
        reference = simulator.reference(rows)
        got = simulator.simulate(islands, rows)
        return compare_outputs(
            reference, {n: np.where(np.isfinite(y), got[n], y) for n, y in reference.items()}, (), allowed
        )

    allowed = limits
    base = outputs(0)
    worst = [max(getattr(output, key) for output in base) for key in ("max_difference", "mean_difference")]
    allowed = replace(
        limits,
        max_difference=max(limits.max_difference or 0.0, 1.5 * worst[0]),
        mean_difference=max(limits.mean_difference or 0.0, 1.5 * worst[1]),
    )

    def problems_at(power: int) -> list[str]:
        try:
            return [f"{output.name}: {problem}" for output in outputs(power) for problem in output.problems]
        except Exception as error:  # noqa: BLE001  # what an operation raises of values, as Cholesky's does; it is reported
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
    up_to = largest * 2.0**up
    return Sweep(inputs=tuple(scaled), largest=largest, up=up, down=down, above=above, below=below, up_to=up_to)


def _scaled(x: np.ndarray, power: int) -> np.ndarray:
    most = np.finfo(x.dtype).max
    scaled: np.ndarray = np.clip(x.astype(np.float64) * 2.0**power, -most, most).astype(x.dtype)
    return scaled
