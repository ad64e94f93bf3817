"""Looking at stored values: how many of a file's float16 values are subnormal, infinite or NaN, which tensors are
equal, and which constants float16 does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tfhalf.files import open_regular
from tfhalf.inspect.facts import Extreme, Values

CHUNK = 1 << 22
LOOK_AT_MOST = 4 << 30  # bytes: some seconds; what is beyond is reported as not looked at

FEW = 4096
"""Values of a tensor that may be a constant, and is looked at for what float16 makes of it."""
_KINDS = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
_ZERO_UP_TO, _NORMAL_FROM, _INFINITE_FROM = 2.0**-25, 2.0**-14, 65520.0


def extreme(dtype: str, data: bytes) -> Extreme | None:
    """What float16 makes of a tensor of at most `FEW` values, little-endian in ``data``: 0 where all that is not 0
    falls to it, infinite where any value is beyond it. What is 0, infinite or NaN in a wider type is so by intent; a
    float16 tensor says what it is itself, 0 and subnormal as a scalar alone."""
    kind = _KINDS.get(dtype)
    if kind is None or not 0 < len(data) <= FEW * np.dtype(kind).itemsize:
        return None
    values = np.frombuffer(data, kind).astype(np.float64)
    sizes = np.abs(values)
    half, largest = dtype == "float16", float(values[np.nan_to_num(sizes, nan=np.inf).argmax()])
    if half and not np.isfinite(largest):
        return Extreme(largest, "NaN" if np.isnan(largest) else "infinite")
    if not np.isfinite(sizes).all():
        return None
    if not half:
        if abs(largest) >= _INFINITE_FROM:
            return Extreme(largest, "infinite")
        return Extreme(largest, "0") if 0 < abs(largest) <= _ZERO_UP_TO else None
    if values.size > 1 or abs(largest) >= _NORMAL_FROM:
        return None
    return Extreme(largest, "subnormal" if largest else "0")


def count(values: Values, blocks: Iterable[bytes]) -> None:
    """Add little-endian float16 ``blocks``, each of an even number of bytes, to ``values``."""
    for bits in (np.frombuffer(block[i : i + CHUNK], "<u2") for block in blocks for i in range(0, len(block), CHUNK)):
        exponent, fraction = bits & 0x7C00, bits & 0x03FF
        values.checked += bits.size
        values.subnormal += int(np.count_nonzero((exponent == 0) & (fraction != 0)))
        values.infinite += int(np.count_nonzero((exponent == 0x7C00) & (fraction == 0)))
        values.nan += int(np.count_nonzero((exponent == 0x7C00) & (fraction != 0)))


def read(path: Path, offset: int, length: int) -> Iterator[bytes]:
    """Blocks of ``length`` bytes of a file from ``offset`` on; fewer where it ends before."""
    with open_regular(path) as file:
        file.seek(offset)
        while length > 0 and (block := file.read(min(CHUNK, length))):
            length -= len(block)
            yield block


def is_constant(block: bytes, width: int) -> bool:
    """Whether all values of ``width`` bytes are one value, as in fresh biases: equal ones are not copies."""
    return block == block[:width] * (len(block) // max(1, width))
