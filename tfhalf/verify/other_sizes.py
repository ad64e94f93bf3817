"""Artifacts run on inputs of other sizes, where those are open: a few samples each, judged apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tfhalf.artifacts.formats import LITERT
from tfhalf.errors import UnsupportedError
from tfhalf.runtimes.base import Arrays
from tfhalf.runtimes.open import SECOND
from tfhalf.text import one_line, printable
from tfhalf.verify.compare import Limits, SampleComparison, SizeParity, judge

MOST = 8
"""Sizes that a version holds samples of, at most."""
_PREFIX = "size/"


@dataclass(frozen=True)
class Sized:
    """Samples of another size: ``inputs`` and the float32 model's ``outputs`` by name, each [N, ...]."""

    inputs: Arrays
    outputs: Arrays


def to_arrays(sized: Mapping[str, Sized]) -> Arrays:
    """For ``samples.npz``."""
    return {
        f"{_PREFIX}{size}/{part}/{name}": x
        for size, one in sized.items()
        for part, arrays in (("in", one.inputs), ("out", one.outputs))
        for name, x in arrays.items()
    }


def from_arrays(arrays: Mapping[str, np.ndarray], like: Sized) -> dict[str, Sized]:
    """What `to_arrays` gave; ``like`` has the names that they have.

    Raises:
        ValueError: they do not go together.
    """
    found: dict[str, Sized] = {}
    for key, x in arrays.items():
        if key.startswith(_PREFIX):
            size, part, name = (*key[len(_PREFIX) :].split("/", 2), "", "")[:3]
            one = found.setdefault(size, Sized({}, {}))
            (one.inputs if part == "in" else one.outputs)[name] = x
    for one in found.values():
        every = (*one.inputs.values(), *one.outputs.values())
        counts = {x.shape[0] if x.ndim else 0 for x in every}
        if set(one.inputs) != set(like.inputs) or set(one.outputs) != set(like.outputs) or len(counts) != 1:
            raise ValueError("its samples of other sizes do not go together")
    if len(found) > MOST:
        raise ValueError(f"it has samples of more than {MOST} other sizes")
    return found


def run_sizes(
    predictor: Callable[[Arrays], Arrays], runtime: str, sized: Mapping[str, Sized], limits: Limits
) -> tuple[SizeParity, ...]:
    """How an artifact answers samples of other sizes, held to what edge rows are held to. A LiteRT file may be of one
    size, and a second runtime may not cover one; where another fails to run, that is a problem."""
    rows = []
    for size, one in sized.items():
        try:
            got = {name: np.asarray(x) for name, x in predictor(one.inputs).items()}
            outputs = judge(one.outputs, got, (), limits, [size] * len(next(iter(one.inputs.values()))))
        except Exception as error:  # noqa: BLE001  # three libraries, each with exceptions of its own; it is told
            why = one_line(error, 200)
            fine = runtime in LITERT or (runtime in SECOND and isinstance(error, UnsupportedError))
            rows.append(SizeParity(size, False, 0.0, 0, () if fine else (f"does not run: {why}",), why))
            continue
        worst = max((output.edge_difference or 0.0 for output in outputs), default=0.0)
        problems = tuple(f"{o.name}: {p.partition(': ')[2] or p}" for o in outputs for p in o.problems)
        rows.append(SizeParity(size, True, worst, sum(o.edge_non_finite for o in outputs), problems))
    return tuple(rows)


def sizes_line(shapes: Mapping[str, Mapping[str, Sequence[int]]], comparisons: Sequence[SampleComparison]) -> list[str]:
    """In one line, how the artifacts answered at other sizes; none where there are none.

    Args:
        shapes: of one sample of each input, by the size's name.
    """
    sizes = {row.size for c in comparisons for row in c.other_sizes}
    shown = [
        " and ".join(f"{printable(name, 40)} {list(shape)}" for name, shape in inputs.items())
        for size, inputs in shapes.items()
        if size in sizes
    ]
    if not shown:
        return []
    told = []
    for c in (one for one in comparisons if one.other_sizes):
        ran = [row for row in c.other_sizes if row.taken]
        if not ran:
            told.append(f"{c.artifact} takes none")
            continue
        lost = sum(row.non_finite for row in ran)
        few = f" at {len(ran)} of {len(shown)}" if len(ran) < len(shown) else ""
        worst = max(row.max_difference for row in ran)
        told.append(f"{c.artifact} {worst:.1e}{few}" + (f", {lost:,} values lost" if lost else ""))
    return [f"other sizes ({', '.join(shown)}), judged apart, largest differences: {'; '.join(told)}"]
