"""``sklearn:digits``: 1797 handwritten digits that ship with scikit-learn, no download."""

from __future__ import annotations

import numpy as np

from tfhalf.data.check import Arrays
from tfhalf.errors import DataError


def read(name: str, source: str) -> Arrays:
    """x [1797, 8, 8, 1] uint8, y 0..9, no test set of its own.

    The 17 levels 0..16 of the set are stretched to 0..255, so that pictures in the usual range can be predicted.

    Raises:
        DataError: another name than ``digits``.
    """
    if name != "digits":
        raise DataError(f"{source}: {name!r} is not offered; accepted: sklearn:digits; correct data.source")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Arrays(
        np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None],
        digits.target.astype(np.int32),
        class_names=tuple(str(name) for name in digits.target_names),
    )
