"""How closely an artifact answers like the float32 model: the limits, and what was measured.

A version has a `Comparison` for each runtime that ran one of its artifacts, and that for each output an `OutputParity`.
Whether an output has classes and the reference has labels decides what is measured of it; what the version was made
from does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tfhalf.artifacts.formats import FORMATS, Format

Confusion = tuple[tuple[int, int, int], ...]
"""Of a confusion matrix the cells that are not 0: the true class, the predicted one (-1: an answer that is not finite),
and how many samples."""


_Share = Annotated[float, Field(ge=0)]
_Percent = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True)
class Limits:
    """How much an artifact may differ from the float32 model; None sets no limit.

    Attributes:
        max_difference: the largest difference, relative to the output's largest magnitude.
        mean_difference: the mean difference, relative to the output's root mean square.
        min_agreement: of rows with classes, percent that need the same top class. One row may always differ, but where
            labels are known and this is 100.
        max_accuracy_drop: where labels are known, how many points of accuracy may be lost.
        true_float16_samples: how many samples ONNX is run on in true float16 arithmetic, which is slow.
        max_error_growth: where numbers to predict are known, how many percent an error (rmse, mae) may grow.
        min_metrics: by name the least that a metric has to be, of an error the most.
        edge_probability: where labels are known, how much a probability of an edge row may differ. Nobody knows the
            right answer there: what counts is that no value is lost, and that an answer is not another one altogether.

    Types and ranges are checked where a manifest is read.
    """

    max_difference: _Share | None = 0.05
    mean_difference: _Share | None = 0.01
    min_agreement: _Percent = 99.0
    max_accuracy_drop: _Percent | None = None
    true_float16_samples: Annotated[int, Field(ge=0, le=2**31 - 1)] = 2
    edge_probability: _Share = 0.25
    max_error_growth: _Share | None = None
    min_metrics: dict[str, float] = field(default_factory=dict)

    def scaled(self, by: float) -> Limits:
        """With differences that are ``by`` times as large."""
        largest, mean = (x if x is None else by * x for x in (self.max_difference, self.mean_difference))
        return replace(self, max_difference=largest, mean_difference=mean)

    def for_format(self, kind: Format) -> Limits:
        """The limits of an artifact: float16's times the tolerance of the numbers that it keeps."""
        times = kind.numbers.tolerance
        return replace(
            self.scaled(times),
            min_agreement=max(0.0, 100 - times * (100 - self.min_agreement)) if times != 1 else self.min_agreement,
            max_accuracy_drop=None if self.max_accuracy_drop is None else min(100.0, times * self.max_accuracy_drop),
            edge_probability=min(1.0, times * self.edge_probability),
            max_error_growth=None if self.max_error_growth is None else times * self.max_error_growth,
        )


@dataclass(frozen=True)
class OutputParity:
    """One output. ``max_difference`` and ``mean_difference`` are relative, as in `Limits`; ``non_finite`` counts values
    that are finite in the float32 model; ``agreement`` is in percent, None where the last axis is not classes.

    ``spread``: how far the float32 model's answers are from their mean over the samples, relative to the scale. Where
    it is tiny the answers hardly depend on the inputs, and say little. Probabilities are compared by their logarithms,
    which the logits are but for a constant: near-equal ones would look right whatever they are. With labels, these tell
    whether answers are right, and differences are of the probabilities themselves.

    ``accuracy`` and ``reference_accuracy`` of the float32 model, in percent, and ``confusion``: where labels are known.
    ``metrics`` and ``reference_metrics``: of another task, where its targets are known, in their own units.

    All of these are of usual inputs. Of edge rows are ``edge_difference``, the largest relative to the row's own scale
    or the output's, whichever is larger; and ``edge_non_finite``, the values that are finite in float32 alone. A value
    that float32 itself does not give is not compared.
    """

    name: str
    scale: float
    max_difference: float
    mean_difference: float
    non_finite: int
    agreement: float | None
    spread: float
    problems: tuple[str, ...]
    edge_difference: float | None = None
    edge_non_finite: int = 0
    accuracy: float | None = None
    reference_accuracy: float | None = None
    confusion: Confusion = ()
    metrics: dict[str, float] = field(default_factory=dict)
    reference_metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SizeParity:
    """A few samples of another ``size`` beside the float32 model, as edge rows are. ``taken``: whether the artifact
    runs there at all; ``why`` it does not."""

    size: str
    taken: bool
    max_difference: float
    non_finite: int
    problems: tuple[str, ...]
    why: str = ""


