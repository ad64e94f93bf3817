"""Two sets of answers side by side, with the measure that exports are held to: `compare_outputs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfhalf.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tfhalf.artifacts.comparison import OutputParity

Answers = Any  # an array or tensor, a mapping of them by name, or a sequence of them
_DEFAULT = "output"


@dataclass(frozen=True)
class OutputComparison:
    """How closely the outputs of two models agree.

    Attributes:
        outputs: of each output ``name``, ``max_difference`` (relative to the reference's largest magnitude),
            ``mean_difference`` (relative to its root mean square), ``agreement`` (percent of rows with the same top
            class; None where the last axis is not classes), ``non_finite`` (values that only the other one lost) and
            ``problems``.
    """

    outputs: tuple[OutputParity, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """What exceeds the limits, each with its output's name."""
        return tuple(f"{output.name}: {problem}" for output in self.outputs for problem in output.problems)


def compare_outputs(
    reference: Answers | Callable[[Any], Answers],
    other: Answers | Callable[[Any], Answers],
    inputs: Any = None,
    *,
    classes: bool | Sequence[str] = False,
    max_difference: float = 0.05,
    mean_difference: float = 0.01,
    min_agreement: float = 99.0,
) -> OutputComparison:
    """Compare the answers of two models, or two sets of answers, output by output. Imports no TensorFlow.

    Probabilities (rows that sum up to 1) are compared by their logarithms, down to 1e-6.

    Args:
        reference: the answers to compare with, [N, ...]: an array or tensor, a mapping by the outputs' names, or a
            sequence; or a callable that gives them for ``inputs``, such as a Keras model.
        other: likewise; such as a `tfhalf.open_artifact`. Outputs are matched by name, where both have names.
        inputs: what callables are called with.
        classes: whether the last axis of the outputs is classes, so that top classes are compared too; or the names of
            those outputs.
        max_difference, mean_difference: allowed, relative as above.
        min_agreement: percent of rows that must have the same top class; one row may always differ.

    Raises:
        ConfigError: a callable without inputs.
        DataError: the outputs have other names, numbers or shapes.
    """
    from tfhalf.artifacts.comparison import Limits
    from tfhalf.errors import ArtifactError
    from tfhalf.verify import compare

    expected, got = _matched(_answers(reference, inputs, "reference"), _answers(other, inputs, "other"))
    named = tuple(expected) if classes is True else () if classes is False else tuple(classes)
    if unknown := set(named) - set(expected):
        raise ConfigError(f"classes: {', '.join(sorted(unknown))} is not among the outputs {', '.join(expected)}")
    try:
        outputs = compare.compare_outputs(expected, got, named, Limits(max_difference, mean_difference, min_agreement))
    except ArtifactError as error:
        raise DataError(f"other: {error}") from None
    return OutputComparison(outputs)


def _answers(source: Any, inputs: Any, where: str) -> dict[str, np.ndarray]:
    """By name; those of a sequence are called by their places."""
    if callable(source):
        if inputs is None:
            raise ConfigError(f"{where} is a callable: give the inputs to call it with")
        source = source(inputs)
    if isinstance(source, Mapping):
        named = dict(source)
    elif isinstance(source, list | tuple) and len(source) and hasattr(source[0], "shape"):
        named = {f"{_DEFAULT}_{index}": value for index, value in enumerate(source)}
    else:
        named = {_DEFAULT: source}
    arrays = {str(name): np.asarray(value) for name, value in named.items()}
    for name, value in arrays.items():
        if value.ndim == 0:
            raise DataError(f"{where}: {name} is a single number; arrays [N, ...] are accepted")
    return {name: x.astype(np.float32) if x.dtype.name == "bfloat16" else x for name, x in arrays.items()}


def _matched(
    expected: dict[str, np.ndarray], got: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Both by the same names: those of whichever has some, where the other has places alone."""
    if set(expected) == set(got) or len(expected) != len(got):
        return expected, got
    if all(name.startswith(_DEFAULT) for name in expected):
        return dict(zip(got, expected.values(), strict=True)), got
    if all(name.startswith(_DEFAULT) for name in got) or len(got) == 1:
        return expected, dict(zip(expected, got.values(), strict=True))
    return expected, got
