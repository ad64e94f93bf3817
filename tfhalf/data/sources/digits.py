"""``sklearn:digits``: 1797 handwritten digits that ship with scikit-learn, no download."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tfhalf.data.check import Arrays
from tfhalf.errors import DataError

_FILE = "datasets/data/digits.csv.gz"


def read(name: str, source: str) -> Arrays:
    """x [1797, 8, 8, 1] uint8, y [1797] int32 0..9, no test set of its own.

    The 17 levels 0..16 of the set are stretched to 0..255, so that pictures in the usual range can be predicted.

    Raises:
        DataError: another name than ``digits``.
    """
    if name != "digits":
        raise DataError(f"{source}: {name!r} is not offered; accepted: sklearn:digits; correct data.source")
    pixels, digits = _arrays()
    return Arrays(
        np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8),
        digits.astype(np.int32),
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """Pixels [1797, 64] and digits [1797], float64."""
    # Not through sklearn.datasets where it need not be: importing that takes a hundred times as long as its file.
    spec = find_spec("sklearn")
    files = [Path(folder, _FILE) for folder in (spec.submodule_search_locations or ())] if spec else []
    file = next((file for file in files if file.is_file()), None)
    if file is None:  # a release that keeps it elsewhere
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)  # type: ignore[no-any-return]
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = np.loadtxt(lines, delimiter=",")
    return rows[:, :-1], rows[:, -1]
