"""What a JPEG's first bytes say: its size, and whether a fast decoder gives the pixels that Pillow gives.

The format is ITU-T T.81 (annex B), with the markers of JFIF (T.871), Adobe and Exif (CIPA DC-008).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a segment
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_JFIF, _EXIF, _ADOBE = 0xE0, 0xE1, 0xEE
_ORIENTATION = 0x0112
_UPRIGHT = 1


class Jpeg(NamedTuple):
    """``channels`` are 1 or 3 where ``plain``: 8 bits, gray or YCbCr, Huffman-coded, upright by Exif and XMP."""

    height: int
    width: int
    channels: int
    plain: bool
    progressive: bool = False


def jpeg(data: bytes) -> Jpeg | None:
    """The header of a JPEG, without a look at its image; None where the bytes are not one, or not in order."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    position, size, upright, transform = 2, len(data), None, None
    jfif = False
    while position + 4 <= size:
        if data[position] != 0xFF:
            return None
        kind = data[position + 1]
        if kind == 0xFF:  # fill
            position += 1
            continue
        if kind in _ALONE:
            position += 2
            continue
        if kind in (_START, _END, _SCAN):
            return None
        length = data[position + 2] << 8 | data[position + 3]
        start, end = position + 4, position + 2 + length
        if length < 2 or end > size:
            return None
        if kind in _FRAMES:
            return _frame(data, start, end, kind, upright is not False, jfif, transform)
        if kind == _JFIF and data[start : start + 5] == b"JFIF\0":
            jfif = True
        elif kind == _EXIF:
            # Two of them are joined, or contradict each other: that is for Pillow to decide.
            upright = upright is None and _upright(data[start:end])
        elif kind == _ADOBE and data[start : start + 5] == b"Adobe" and end - start >= 12:
            transform = data[start + 11]
        position = end
    return None


def _frame(
    data: bytes, start: int, end: int, kind: int, upright: bool, jfif: bool, transform: int | None
) -> Jpeg | None:
    """Of the frame header, T.81 B.2.2."""
    if end - start < 6:
        return None
    bits, height, width, channels = struct.unpack_from(">BHHB", data, start)
    if end - start != 6 + 3 * channels or not channels:
        return None
    plain = kind in _HUFFMAN and bits == 8 and upright and height > 0 and width > 0
    if channels == 3:
        # libjpeg's guess of the colours, where nothing says them.
        ids = (data[start + 6], data[start + 9], data[start + 12])
        plain &= jfif or (transform == 1 if transform is not None else ids in ((1, 2, 3), (0, 1, 2)))
    else:
        plain &= channels == 1
    return Jpeg(height, width, channels, plain, kind == 0xC2)


def _upright(segment: bytes) -> bool:
    """Whether an Exif or XMP segment says for certain that the image is not to be turned."""
    if segment[:6] != b"Exif\0\0":
        return b"rientation" not in segment
    tiff = segment[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return False
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    if first + 2 > len(tiff):
        return False
    (entries,) = struct.unpack_from(order + "H", tiff, first)
    if first + 2 + 12 * entries > len(tiff):
        return False
    for entry in range(first + 2, first + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
        if tag == _ORIENTATION:
            return bool((kind, count) == (3, 1) and struct.unpack_from(order + "H", tiff, entry + 8)[0] == _UPRIGHT)
    return True
