"""What a data set is once it is loaded: `Splits`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from tfhalf import config
from tfhalf.data.columns import Columns
from tfhalf.data.lazy import Array

Kind = Literal["classes", "numbers", "multi", "masks", "steps"]
Kinds: TypeAlias = Kind | Mapping[str, Kind]
"""Of one output, or by the names of several."""
Ignore: TypeAlias = int | Mapping[str, int | None] | None
"""The class of pixels or steps that do not count, of one output, or of several by their names."""
Values: TypeAlias = Any
"""An array, `Columns`, or `LazyImages`: which of them, the source and the kind of targets tell."""


@dataclass(frozen=True)
class TextInput:
    """How an input of texts became numbers: ``length`` words of each text, of which ``cut`` of ``training`` texts have
    more, ``longest`` the most. ``unknown``: the share of the test part's words that the vocabulary does not hold.
    ``settings``: the pipeline's, by which texts are cut into words. ``samples``: a few texts of the test part."""

    length: int
    training: int
    cut: int
    longest: int
    unknown: float
    settings: config.Text
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts of one data set.

    ``x_*`` is an array [N, *input_shape], uint8 or the source's own integer or float dtype, in the source's own units;
    or texts, as the numbers of their words, int32 [N, length]; or `Columns` of these by the name of the input, whose
    ``input_shape`` is then (). ``x_train`` may be encoded still (`LazyImages`). ``x_val`` may be empty.

    ``y_*`` by kind: ``classes`` int32 [N]; ``numbers`` and ``multi`` float32 [N, K]; ``masks`` int32 [N, H, W] and
    ``steps`` int32 [N, T], with -1 where a pixel or step does not count; or `Columns` of these by the output's name.
    Classes are 0..num_classes-1; where targets are not classes ``num_classes`` is 0 and ``class_names`` empty. Of
    ``multi`` they are the K labels.

    ``w_*`` are weights of items, float32 [N], or None where all count alike. ``source`` is the pipeline's text;
    ``unread`` are keys of its ``data`` section that this source gives no effect. ``targets`` are the names of the K
    columns of ``y``. ``vocabularies`` are the names of an input's categories, by code: 0, named '', is an empty cell
    and what the training part does not hold; of an input of texts, which ``texts`` are about, its words: '' fills up
    short texts, '[UNK]' stands for unknown words. ``columns`` are the names of an input's table columns (``numbers``,
    where ``x_*`` is one array). ``output_classes`` are class names by output, where there are several.
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
    texts: Mapping[str, TextInput] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of items of ``train``, ``validation`` and ``test``."""
        return {"train": len(self.x_train), "validation": len(self.x_val), "test": len(self.x_test)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each input the shape of an item. One array is called ``image``, ``text`` or ``x``, or
        as the table's column."""
        if isinstance(self.x_train, Columns):
            return {name: x.shape[1:] for name, x in self.x_train.arrays.items()}
        one = "image" if len(self.input_shape) == 3 else "x"
        return {next(iter((*self.texts, *self.columns)), one): self.input_shape}

    @property
    def dtypes(self) -> dict[str, str]:
        """``int32`` of texts, and of each of several inputs that holds whole numbers which stay as they are."""
        if not isinstance(self.x_train, Columns):
            return dict.fromkeys(self.texts, "int32")
        return {name: "int32" for name, x in self.x_train.arrays.items() if x.dtype.kind in "iu" and x.ndim <= 2}

    @property
    def has_images(self) -> bool:
        """Whether inputs are one array of images [N, H, W, C]."""
        return not isinstance(self.x_train, Columns) and self.x_train.ndim == 4

    @property
    def noun(self) -> str:
        """What an item is called, many of them: ``images``, ``texts`` (of one input alone), ``rows`` of a table, or
        ``items``."""
        if self.has_images:
            return "images"
        if self.texts and not isinstance(self.x_train, Columns):
            return "texts"
        return "rows" if self.columns else "items"

    def training_rows(self, index: Any) -> Splits:
        """With the training items of a slice or an index array alone."""
        w = None if self.w_train is None else self.w_train[index]
        return replace(self, x_train=self.x_train[index], y_train=self.y_train[index], w_train=w)

    def head(self, train: int, rest: int) -> Splits:
        """With the first ``train`` training items, and the first ``rest`` of the other parts."""
        few = self.training_rows(slice(train))
        parts = ("x_val", "y_val", "w_val", "x_test", "y_test", "w_test")
        cut: dict[str, Any] = {part: None if (x := getattr(self, part)) is None else x[:rest] for part in parts}
        return replace(few, **cut)
