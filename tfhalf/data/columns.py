"""Several arrays over the same items, by name: the inputs of a model that takes more than one, or its targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from tfhalf.data.lazy import Array


class Columns:
    """Arrays [N, ...] by name, in an order; an index takes rows of all of them, as of one array.

    Args:
        arrays: at least one, all of the same length.

    Raises:
        ValueError: there are none, or their lengths differ.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns need one length, received {lengths or 'none'}")
        self.arrays: dict[str, Array] = dict(arrays)

    def __len__(self) -> int:
        """N, the number of items."""
        return len(next(iter(self.arrays.values())))

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.arrays)

    def __getitem__(self, index: Any) -> Columns:
        """The rows of a slice or an index array."""
        return Columns({name: array[index] for name, array in self.arrays.items()})

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def map(self, change: Callable[[Array], Array]) -> Columns:
        """With ``change`` made to each array."""
        return Columns({name: change(array) for name, array in self.arrays.items()})


def by_name(x: Array | Columns, name: str) -> dict[str, Array]:
    """``x`` as arrays by name; one array has ``name``."""
    return dict(x.arrays) if isinstance(x, Columns) else {name: np.asarray(x)}
