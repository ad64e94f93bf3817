"""``synthetic:HxWxC``: random images of any size and number, made where they are needed; for measuring speed.

    x = noise + shift[label]    noise uniform in 0..127; shift per class and channel in 0..128

The shift lets a classifier do better than chance, so that a run on such images can be seen to train. Noise is seven of
eight random bits, cut from 64-bit words: making images is to take no longer than moving them.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfhalf.data import memory
from tfhalf.data.check import Arrays
from tfhalf.data.lazy import Array
from tfhalf.errors import DataError

DEFAULTS = {"classes": 10, "train": 5120, "test": 512}
_LOWEST = {"classes": 2, "train": 2, "test": 1}
_SHAPE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", re.ASCII)
_LARGEST = 4096
_NOISE, _SHIFT = 127, 128  # the largest; together they are the largest byte, and noise is a mask of bits
_SEED = 1797
_BLOCK = 2**20  # values drawn at a time: they stay in the processor's cache, and there is no second array of all


def read(shape: str, args: Mapping[str, Any], source: str) -> Arrays:
    """x uint8 [N, H, W, C], labels spread evenly over the classes; the same arguments give the same images.

    Args:
        shape: ``HxWxC``, each 1 to 4096.
        args: ``classes``, ``train`` and ``test``: whole numbers; 10, 5120 and 512 where they are left out.

    Raises:
        DataError: ``shape`` or ``args`` is malformed, or the images would not fit into the memory.
    """
    item = _item(shape, source)
    counts = _counts(args, source)
    total = counts["train"] + counts["test"]
    # Beside the images stands one copy, made when validation is drawn; a label takes up to 16 bytes meanwhile.
    memory.guard(2 * total * (math.prod(item) + 16), source, "lower data.args.train, or take smaller images")
    random = np.random.default_rng(_SEED)
    shift = _shifts(counts["classes"], item[2], random)
    parts = [_part(counts[part], item, shift, random) for part in ("train", "test")]
    (x, y), (x_test, y_test) = parts
    return Arrays(x, y, x_test, y_test, class_names=tuple(map(str, range(counts["classes"]))))


def _item(shape: str, source: str) -> tuple[int, int, int]:
    matched = _SHAPE.fullmatch(shape)
    sides = tuple(map(int, matched.groups())) if matched else ()
    if len(sides) != 3 or max(sides) > _LARGEST:
        raise DataError(
            f"{source}: {shape!r} is not a shape; accepted: synthetic:HEIGHTxWIDTHxCHANNELS, each from 1 to "
            f"{_LARGEST}, such as synthetic:224x224x3; correct data.source"
        )
    return sides


def _counts(args: Mapping[str, Any], source: str) -> dict[str, int]:
    for name, value in args.items():
        if name not in DEFAULTS:
            near = difflib.get_close_matches(str(name).lower(), DEFAULTS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{source}: data.args holds {name!r}{hint}; accepted: {', '.join(DEFAULTS)}; remove or rename it"
            )
        if not isinstance(value, int) or isinstance(value, bool) or value < _LOWEST[name]:
            raise DataError(
                f"{source}: data.args.{name} is {value!r}; accepted: a whole number, at least {_LOWEST[name]}; "
                "correct it"
            )
    counts = {**DEFAULTS, **args}
    if counts["train"] < counts["classes"]:
        raise DataError(
            f"{source}: data.args.train is {counts['train']} for {counts['classes']} classes; accepted: at least one "
            "image a class; raise data.args.train or lower data.args.classes"
        )
    return counts


def _shifts(classes: int, channels: int, random: np.random.Generator) -> Array:
    """uint8 [classes, channels]: in each channel the classes stand at even distances, in an order of its own."""
    even = np.linspace(0, _SHIFT, classes).round().astype(np.uint8)
    return np.stack([random.permutation(even) for _ in range(channels)], axis=-1)


def _part(count: int, item: tuple[int, int, int], shift: Array, random: np.random.Generator) -> tuple[Array, Array]:
    _, width, channels = item
    y = random.permutation(np.arange(count, dtype=np.int32) % len(shift))
    x = np.empty((count, *item), np.uint8)
    lines = x.reshape(count, -1, width * channels)  # numpy runs along the last axis: a line is longer than a pixel
    rows = max(1, _BLOCK // math.prod(item))
    for start in range(0, count, rows):
        block = lines[start : start + rows]
        words = random.integers(0, 2**64, -(-block.size // 8), np.uint64)
        np.bitwise_and(words.view(np.uint8)[: block.size].reshape(block.shape), _NOISE, out=block)
        block += np.tile(shift[y[start : start + rows]], width)[:, None]
    return x, y
