"""What a data set is once it is loaded: `Splits`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tfhalf.data.lazy import Array

Kind = Literal["classes", "numbers", "multi", "masks", "steps"]
Kinds = Kind | Mapping[str, Kind]
"""Of one output, or of several by their names."""
Ignore = int | None | Mapping[str, int | None]
"""The class of pixels or steps that do not count, of one output, or of several by their names."""
Values: TypeAlias = Any
"""An array, `Columns`, or `LazyImages`: which of them, the source and the kind of targets tell."""


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of one data set.

    ``x_*`` is an array [N, *input_shape], uint8 or the source's own integer or float dtype, in the source's own units;
    or texts, objects of str [N]; or `Columns` of these by the name of the input, whose ``input_shape`` is then (), as
    that of texts is. ``x_train`` may be encoded still (`LazyImages`). ``x_val`` may be empty.

    ``y_*`` by kind: ``classes`` int32 [N]; ``numbers`` and ``multi`` float32 [N, K]; ``masks`` int32 [N, H, W] and
    ``steps`` int32 [N, T], with -1 where a pixel or step does not count; or `Columns` of these by the output's name.
    Classes are 0..num_classes-1; where targets are not classes ``num_classes`` is 0 and ``class_names`` empty. Of
    ``multi`` they are the K labels.

    ``w_*`` are weights of items, float32 [N], or None where all count alike. ``source`` is the pipeline's text;
    ``unread`` are keys of its ``data`` section that this source gives no effect. ``targets`` are the names of the K
    columns of ``y``. ``vocabularies`` are the names of an input's categories, by code: 0, named '', is an empty cell
    and what the training part does not hold. ``columns`` are the names of an input's table columns (``numbers``, where
    ``x_*`` is one array). ``output_classes`` are class names by output, where there are several.
    """

    x_train: Values
    y_train: Values
    x_val: Values
    y_val: Values
    x_test: Values
    y_test: Values
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    source: str
    unread: tuple[str, ...] = ()
    w_train: Array | None = None
    w_val: Array | None = None
    w_test: Array | None = None
    targets: tuple[str, ...] = ()
    vocabularies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    output_classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of items of ``train``, ``validation`` and ``test``."""
        return {"train": len(self.x_train), "validation": len(self.x_val), "test": len(self.x_test)}
