"""Plain JPEGs by libjpeg-turbo, without Python's lock: the pixels that Pillow gives, by the same library in it.

simplejpeg (MIT; wheels for Linux, macOS and Windows, Python 3.9 to 3.14) is a thin layer over libjpeg-turbo's own API,
which decodes into an array of ours and scales by the DCT. Pillow holds the lock while it decodes, and makes two copies.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tfhalf.data.decode import Array
from tfhalf.data.decode.header import Jpeg

EIGHTHS = 8
"""libjpeg scales by so many eighths while it decodes (T. Lane, libjpeg.txt, "Scaled decoding")."""


@lru_cache(maxsize=1)
def library() -> Any:
    """simplejpeg, or None where it is not installed, or Pillow has another library than libjpeg-turbo."""
    from PIL import features

    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg if features.check_feature("libjpeg_turbo") else None


def decode(
    data: bytes, header: Jpeg, channels: int, eighths: int = EIGHTHS, buffer: Array | None = None
) -> Array | None:
    """A plain JPEG as uint8 [h, w, channels], where h and w are ``eighths`` / 8 of the image's, rounded up.

    Args:
        buffer: uint8, contiguous and large enough, at whose beginning the image comes to lie where it has ``channels``.

    Returns:
        None where the library gives none: Pillow is to decode it, or to say what is wrong.
    """
    decoder = library()
    if decoder is None or not header.plain or header.channels > channels:
        return None
    height, width = scaled(header.height, eighths), scaled(header.width, eighths)
    more: dict[str, Any] = {} if eighths == EIGHTHS else {"min_height": height, "min_width": width}
    if buffer is not None and header.channels == channels:
        more["buffer"] = buffer
    try:
        image: Array = decoder.decode_jpeg(data, "GRAY" if header.channels == 1 else "RGB", **more)
    except (ValueError, RuntimeError):
        return None
    if image.shape[:2] != (height, width):
        return None
    return image if image.shape[2] == channels else np.broadcast_to(image, (height, width, channels))


def scaled(side: int, eighths: int) -> int:
    """``side`` at ``eighths`` / 8, as libjpeg rounds it."""
    return -(-side * eighths // EIGHTHS)


def largest(height: int, width: int, sides: tuple[int, int]) -> int | None:
    """The most eighths, up to 8, of which ``height`` and ``width`` fit into ``sides``; None where not even one does."""
    for eighths in range(EIGHTHS, 0, -1):
        if scaled(height, eighths) <= sides[0] and scaled(width, eighths) <= sides[1]:
            return eighths
    return None
