"""Normalisation as two vectors: ``(x - mean) / std`` along the last axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfhalf import config
from tfhalf.data.columns import Columns
from tfhalf.data.lazy import Array, LazyImages
from tfhalf.errors import DataError

_CHUNK = 32
SMALLEST_STD = 1e-30


@dataclass(frozen=True)
class Preprocess:
    """``(x - mean) / std``, in the source's own units. One number each, or one per channel (last axis). Where
    ``missing`` is set, a NaN stands for a value that is not known, and becomes the mean.

    Raises:
        DataError: an empty vector, two lengths of which neither is 1, a value that is not finite, or a std <= 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    missing: bool = False

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not values or not all(math.isfinite(value) for value in values):
                raise DataError(f"normalize.{name} is {list(values)}; accepted: finite numbers, one or one per channel")
        if min(self.std) <= 0:
            raise DataError(
                f"normalize.std is {list(self.std)}; accepted: numbers above 0; use 1 to leave a channel as it is"
            )
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise DataError(
                f"normalize.mean has {len(self.mean)} values and std {len(self.std)}; accepted: one or one per "
                "channel; make them as long"
            )

    @classmethod
    def fit(
        cls, normalize: Literal["standardize", "unit", "none"] | config.Normalize, x_train: Array | LazyImages
    ) -> Preprocess:
        """The normalisation that a pipeline asks for, measured on the training part where it depends on data.

        Args:
            normalize: ``standardize``: mean and std of each channel in float64 (a std of 0, or below 1e-30, becomes
                1). ``unit``: mean 0, and std 255 for integers or the largest absolute value for floats (1 if all are
                0). ``none``: 0 and 1. `config.Normalize`: as given.
            x_train: [N, ..., C] of rank >= 2, integers or floats. Of images that are encoded still, a fixed sample is
                measured: at most 10,000, and no more than 1 GiB.

        Raises:
            DataError: given vectors that are neither 1 nor C long, or no items to measure.
        """
        channels = x_train.shape[-1]
        if isinstance(normalize, config.Normalize):
            for name, values in (("mean", normalize.mean), ("std", normalize.std)):
                if len(values) not in (1, channels):
                    raise DataError(
                        f"data.normalize.{name} has {len(values)} values; accepted: 1 or {channels}, one per channel; "
                        "correct the list"
                    )
            return cls(tuple(map(float, normalize.mean)), tuple(map(float, normalize.std)))
        if normalize == "none":
            return cls((0.0,), (1.0,))
        if not len(x_train):
            raise DataError(f"data.normalize is {normalize!r} and there is no training item; at least one is needed")
        if normalize == "unit" and x_train.dtype.kind in "ui":
            return cls((0.0,), (255.0,))
        if isinstance(x_train, LazyImages):
            x_train = x_train.sample()
        if normalize == "unit":
            largest = max(abs(float(x_train.max())), abs(float(x_train.min())))
            return cls((0.0,), (largest or 1.0,))
        missing = x_train.dtype.kind == "f" and bool(np.isnan(x_train).any())
        mean, std = _statistics_of_known(x_train) if missing else _statistics(x_train)
        # A constant channel may leave a rounding residue instead of 0; and float32, which divides, ends at 1e-38.
        std[std <= np.maximum(1e-12 * np.abs(mean), SMALLEST_STD)] = 1.0
        return cls(tuple(map(float, mean)), tuple(map(float, std)))

    def shift_and_scale(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """``shift`` and ``scale``, float32 [1] or [C] each: ``(x - shift) * scale`` is what training, evaluation and
        artifacts compute of float32 ``x``. The division is in float64, and rounded once."""
        return np.asarray(self.mean, np.float32), (1 / np.asarray(self.std, np.float64)).astype(np.float32)

    def apply(self, x: Any) -> npt.NDArray[np.float32]:
        """``(x - mean) / std`` as float32, same shape, for what a model file adapts to. ``x`` is [..., C], any real
        dtype.

        It divides, as `shift_and_scale` does not: the last bit may differ.
        """
        # Of an item's shape: numpy's innermost loop then runs over more than the channels, in a fifth of the time.
        mean = np.broadcast_to(np.asarray(self.mean, np.float32), x.shape[1:] or x.shape).copy()
        std = np.broadcast_to(np.asarray(self.std, np.float32), x.shape[1:] or x.shape).copy()
        shifted = np.subtract(x, mean, dtype=np.float32, casting="unsafe")
        scaled = np.asarray(np.divide(shifted, std, out=shifted), np.float32)
        return np.nan_to_num(scaled, copy=False, nan=0.0) if self.missing else scaled

    def to_dict(self) -> dict[str, Any]:
        """``{"mean": [...], "std": [...]}``, which `from_dict` reads back to an equal object; ``missing`` where it is
        set."""
        return {"mean": list(self.mean), "std": list(self.std), **({"missing": True} if self.missing else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`.

        Raises:
            DataError: other keys, or values that are no lists of numbers.
        """
        if set(values) - {"missing"} != {"mean", "std"} or values.get("missing") not in (None, True):
            raise DataError(f"preprocess holds {', '.join(sorted(values)) or 'nothing'}; accepted: mean, std")
        vectors = []
        for name in ("mean", "std"):
            try:
                vectors.append(tuple(float(value) for value in values[name]))
            except (TypeError, ValueError):
                raise DataError(f"preprocess.{name} is {values[name]!r}; accepted: a list of numbers") from None
        return cls(vectors[0], vectors[1], bool(values.get("missing")))


@dataclass(frozen=True)
class ColumnsPreprocess:
    """The normalisation of each of several inputs by name; None where an input's whole numbers stay as they are."""

    by_input: Mapping[str, Preprocess | None]

    @classmethod
    def fit(
        cls, normalize: Literal["standardize", "unit", "none"] | config.Normalize, x_train: Columns
    ) -> ColumnsPreprocess:
        """As `Preprocess.fit` for inputs of floats; integers of one or two dimensions (codes, words) stay as they are.

        Raises:
            DataError: fixed vectors are given, which fit one input at most.
        """
        if isinstance(normalize, config.Normalize):
            raise DataError(
                f"data.normalize holds mean and std, and there are {len(x_train.arrays)} inputs; accepted: "
                "standardize, unit, none"
            )
        each = {
            name: None if x.dtype.kind in "iu" and x.ndim <= 2 else Preprocess.fit(normalize, x)
            for name, x in x_train.arrays.items()
        }
        return cls(each)

    def with_missing(self) -> ColumnsPreprocess:
        """With inputs of numbers that may hold values that are not known."""
        each = {name: None if own is None else replace(own, missing=True) for name, own in self.by_input.items()}
        return ColumnsPreprocess(each)

    def apply(self, x: Any) -> dict[str, npt.NDArray[Any]]:
        """Of each input what `Preprocess.apply` gives, or int32."""
        return {
            name: x.arrays[name].astype(np.int32) if own is None else own.apply(x.arrays[name])
            for name, own in self.by_input.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """``{"inputs": {NAME: ...}}``, each as `Preprocess.to_dict`, or None."""
        return {"inputs": {name: None if own is None else own.to_dict() for name, own in self.by_input.items()}}


AnyPreprocess = Preprocess | ColumnsPreprocess


def from_dict(values: Mapping[str, Any]) -> AnyPreprocess:
    """The inverse of ``to_dict``, of one input or of several by name.

    Raises:
        DataError: as `Preprocess.from_dict`.
    """
    inputs = values.get("inputs")
    if not isinstance(inputs, Mapping):
        return Preprocess.from_dict(values)
    return ColumnsPreprocess({name: None if one is None else Preprocess.from_dict(one) for name, one in inputs.items()})


def fit(data: config.Data, x_train: Any) -> AnyPreprocess:
    """The normalisation of a training part, of one input or of several by name.

    Raises:
        DataError: as `Preprocess.fit`; empty cells are to be the mean, and nothing takes one.
    """
    if data.empty == "mean" and data.normalize != "standardize":
        raise DataError(
            f"data.normalize is {data.normalize!r} and data.empty is 'mean', which is taken where inputs are "
            "standardized; leave data.normalize out, or set data.empty: drop"
        )
    if isinstance(x_train, Columns):
        several = ColumnsPreprocess.fit(data.normalize, x_train)
        return several if data.empty != "mean" else several.with_missing()
    one = Preprocess.fit(data.normalize, x_train)
    return one if data.empty != "mean" else replace(one, missing=True)


def _statistics(x: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and population std per channel. Two passes: the sum of squares about the mean cancels nothing."""
    channels = x.shape[-1]
    count = x.size // channels

    # Summing whole items first, channels last, runs along contiguous memory.
    total = np.zeros(x.shape[1:])
    for start in range(0, len(x), _CHUNK):
        total += x[start : start + _CHUNK].sum(axis=0, dtype=np.float64)
    mean = total.reshape(-1, channels).sum(axis=0) / count
    squares = np.zeros(x.shape[1:])
    for start in range(0, len(x), _CHUNK):
        offset = np.subtract(x[start : start + _CHUNK], mean, dtype=np.float64)
        squares += np.einsum("n...,n...->...", offset, offset)
    std = np.sqrt(squares.reshape(-1, channels).sum(axis=0) / count)
    return mean, std


def _statistics_of_known(x: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """As `_statistics`, of the values that are not NaN."""
    x = x.reshape(-1, x.shape[-1]).astype(np.float64)
    known = ~np.isnan(x)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, x, 0).sum(0) / count
    return mean, np.sqrt((np.where(known, x - mean, 0) ** 2).sum(0) / count)
