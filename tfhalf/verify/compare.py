"""How closely an artifact answers like the float32 model: `compare_outputs`, each output by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tfhalf.artifacts.comparison import Limits, OutputParity
from tfhalf.artifacts.edges import edge_mask
from tfhalf.errors import ArtifactError
from tfhalf.verify.scores import confusion

RARE = 1e-6
"""Probabilities below count as it: what they are tells nothing."""
TIE = 0.01
"""Of an output's scale: where the float32 model's lead of its top class is smaller, another top class is no fault."""
EDGE = 8.0
"""How much more an edge row may differ: at the ends of its range a net amplifies rounding, so three bits fewer, 2**3
times as coarse, as int8 is. Values that only float16 loses count in any row."""


def compare_outputs(
    reference: Mapping[str, np.ndarray],
    got: Mapping[str, np.ndarray],
    classes: Sequence[str],
    limits: Limits,
    kinds: Sequence[str] = (),
    labels: np.ndarray | None = None,
    typical: Mapping[str, np.ndarray] | None = None,
) -> tuple[OutputParity, ...]:
    """Every output of an artifact beside the float32 model's.

    Args:
        reference, got: outputs by name, each [N, ...].
        classes: the outputs whose last axis is classes.
        kinds: of each row, one of `TYPICAL` or an edge's name; edge rows are compared apart. Empty: none is one.
        labels: the right classes of the usual rows, integers [N - edge rows], where they are known.
        typical: the float32 model's outputs that set the scale, each [M, ...], where the usual rows here are few of
            them or none: one score near 0 would be held to its own magnitude. Behind the batch their shapes may differ
            where every row is an edge row. None: the usual rows here.

    Raises:
        ArtifactError: the outputs have other names or shapes.
    """
    if set(reference) != set(got):
        raise ArtifactError(f"it gives {', '.join(sorted(got))}; expected {', '.join(sorted(reference))}")
    for name, expected in reference.items():
        if got[name].shape != expected.shape:
            raise ArtifactError(f"{name}: it gives shape {got[name].shape}, expected {expected.shape}")
    edge = edge_mask(kinds) if kinds else np.zeros(len(next(iter(reference.values()))), bool)
    edges = tuple(kind for kind, of_edge in zip(kinds, edge, strict=False) if of_edge)
    outputs = []
    for name, expected in reference.items():
        has_labels = labels is not None and name in classes and expected.ndim == 2
        usual = OutputParity(name, 1.0, 0.0, 0.0, 0, None, 1.0, ())
        mine, its = expected[~edge], got[name][~edge]
        scales = mine if typical is None else typical[name]
        if not edge.all():
            if has_labels and labels is not None:
                usual = _labelled(name, mine, its, labels, limits, scales)
            else:
                usual = _output(name, mine, its, name in classes, limits, scales)
        if edges:
            usual = _with_edges(usual, scales, expected[edge], got[name][edge], edges, limits, has_labels)
        outputs.append(usual)
    return tuple(outputs)


def true_float16_rows(kinds: Sequence[str], limits: Limits, batch: int = 1) -> np.ndarray:
    """The rows that ONNX is compared on in true float16 arithmetic, which is slow: the first few usual ones, in whole
    batches, and every edge row; int64."""
    edge = edge_mask(kinds)
    usual = np.flatnonzero(~edge)[: -(-limits.true_float16_samples // batch) * batch]
    return np.concatenate([usual, np.flatnonzero(edge)])


def badness(
    reference: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], kinds: Sequence[str] = ()
) -> np.ndarray:
    """For each sample the largest difference of any output, relative to the output's scale, of edge rows an `EDGE`-th
    of it; infinite where a value is lost. Float64 [N]."""
    worst = np.zeros(len(next(iter(reference.values()))))
    for name, expected in reference.items():
        wide, other = expected.astype(np.float64), got[name].astype(np.float64)
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
    has_labels: bool,
) -> OutputParity:
    """``usual`` with the edge rows ``reference`` and ``got`` compared too; ``typical`` are the float32 answers to usual
    inputs. Whole numbers (classes, counts) of edge rows are ties as often as not, and are not compared."""
    if not np.issubdtype(reference.dtype, np.floating):
        return usual
    wide, other, scales = (x.astype(np.float64) for x in (reference, got, typical))
    as_probabilities = has_labels and _probabilities(scales)
    if not has_labels and _probabilities(scales) and _probabilities(wide):
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
    if as_probabilities:
        scale = np.ones_like(scale)
    largest = difference.max(-1, initial=0.0) / np.where(scale > 0, scale, 1.0)
    mean = difference.mean(-1) / np.where(root > 0, root, 1.0)
    most, most_mean = (_of_edges(limit) for limit in (limits.max_difference, limits.mean_difference))
    if as_probabilities:
        most, most_mean = limits.edge_probability, math.inf
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


def _of_edges(limit: float | None) -> float:
    return math.inf if limit is None else min(1.0, EDGE * limit)


def _edge_problem(lost: int, size: int, largest: float, most: float, mean: float, most_mean: float) -> str:
    if lost:
        return f"{lost:,} of {size:,} values are not finite"
    if largest > most:
        return f"the largest difference is {largest:.2g} of the scale, {most:g} allowed"
    return f"the mean difference is {mean:.2g} of the scale, {most_mean:g} allowed"


def _labelled(
    name: str, reference: np.ndarray, got: np.ndarray, labels: np.ndarray, limits: Limits, typical: np.ndarray
) -> OutputParity:
    """An output [N, classes] whose right classes ``labels`` [N] are known: what counts is how many are right, and how
    many rows are of another class. A value that is not finite is lost, whatever float32 gives. ``typical`` [M, classes]
    sets the scale."""
    n, finite = len(labels), np.isfinite(got)
    top, before = np.where(finite.all(-1), got.argmax(-1), -1), reference.argmax(-1)
    right, right_before, differing = top == labels, before == labels, int((top != before).sum())
    lost, agreement = int(right_before.sum()) - int(right.sum()), (1 - differing / n) * 100
    scale = 1.0 if _probabilities(typical) else float(np.abs(typical).max(initial=0.0)) or 1.0
    difference = np.abs(np.where(finite, got, 0).astype(np.float64) - reference) / scale
    largest, mean = float(difference.max()), float(difference.mean())
    problems = [f"{int((~finite).sum()):,} of {got.size:,} values are not finite"] if not finite.all() else []
    if limits.max_accuracy_drop is not None and lost > _allowed(limits.max_accuracy_drop, n):
        problems.append(f"accuracy is {lost / n * 100:.2f} points lower, {limits.max_accuracy_drop:g} allowed")
    if differing > _allowed(100 - limits.min_agreement, n):
        problems.append(f"{agreement:.2f} % have the same top class, {limits.min_agreement:g} % needed")
    problems += _too_far(largest, mean, limits)
    spread = float(np.abs(typical - typical.mean(0)).max(initial=0.0)) / scale
    return OutputParity(
        name,
        scale,
        largest,
        mean,
        int((~finite).sum()),
        agreement,
        spread,
        tuple(problems),
        accuracy=float(right.mean() * 100),
        reference_accuracy=float(right_before.mean() * 100),
        confusion=confusion(labels, top),
    )


def _too_far(largest: float, mean: float, limits: Limits) -> list[str]:
    problems = []
    if limits.max_difference is not None and largest > limits.max_difference:
        problems.append(f"the largest difference is {largest:.2g} of the scale, {limits.max_difference:g} allowed")
    if limits.mean_difference is not None and mean > limits.mean_difference:
        problems.append(f"the mean difference is {mean:.2g} of the scale, {limits.mean_difference:g} allowed")
    return problems


def _allowed(percent: float, n: int) -> int:
    """Rows that ``percent`` of n allows; at least one, unless the threshold is 0: a share finer than one row of a small
    set cannot be held."""
    return max(1, math.floor(percent / 100 * n + 1e-9)) if percent > 0 else 0


def _output(
    name: str, reference: np.ndarray, got: np.ndarray, classes: bool, limits: Limits, typical: np.ndarray
) -> OutputParity:
    """An output [N, ...] without labels; ``typical`` [M, ...] sets the scale."""
    if not np.issubdtype(reference.dtype, np.floating):
        same = float((reference == got).mean() * 100) if reference.size else 100.0
        problems = [] if same >= limits.min_agreement else [f"{same:.2f} % of the values are the same"]
        return OutputParity(name, 1.0, 1 - same / 100, 1 - same / 100, 0, same, 1.0, tuple(problems))
    wide, other, scales = (x.astype(np.float64) for x in (reference, got, typical))
    if _probabilities(wide) and _probabilities(scales):
        wide, other, scales = _logits(wide), _logits(other), _logits(scales)
    there = np.isfinite(wide)
    lost = int((there & ~np.isfinite(other)).sum())
    lost += int((~there & ~((wide == other) | (np.isnan(wide) & np.isnan(other)))).sum())
    compared = there & np.isfinite(other)
    difference = np.abs(np.where(compared, other, 0) - np.where(compared, wide, 0))
    finite = np.isfinite(scales)
    values = scales[finite]
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    mean_scale = float(np.sqrt((values**2).mean())) if values.size else 1.0
    largest = float(difference.max(initial=0.0)) / scale
    mean = float(difference.mean() if difference.size else 0.0) / (mean_scale or 1.0)
    problems = [f"{lost:,} of {wide.size:,} values are not finite"] if lost else []
    problems += _too_far(largest, mean, limits)
    agreement = None
    if classes:
        agreement, decided, rows = _agreement(wide, np.where(np.isfinite(other), other, -np.inf), TIE * scale)
        # At least one row: a share finer than one of a few rows cannot be held.
        if rows * (1 - decided / 100) > max(1.0, rows * (1 - limits.min_agreement / 100)) + 1e-6:
            problems.append(f"{decided:.2f} % have the same top class, {limits.min_agreement:g} % needed")
    middle = np.where(finite, scales, 0).sum(0) / np.maximum(finite.sum(0), 1)
    spread = float(np.abs(values - np.broadcast_to(middle, scales.shape)[finite]).max(initial=0.0))
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
    index = np.arange(len(rows))
    undecided = rows[index, mine] - rows[index, theirs] <= tie
    same = mine == theirs
    return float(same.mean() * 100), float((same | undecided).mean() * 100), len(rows)
