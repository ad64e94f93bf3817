"""Encoded images as a model's input: limits are held before a pixel is decoded."""

from __future__ import annotations

import asyncio
import io
import time
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from tfhalf.data.image_formats import DAMAGE, FORMATS, WORDS
from tfhalf.data.resize import fitted
from tfhalf.errors import RequestError
from tfhalf.serve.reading.pool import Readers
from tfhalf.serve.signature import Tensor
from tfhalf.text import one_line

# A progressive JPEG may draw over the same pixels again and again, at a few bytes each time; encoders make some ten.
_JPEG, _SCAN, _MOST_SCANS = b"\xff\xd8", b"\xff\xda", 100


_LARGE = 1 << 19  # pixels, times the scans that draw them, or bytes: above it Python's lock would be held for long


async def decode(
    encoded: Sequence[bytes], tensor: Tensor, max_pixels: int, deadline: float, readers: Readers
) -> np.ndarray:
    """Image files as ``tensor``'s rows: upright, resized, values 0 to 255. Runs beside the event loop, for large
    ones in a process of ``readers``.

    Raises:
        RequestError: 400, the model takes no images or a file is none; 413, it has more than ``max_pixels``; 504, the
            ``deadline`` (`time.monotonic`) passes before all are decoded.
    """
    size = tensor.image
    if size is None:
        raise RequestError(400, f"input {tensor.name!r} has shape {tensor.open_shape}: no images of 1 or 3 channels")
    rows = np.empty((len(encoded), *size), tensor.dtype)
    files = iter(enumerate(encoded))
    while (
        large := await asyncio.to_thread(_decode_small, files, rows, tensor.center, max_pixels, deadline)
    ) is not None:
        rows[large] = await readers.read_huge("image", encoded[large], size, tensor.center, max_pixels)
    return rows


def _decode_small(
    files: Iterator[tuple[int, bytes]], rows: np.ndarray, center: float | None, max_pixels: int, deadline: float
) -> int | None:
    """Decode files into ``rows`` up to a large one, whose index is returned; None where all are done."""
    for index, file in files:
        if time.monotonic() > deadline:
            raise RequestError(504, f"the deadline passed when {index} of {len(rows)} images were decoded; send fewer")
        row = _decode(file, rows.shape[1:], center, max_pixels, _LARGE)
        if row is None:
            return index
        rows[index] = row
    return None


def decode_one(file: bytes, size: tuple[int, ...], center: float | None, max_pixels: int) -> np.ndarray:
    """One image as uint8 [H, W, C] of ``size``, with what ``center`` says is kept: what `tfhalf predict` feeds a model
    for the same file.

    Raises:
        RequestError: 400, it is not an image, or is damaged; 413, it has more than ``max_pixels``.
    """
    row = _decode(file, size, center, max_pixels, None)
    assert row is not None
    return row


def _decode(
    file: bytes, size: tuple[int, ...], center: float | None, max_pixels: int, large: int | None
) -> np.ndarray | None:
    """None where the image is larger than ``large``."""
    if large is not None and len(file) > large:
        return None
    file = bytes(file)
    scans = file.count(_SCAN) if file.startswith(_JPEG) else 0
    if scans > _MOST_SCANS:
        raise RequestError(413, f"an image is decoded in {scans} scans; accepted: {_MOST_SCANS}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is the server's own
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > max_pixels:
                    raise RequestError(
                        413, f"an image has {image.width} x {image.height} pixels; accepted: {max_pixels:,} in all"
                    )
                return None if large is not None and pixels * max(1, scans) > large else fitted(image, size, center)
    except RequestError:
        raise
    except Image.DecompressionBombError:
        raise RequestError(413, f"an image has too many pixels; accepted: {max_pixels:,} in all") from None
    except DAMAGE as error:
        why = one_line(error, 120)
        why = "not one" if isinstance(error, UnidentifiedImageError) else why
        raise RequestError(400, f"an image cannot be read as {WORDS.replace(' and ', ' or ')}: {why}") from None
