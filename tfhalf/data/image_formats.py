"""The image formats that training, `tfhalf predict` and `tfhalf serve` read: one list for all three."""

from __future__ import annotations

import struct
from pathlib import Path

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""As Pillow calls them. Of several frames or pages the first is read."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
WORDS = "PNG, JPEG, WebP, BMP, GIF and TIFF"
DEEP = ("I;16", "I;16L", "I;16B")
"""Pillow's modes of gray images of 16 bits."""
# What Pillow raises on bytes that are not an image, or on half of one.
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, IndexError)
DAMAGE += (struct.error, ArithmeticError, RuntimeError, AttributeError)


def is_image(path: Path) -> bool:
    """Whether a file has the suffix of an image, in capitals or not."""
    return path.suffix.lower() in SUFFIXES
