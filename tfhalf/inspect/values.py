"""Looking at stored values: how many of a file's float16 values are subnormal, infinite or NaN, and which tensors are
equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tfhalf.files import open_regular
from tfhalf.inspect.facts import Values

CHUNK = 1 << 22
LOOK_AT_MOST = 4 << 30  # bytes: some seconds; what is beyond is told as not looked at


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
    """Whether all values of ``width`` bytes are one value, as in fresh biases: equal ones are no copies."""
    return block == block[:width] * (len(block) // max(1, width))
