"""Texts as a model's input: limits are held, and their words looked up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfhalf.artifacts.lookups import Lookup
from tfhalf.errors import RequestError
from tfhalf.serve.signature import Tensor

MAX_BYTES = 1 << 20
"""Of one text."""


def numbers(sent: Sequence[bytes], tensor: Tensor, lookup: Lookup) -> np.ndarray:
    """The numbers of the words of ``sent``, texts as UTF-8 [N], in the dtype of ``tensor`` [N, length].

    Raises:
        RequestError: 413, one is too long; 400, one is not UTF-8.
    """
    texts = []
    for index, content in enumerate(sent):
        if len(content) > MAX_BYTES:
            raise RequestError(
                413, f"input {tensor.name!r}: text {index} has {len(content):,} bytes; accepted: {MAX_BYTES:,}"
            )
        try:
            texts.append(bytes(content).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(
                400, f"input {tensor.name!r}: text {index} is not UTF-8 ({error.reason} at byte {error.start})"
            ) from None
    return lookup.encode(texts).astype(tensor.dtype, copy=False)
