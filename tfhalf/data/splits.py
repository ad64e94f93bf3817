"""From a pipeline's ``data`` section to checked arrays for training, validation and test."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf import config
from tfhalf.data import categories
from tfhalf.data.check import PARTS, Arrays, check
from tfhalf.data.columns import Columns
from tfhalf.data.decode.fit import Fit
from tfhalf.data.draw import Indices, draw
from tfhalf.data.held_out import held_out
from tfhalf.data.lazy import LazyImages
from tfhalf.data.on_canvas import on_canvas
from tfhalf.data.resize import resize
from tfhalf.data.sources import call, digits, folder, masks, npz, synthetic, table, tfds
from tfhalf.data.sources.records import read as records
from tfhalf.data.storage.base import joined
from tfhalf.data.text import as_numbers
from tfhalf.data.types import Ignore, Kinds, Splits
from tfhalf.errors import DataError

Progress = Callable[[str], None]
_Parts = dict[str, dict[str, Any]]  # x, y and w by part

FORMS = (
    "tfds:NAME, folder:PATH, records:PATH, npz:PATH, sklearn:digits, csv:PATH, masks:PATH, synthetic:HxWxC, "
    "file.py:load, package.module:load"
)
_SCHEMES = ("tfds", "folder", "records", "npz", "sklearn", "csv", "masks", "synthetic")
_ENCODED = ("tfds", "folder", "records")
_SIZED = (*_ENCODED, "masks")  # their images come at data.image_size
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
    kind: Kinds = "classes",
    ignore: Ignore = None,
) -> Splits:
    """Read a source, check it, and draw validation from its training part.

    Args:
        data: the pipeline's section. ``image_size`` is (height, width). Texts become numbers as its ``text`` says.
        base: the pipeline file's folder, where relative paths of ``folder:``, ``npz:`` and ``file.py:`` start.
        seed: of the validation draw. The test part does not depend on it.
        data_dir: where TFDS keeps its sets; else the environment's ``TFDS_DATA_DIR``, else TFDS's own default.
        progress: called with one-line messages.
        kind: what ``y`` is (`tfhalf.data.targets`), or each output of several by its name.
        ignore: the class of pixels or steps that do not count, or each output's by its name; -1 never does.

    Returns:
        Splits. The same arguments give the same arrays in the same order.

    Raises:
        DataError: the source cannot be had or one of its items is wrong.
        RefError: ``file.py:load`` does not lead to a callable.
    """
    source = data.source
    say = progress or (lambda message: None)
    if data.center_crop is not None and "masks" in ([kind] if isinstance(kind, str) else kind.values()):
        raise DataError(
            f"{source}: data.center_crop is set, and each pixel has a class, also of what would be cut off; leave "
            "data.center_crop out"
        )
    if data.augment.resized_crop is not None:
        data = data.model_copy(update={"decode": "lazy"})
    arrays = check(_read(data, base, data_dir, say, kind), source, kind, say, ignore)
    if source.partition(":")[0] not in _SIZED:
        arrays = resize(arrays, _fit(data), source, kind)
    arrays = on_canvas(arrays, data, say)
    splits = as_numbers(_split(arrays, data, seed, kind, say), data.text, base)
    say(f"{source}: {_summary(splits, kind)}")
    return splits


def _fit(data: config.Data) -> Fit | None:
    return None if data.image_size is None else Fit(data.image_size, data.center_crop)


def _summary(splits: Splits, kind: Kinds) -> str:
    """What was read, in one line."""
    sizes = ", ".join(f"{part} {size}" for part, size in splits.sizes.items())
    outputs = f"{splits.num_classes} classes"
    if isinstance(splits.y_train, Columns):
        outputs = f"outputs {', '.join(splits.y_train)}"
    elif kind in ("numbers", "multi"):
        count, noun = splits.y_train.shape[1], "number" if kind == "numbers" else "label"
        outputs = f"{count} {noun}{'s' if count > 1 else ''} to predict"
    x = splits.x_train
    if isinstance(x, Columns):
        return f"{sizes}; {outputs}, inputs {', '.join(f'{name} {_item(part)}' for name, part in x.arrays.items())}"
    return f"{sizes}; {outputs}, items {_item(x)}"


def _item(x: Any) -> str:
    return f"{tuple(map(int, x.shape[1:]))} {x.dtype}"


def _read(data: config.Data, base: Path, data_dir: str | None, say: Progress, kind: Kinds) -> Arrays:
    source = data.source
    scheme, colon, rest = source.partition(":")
    if not colon or not rest.strip() or (scheme not in _SCHEMES and not _is_reference(source)):
        near = difflib.get_close_matches(scheme.lower(), _SCHEMES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0] + ':' + (rest or '...')!r}?" if near else ""
        raise DataError(f"data.source {source!r} is not a known form{hint}; accepted: {FORMS}; correct data.source")
    if data.decode == "lazy" and scheme not in _ENCODED:
        key = "decode" if data.augment.resized_crop is None else "augment.resized_crop"
        state = "is lazy" if key == "decode" else "is set"
        raise DataError(
            f"{source}: data.{key} {state}; only folder:, records: and tfds: hold encoded images; leave data.{key} out"
        )
    if scheme != "records" and data.records != config.Records():
        raise DataError(f"{source}: data.records is set; it is for the shards of records:PATH; remove data.records")
    if scheme != "csv" and (data.columns or data.empty != "refuse"):
        key = "columns" if data.columns else "empty"
        raise DataError(f"{source}: data.{key} is set; it is for the cells of csv:PATH; remove data.{key}")
    if scheme not in _SCHEMES:
        return call.read(source, base, data.args, say)
    if scheme == "synthetic":
        return synthetic.read(rest, data.args, source)
    if data.args:
        raise DataError(
            f"{source}: data.args holds {', '.join(data.args)}; only file.py:load, package.module:load and "
            "synthetic:HxWxC take args; remove data.args"
        )
    if scheme == "tfds":
        return tfds.read(rest, data_dir, _fit(data), source, say, data.decode, isinstance(data.test, str))
    if scheme == "folder":
        return folder.read(joined(base, rest), _fit(data), source, say, data.decode)
    if scheme == "records":
        return records.read(rest, data.records, base, _fit(data), source, say, data.decode)
    if scheme == "npz":
        return npz.read(base / Path(rest).expanduser(), source)
    if scheme == "csv":
        return table.read(base / Path(rest).expanduser(), data.columns, data.empty, kind, source, say)
    if scheme == "masks":
        return masks.read(base / Path(rest).expanduser(), _fit(data), source, say)
    return digits.read(rest, source)


def _is_reference(source: str) -> bool:
    where = source.rpartition(":")[0]
    if where.endswith(".py"):
        return True
    if not all(step.isidentifier() for step in where.split(".")):
        return False
    # A lone word is more often a misspelt scheme than a module: it counts as one only if it can be found.
    return "." in where or where in sys.modules or importlib.util.find_spec(where) is not None


def _split(arrays: Arrays, data: config.Data, seed: int, kind: Kinds, say: Progress) -> Splits:
    parts: _Parts = {
        part: {letter: getattr(arrays, f"{letter}_{part}") for letter in "xyw"}
        for part in PARTS
        if (x := getattr(arrays, f"x_{part}")) is not None and (part != "val" or len(x))
    }
    unread = ["data.test"] if "test" in parts and data.test != _default("test") else []
    # The test part first: it does not depend on what is drawn for validation.
    _add_test(parts, arrays.items, data, kind)
    if "val" not in parts:
        strata = _strata(parts["train"]["y"], kind)
        _take(parts, "val", *draw(strata, data.validation, seed, key="data.validation", source=data.source))
    else:
        unread += ["data.validation"] if data.validation != _default("validation") else []
        its = f"{data.source}: validation on the {len(parts['val']['y'])} items of its own part, not data.validation"
        drawn = "; it has no test part: that is drawn from the training part (data.test)"
        say(its if arrays.x_test is not None else f"{its}{drawn}")
    vocabularies = {**arrays.vocabularies, **_encode(parts, arrays.categories)}
    x, names = parts["train"]["x"], arrays.class_names
    assert names is not None  # filled in by check
    shape = () if isinstance(x, Columns) else tuple(int(side) for side in x.shape[1:])
    return Splits(
        **{f"{letter}_{part}": value for part, values in parts.items() for letter, value in values.items()},
        num_classes=len(names),
        input_shape=shape,
        class_names=names,
        source=data.source,
        unread=tuple(unread),
        targets=arrays.targets,
        vocabularies=vocabularies,
        columns=arrays.columns,
        output_classes=arrays.output_classes,
    )


def _add_test(parts: _Parts, items: Sequence[str], data: config.Data, kind: Kinds) -> None:
    """Make the test part that ``data.test`` says, where the source has none of its own.

    Raises:
        DataError: there is no such part or item, too few are left to train on, or the source has a test part and
            ``data.test`` names another.
    """
    source, test = data.source, data.test
    if isinstance(test, float):
        if "test" not in parts:
            strata = _strata(parts["train"]["y"], kind)
            _take(parts, "test", *draw(strata, test, _TEST_SEED, key="data.test", source=source))
        return
    what = f"data.test is {test}" if isinstance(test, str) else "data.test names items"
    if "test" in parts:
        raise DataError(
            f"{source}: {what} and the source has a test part of its own; one of both is accepted; remove data.test, "
            "or take that part out of the source"
        )
    if isinstance(test, config.HeldOut):
        _take(parts, "test", *held_out(test.items, items, _strata(parts["train"]["y"], kind), source))
    elif "val" in parts:
        parts["test"] = parts.pop("val")
    else:
        raise DataError(
            f"{source}: {what} and the source has no validation part of its own; set data.test to a share to draw from "
            "the training part, such as 0.2, or add that part to the source"
        )


def _take(parts: _Parts, part: str, kept: Indices, drawn: Indices) -> None:
    """Move the training items ``drawn`` to ``part``."""
    train = parts["train"]
    parts[part] = {letter: None if value is None else value[drawn] for letter, value in train.items()}
    if len(drawn):
        parts["train"] = {letter: _subset(value, kept) for letter, value in train.items()}


def _strata(y: Any, kind: Kinds) -> npt.NDArray[np.int32]:
    """Labels that a draw is to keep the shares of."""
    if kind == "classes" and not isinstance(y, Columns):
        return np.asarray(y, np.int32)
    return np.zeros(len(y), np.int32)


def _subset(value: Any, index: Any) -> Any:
    """The rows at ``index``, still encoded where ``value`` is; None where it is None."""
    if value is None:
        return None
    return value.subset(index) if isinstance(value, LazyImages) else value[index]


def _encode(parts: Mapping[str, dict[str, Any]], names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Replace each part's inputs ``names``, which hold categories, by their codes in the training part's vocabulary."""
    vocabularies = {name: categories.vocabulary(parts["train"]["x"].arrays[name]) for name in names}
    for values in parts.values() if names else ():
        coded = {name: categories.encode(values["x"].arrays[name], known) for name, known in vocabularies.items()}
        values["x"] = Columns({**values["x"].arrays, **coded})
    return vocabularies


def _default(key: str) -> object:
    return config.Data.model_fields[key].default
