"""One small model for every function of `keras.ops` and every layer of `keras.layers`, with inputs that exercise it.

The names come from Keras itself, so that a new function without a case shows as lacking: `lacking`. The cases stand in
`operations_ops` and `operations_layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

SAMPLES = 16


@dataclass(frozen=True)
class Given:
    """An input: its shape without the batch, its dtype, and what draws values for it."""

    shape: tuple[int, ...]
    dtype: str
    draw: Callable[[Any, tuple[int, ...]], np.ndarray]

    def values(self, seed: int) -> np.ndarray:
        """`SAMPLES` samples. Floats are float16's own, so that rounding the input changes no answer."""
        drawn = self.draw(np.random.default_rng(seed), (SAMPLES, *self.shape))
        return (
            drawn.astype(np.float16).astype(np.float32)
            if self.dtype == "float32"
            else drawn.astype(str if self.dtype == "string" else self.dtype)
        )


@dataclass(frozen=True)
class Case:
    """``build`` takes tensors, one for each of ``given``, and gives the tensors that are the model's outputs.

    ``reason``: why there is no model, in words; then there is nothing to build.
    """

    given: tuple[Given, ...] = ()
    build: Callable[..., Any] | None = None
    reason: str = ""
    adapt: Callable[[keras.Model], None] | None = None


# --- inputs -----------------------------------------------------------------------------------------------------------


def _signed(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers, among them a row of zeros, a constant one, one of whole numbers and a large one."""
    x = rng.normal(size=shape) * 2
    x[0], x[1], x[-1] = 0, -1.5, x[-1] * 10
    x[2] = np.resize([0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 0.25, 5, -4], shape[1:])
    return np.asarray(x)


def _distinct(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    """No number twice in a sample."""
    size = int(np.prod(shape[1:]))
    return np.stack([(rng.permutation(size) - size // 2) / 4 for _ in range(shape[0])]).reshape(shape)


def signed(*shape: int) -> Given:
    """Floats around 0, with zeros and a large row."""
    return Given(shape, "float32", _signed)


def normal(*shape: int) -> Given:
    """Floats of a standard normal distribution, with a row of zeros."""

    def draw(rng: Any, size: tuple[int, ...]) -> np.ndarray:
        x = rng.normal(size=size)
        x[0] = 0
        return np.asarray(x)

    return Given(shape, "float32", draw)


def positive(*shape: int, least: float = 0.0) -> Given:
    """Floats from ``least`` up."""
    return Given(shape, "float32", lambda rng, size: np.abs(_signed(rng, size)) + least)


def unit(*shape: int, low: float = -1.0, high: float = 1.0) -> Given:
    """Floats from ``low`` to ``high``, both among them."""

    def draw(rng: Any, size: tuple[int, ...]) -> np.ndarray:
        x = rng.uniform(low, high, size)
        x[0], x[1], x[2] = low, high, (low + high) / 2
        return np.asarray(x)

    return Given(shape, "float32", draw)


def distinct(*shape: int) -> Given:
    """Floats, no number twice in a sample: what is sorted has one order."""
    return Given(shape, "float32", _distinct)


def image(side: int = 16, channels: int = 3) -> Given:
    """Whole numbers from 0 to 255, with a black and a white image."""

    def draw(rng: Any, size: tuple[int, ...]) -> np.ndarray:
        x = rng.integers(0, 256, size)
        x[0], x[1] = 0, 255
        return np.asarray(x)

    return Given((side, side, channels), "float32", draw)


def whole(*shape: int, low: int = -8, high: int = 8, dtype: str = "int32") -> Given:
    """Integers from ``low`` up to and without ``high``."""
    return Given(shape, dtype, lambda rng, size: rng.integers(low, high, size))


def truth(*shape: int) -> Given:
    """Truth values."""
    return Given(shape, "bool", lambda rng, size: rng.random(size) < 0.5)


def words(*shape: int, of: tuple[str, ...] = ("a", "b", "c", "d")) -> Given:
    """Text."""
    return Given(shape, "string", lambda rng, size: np.array(of)[rng.integers(0, len(of), size)])


# --- models -----------------------------------------------------------------------------------------------------------


def model_of(case: Case) -> keras.Model:
    """The operation of a case between a Dense layer, whose weights give its inputs back unchanged, and the outputs.

    The Dense layers have weights in float16 and give tensors of float16; a model of whole numbers gets one beside it.
    """
    assert case.build is not None
    keras.utils.set_random_seed(1)
    inputs = [keras.Input(g.shape, dtype=g.dtype, name=f"x{k}") for k, g in enumerate(case.given)]
    tensors = [_through(x, k) for k, x in enumerate(inputs)]
    outputs = [x for x in keras.tree.flatten(case.build(*tensors)) if x is not None]
    if all(g.dtype != "float32" for g in case.given) and case.given[0].dtype != "string":
        flat = keras.layers.Flatten()(keras.ops.cast(inputs[0], "float32"))
        outputs.append(keras.layers.Dense(4, name="beside")(flat))
    model = keras.Model(inputs, outputs)
    if case.adapt is not None:
        case.adapt(model)
    return model


def _through(x: Any, number: int) -> Any:
    if x.dtype != "float32" or not x.shape[1:]:
        return x
    size = x.shape[-1]
    layer = keras.layers.Dense(size, use_bias=False, name=f"given{number}", kernel_initializer="identity")
    return layer(x)


def inputs_of(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for the inputs of `model_of`, by name."""
    return {f"x{k}": g.values(100 * seed + k) for k, g in enumerate(case.given)}


# --- names ------------------------------------------------------------------------------------------------------------


def names() -> dict[str, Any]:
    """Every function of `keras.ops`, of its modules that has no other name there, and every layer of `keras.layers`."""
    found: dict[str, Any] = {}
    for name in dir(keras.ops):
        value = getattr(keras.ops, name)
        if callable(value) and not name.startswith("_"):
            found[f"ops.{name}"] = value
    for module in ("image", "linalg", "nn", "numpy"):
        inner = getattr(keras.ops, module)
        for name in dir(inner):
            if callable(getattr(inner, name)) and not name.startswith("_") and f"ops.{name}" not in found:
                found[f"ops.{module}.{name}"] = getattr(inner, name)
    for name in dir(keras.layers):
        if callable(getattr(keras.layers, name)) and not name.startswith("_"):
            found[f"layers.{name}"] = getattr(keras.layers, name)
    return found


def aliases() -> dict[str, str]:
    """By a name without a case, the one with a case that is the same object."""
    known = cases()
    first = {id(value): name for name, value in names().items() if name in known}
    return {name: first[id(v)] for name, v in names().items() if name not in known and id(v) in first}


def cases() -> Mapping[str, Case]:
    """By name."""
    from operations_layers import LAYERS
    from operations_ops import OPS

    return {**{f"ops.{name}": c for name, c in OPS.items()}, **{f"layers.{name}": c for name, c in LAYERS.items()}}


def lacking() -> list[str]:
    """Names of Keras without a case or a reason."""
    known, same = cases(), aliases()
    return [name for name in names() if name not in known and name not in same]
