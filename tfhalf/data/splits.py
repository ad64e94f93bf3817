"""From a pipeline's ``data`` section to checked arrays for training, validation and test."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tfhalf import config
from tfhalf.data.check import Arrays, check
from tfhalf.data.draw import draw
from tfhalf.data.lazy import subset
from tfhalf.data.resize import resize
from tfhalf.data.sources import call, digits, folder, npz, synthetic, tfds
from tfhalf.data.types import Splits
from tfhalf.errors import DataError

Progress = Callable[[str], None]

FORMS = "tfds:NAME, folder:PATH, npz:PATH, sklearn:digits, synthetic:HxWxC, file.py:load, package.module:load"
_SCHEMES = ("tfds", "folder", "npz", "sklearn", "synthetic")
# The test set of a source without one must be the same for every run, whatever its seed.
_TEST_SEED = 1797


def runs_code(source: str) -> bool:
    """Whether reading ``data.source`` would run code that it names: all but the forms that are known do."""
    return source.partition(":")[0] not in _SCHEMES


def check_at_hand(data: config.Data, data_dir: str | None = None) -> None:
    """Before TensorFlow is imported, which takes longer: whether a source that lies on the network can be had.

    Raises:
        DataError: it cannot, as `load_splits` would say.
    """
    scheme, _, name = data.source.partition(":")
    if scheme == "tfds" and name.strip() and not data.args:
        tfds.check_at_hand(name, data_dir, data.source)


def load_splits(
    data: config.Data,
    *,
    base: Path,
    seed: int,
    data_dir: str | None = None,
    progress: Progress | None = None,
) -> Splits:
    """Read a source, check it, and draw validation from its training part.

    Args:
        data: the pipeline's section. ``image_size`` is (height, width).
        base: the pipeline file's folder, where relative paths of ``folder:``, ``npz:`` and ``file.py:`` start.
        seed: of the validation draw. The test part does not depend on it.
        data_dir: where TFDS keeps its sets; else the environment's ``TFDS_DATA_DIR``, else TFDS's own default.
        progress: called with one-line messages.

    Returns:
        Splits. The same arguments give the same arrays in the same order.

    Raises:
        DataError: the source cannot be had or one of its items is wrong.
        RefError: ``file.py:load`` does not lead to a callable.
    """
    source = data.source
    say = progress or (lambda message: None)
    arrays = check(_read(data, base, data_dir, say), source)
    arrays = resize(arrays, data.image_size, source)
    splits = _split(arrays, data, seed)
    sizes = ", ".join(f"{part} {size}" for part, size in splits.sizes.items())
    say(f"{source}: {sizes}; {splits.num_classes} classes, items {splits.input_shape} {splits.x_train.dtype}")
    return splits


def _read(data: config.Data, base: Path, data_dir: str | None, say: Progress) -> Arrays:
    source = data.source
    scheme, colon, rest = source.partition(":")
    if not colon or not rest.strip() or (scheme not in _SCHEMES and not _is_reference(source)):
        near = difflib.get_close_matches(scheme.lower(), _SCHEMES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0] + ':' + (rest or '...')!r}?" if near else ""
        raise DataError(f"data.source {source!r} is not a known form{hint}; accepted: {FORMS}; correct data.source")
    if data.decode == "lazy" and scheme not in ("tfds", "folder"):
        raise DataError(
            f"{source}: data.decode is lazy; only folder: and tfds: hold encoded images; leave data.decode out"
        )
    if scheme not in _SCHEMES:
        return call.read(source, base, data.args)
    if scheme == "synthetic":
        return synthetic.read(rest, data.args, source)
    if data.args:
        raise DataError(
            f"{source}: data.args holds {', '.join(data.args)}; only file.py:load, package.module:load and "
            "synthetic:HxWxC take args; remove data.args"
        )
    if scheme == "tfds":
        return tfds.read(rest, data_dir, data.image_size, source, say, data.decode)
    if scheme == "folder":
        return folder.read(base / Path(rest).expanduser(), data.image_size, source, say, data.decode)
    if scheme == "npz":
        return npz.read(base / Path(rest).expanduser(), source)
    return digits.read(rest, source)


def _is_reference(source: str) -> bool:
    where = source.rpartition(":")[0]
    if where.endswith(".py"):
        return True
    if not all(step.isidentifier() for step in where.split(".")):
        return False
    # A lone word is more often a misspelt scheme than a module: it counts as one only if it can be found.
    return "." in where or where in sys.modules or importlib.util.find_spec(where) is not None


def _split(arrays: Arrays, data: config.Data, seed: int) -> Splits:
    x, y, x_test, y_test = arrays.x_train, arrays.y_train, arrays.x_test, arrays.y_test
    if x_test is None or y_test is None:
        kept, drawn = draw(y, data.test, _TEST_SEED, key="data.test", source=data.source)
        x, y, x_test, y_test = subset(x, kept), y[kept], x[drawn], y[drawn]
    unread = ["data.test"] if arrays.x_test is not None and data.test != _default("test") else []
    x_val, y_val = arrays.x_val, arrays.y_val
    if x_val is not None and len(x_val) and data.validation != _default("validation"):
        unread.append("data.validation")
    if x_val is None or y_val is None or not len(x_val):
        kept, drawn = draw(y, data.validation, seed, key="data.validation", source=data.source)
        x_val, y_val = x[drawn], y[drawn]
        if len(drawn):
            x, y = subset(x, kept), y[kept]
    names = arrays.class_names
    assert names is not None  # filled in by check
    shape = tuple(int(side) for side in x.shape[1:])
    labels = [np.asarray(part, dtype=np.int32) for part in (y, y_val, y_test)]
    return Splits(
        x, labels[0], x_val, labels[1], x_test, labels[2], len(names), shape, names, data.source, tuple(unread)
    )


def _default(key: str) -> object:
    return config.Data.model_fields[key].default
