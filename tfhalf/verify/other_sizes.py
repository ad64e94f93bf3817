"""Artifacts run on inputs of other sizes, where those are open: a few samples each, compared apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfhalf.artifacts.comparison import Comparison, Limits, SizeParity
from tfhalf.artifacts.formats import Format
from tfhalf.artifacts.reference import Reference
from tfhalf.errors import UnsupportedError
from tfhalf.runtimes.base import Arrays
from tfhalf.runtimes.open import SECOND
from tfhalf.text import one_line, printable
from tfhalf.verify.compare import compare_outputs


def run_sizes(
    predictor: Callable[[Arrays], Arrays],
    kind: Format,
    runtime: str,
    reference: Reference,
    limits: Limits,
) -> tuple[SizeParity, ...]:
    """How an artifact answers the samples of other sizes, held to what edge rows are held to: a few rows, whose scale
    the answers to usual samples set. A LiteRT file may be of one
    size, and a second runtime may not cover one; where another fails to run, that is a problem."""
    rows = []
    for size, one in reference.other_sizes.items():
        try:
            got = {name: np.asarray(x) for name, x in predictor(one.inputs).items()}
            outputs = compare_outputs(one.outputs, got, (), limits, [size] * one.count, typical=reference.usual.outputs)
        except Exception as error:  # noqa: BLE001  # three libraries, each with exceptions of its own; it is told
            why = one_line(error, 200)
            fine = kind.is_litert or (runtime in SECOND and isinstance(error, UnsupportedError))
            rows.append(SizeParity(size, False, 0.0, 0, () if fine else (f"does not run: {why}",), why))
            continue
        worst = max((output.edge_difference or 0.0 for output in outputs), default=0.0)
        problems = tuple(f"{o.name}: {p.partition(': ')[2] or p}" for o in outputs for p in o.problems)
        rows.append(SizeParity(size, True, worst, sum(o.edge_non_finite for o in outputs), problems))
    return tuple(rows)


def sizes_line(shapes: Mapping[str, Mapping[str, Sequence[int]]], comparisons: Sequence[Comparison]) -> list[str]:
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
    lines = []
    for c in (one for one in comparisons if one.other_sizes):
        ran = [row for row in c.other_sizes if row.taken]
        if not ran:
            lines.append(f"{c.artifact} takes none")
            continue
        lost = sum(row.non_finite for row in ran)
        few = f" at {len(ran)} of {len(shown)}" if len(ran) < len(shown) else ""
        worst = max(row.max_difference for row in ran)
        lines.append(f"{c.artifact} {worst:.1e}{few}" + (f", {lost:,} values lost" if lost else ""))
    return [f"other sizes ({', '.join(shown)}), compared apart, largest differences: {'; '.join(lines)}"]
