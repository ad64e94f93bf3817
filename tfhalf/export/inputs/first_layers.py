"""What the layers that read an input's own values say of them: statistics, mask values, the range of images.

A layer reads an input's own values where everything before it only moves them: reshapes, concatenations, crops,
permutations, dropout. That is tried, not looked up: the model is run on the numbers of its input elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfhalf.artifacts.ports import Port
from tfhalf.precision.policy import flat_layers

Call = Callable[[Any, Sequence[Any]], Any]
"""Calls a model with a tensor for each input, in the model's own structure."""

_STATISTICS = (layers.BatchNormalization, layers.Normalization)
_EXACT = 1 << 24  # whole numbers up to here are exact in float32


@dataclass(frozen=True)
class Statistics:
    """Of an input's elements: ``mean`` and ``deviation`` float64 of the shape of one sample, as ``layer`` has them;
    elements that no layer reads are standard normal."""

    layer: str
    adapted: bool
    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Padding:
    """How padding looks in an input: ``value`` at the ``elements`` of one sample that a Masking layer compares, bool
    [steps, *sample], a step after the other."""

    value: float
    steps: np.ndarray


@dataclass(frozen=True)
class FirstLayers:
    """What is known of the inputs, by name."""

    statistics: Mapping[str, Statistics]
    padding: Mapping[str, Padding]


def first_layers(
    model: keras.Model, call: Call, ports: Sequence[Port], example: Mapping[str, np.ndarray], floats: Sequence[str]
) -> FirstLayers:
    """What BatchNormalization, Normalization and Masking layers say of those ``floats`` that they read unchanged.

    Args:
        example: one sample for each port, [1, ...] (or a batch, where that is fixed), which the model takes.
    """
    watched = [la for la in flat_layers(model) if isinstance(la, (*_STATISTICS, layers.Masking))]
    total = sum(example[name][0].size for name in floats)
    if not watched or not total or total >= _EXACT:
        return FirstLayers({}, {})
    numbers, noise = np.arange(1, total + 1, dtype=np.float64), np.random.default_rng(0).normal(size=total)
    seen = []
    for values in (numbers, noise):
        arrays, start = dict(example), 0
        for name in floats:
            size = example[name][0].size
            flat = values[start : start + size].reshape(example[name].shape[1:])
            arrays[name] = np.broadcast_to(flat, example[name].shape).astype(example[name].dtype)
            start += size
        seen.append(_inputs_of(model, call, ports, arrays, watched))
    filled = np.concatenate([[0.0], noise])
    moved = {}
    for layer in watched:
        first, second = (values.get(id(layer)) for values in seen)
        if first is None or second is None:
            continue
        elements = np.where((first >= 0) & (first <= total), first, 0).round().astype(np.int64)
        expected = filled[elements].astype(np.float32)
        if np.array_equal(elements, first) and np.array_equal(expected, second) and elements.any():
            moved[id(layer)] = elements[0]
    return _described(watched, moved, example, floats)


