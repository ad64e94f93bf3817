"""How closely an artifact of any model answers like the float32 model: each output by itself, relative to its scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tfhalf.errors import ArtifactError

RARE = 1e-6
"""Probabilities below count as it: what they are tells nothing."""
TIE = 0.01
"""Of an output's scale: where the float32 model's lead of its top class is smaller, another top class is no fault."""


@dataclass(frozen=True)
class Limits:
    """What a difference may be: the largest, relative to the output's largest magnitude; the mean, relative to its root
    mean square; and the least share of rows with the same top class, in percent, where the last axis is classes (one
    row may always differ).

    ``true_float16_samples``: how many samples ONNX is judged on in true float16 arithmetic, which is slow.
    """

    max_difference: float = 0.05
    mean_difference: float = 0.01
    min_agreement: float = 99.0
    true_float16_samples: int = 2


TYPICAL = ("drawn", "given")
"""The kinds of rows that are inputs as a model usually gets them; every other kind is an edge row."""
EDGE = 8.0
"""How much more an edge row may differ: at the ends of its range a net amplifies rounding, so three bits fewer, 2**3
times as coarse, as int8 is. Values that only float16 loses count in any row."""
INT8 = 8.0
"""How much more an int8 variant may differ than float16: of a number float16 keeps 11 bits, int8 8 of those of the
largest in its channel: three fewer, 2**3 times as coarse."""


def for_int8(limits: Limits) -> Limits:
    """The limits of an int8 variant: `INT8` times the differences, and as many times the rows of another top class."""
    return replace(
        limits,
        max_difference=INT8 * limits.max_difference,
        mean_difference=INT8 * limits.mean_difference,
        min_agreement=max(0.0, 100 - INT8 * (100 - limits.min_agreement)),
    )


@dataclass(frozen=True)
class OutputParity:
    """One output. ``max_difference`` and ``mean_difference`` are relative, as in `Limits`; ``non_finite`` counts values
    that are finite in the float32 model; ``agreement`` is in percent, None where the last axis is no classes.

    ``spread``: how far the float32 model's answers are from their mean over the samples, relative to the scale. Where
    it is tiny the answers hardly depend on the inputs, and say little. Probabilities are compared by their logarithms,
    which the logits are but for a constant: near-equal ones would look right whatever they are.

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


