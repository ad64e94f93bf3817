"""Lookahead: every few steps slow weights go a part of the way to the fast ones, which start again from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from tfhalf.config import Lookahead


def synchronize(
    fast: Sequence[Any], slow: Sequence[Any], applied: Any, total: int, config: Lookahead
) -> tuple[list[Any], list[Any]]:
    """What follows an optimizer's step (Zhang, Lucas, Hinton and Ba, arXiv:1907.08610, algorithm 1).

    ::

        if applied is a multiple of every:
            slow = slow + a * (fast - slow)
            fast = slow

    ``a = 1 - (1 - alpha) * (applied / total) ** power``: constant with power 0; otherwise it starts at 1, where the
    slow weights are the fast ones, and ends at alpha, as in Jordan, arXiv:2404.00498, section 3.4 (alpha 0.226, power
    3).

    Args:
        fast, slow: float32 arrays in the same order; ``fast`` as the step has left them.
        applied: int scalar, steps applied so far, this one included.
        total: steps that training has in all.

    Returns:
        New fast and new slow weights. Selected, not branched: one program whatever ``applied`` is.
    """
    part: Any = config.alpha
    if config.power:
        share = ops.minimum(ops.divide(ops.cast(applied, "float32"), total), 1.0)
        part = ops.subtract(1.0, ops.multiply(1.0 - config.alpha, ops.power(share, config.power)))
    due = ops.equal(ops.mod(applied, config.every), 0)
    met = [ops.add(s, ops.multiply(part, ops.subtract(f, s))) for f, s in zip(fast, slow, strict=True)]
    new_fast = [ops.where(due, m, f) for m, f in zip(met, fast, strict=True)]
    new_slow = [ops.where(due, m, s) for m, s in zip(met, slow, strict=True)]
    return new_fast, new_slow
