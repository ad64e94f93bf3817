"""What a data set is once it is loaded: `Splits`."""

from __future__ import annotations

from dataclasses import dataclass

from tfhalf.data.lazy import Array, LazyImages


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of one data set.

    ``x_*`` has shape [N, *input_shape], uint8 or the source's own integer or float dtype, in the source's own units;
    ``y_*`` has shape [N], int32, values 0..num_classes-1. ``x_val`` may be empty. ``x_train`` may be encoded still.
    ``source`` is the pipeline's text; ``unread`` are keys of its ``data`` section that this source gives no effect.
    """

    x_train: Array | LazyImages
    y_train: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    source: str
    unread: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of items of ``train``, ``validation`` and ``test``."""
        return {"train": len(self.x_train), "validation": len(self.x_val), "test": len(self.x_test)}
