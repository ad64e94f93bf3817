"""Training that has blown up: which step, which loss, and the layer where the numbers left what a model can live on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np

from tfhalf import config
from tfhalf.precision.policy import layer_path
from tfhalf.train.diagnose.layer_hooks import watched
from tfhalf.train.diagnose.non_finite import unchanged
from tfhalf.train.feeds.base import ChunkResult, Feed
from tfhalf.train.step import Step


class BlowUp(Exception):  # noqa: N818  # no error yet: it may be gone back on
    """Raised within training. ``step`` is counted from its start; ``why`` says what is known, ``explained`` whether
    that names the layer already."""

    def __init__(self, step: int, loss: float, why: str, explained: bool = False) -> None:
        super().__init__(why)
        self.step, self.loss, self.why, self.explained = step, loss, why, explained


def blown_up(result: ChunkResult, first_step: int, guarded: bool, bound: float | None) -> BlowUp | None:
    """The first step of ``result`` whose loss is not finite or above ``bound``; ``first_step`` is that of its first.

    Steps that a loss scale skipped are its business, and change no weight.
    """
    bad = ~np.isfinite(result.loss)
    if bound is not None:
        bad |= result.loss > bound
    if guarded:
        bad &= result.finite
    if not bad.any():
        return None
    index = int(np.argmax(bad))
    loss = float(result.loss[index])
    above = f", above train.blowup.bound ({bound:g})" if np.isfinite(loss) else ""
    return BlowUp(first_step + index, loss, f"step {first_step + index}: the loss is {loss:.6g}{above}")


def advice_for(precision: config.Precision) -> str:
    """What to do about a blow-up."""
    advice = "lower the learning rate, or clip gradients (train.optimizer.clip_norm)"
    if precision.loss_scale.mode == "none" and precision.float16_gradients:
        advice += ", or have such steps skipped (precision.loss_scale.mode: dynamic)"
    return advice


class Seen(NamedTuple):
    """A layer's call: the range of the floating numbers that went in (of none where all are integers), how large its
    weights are, and whether all that came out was finite."""

    path: str
    low: float | None
    high: float | None
    weights: float
    finite: bool

    @property
    def largest(self) -> float:
        """The largest absolute number that went in; 0 for integers."""
        return 0.0 if self.low is None or self.high is None else max(abs(self.low), abs(self.high))

    def words(self) -> str:
        """``'head': its input goes from -3 to 5 (largest absolute 5), its weights reach 0.2``."""
        weights = f", its weights reach {self.weights:.3g}" if self.weights else ""
        if not np.isfinite(self.weights):
            weights = ", its weights are not finite"
        if self.low is None:
            return f"{self.path!r}: it takes integers{weights}"
        return (
            f"{self.path!r}: its input goes from {self.low:.4g} to {self.high:.4g} "
            f"(largest absolute {self.largest:.4g}){weights}"
        )


def explain(step: Step, feed: Feed, index: np.ndarray, epoch: int, number: int, size: int | None = None) -> str:
    """Run one batch forward, layer by layer, with the weights as they are, and name the first layer in whose output a
    number is not finite; where there is none, the layer with the largest input. Nothing is changed.

    Args:
        index: int32 [batch_size], the batch's places in the training set.
        number: the step.
        size: what images are scaled down to.
    """
    with unchanged(step), _ranges(step.net(size)) as seen:
        step.forward(feed.batch(index), _scalar(epoch), _scalar(number), size)
    for one in seen:
        if not one.finite:
            return f"the first layer whose output is not finite is {one.words()}"
    if not seen:
        return "no layer of it can be looked into"
    return f"every layer's output is finite; the largest input has {max(seen, key=lambda one: one.largest).words()}"


@contextmanager
def _ranges(net: keras.Model) -> Iterator[list[Seen]]:
    """What the layers of ``net`` are given within the block, in the order in which their calls end."""
    seen: list[Seen] = []

    def tell(layer: keras.Layer, arguments: Any, out: Any) -> None:
        arrays, answers = _numbers(arguments), _numbers(out)
        if arrays or answers:
            low, high = _range(arrays) if arrays else (None, None)
            weights = [keras.ops.convert_to_numpy(v) for v in layer.trainable_variables]
            reach = [float(np.abs(w).max()) for w in weights if w.size]
            finite = all(np.isfinite(a).all() for a in answers)
            seen.append(Seen(layer_path(layer), low, high, float(np.max(reach, initial=0.0)), finite))

    with watched(net, tell):
        yield seen


def _range(arrays: list[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest number, not a number where there is one that is none."""
    return float(np.min([a.min() for a in arrays])), float(np.max([a.max() for a in arrays]))


def _numbers(tree: Any) -> list[np.ndarray]:
    """The floating tensors of ``tree`` that have values (within a program they have none), as float32."""
    tensors = [one for one in keras.tree.flatten(tree) if hasattr(one, "numpy") and hasattr(one, "dtype")]
    floating = [one for one in tensors if keras.backend.is_float_dtype(keras.backend.standardize_dtype(one.dtype))]
    return [array for one in floating if (array := one.numpy().astype(np.float32)).size]


def _scalar(value: int) -> Any:
    return keras.ops.convert_to_tensor(value, "int32")