def _inputs_of(
    model: keras.Model, call: Call, ports: Sequence[Port], arrays: Mapping[str, np.ndarray], watched: Sequence[Any]
) -> dict[int, np.ndarray]:
    """What each of the ``watched`` layers takes when it is first called, in float32; none where the model cannot be run
    on the numbers, which shows when it is run on its inputs."""
    taken: dict[int, np.ndarray] = {}
    with _float32(model), _recording(watched, taken):
        try:
            call(lambda x, **named: model(x, **named, training=False), [tf.constant(arrays[p.name]) for p in ports])
        except (tf.errors.OpError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return {}  # a layer was not made for such numbers: nothing is known
    return taken


@contextmanager
def _recording(watched: Sequence[Any], taken: dict[int, np.ndarray]) -> Iterator[None]:
    def noting(layer: Any, call: Any) -> Any:
        def noted(x: Any, *args: Any, **named: Any) -> Any:
            if tf.is_tensor(x) and x.dtype.is_floating:
                taken.setdefault(id(layer), np.asarray(x).astype(np.float32))
            return call(x, *args, **named)

        return noted

    before = [vars(layer).get("call") for layer in watched]
    for layer in watched:
        layer.call = noting(layer, layer.call)
    try:
        yield
    finally:
        for layer, own in zip(watched, before, strict=True):
            if own is None:
                del layer.call
            else:
                layer.call = own


@contextmanager
def _float32(model: keras.Model) -> Iterator[None]:
    """Within the block every layer computes in float32."""
    every = [model, *flat_layers(model)]
    before = [layer.dtype_policy for layer in every]
    for layer in every:
        if layer.compute_dtype != "float32":
            layer.dtype_policy = "float32"
    try:
        yield
    finally:
        for layer, policy in zip(every, before, strict=True):
            if layer.dtype_policy is not policy:
                layer.dtype_policy = policy


def _described(
    watched: Sequence[Any], moved: Mapping[int, np.ndarray], example: Mapping[str, np.ndarray], floats: Sequence[str]
) -> FirstLayers:
    statistics: dict[str, Statistics] = {}
    padding: dict[str, Padding] = {}
    start = 1
    for name in floats:
        shape = example[name].shape[1:]
        end = start + example[name][0].size
        for layer in watched:
            elements = moved.get(id(layer))
            if elements is None or not ((elements >= start) & (elements < end)).any():
                continue
            if isinstance(layer, layers.Masking):
                padding.setdefault(name, _padding(layer, elements, start, shape))
            elif name not in statistics and (known := statistics_of(layer)) is not None:
                mean, deviation = np.zeros(end), np.ones(end)
                for filled, value in zip((mean, deviation), known, strict=True):
                    filled[np.where(elements < end, elements, 0)] = np.broadcast_to(
                        _broadcast(layer, value, elements.ndim), elements.shape
                    )
                statistics[name] = Statistics(
                    layer.name,
                    isinstance(layer, layers.Normalization),
                    mean[start:].reshape(shape),
                    deviation[start:].reshape(shape),
                )
        start = end
    return FirstLayers(statistics, padding)


def _padding(layer: Any, elements: np.ndarray, start: int, shape: Sequence[int]) -> Padding:
    """A step of a Masking layer is one position of its first axis behind the batch."""
    size = int(np.prod(shape))
    steps = np.zeros((len(elements), size), bool)
    for step, row in zip(steps, elements.reshape(len(elements), -1) - start, strict=True):
        step[row[(row >= 0) & (row < size)]] = True
    return Padding(float(layer.mask_value), steps.reshape(len(elements), *shape))


def statistics_of(layer: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean and standard deviation, float64: [C] of a BatchNormalization, as they broadcast to a batch of a
    Normalization. None where it was never trained or adapted, or holds what is not finite."""
    if isinstance(layer, layers.Normalization):
        if not layer.built or layer.invert or layer.mean is None:
            return None
        mean, variance = (np.asarray(value, np.float64) for value in (layer.mean, layer.variance))
    else:
        mean, variance = (np.asarray(v, np.float64) for v in (layer.moving_mean, layer.moving_variance))
        if not mean.any() and (variance == 1).all():
            return None
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()):
        return None
    return mean, np.sqrt(variance)


def _broadcast(layer: Any, value: np.ndarray, rank: int) -> np.ndarray:
    """One of `statistics_of` as it broadcasts to one sample of ``rank`` axes."""
    if isinstance(layer, layers.Normalization):
        return value[0] if value.ndim == rank + 1 else value
    axis = _axis(layer)
    shape = [1] * rank
    shape[axis if axis < 0 else axis - 1] = -1
    return value.reshape(shape)


def _axis(layer: Any) -> int:
    return int(layer.axis if isinstance(layer.axis, int) else layer.axis[0])


# --- the range of images ----------------------------------------------------------------------------------------------

RANGES = {"0 to 1": (0.0, 1.0), "0 to 255": (0.0, 255.0), "-128 to 127": (-128.0, 127.0)}
"""What images come as, beside standard normal."""


def image_range(
    model: keras.Model, call: Call, ports: Sequence[Port], example: Mapping[str, np.ndarray], name: str
) -> tuple[str | None, str | None]:
    """The range of `RANGES` in which the images ``name`` give the first BatchNormalization what its statistics say, and
    that layer's name; no range where they say standard normal, and no name where they say nothing.

    Distances are means over channels of how far the logarithm of the variance is off, and the mean in deviations.
    """
    trained = [
        layer
        for layer in flat_layers(model)
        if isinstance(layer, layers.BatchNormalization) and layer.built and statistics_of(layer) is not None
    ]
    if not trained:
        return None, None
    rng, count = np.random.default_rng(0), max(4, len(example[name]))
    shape = (count, *example[name].shape[1:])
    candidates: dict[str | None, np.ndarray] = {None: rng.normal(size=shape)}
    candidates |= {key: rng.uniform(*ends, shape) for key, ends in RANGES.items()}
    distances: dict[str | None, float] = {}
    first = None
    for key, values in candidates.items():
        arrays = {other: np.repeat(x, -(-count // len(x)), 0)[:count] for other, x in example.items()}
        taken = _inputs_of(model, call, ports, {**arrays, name: values.astype(np.float32)}, trained)
        first = first or next((layer for layer in trained if id(layer) in taken), None)
        if first is None or id(first) not in taken:
            return None, None
        distances[key] = _distance(first, taken[id(first)])
    assert first is not None
    return min(distances, key=lambda key: distances[key]), first.name


def _distance(layer: Any, x: np.ndarray) -> float:
    axis = _axis(layer)
    rows = np.moveaxis(x.astype(np.float64), axis, -1).reshape(-1, x.shape[axis])
    mean, variance = (np.asarray(v, np.float64) for v in (layer.moving_mean, layer.moving_variance))
    small = float(layer.epsilon)
    off = np.abs(np.log((rows.var(0) + small) / (variance + small)))
    return float((off + np.abs(rows.mean(0) - mean) / np.sqrt(variance + small)).mean())
