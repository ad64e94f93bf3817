"""Where a number was lost: the layer that a non-finite gradient or activation comes from."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfhalf.train.feed import Feed
from tfhalf.train.step import Step


def explain_non_finite(
    step: Step, feed: Feed, index: np.ndarray, epoch: int, number: int, size: int | None = None
) -> str:
    """Run one batch again without changing anything, and name the first layer with a non-finite gradient.

    "First" is counted from the loss backwards, the way a gradient travels: the layers before it inherit the fault.

    Args:
        index: int32 [batch_size], the batch's places in the training set.
        size: what images are scaled down to.
    """
    state = [*step.model.non_trainable_variables]
    before = [tf.identity(v.value) for v in state]
    loss, _, gradients = step.gradients(feed.batch(index), tf.constant(epoch), tf.constant(number), size)
    for variable, value in zip(state, before, strict=True):
        variable.assign(value)
    weights = [v.path for v in step.variables if not bool(tf.reduce_all(tf.math.is_finite(v.value)))]
    if weights:
        return f"the weight {weights[0]} itself is not finite"
    bad = [
        variable.path
        for variable, gradient in zip(step.variables, gradients, strict=True)
        if not bool(tf.reduce_all(tf.math.is_finite(gradient)))
    ]
    if not bad:
        return "run again on its own, that batch gives finite gradients"
    layer, _, name = bad[-1].rpartition("/")
    forward = "" if bool(tf.math.is_finite(loss)) else f", and the loss is {float(loss)}: the forward pass overflowed"
    return f"the first layer (from the loss) with one is {layer!r} ({name}; {len(bad)} of {len(gradients)}){forward}"
