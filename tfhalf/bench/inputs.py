"""Inputs that an export is timed on: `batch`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tfhalf.artifacts import record
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import Data
from tfhalf.artifacts.reference import Reference
from tfhalf.data import memory
from tfhalf.errors import ArtifactError

MAX_VALUES = 1 << 26  # of one sample
# Sources whose images hold 0 to 255.
_IMAGES = ("tfds:", "folder:", "sklearn:", "synthetic:")
_COPIES = 3  # numbers are drawn in float64, which are two of float32, and cast


def batch(version: Version, count: int) -> dict[str, np.ndarray]:
    """``count`` samples of each input by name, the same for the same arguments: those that the version was compared on,
    again and again; where they do not lie in it, random numbers in the range of its data, none 0.

    Raises:
        ArtifactError: the manifest has neither samples nor data of a known shape.
        DataError: they would take more memory than there is.
    """
    manifest = version.manifest
    if manifest.data is not None:
        words = Lookups.read(version.directory).by_input
        return {
            port.name: _numbers_of_words(words[port.name], port, count)
            if port.name in words
            else _drawn(port, manifest.data, count)
            for port in manifest.inputs
        }
    samples = Reference.load(version.directory).usual.inputs
    if set(samples) != {port.name for port in manifest.inputs}:
        raise ArtifactError(f"{version.directory}: its samples are not such as its manifest says; export again")
    row = sum(x[:1].nbytes for x in samples.values())
    _check_memory(version.manifest.name, row * count)
    return {name: x[np.arange(count) % len(x)] for name, x in samples.items()}


def _numbers_of_words(lookup: Lookup, port: Port, count: int) -> np.ndarray:
    """Random numbers of a lookup's words, none 0, [count, length]."""
    shape = (count, lookup.length)
    return np.random.default_rng(0).integers(1, max(2, len(lookup.words)), shape).astype(port.dtype)


def _drawn(port: Port, data: Data, count: int) -> np.ndarray:
    """Random [count, *shape] in the range of ``data``."""
    sides = [side for side in port.shape[1:] if side is not None]
    if not sides or len(sides) < len(port.shape) - 1 or math.prod(sides) > MAX_VALUES:
        raise ArtifactError(f"manifest.json: input {port.name} has shape {port.dims()}; it is damaged, export again")
    shape = (count, *sides)
    _check_memory(data.source, _COPIES * 4 * math.prod(shape) + 4 * math.prod(shape))
    random = np.random.default_rng(0)
    if data.source.startswith(_IMAGES):
        return random.integers(1, 256, shape, np.uint8).astype(port.dtype)
    low, high = _range(data, port.name)
    x = random.uniform(low, high, shape).astype(port.dtype)
    return np.where(x == 0, np.asarray(high, port.dtype), x)


def _check_memory(source: str, size: int) -> None:
    memory.guard(size, source, "take a smaller batch (--batch-sizes)")


def _range(data: Data, name: str) -> tuple[float, float]:
    """One standard deviation about the mean of the training data, or above 0 where it was only scaled."""
    whole = data.preprocess
    own = (whole.model_extra or {}).get("inputs")
    preprocess = record.Preprocess.read(own.get(name) or {}) if isinstance(own, Mapping) else whole
    mean, std = (float(np.mean(value or default)) for value, default in ((preprocess.mean, 0.0), (preprocess.std, 1.0)))
    return (mean - std, mean + std) if mean else (0.0, std)
