"""Data of whole numbers (words, categories) that a model looks up in tables: no normalisation may touch them."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from tfhalf import config
from tfhalf.data import Splits
from tfhalf.data.columns import Columns
from tfhalf.data.lazy import Array
from tfhalf.errors import ConfigError, DataError
from tfhalf.progress import Progress
from tfhalf.train import traced
from tfhalf.train.build import Builder

_EXACT = {"float16": 2**11, "bfloat16": 2**8, "float32": 2**24}
"""Whole numbers up to which a floating type holds each."""
_LAYERS = (
    keras.layers.Embedding,
    keras.layers.CategoryEncoding,
    keras.layers.IntegerLookup,
    keras.layers.Hashing,
    keras.layers.HashedCrossing,
)


def keep_integers(pipeline: config.Pipeline, splits: Splits, builder: Builder, progress: Progress) -> config.Pipeline:
    """The pipeline with ``data.normalize: none`` where the model looks its inputs up and nothing else was asked for;
    ``builder`` then makes models that take int32.

    Images are not looked at here, which would build each net once more: `refuse_normalized` does.

    Raises:
        ConfigError: another normalisation was asked for, or a layer rounds the numbers before they are looked up.
        DataError: an item holds no whole number, or one beyond the table.
    """
    if splits.has_images or isinstance(splits.x_train, Columns):
        return pipeline
    model = builder("float32")
    lookups = traced.lookups(model, "float32")
    if not lookups and not keras.backend.is_int_dtype(model.inputs[0].dtype):
        if splits.texts:
            raise _takes_floats(builder, next(iter(splits.texts)), model.inputs[0].dtype)
        return pipeline
    lookup = lookups[0] if lookups else traced.Lookup("its input", None, None)
    if "normalize" in pipeline.data.model_fields_set:
        _refuse(pipeline, builder, lookup)
    builder.integers = True
    largest = _check_values(splits, lookups)
    precision = pipeline.precision
    _check_rounding(builder(precision.policy, keep_float32=precision.islands), largest, builder)
    if pipeline.data.normalize != "none" and not splits.texts:  # of words nobody expects it
        progress.line(f"normalise  none: {builder.ref} looks whole numbers up in {lookup.layer!r}")
    data = pipeline.data.model_copy(update={"normalize": "none"})
    return pipeline.model_copy(update={"data": data})


def refuse_normalized(pipeline: config.Pipeline, builder: Builder, model: keras.Model) -> None:
    """What `keep_integers` leaves out: a net of images that takes integers, or looks pixels up.

    Raises:
        ConfigError: and they are normalised.
    """
    if isinstance(builder.input_shape, Mapping):
        _check_inputs(builder, model)
        return
    if builder.integers or pipeline.data.normalize == "none":
        return
    if keras.backend.is_int_dtype(model.inputs[0].dtype):
        _refuse(pipeline, builder, traced.Lookup("its input", None, None))
    if any(isinstance(layer, _LAYERS) for layer in model._flatten_layers()):
        for lookup in traced.lookups(model, "float32"):
            _refuse(pipeline, builder, lookup)


def _check_inputs(builder: Builder, model: keras.Model) -> None:
    """Refuse floats for an input, of several, that takes whole numbers; and an input of floats for numbers of words or
    categories that half precision rounds."""
    for tensor in model.inputs:
        whole = keras.backend.is_int_dtype(tensor.dtype)
        if not whole and builder.categories.get(tensor.name, 0) > _EXACT["float16"]:
            raise _takes_floats(builder, tensor.name, tensor.dtype)
        if whole and tensor.name not in builder.dtypes:
            raise ConfigError(
                f"model.build: {builder.ref} takes whole numbers as its input {tensor.name!r}, the data's are floats, "
                "which are normalised; give them as integers: x.astype('int32')"
            )


def _takes_floats(builder: Builder, name: str, dtype: str) -> ConfigError:
    return ConfigError(
        f"model.build: {builder.ref} takes {dtype} as its input {name!r}, the data's are the numbers of "
        f"{builder.categories[name]:,} words, which are looked up as they are; begin the model with "
        f"keras.Input(input_shape, name={name!r}, dtype='int32') and keras.layers.Embedding"
    )


def _refuse(pipeline: config.Pipeline, builder: Builder, lookup: traced.Lookup) -> None:
    normalize = pipeline.data.normalize
    if normalize == "none":
        return
    received = "a mean and a std" if isinstance(normalize, config.Normalize) else repr(normalize)
    raise ConfigError(
        f"data.normalize: received {received}, and {builder.ref} looks its inputs up in {lookup.layer!r}, which takes "
        "whole numbers as they are; set data.normalize: none"
    )


def _check_values(splits: Splits, lookups: list[traced.Lookup]) -> int:
    """The largest of all inputs."""
    sizes = [lookup.size for lookup in lookups if lookup.size is not None]
    size, largest = min(sizes, default=None), 0
    for part in ("train", "val", "test"):
        x: Array = getattr(splits, f"x_{part}")
        if not len(x):
            continue
        if x.dtype.kind == "f" and (x != np.rint(x)).any():
            position = tuple(int(i) for i in np.argwhere(x != np.rint(x))[0])
            raise DataError(
                f"{splits.source}: x_{part}{list(position)} is {x[position]}, and the model looks its inputs up "
                f"in {lookups[0].layer if lookups else 'its input'!r}; accepted: whole numbers"
            )
        low, high = int(x.min()), int(x.max())
        if high > 2**24 or low < -(2**24):
            raise DataError(
                f"{splits.source}: x_{part} reaches {high if high > 2**24 else low}; artifacts take float32, which "
                "holds whole numbers up to 16777216: number the words or categories anew, from 0"
            )
        if size is not None and (low < 0 or high >= size):
            raise DataError(
                f"{splits.source}: x_{part} holds {low if low < 0 else high}, and the model looks it up in a table of "
                f"{size} entries; accepted: 0..{size - 1}; make the table larger, or number the words anew"
            )
        largest = max(largest, high)
    return largest


def _check_rounding(model: keras.Model, largest: int, builder: Builder) -> None:
    """Refuse a model that brings its inputs into half precision on their way to the table, under its own policy."""
    for lookup in traced.lookups(model, "int32"):
        exact = _EXACT.get(lookup.dtype or "", largest)
        if largest > exact:
            raise ConfigError(
                f"model.build: {builder.ref} casts its inputs to {lookup.dtype} before it looks them up in "
                f"{lookup.layer!r}, which holds whole numbers up to {exact}, and the data goes to {largest}; begin the "
                "model, and each model or layer in it that takes them, with keras.Input(..., dtype='int32')"
            )
