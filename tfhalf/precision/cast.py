"""The float16 format: its limits, and a cast that says what it lost.

IEEE 754-2019 binary16: 1 sign, 5 exponent and 10 fraction bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EMIN, EMAX, SMALLEST = -14, 15, -24
"""Exponents: the smallest normal number is 2^-14, the largest number below 2^16, the smallest subnormal 2^-24."""
MAX = 65504.0
OVERFLOWS_FROM = 65520.0
"""The midpoint above the largest number: from there on rounding gives infinity."""
SMALLEST_NORMAL = 2.0**EMIN
SMALLEST_SUBNORMAL = 2.0**SMALLEST


@dataclass(frozen=True)
class CastCounts:
    """How many of ``total`` values a cast to float16 changed by more than rounding.

    ``clamped``: beyond 65504, set to it. ``flushed``: not zero before and zero after. ``subnormal``: kept with fewer
    than 11 significant bits.
    """

    total: int = 0
    clamped: int = 0
    flushed: int = 0
    subnormal: int = 0

    def __add__(self, other: CastCounts) -> CastCounts:
        return CastCounts(
            self.total + other.total,
            self.clamped + other.clamped,
            self.flushed + other.flushed,
            self.subnormal + other.subnormal,
        )


def cast(values: np.ndarray) -> tuple[np.ndarray, CastCounts]:
    """Round to nearest-even float16, clamped to [-65504, 65504], and count what was lost.

    Args:
        values: finite floats of any shape.

    Returns:
        float16 array of the same shape, and the counts.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    wide = np.asarray(values, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError(f"{int((~np.isfinite(wide)).sum())} of {wide.size} values are not finite")
    clamped = np.abs(wide) >= OVERFLOWS_FROM
    narrow = np.clip(wide, -MAX, MAX).astype(np.float16)
    size = np.abs(narrow.astype(np.float64))
    return narrow, CastCounts(
        total=wide.size,
        clamped=int(clamped.sum()),
        flushed=int(((size == 0) & (wide != 0)).sum()),
        subnormal=int(((size > 0) & (size < SMALLEST_NORMAL)).sum()),
    )
