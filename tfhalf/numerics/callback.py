"""What float16 makes of a net's numbers, measured in one's own ``fit``: `NumericsCallback`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.errors import ConfigError
from tfhalf.numerics import count
from tfhalf.numerics.histogram import Histogram, Shares, together
from tfhalf.numerics.taps import Seen, observed, operations
from tfhalf.precision.keras_graph import graph_of
from tfhalf.precision.policy import flat_layers, layer_path

KINDS = ("weights", "activations", "activation gradients", "weight gradients")
SCALED = ("activation gradients", "weight gradients")
"""The kinds that the loss scale multiplies."""


@dataclass(frozen=True)
class NumericsRecord:
    """The numbers of one batch, after ``epoch`` (from 0).

    Attributes:
        scale_exponent: of the loss scale then in force, a power of two; 0 without one.
        histograms: by kind (`KINDS`) and name (a layer's path, or a weight's), counts of the numbers by exponent.
    """

    epoch: int
    scale_exponent: int
    histograms: dict[str, dict[str, Histogram]]

    def shares(self, kind: str, name: str | None = None) -> Shares:
        """Of one tensor, or all of a kind together: the shares, 0 to 1, that float16 makes zero (``flushed``),
        ``subnormal`` or infinite (``overflowed``); gradients times the loss scale."""
        row = self.histograms[kind]
        histogram = together(row.values()) if name is None else row[name]
        return histogram.shares(self.scale_exponent if kind in SCALED else 0)

    def worst(self, kind: str, most: int = 5) -> list[tuple[str, Shares]]:
        """The tensors of a kind of which float16 loses the largest share, those that lose nothing left out."""
        rows = [(name, self.shares(kind, name)) for name in self.histograms[kind]]
        lost = [row for row in rows if row[1].flushed + row[1].overflowed > 0]
        return sorted(lost, key=lambda row: -(row[1].flushed + row[1].overflowed))[:most]

    @cached_property
    def logs(self) -> dict[str, float]:
        """What the callback adds to the logs of the epoch."""
        rows = {kind.replace(" ", "_"): self.shares(kind) for kind in ("activations", *SCALED)}
        return {
            f"float16_{kind}_{what}": float(getattr(row, what))
            for kind, row in rows.items()
            for what in ("flushed", "overflowed")
        }


class NumericsCallback(keras.callbacks.Callback):
    """Measures at the end of an epoch what float16 makes of a model's weights, activations and gradients.

    The numbers of one batch are counted as float32 computes them, with the weights of that moment: in half precision
    what overflowed is infinite already, and small gradients are zero. The shares that follow are exact. They are added
    to the epoch's logs, so that History, CSVLogger and TensorBoard have them, and kept whole in ``records``.

    Training goes on as if nothing had been: no weight, statistic or random number changes. Each measurement costs a
    forward and a backward pass of the batch in float32, without XLA, which holds all activations at a time; the first
    one also the tracing of them. Not seen are calls within a recurrent layer's loop, and what a ``train_step`` of one's
    own does beside ``compute_loss``.

    Args:
        x, y: a batch as ``fit`` takes them, of the size that is trained with: the gradients of a mean are as much
            smaller as the batch is larger.
        sample_weight: as ``fit`` takes it.
        every: measure after every so many epochs, and after the first.

    Attributes:
        records: a `NumericsRecord` for each measurement.

    Raises:
        ConfigError: ``every`` is not positive; in ``fit``, Keras is on another backend, or the model is not compiled.
    """

    def __init__(self, x: Any, y: Any, sample_weight: Any = None, every: int = 1) -> None:
        super().__init__()
        if every < 1:
            raise ConfigError(f"every {every}: a number of epochs, 1 or more, is accepted")
        self.every, self.records = every, list[NumericsRecord]()
        self._batch = (x, y, sample_weight)
        self._measure: Callable[..., Any] | None = None
        self._rows: list[tuple[str, str]] = []
        self._traced_for: tuple[int, ...] = ()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuse what cannot be measured before there is an epoch to lose."""
        if keras.backend.backend() != "tensorflow":
            raise ConfigError(f"Keras is on the backend {keras.backend.backend()!r}; this measures on tensorflow alone")
        if not getattr(self.model, "compiled", False):
            raise ConfigError("the model is not compiled, and its loss gives the gradients: call compile() first")
        self._measure = None  # another fit may follow another compile

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measure, and add to ``logs``."""
        if epoch and (epoch + 1) % self.every:
            return
        record = NumericsRecord(epoch, scale_exponent(self.model.optimizer), self._histograms())
        self.records.append(record)
        if logs is not None:
            logs.update(record.logs)

    def _histograms(self) -> dict[str, dict[str, Histogram]]:
        batch = keras.tree.map_structure(lambda x: x if x is None else tf.convert_to_tensor(x), self._batch)
        trainable = tuple(id(variable) for variable in self.model.trainable_variables)
        if self._measure is None or trainable != self._traced_for:
            self._rows, self._measure = [], tf.function(self._step, autograph=False)
            with _in_float32(self.model):
                counts, largest = self._measure(*batch)  # traced here, and computed in float32 from now on
            self._traced_for = trainable
        else:
            counts, largest = self._measure(*batch)
        histograms: dict[str, dict[str, Histogram]] = {kind: {} for kind in KINDS}
        for (kind, name), row, top in zip(self._rows, counts.numpy(), largest.numpy(), strict=True):
            histograms[kind][name] = Histogram(row, top)
        return histograms

    def _step(self, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any]:
        """Counts int64 [rows, BINS] and largest magnitudes float32 [rows] of a training step that changes nothing."""
        variables = self.model.trainable_variables
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        # What is assigned within the scope (statistics, random states, metrics) stays in it.
        scope = keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True)), collect_losses=True)
        with observed(_operations(self.model)) as seen, tf.GradientTape() as tape, scope:
            tape.watch(values)
            answer = self.model(x, training=True)
            loss = self.model.compute_loss(x=x, y=y, y_pred=answer, sample_weight=sample_weight)
        gradients = tape.gradient(loss, values)
        tensors = _by_row(seen, variables, values, gradients)
        self._rows = list(tensors)
        counts = [tf.add_n([count.histogram(x, xla=False) for x in calls]) for calls in tensors.values()]
        largest = [tf.reduce_max(tf.stack([count.largest(x) for x in calls])) for calls in tensors.values()]
        return tf.stack(counts), tf.stack(largest)


def scale_exponent(optimizer: Any) -> int:
    """The exponent of the power of two that the loss is multiplied by, rounded down; 0 where it is not multiplied."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = optimizer.dynamic_scale if optimizer.built else optimizer.initial_scale
        return math.floor(math.log2(float(np.asarray(keras.ops.convert_to_numpy(scale)))))
    factor = getattr(optimizer, "loss_scale_factor", None)
    return math.floor(math.log2(factor)) if factor else 0


def _operations(model: keras.Model) -> dict[str, Any]:
    """What computes in the model, by its path: also the ``keras.ops`` of a graph, of a subclass its layers alone."""
    if graph_of(model) is not None:
        return operations(model)
    return {layer_path(layer): layer for layer in flat_layers(model)}


def _by_row(seen: Seen, variables: list[Any], values: list[Any], gradients: list[Any]) -> dict[tuple[str, str], Any]:
    """The tensors of each kind and name; weights that the loss does not depend on have no gradient."""
    tensors: dict[tuple[str, str], list[Any]] = {
        ("weights", v.path): [x] for v, x in zip(variables, values, strict=True)
    }
    tensors |= {("activations", name): calls for name, calls in seen.outputs.items() if calls}
    tensors |= {("activation gradients", name): calls for name, calls in seen.gradients.items() if calls}
    for variable, gradient in zip(variables, gradients, strict=True):
        if gradient is not None:
            tensors["weight gradients", variable.path] = [tf.convert_to_tensor(gradient)]
    return tensors


@contextmanager
def _in_float32(model: keras.Model) -> Iterator[None]:
    """Within the block every layer computes in float32; variables stay what they are."""
    layers = [model, *flat_layers(model)]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy
