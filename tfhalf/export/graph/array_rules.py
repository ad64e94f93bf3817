"""Rules of `decompose` for rows and matrices as such: where numbers stand, how many there are, which is which."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.errors import ExportError
from tfhalf.export.graph.decompose import DOUBLE, FLOAT, Operator, wide
from tfhalf.export.graph.frozen import KEYS, VALUES

_LONGEST = 1024
"""Numbers in a row beyond which a product over all pairs of them is refused."""
_WIDEST = 2**20
"""How far the keys of a table may lie apart where all between them are written too."""


def ensured(operator: Operator, x: Any) -> Any:
    """A shape that is only told."""
    answer = tf.identity(x)
    answer.set_shape(tf.TensorShape(operator.attribute("shape").shape))
    return answer


def in_float64(operator: Operator, *inputs: Any) -> list[Any] | None:
    """What is computed in float64: of sizes and constants now, as `keras.ops.quantile` may, else in float32."""
    values = [_static(x) for x in inputs]
    if not inputs:
        return None
    if any(value is None for value in values):
        narrow = [tf.cast(x, tf.float32) if x.dtype == tf.float64 else x for x in inputs]
        return operator.again(narrow, instead={DOUBLE: FLOAT})
    with tf.Graph().as_default():
        answers = operator.again([tf.constant(value) for value in values])
        with tf.compat.v1.Session() as session:
            numbers = session.run(answers)
    return [tf.constant(number) for number in numbers]


def _static(x: Any) -> np.ndarray | None:
    """What a tensor is, where it is constant, or the size of an axis."""
    value = tf.get_static_value(x)
    if value is not None or x.dtype != tf.int32 or x.shape.rank != 0:
        return None if value is None else np.asarray(value)
    (size,) = tf.zeros(x[None]).shape
    return None if size is None else np.array(size, np.int32)


# --- rows -------------------------------------------------------------------------------------------------------------


def cumprod(operator: Operator, x: Any, axis: Any) -> Any:
    """Cumulative products as products over all that comes before: a row of n takes n * n numbers."""
    position = int(tf.get_static_value(axis)) % len(x.shape)
    size = x.shape[position]
    if size is None or size > _LONGEST:
        length = "an open number" if size is None else f"{size:,}"
        raise ExportError(f"Cumprod over {length} of numbers; {_LONGEST:,} and fewer can be")
    exclusive, reverse = operator.attribute("exclusive").b, operator.attribute("reverse").b
    before = np.tril(np.ones((size, size), bool), -1 if exclusive else 0)
    before = before.T if reverse else before
    order = [k for k in range(len(x.shape)) if k != position] + [position]
    rows = tf.transpose(wide(x), order)[..., None, :]
    answer = tf.reduce_prod(tf.where(before, rows, np.float32(1)), -1)
    return tf.cast(tf.transpose(answer, np.argsort(order)), x.dtype)


def lower_bound(operator: Operator, ordered: Any, values: Any) -> Any:
    """How many numbers of an ordered row are below each value: all are compared."""
    below = tf.less(tf.expand_dims(wide(ordered), 1), tf.expand_dims(wide(values), 2))
    return tf.reduce_sum(tf.cast(below, operator.attribute("out_type").type), -1)


def upper_bound(operator: Operator, ordered: Any, values: Any) -> Any:
    """How many numbers of an ordered row are not above each value."""
    below = tf.less_equal(tf.expand_dims(wide(ordered), 1), tf.expand_dims(wide(values), 2))
    return tf.reduce_sum(tf.cast(below, operator.attribute("out_type").type), -1)


def in_top_k(operator: Operator, scores: Any, targets: Any, k: Any) -> Any:
    """Whether fewer than ``k`` scores are above that of the target."""
    hit = tf.equal(tf.range(tf.shape(scores)[1], dtype=targets.dtype)[None], targets[:, None])
    mine = tf.reduce_sum(tf.where(hit, wide(scores), np.float32(0)), -1, keepdims=True)
    above = tf.reduce_sum(tf.cast(tf.greater(wide(scores), mine), tf.int32), -1)
    return tf.less(above, tf.cast(k, tf.int32))


def one_hot(operator: Operator, indices: Any, depth: Any, hot: Any, cold: Any) -> Any:
    """One-hot vectors in float32, and cast. An index below 0 gives nothing but ``cold``; ONNX would count from the
    end."""
    if indices.op.type not in ("ArgMax", "ArgMin"):
        indices = tf.where(indices < 0, tf.cast(depth, indices.dtype), indices)
    elif hot.dtype == tf.float32:
        return None
    values = tf.cast(hot, tf.float32), tf.cast(cold, tf.float32)
    return tf.cast(tf.one_hot(indices, depth, *values, axis=operator.attribute("axis").i), hot.dtype)


def broadcast_shape(operator: Operator, first: Any, second: Any) -> Any:
    """The shape that two shapes have together."""
    length = max(first.shape[0], second.shape[0])
    one, two = (tf.pad(x, [[length - x.shape[0], 0]], constant_values=1) for x in (first, second))
    return tf.where(tf.equal(one, 1), two, one)


def roll(operator: Operator, x: Any, shift: Any, axis: Any) -> Any:
    """Each axis cut in two, and put together the other way round."""
    axes = tf.get_static_value(axis)
    if axes is None:
        return None
    shifts = tf.reshape(shift, [-1])
    for k, position in enumerate((np.reshape(axes, -1) % len(x.shape)).tolist()):
        size = tf.shape(x)[position] if x.shape[position] is None else x.shape[position]
        cut = tf.math.floormod(-tf.cast(shifts[k], tf.int32), size)
        front, back = (
            tf.slice(x, _along(len(x.shape), position, start, 0), _along(len(x.shape), position, length, -1))
            for start, length in ((0, cut), (cut, -1))
        )
        shape = x.shape
        x = tf.concat([back, front], position)
        x.set_shape(shape)
    return x


def _along(rank: int, axis: int, value: Any, others: int) -> Any:
    return tf.stack([value if k == axis else others for k in range(rank)])


def look_up(operator: Operator, x: Any, default: Any) -> Any:
    """The values that a table of integers, as `frozen` writes it, has for ``x``: where the keys lie close together by
    their index, else by a comparison with each."""
    keys, values = (tf.make_ndarray(operator.attribute(name).tensor) for name in (KEYS, VALUES))
    if keys.dtype.kind not in "iu":
        raise ExportError("a table of words; give numbers (the layers after the vocabulary)")
    low, high = int(keys.min(initial=0)), int(keys.max(initial=0))
    if high - low < _WIDEST:
        whole, held = np.full(high - low + 1, low - 1, keys.dtype), np.zeros(high - low + 1, values.dtype)
        whole[keys - low], held[keys - low] = keys, values
        index = tf.clip_by_value(x, low, high) - low
        return tf.where(tf.equal(tf.gather(whole, index), x), tf.gather(held, index), default)
    if len(keys) > _LONGEST:
        raise ExportError(f"a table of {len(keys):,} integers from {low} to {high}; {_LONGEST:,} and fewer can be")
    hits = tf.equal(x[..., None], keys)
    answer = tf.reduce_sum(tf.where(hits, values, tf.zeros([], values.dtype)), -1)
    return tf.where(tf.reduce_any(hits, -1), answer, default)


def bincount(operator: Operator, x: Any, size: Any, weights: Any) -> Any:
    """How often each number from 0 up to ``size`` stands in a row, or the sum of its weights there."""
    hits = tf.cast(tf.equal(x[..., None], tf.range(tf.cast(size, x.dtype), dtype=x.dtype)), weights.dtype)
    if operator.attribute("binary_output").b:
        return tf.reduce_max(hits, -2)
    weighted = hits if weights.shape.num_elements() == 0 else hits * weights[..., None]
    return tf.reduce_sum(weighted, -2)


def cross_product(x: Any, y: Any) -> Any:
    """Of vectors of three numbers in the last axis."""
    (a, b, c), (d, e, f) = (tf.unstack(v, 3, axis=-1) for v in (x, y))
    return tf.stack([b * f - c * e, c * d - a * f, a * e - b * d], -1)


def sparse_cross_entropy(operator: Operator, logits: Any, labels: Any) -> list[Any]:
    """The loss of each row, and its derivative."""
    logs = tf.nn.log_softmax(wide(logits))
    hit = tf.one_hot(labels, tf.shape(logits)[1], dtype=tf.float32)
    loss = -tf.reduce_sum(tf.where(hit > 0, logs, tf.zeros_like(logs)), -1)
    return [tf.cast(y, logits.dtype) for y in (loss, tf.exp(logs) - hit)]


def ctc_greedy(operator: Operator, x: Any, lengths: Any) -> list[Any]:
    """The likeliest class of each step, without blanks and, where the operator says so, repetitions.

    Args:
        x: [time, batch, classes].

    Returns:
        Of a sparse tensor of classes [batch, longest] the places, values and shape; then minus the sum of what the
        steps' classes have in ``x``.
    """
    classes, steps = x.shape[-1], tf.shape(x)[0]
    blank = operator.attribute("blank_index").i
    within = tf.range(steps)[:, None] < tf.cast(lengths, tf.int32)
    best = tf.argmax(x, -1)
    chosen = tf.not_equal(best, blank % classes if blank < 0 else blank)
    if operator.attribute("merge_repeated").b:
        before = tf.concat([-tf.ones_like(best[:1]), best[:-1]], 0)
        chosen = tf.logical_and(chosen, tf.not_equal(best, before))
    rows = tf.transpose(tf.logical_and(chosen, within))
    counts = tf.cumsum(tf.cast(rows, tf.int32), -1)
    entries = tf.where(rows)
    places = tf.stack([entries[:, 0], tf.cast(tf.gather_nd(counts, entries), tf.int64) - 1], -1)
    longest = tf.reduce_max(tf.concat([tf.reshape(counts, [-1]), [0]], 0))
    shape = tf.cast(tf.stack([tf.shape(x)[1], longest]), tf.int64)
    score = tf.reduce_sum(tf.where(within, tf.reduce_max(x, -1), tf.zeros([], x.dtype)), 0)
    return [places, tf.gather_nd(tf.transpose(best), entries), shape, -score[:, None]]


# --- matrices ---------------------------------------------------------------------------------------------------------


def diagonal_part(operator: Operator, x: Any, k: Any, padding: Any) -> Any:
    """One diagonal of each matrix: sums over what is zero beside it."""
    offset = _offset(k)
    if offset is None or x.dtype == tf.bool:
        return None
    on = _on_diagonal(x, offset)
    line = tf.reduce_sum(tf.where(on, x, tf.zeros([], x.dtype)), -1 if offset >= 0 else -2)
    rows, columns = tf.shape(x)[-2], tf.shape(x)[-1]
    return line[..., : tf.minimum(rows + min(offset, 0), columns - max(offset, 0))]


def set_diagonal(operator: Operator, x: Any, diagonal: Any, k: Any) -> Any:
    """One diagonal of each matrix replaced."""
    offset = _offset(k)
    if offset is None:
        return None
    side = -2 if offset >= 0 else -1
    length = tf.shape(x)[side] - tf.shape(diagonal)[-1]
    filled = tf.pad(tf.cast(diagonal, tf.int32) if x.dtype == tf.bool else diagonal,
                    [[0, 0]] * (len(diagonal.shape) - 1) + [[0, length]])  # fmt: skip
    filled = tf.cast(filled, x.dtype)
    return tf.where(_on_diagonal(x, offset), tf.expand_dims(filled, -1 if offset >= 0 else -2), x)


def _offset(k: Any) -> int | None:
    """The diagonal that is meant; None for a band of them."""
    value = tf.get_static_value(k)
    entries = np.reshape(value, -1) if value is not None else np.zeros(0)
    return int(entries[0]) if len(set(entries.tolist())) == 1 else None


def _on_diagonal(x: Any, offset: int) -> Any:
    rows, columns = (tf.range(tf.shape(x)[side]) for side in (-2, -1))
    return tf.equal(rows[:, None] + offset, columns[None])


# --- windows ----------------------------------------------------------------------------------------------------------


def pool_3d(pool: Any) -> Any:
    """Of volumes [N, D, H, W, C]: over height and width, then over depth; means of means have as many values each."""

    def rule(operator: Operator, x: Any) -> Any:
        if operator.attribute("data_format").s not in (b"", b"NDHWC") or None in x.shape[1:]:
            return None
        size, steps = (list(operator.attribute(key).list.i)[1:4] for key in ("ksize", "strides"))
        padding = operator.attribute("padding").s.decode()
        depth, height, width, channels = x.shape[1:]
        flat = pool(tf.reshape(x, [-1, height, width, channels]), size[1:], steps[1:], padding)
        height, width = flat.shape[1:3]
        deep = tf.reshape(flat, [-1, depth, height * width, channels])
        answer = pool(deep, [size[0], 1], [steps[0], 1], padding)
        return tf.reshape(answer, [-1, answer.shape[1], height, width, channels])

    return rule
