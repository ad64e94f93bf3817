"""Whether a model answers each sample by itself: `check`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfhalf.convert.subject import Arrays, Simulated
from tfhalf.errors import ExportError
from tfhalf.parity import Limits, judge

_SAMPLES = 4
_LIMITS = Limits(max_difference=1e-3, mean_difference=1e-3)
"""In float32 another batch changes the order of sums alone."""


def check(subject: Simulated, inputs: Arrays, answers: Mapping[str, np.ndarray]) -> None:
    """Ask for the answer to each of the first ``inputs`` alone: a server puts samples of many callers into a batch.

    Args:
        answers: those of the float32 model to all of ``inputs`` in one batch.

    Raises:
        ExportError: they differ.
    """
    count = min(_SAMPLES, len(next(iter(inputs.values()))))
    if subject.interface.inputs[0].shape[0]:
        return
    parts = [subject.reference({name: x[row : row + 1] for name, x in inputs.items()}) for row in range(count)]
    alone = {name: np.concatenate([part[name] for part in parts]) for name in answers}
    together = {name: y[:count] for name, y in answers.items()}
    problems = [f"{y.name}: {problem}" for y in judge(together, alone, (), _LIMITS) for problem in y.problems]
    if problems:
        raise ExportError(
            f"the model's answer to a sample depends on the others in its batch (alone, {problems[0]}), so "
            "that what one caller gets would depend on the others; have it compute over each sample by itself (a "
            "reduction over axis 0, or over all axes, joins them)"
        )
