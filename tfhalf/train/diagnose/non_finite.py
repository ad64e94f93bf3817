"""Where a number was lost: the layer that a non-finite gradient or activation comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.precision.policy import layer_path
from tfhalf.train.diagnose.layer_hooks import watched
from tfhalf.train.feeds.base import Feed
from tfhalf.train.step import Step


def explain_non_finite(
    step: Step, feed: Feed, index: np.ndarray, epoch: int, number: int, size: int | None = None
) -> str:
    """Run one batch again without changing anything, and name the layer where it goes wrong.

    Where the forward pass overflows, that is the first layer with a non-finite output. Otherwise it is the first with a
    non-finite gradient, counted from the loss backwards, the way a gradient travels: the layers before it inherit the
    fault.

    Args:
        index: int32 [batch_size], the batch's places in the training set.
        size: what images are scaled down to.
    """
    batch = feed.batch(index)
    with unchanged(step), _overflowed(step.net(size)) as overflowed:
        loss, _, gradients = step.gradients(batch, tf.constant(epoch), tf.constant(number), size)
    finite = all_finite([v.value for v in step.variables])
    if not finite.all():
        return f"the weight {step.variables[int(finite.argmin())].path} itself is not finite"
    if not is_finite(loss):
        if not is_finite(step.preprocess(batch.x)):  # an empty cell is no fault where it becomes the mean
            return f"the loss is {float(loss)}: an input of that batch holds a number that is not finite"
        where = f", first in the output of layer {overflowed[0]!r}" if overflowed else ""
        return f"the loss is {float(loss)}: the forward pass overflowed{where}"
    finite = all_finite(gradients)
    bad = [v.path for v, fine in zip(step.variables, finite, strict=True) if not fine]
    if not bad:
        return "run again on its own, that batch gives finite gradients"
    layer, _, name = bad[-1].rpartition("/")
    return f"the first layer (from the loss) with one is {layer!r} ({name}; {len(bad)} of {len(gradients)})"


def overflowed_layer(
    step: Step, feed: Feed, index: np.ndarray, epoch: int, number: int, size: int | None = None
) -> str | None:
    """Path of the first layer with a non-finite output, when one batch is run forward again with the weights as they
    are now; None where all are finite. See `explain_non_finite`."""
    batch = feed.batch(index)
    with unchanged(step), _overflowed(step.net(size)) as overflowed:
        step.forward(batch, tf.constant(epoch), tf.constant(number), size)
    return overflowed[0] if overflowed else None


def all_finite(tensors: Sequence[Any]) -> np.ndarray:
    """Of each of ``tensors`` whether all of its numbers are finite, bool; integers are.

    One answer for all, which a GPU is waited for once.
    """
    flags = []
    for x in map(tf.convert_to_tensor, tensors):
        flags.append(tf.reduce_all(tf.math.is_finite(x)) if x.dtype.is_floating else tf.constant(True))
    finite: np.ndarray = tf.stack(flags).numpy()
    return finite


def is_finite(x: Any) -> bool:
    """Whether every number of ``x``, a tensor or a nest of them, is; integers are."""
    return bool(all_finite(tf.nest.flatten(x)).all())


@contextmanager
def unchanged(step: Step) -> Iterator[None]:
    """A forward pass moves BatchNormalization's statistics and Dropout's seeds; put them back after the block."""
    state = [*step.model.non_trainable_variables]
    before = [tf.identity(v.value) for v in state]
    try:
        yield
    finally:
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)


@contextmanager
def _overflowed(net: keras.Model) -> Iterator[list[str]]:
    """Paths of the layers of ``net`` that give something not finite within the block, in the order of their calls."""
    bad: list[str] = []

    def tell(layer: keras.Layer, _: Any, out: Any) -> None:
        if tf.executing_eagerly() and not all(is_finite(t) for t in keras.tree.flatten(out) if tf.is_tensor(t)):
            bad.append(layer_path(layer))

    with watched(net, tell):
        yield bad