def _known(artifact: str) -> str:
    if artifact.partition(",")[0] not in FORMATS:
        raise ValueError(f"known are {', '.join(FORMATS)}")
    return artifact


@dataclass(frozen=True)
class Comparison:
    """An artifact beside the float32 model on the same ``samples``, of which ``edges`` are edge rows; ``other_sizes``
    are compared apart. ``artifact`` is its format's name, and with a comma what else is to be said of the comparison.
    ``seconds`` passed beside other comparisons. ``not_covered``: why a second runtime compared nothing; empty where it
    did."""

    artifact: Annotated[str, AfterValidator(_known)]
    runtime: str
    samples: int
    outputs: tuple[OutputParity, ...]
    seconds: float
    edges: int = 0
    not_covered: str = ""
    other_sizes: tuple[SizeParity, ...] = ()

    @property
    def format(self) -> Format:
        """The format that was compared."""
        return FORMATS[self.artifact.partition(",")[0]]

    @property
    def usual(self) -> int:
        """How many of the samples are usual ones, of which accuracy, agreement and differences are."""
        return self.samples - self.edges

    @property
    def problems(self) -> tuple[str, ...]:
        """What exceeds the limits, each with its output's name or the size; empty where every limit holds."""
        usual = tuple(f"{output.name}: {problem}" for output in self.outputs for problem in output.problems)
        return (*usual, *(f"size {row.size!r}: {problem}" for row in self.other_sizes for problem in row.problems))

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.problems

    @property
    def confusion(self) -> Confusion:
        """The confusion matrix of the output whose labels are known; empty where none are."""
        return next((output.confusion for output in self.outputs if output.confusion), ())

    @property
    def metrics(self) -> dict[str, float]:
        """Of each output the task's metrics by name, behind the output's name where several have some."""
        return self._metrics("metrics")

    @property
    def reference_metrics(self) -> dict[str, float]:
        """`metrics` of the float32 model."""
        return self._metrics("reference_metrics")

    @property
    def first_metrics(self) -> tuple[str, ...]:
        """The names of the metrics that a table shows: of one output the first two, of several the first of each."""
        each = {output.name: list(output.metrics) for output in self.outputs if output.metrics}
        if len(each) == 1:
            return tuple(*each.values())[:2]
        return tuple(f"{name}_{metrics[0]}" for name, metrics in each.items())

    def _metrics(self, what: str) -> dict[str, float]:
        each = {output.name: getattr(output, what) for output in self.outputs if getattr(output, what)}
        if len(each) == 1:
            return dict(*each.values())
        return {f"{name}_{metric}": value for name, values in each.items() for metric, value in values.items()}

    def worst(self, what: str) -> float | None:
        """The worst of the outputs' ``max_difference``, ``agreement`` or another of their numbers."""
        values = [v for v in (getattr(output, what) for output in self.outputs) if v is not None]
        choose: Callable[..., float | None] = min if what in _MORE_IS_BETTER else max
        return choose(values, default=None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the worst of the outputs' numbers beside ``samples`` (``usual`` ones and ``edges``), each output,
        and ``passed``; without the confusion matrix, which may be large."""
        plain = asdict(self)
        for output in plain["outputs"]:
            del output["confusion"]
        worst = {what: self.worst(what) for what in _NUMBERS}
        return {**plain, "usual": self.usual, **worst, "passed": self.passed}


_MORE_IS_BETTER = ("agreement", "accuracy")
_NUMBERS = (
    *("reference_accuracy", "accuracy", "agreement", "max_difference", "mean_difference", "non_finite"),
    *("edge_difference", "edge_non_finite"),
)
