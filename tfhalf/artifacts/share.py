"""How much of an artifact is float32 after all: reported where it is most of it, refused where it is everything."""

from __future__ import annotations

from collections.abc import Mapping

from tfhalf.artifacts.record import Parameters
from tfhalf.errors import ExportError

MOSTLY = 0.5

Counts = Mapping[str, Parameters]
"""Parameters by dtype."""


def float32_share(parameters: Counts) -> float:
    """Of the floating-point parameters, the share that is float32 or float64; 0 where there are none."""
    half, wide = _counts(parameters)
    return wide / (half + wide) if half + wide else 0.0


def share_lines(parameters: Counts) -> list[str]:
    """What is to be said of an artifact that is mostly float32; nothing of others."""
    half, wide = _counts(parameters)
    share = float32_share(parameters)
    if share <= MOSTLY:
        return []
    return [f"mostly float32: {share:.1%} of the parameters ({wide:,} of {half + wide:,}) are not float16"]


def check_some_float16(parameters: Counts) -> None:
    """Refuse what has parameters, and none in float16.

    Raises:
        ExportError: it says what allows it.
    """
    half, wide = _counts(parameters)
    if wide and not half:
        raise ExportError(
            f"none of the {wide:,} parameters would be float16: every layer that has some is kept in float32, as told "
            "above; change the model or the inputs accordingly, or publish it so with --allow-float32"
        )


def _counts(parameters: Counts) -> tuple[int, int]:
    """How many are in half precision, and how many in float32 or wider."""
    counts = {dtype: row.count for dtype, row in parameters.items()}
    return tuple(sum(counts.get(d, 0) for d in dtypes) for dtypes in _KINDS)  # type: ignore[return-value]


_KINDS = (("float16", "bfloat16"), ("float32", "float64"))