@dataclass(frozen=True)
class SampleComparison:
    """An artifact beside the float32 model on the same ``samples``, of which ``edges`` are edge rows; ``other_sizes``
    are judged apart. ``seconds`` passed beside other comparisons. ``not_covered``: why a second runtime compared
    nothing; empty where it did."""

    artifact: str
    runtime: str
    samples: int
    outputs: tuple[OutputParity, ...]
    seconds: float
    edges: int = 0
    not_covered: str = ""
    other_sizes: tuple[SizeParity, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What exceeds the limits, each with its output's name or the size; empty where every limit holds."""
        usual = tuple(f"{output.name}: {problem}" for output in self.outputs for problem in output.problems)
        return (*usual, *(f"size {row.size!r}: {problem}" for row in self.other_sizes for problem in row.problems))

    @property
    def passed(self) -> bool:
        """Whether every limit holds."""
        return not self.problems

    def worst(self, what: str) -> float | None:
        """The worst of the outputs' ``max_difference``, ``agreement`` or another of their numbers."""
        values = [v for v in (getattr(output, what) for output in self.outputs) if v is not None]
        return (min if what == "agreement" else max)(values, default=None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with ``passed``."""
        return {**asdict(self), "passed": self.passed}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> SampleComparison:
        """What `to_dict` gave, after JSON."""
        outputs = tuple(OutputParity(**{**o, "problems": tuple(o["problems"])}) for o in told["outputs"])
        sizes = tuple(SizeParity(**{**row, "problems": tuple(row["problems"])}) for row in told.get("other_sizes", ()))
        own = {key: told[key] for key in ("artifact", "runtime", "samples", "seconds")}
        rest = {"edges": told.get("edges", 0), "not_covered": told.get("not_covered", "")}
        return cls(**own, **rest, outputs=outputs, other_sizes=sizes)


def edge_mask(kinds: Sequence[str]) -> np.ndarray:
    """Which rows are edge rows; bool [N]."""
    return np.array([kind not in TYPICAL for kind in kinds], bool)


def judge(
    reference: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    classes: Sequence[str],
    limits: Limits,
    kinds: Sequence[str] = (),
) -> tuple[OutputParity, ...]:
    """Every output of an artifact beside the float32 model's; ``classes`` names those whose last axis is classes.

    Args:
        kinds: of each row, `TYPICAL` or an edge's name; edge rows are compared apart. Empty: none is one.

    Raises:
        ArtifactError: the outputs have other names or shapes.
    """
    if set(reference) != set(got):
        raise ArtifactError(f"it gives {', '.join(sorted(got))}; expected {', '.join(sorted(reference))}")
    for name, wanted in reference.items():
        if got[name].shape != wanted.shape:
            raise ArtifactError(f"{name}: it gives shape {got[name].shape}, expected {wanted.shape}")
    edge = edge_mask(kinds)
    if not edge.any():
        return tuple(_output(name, reference[name], got[name], name in classes, limits) for name in reference)
    edges = tuple(kind for kind, of_edge in zip(kinds, edge, strict=True) if of_edge)
    outputs = []
    for name, wanted in reference.items():
        usual = OutputParity(name, 1.0, 0.0, 0.0, 0, None, 1.0, ())
        if not edge.all():
            usual = _output(name, wanted[~edge], got[name][~edge], name in classes, limits)
        outputs.append(_with_edges(usual, wanted[~edge], wanted[edge], got[name][edge], edges, limits))
    return tuple(outputs)


def badness(
    reference: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], kinds: Sequence[str] = ()
) -> np.ndarray:
    """For each sample the largest difference of any output, relative to the output's scale, of edge rows an `EDGE`-th
    of it; infinite where a value is lost. Float64 [N]."""
    worst = np.zeros(len(next(iter(reference.values()))))
    for name, wanted in reference.items():
        wide, other = wanted.astype(np.float64), got[name].astype(np.float64)
        if _probabilities(wide):
            wide, other = _logits(wide), _logits(other)
        there = np.isfinite(wide)
        scale = float(np.abs(wide[there]).max(initial=0.0)) or 1.0
        difference = np.where(there, np.abs(np.where(there, other, 0) - np.where(there, wide, 0)) / scale, 0.0)
        difference = np.where(np.isfinite(difference), difference, np.inf)
        worst = np.maximum(worst, difference.reshape(len(worst), -1).max(-1, initial=0.0))
    return np.where(edge_mask(kinds), worst / EDGE, worst) if kinds else worst


def _with_edges(
    usual: OutputParity,
    typical: np.ndarray,
    reference: np.ndarray,
    got: np.ndarray,
    kinds: Sequence[str],
    limits: Limits,
) -> OutputParity:
    """``usual`` with the edge rows ``reference`` and ``got`` compared too; ``typical`` are the float32 answers to usual
    inputs. Whole numbers (classes, counts) of edge rows are ties as often as not, and are not compared."""
    if not np.issubdtype(reference.dtype, np.floating):
        return usual
    wide, other, scales = (x.astype(np.float64) for x in (reference, got, typical))
    if _probabilities(np.concatenate([scales, wide])):
        wide, other, scales = _logits(wide), _logits(other), _logits(scales)
    rows = range(1, wide.ndim)
    there = np.isfinite(wide)
    lost = (there & ~np.isfinite(other)).sum(tuple(rows))
    compared = there & np.isfinite(other)
    difference = np.abs(np.where(compared, other, 0) - np.where(compared, wide, 0)).reshape(len(wide), -1)
    magnitude = np.where(there, np.abs(wide), 0).reshape(len(wide), -1)
    known = scales[np.isfinite(scales)]
    scale = np.maximum(magnitude.max(-1, initial=0.0), np.abs(known).max(initial=0.0))
    root = np.maximum(np.sqrt((magnitude**2).mean(-1)), np.sqrt((known**2).mean()) if known.size else 0.0)
    largest = difference.max(-1, initial=0.0) / np.where(scale > 0, scale, 1.0)
    mean = difference.mean(-1) / np.where(root > 0, root, 1.0)
    most, most_mean = min(1.0, EDGE * limits.max_difference), min(1.0, EDGE * limits.mean_difference)
    problems = [
        f"edge row {kind!r}: {_edge_problem(int(lost[k]), magnitude.shape[1], largest[k], most, mean[k], most_mean)}"
        for k, kind in enumerate(kinds)
        if lost[k] or largest[k] > most or mean[k] > most_mean
    ]
    return replace(
        usual,
        problems=(*usual.problems, *dict.fromkeys(problems)),
        edge_difference=float(largest.max()),
        edge_non_finite=int(lost.sum()),
    )


def _edge_problem(lost: int, size: int, largest: float, most: float, mean: float, most_mean: float) -> str:
    if lost:
        return f"{lost:,} of {size:,} values are not finite"
    if largest > most:
        return f"the largest difference is {largest:.2g} of the scale, {most:g} allowed"
    return f"the mean difference is {mean:.2g} of the scale, {most_mean:g} allowed"


def _output(name: str, reference: np.ndarray, got: np.ndarray, classes: bool, limits: Limits) -> OutputParity:
    if not np.issubdtype(reference.dtype, np.floating):
        same = float((reference == got).mean() * 100) if reference.size else 100.0
        problems = [] if same >= limits.min_agreement else [f"{same:.2f} % of the values are the same"]
        return OutputParity(name, 1.0, 1 - same / 100, 1 - same / 100, 0, same, 1.0, tuple(problems))
    wide, other = reference.astype(np.float64), got.astype(np.float64)
    if _probabilities(wide):
        wide, other = _logits(wide), _logits(other)
    there = np.isfinite(wide)
    lost = int((there & ~np.isfinite(other)).sum())
    lost += int((~there & ~((wide == other) | (np.isnan(wide) & np.isnan(other)))).sum())
    compared = there & np.isfinite(other)
    difference = np.abs(np.where(compared, other, 0) - np.where(compared, wide, 0))
    values = wide[there]
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    mean_scale = float(np.sqrt((values**2).mean())) if values.size else 1.0
    largest = float(difference.max(initial=0.0)) / scale
    mean = float(difference.mean() if difference.size else 0.0) / (mean_scale or 1.0)
    problems = []
    if lost:
        problems.append(f"{lost:,} of {wide.size:,} values are not finite")
    if largest > limits.max_difference:
        problems.append(f"the largest difference is {largest:.2g} of the scale, {limits.max_difference:g} allowed")
    if mean > limits.mean_difference:
        problems.append(f"the mean difference is {mean:.2g} of the scale, {limits.mean_difference:g} allowed")
    agreement = None
    if classes:
        agreement, decided, rows = _agreement(wide, np.where(np.isfinite(other), other, -np.inf), TIE * scale)
        # At least one row: a share finer than one of a few rows cannot be held.
        if rows * (1 - decided / 100) > max(1.0, rows * (1 - limits.min_agreement / 100)) + 1e-6:
            problems.append(f"{decided:.2f} % have the same top class, {limits.min_agreement:g} % needed")
    middle = np.where(there, wide, 0).sum(0) / np.maximum(there.sum(0), 1)
    spread = float(np.abs(values - np.broadcast_to(middle, wide.shape)[there]).max(initial=0.0))
    return OutputParity(name, scale, largest, mean, lost, agreement, spread / scale, tuple(problems))


def _probabilities(y: np.ndarray) -> bool:
    """Whether the last axis holds probabilities that sum up to 1."""
    if y.ndim < 2 or y.shape[-1] < 2 or not np.isfinite(y).all():
        return False
    return bool((y >= 0).all() and np.allclose(y.sum(-1), 1, atol=1e-3))


def _logits(y: np.ndarray) -> np.ndarray:
    """Logarithms about their mean; what is not finite stays so."""
    logs = np.log(np.maximum(y, RARE), where=np.isfinite(y), out=y.copy())
    centred: np.ndarray = logs - logs.mean(-1, keepdims=True)
    return centred


def _agreement(reference: np.ndarray, got: np.ndarray, tie: float) -> tuple[float, float, int]:
    """Percent of rows with the same top class, and of rows that have it or in which the float32 model is undecided; and
    how many rows there are."""
    rows, others = reference.reshape(-1, reference.shape[-1]), got.reshape(-1, got.shape[-1])
    mine, theirs = rows.argmax(-1), others.argmax(-1)
    place = np.arange(len(rows))
    undecided = rows[place, mine] - rows[place, theirs] <= tie
    same = mine == theirs
    return float(same.mean() * 100), float((same | undecided).mean() * 100), len(rows)
