"""Edge rows: inputs at the ends of what a model may get, which are compared apart from usual ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

TYPICAL = ("drawn", "given")
"""The kinds of rows that are inputs as a model usually gets them; every other kind is an edge row."""


def edge_mask(kinds: Sequence[str]) -> np.ndarray:
    """Which rows are edge rows; bool [N]."""
    return np.array([kind not in TYPICAL for kind in kinds], bool)


def edge_inputs(x: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Inputs at the ends of what ``x`` [N, ...] holds, in its dtype [M, ...], and of each its kind: zeros, a constant,
    the smallest and the largest value of each feature (the last axis; of grey images, of all)."""
    rows: dict[bytes, tuple[str, np.ndarray]] = {}
    for kind, row in _edge_rows(x).items():
        rows.setdefault(row.tobytes(), (kind, row))
    return np.stack([row for _, row in rows.values()]), tuple(kind for kind, _ in rows.values())


def edges_by_name(
    inputs: Mapping[str, np.ndarray], texts: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """`edge_inputs` of several inputs by name: all of them at the same end at a time. Those that ``texts`` names are
    numbers of words: nothing but padding, nothing but unknown words, and as many words as there can be."""
    if len(inputs) == 1:
        ((name, x),) = inputs.items()
        if name in texts:
            row_of = _text_rows(x)
            return {name: np.stack([row_of[kind] for kind in _TEXT_KINDS])}, _TEXT_KINDS
        rows, kinds = edge_inputs(x)
        return {name: rows}, kinds
    each = {name: _text_rows(x) if name in texts else _edge_rows(x) for name, x in inputs.items()}
    kinds = _KINDS
    return {name: np.stack([rows[kind] for kind in kinds]) for name, rows in each.items()}, kinds


_KINDS = ("zeros", "constant", "smallest", "largest")
_TEXT_KINDS = ("all padding", "all unknown", "full length")


def _text_rows(x: np.ndarray) -> dict[str, np.ndarray]:
    """By kind, those of `_edge_rows` among them, a row of numbers of words: 0 is padding, 1 an unknown word. Of ``x``,
    int32 [N, length], the text with the most words is repeated until it is full."""
    longest = x[np.argmax((x != 0).sum(1))]
    words = longest[longest != 0] if longest.any() else np.ones(1, x.dtype)
    padding, unknown, full = np.zeros_like(longest), np.ones_like(longest), np.resize(words, longest.shape)
    return {
        **dict(zip(_TEXT_KINDS, (padding, unknown, full), strict=True)),
        **dict(zip(_KINDS, (padding, unknown, padding, full), strict=True)),
    }


def _edge_rows(x: np.ndarray) -> dict[str, np.ndarray]:
    """By kind a row of the shape and dtype of those of ``x``; NaN, an unknown value, is left out of the ends."""
    if x.dtype.kind == "f" and np.isnan(x).any():
        x = np.where(np.isnan(x), np.nanmean(x.reshape(-1, x.shape[-1]), 0), x).astype(x.dtype)
    # Over items first, which runs along the memory: a hundred times faster than over all axes but the last at once.
    axes = tuple(range(x.ndim - 2)) if x.ndim > 1 else ()
    low, high = (np.asarray(end.min(axes) if first else end.max(axes), np.float64)
                 for first, end in ((True, x.min(0)), (False, x.max(0))))  # fmt: skip
    common = low.max() <= high.min()
    bottom, top = (low.max(), high.min()) if common else (low, high)
    zeros, constant = np.clip(0.0, low - (high - low), high + (high - low)), bottom + 0.75 * (top - bottom)
    values = dict(zip(_KINDS, (zeros, constant, low, high), strict=True))
    return {
        kind: np.broadcast_to(value if x.dtype.kind == "f" else np.round(value), x.shape[1:]).astype(x.dtype)
        for kind, value in values.items()
    }
