"""What a model has to do for its answers to be compared at all: give the same ones again, whatever stands beside."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.artifacts.edges import edge_mask
from tfhalf.errors import ExportError
from tfhalf.export.islands.simulator import Arrays, Seen, Simulator
from tfhalf.precision.policy import flat_layers, layer_path

_SAME = 1e-4
"""Of an output's scale, a difference that is none."""


def check_deterministic(simulator: Simulator, few: Arrays, before: Arrays) -> None:
    """Refuse a model that answers the same inputs differently: there is nothing to compare with.

    Raises:
        ExportError: it names the layer that draws random numbers.
    """
    again = simulator.reference(few)
    if all(np.array_equal(before[name], again[name], equal_nan=True) for name in before):
        return
    runs = [Seen(), Seen()]
    for seen in runs:
        simulator.reference(few, seen)
    first = next((n for n, v in runs[0].digests.items() if v != runs[1].digests.get(n)), "a layer")
    scale = max(float(np.abs(np.nan_to_num(x)).max(initial=0.0)) for x in before.values() if x.dtype.kind == "f")
    most = max(float(np.abs(before[n] - again[n]).max(initial=0.0)) for n in before if before[n].dtype.kind == "f")
    if most > _SAME * scale:
        raise ExportError(
            f"the model answers the same input differently each time: {first!r} draws random numbers in inference, so "
            "no artifact can be compared with it; export the part without sampling, or have it draw in training alone"
        )


def check_independent(simulator: Simulator, model: keras.Model, inputs: Arrays, kinds: tuple[str, ...]) -> None:
    """Refuse a model whose answer to a sample depends on the samples beside it: a server joins callers' samples.

    Two usual rows and two edge rows are answered together, and each beside copies of itself: in batches of one size, so
    that nothing is rounded otherwise.

    Raises:
        ExportError: it names the layer that computes with the whole batch, and what to do.
    """
    if simulator.interface.inputs[0].shape[0]:  # callers send whole batches
        return
    edge = edge_mask(kinds)
    rows = np.concatenate([np.flatnonzero(~edge)[:2], np.flatnonzero(edge)[:2]])
    few = {name: x[rows] for name, x in inputs.items()}
    together = simulator.reference(few)
    for row in range(len(rows)):
        alone = {name: np.repeat(x[row : row + 1], len(rows), 0) for name, x in few.items()}
        answers = simulator.reference(alone)
        if any(_differ(together[name][row], answers[name][row], together[name]) for name in together):
            raise ExportError(_dependent(simulator, model, few, alone, row))


def _differ(x: np.ndarray, y: np.ndarray, whole: np.ndarray) -> bool:
    if x.dtype.kind != "f":
        return not np.array_equal(x, y)
    there = np.isfinite(x)
    if not np.array_equal(there, np.isfinite(y)):
        return True
    scale = float(np.abs(whole[np.isfinite(whole)]).max(initial=0.0))
    return bool(float(np.abs(x[there] - y[there]).max(initial=0.0)) > _SAME * scale)


def _dependent(simulator: Simulator, model: keras.Model, together: Arrays, alone: Arrays, row: int) -> str:
    """The line that names the first layer whose answer to ``row`` the others change."""
    runs = [_Row(row), _Row(row)]
    for seen, inputs in zip(runs, (together, alone), strict=True):
        simulator.reference(inputs, seen)
    first, second = (seen.answers for seen in runs)
    name = next((n for n, x in first.items() if n in second and _differ(x, second[n], x)), "")
    layer = next((la for la in flat_layers(model) if layer_path(la) == name), None)
    fixed = "or give the model's inputs a fixed batch, keras.Input(batch_size=1)"
    remedy = f"have it compute each sample by itself, {fixed}"
    if isinstance(layer, keras.layers.MelSpectrogram):
        remedy = (
            f"its top_db, {layer.top_db:g}, counts from the loudest value of the whole batch: set it above the range "
            f"of your data, top_db=200, {fixed}"
        )
    kind = f" ({type(layer).__name__})" if layer is not None else ""
    return (
        f"what the model answers to a sample depends on the samples beside it: {name or 'a layer'!r}{kind} computes "
        f"with the whole batch, and a server joins callers' samples; {remedy}"
    )


class _Row(Seen):
    """Of each operation what it gave for one row at its first call, where that is known."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.row, self.answers = row, dict[str, np.ndarray]()

    def note(self, name: str, taken: Any, returned: Any) -> None:
        """One call."""
        super().note(name, taken, returned)
        leaves = [x for x in keras.tree.flatten(returned) if tf.is_tensor(x) and x.dtype.is_floating and x.shape.rank]
        if leaves and leaves[0].shape[0] is not None and leaves[0].shape[0] > self.row:
            self.answers.setdefault(name, np.asarray(leaves[0][self.row]).astype(np.float32))
