"""Edge rows: inputs at the ends of what a model may get, which are compared apart from usual ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TYPICAL = ("drawn", "given")
"""The kinds of rows that are inputs as a model usually gets them; every other kind is an edge row."""


def edge_mask(kinds: Sequence[str]) -> np.ndarray:
    """Which rows are edge rows; bool [N]."""
    return np.array([kind not in TYPICAL for kind in kinds], bool)


def edge_inputs(x: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Inputs at the ends of what ``x`` [N, ...] holds, in its dtype [M, ...], and of each its kind: zeros, a constant,
    the smallest and the largest value of each feature (the last axis; of grey images, of all)."""
    axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else (0,)
    low, high = x.min(axes).astype(np.float64), x.max(axes).astype(np.float64)
    common = low.max() <= high.min()
    bottom, top = (low.max(), high.min()) if common else (low, high)
    values = {
        "zeros": np.clip(0.0, low - (high - low), high + (high - low)),
        "constant": bottom + 0.75 * (top - bottom),
        "smallest": low,
        "largest": high,
    }
    rows: dict[bytes, tuple[str, np.ndarray]] = {}
    for kind, value in values.items():
        row = np.broadcast_to(value if x.dtype.kind == "f" else np.round(value), x.shape[1:]).astype(x.dtype)
        rows.setdefault(row.tobytes(), (kind, row))
    return np.stack([row for _, row in rows.values()]), tuple(kind for kind, _ in rows.values())
