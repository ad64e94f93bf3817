"""Arrays of .npz and .npy files for `tfhalf predict`: the inputs of any version, by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts.arrays import check_shape, fitted, keys_of
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.ports import Port
from tfhalf.errors import InputError, UnsupportedError
from tfhalf.system import npz
from tfhalf.text import one_line, printable
from tfhalf.workflows.predict_model import Model
from tfhalf.workflows.predict_text import MAX_CHARACTERS
from tfhalf.workflows.table_rows import say_unknown

SUFFIXES = (".npz", ".npy")
_LISTED = 8

Say = Callable[[str], None]


def takes_arrays(files: Sequence[Path]) -> bool:
    """Whether one of ``files`` is of arrays."""
    return any(_is_arrays(path) for path in files)


def predict_arrays(
    model: Model, lookups: Lookups, files: Sequence[Path], top: int, say: Say
) -> Iterator[dict[str, Any]]:
    """The answer to each row of the arrays in ``files``; ``say`` hears of categories that training did not hold.

    Yields:
        ``file`` and ``index``, counted from 0 as numpy does, and what `Model.answer` gives.

    Raises:
        InputError: a file cannot be read, an array is missing or is not an input's, or does not fit it; or the
            artifact does not run on what they hold.
    """
    if other := next((path for path in files if not _is_arrays(path)), None):
        raise InputError(f"{other}: received beside arrays (.npz, .npy); give these in a call of their own")
    for path in files:
        inputs = _inputs(path, model, lookups, say)
        count = len(next(iter(inputs.values())))
        size = model.size(sum(x[0].size for x in inputs.values()))
        for start in range(0, count, size):
            rows = {name: _rows(x[start : start + size], name, lookups) for name, x in inputs.items()}
            number = min(size, count - start)
            for k, answer in enumerate(_answers(model, rows, number, top, f"{path}[{start}:{start + number}]")):
                yield {"file": str(path), "index": start + k, **answer}


def examples(ports: Sequence[Port]) -> str:
    """What a version takes, in words: the name, dtype and shape of each input."""
    more = f" and {len(ports) - _LISTED} more" if len(ports) > _LISTED else ""
    return ", ".join(f"{printable(port.name, 40)} {port.dtype} {_dims(port)}" for port in ports[:_LISTED]) + more


def _is_arrays(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _dims(port: Port) -> str:
    return printable(f"[{', '.join(map(str, port.dims()))}]", 60)


def _answers(
    model: Model, rows: Mapping[str, np.ndarray], count: int, top: int, where: str
) -> Sequence[Mapping[str, Any]]:
    try:
        return model.answers(rows, count, top)
    except UnsupportedError as error:
        ports = model.manifest.inputs
        if not any(port.dtype[0] in "iu" or None in port.shape[1:] for port in ports):
            raise
        # A place in a table that it does not have, or open sizes that do not go together: most likely not the file's.
        raise InputError(
            f"{where}: {error.reason}; if it runs on other values, these are beyond a table's end, or of sizes that do "
            "not go together: correct them"
        ) from error


def _inputs(path: Path, model: Model, lookups: Lookups, say: Say) -> dict[str, np.ndarray]:
    """The arrays of ``path`` by input, [N, ...] as these take them; or texts [N] that are to be looked up."""
    ports, arrays = model.manifest.inputs, _read(path, model.manifest.inputs)
    keys = keys_of(arrays, ports)
    takes = f"accepted: {examples(ports)}"
    if missing := [port.name for port in ports if port.name not in keys]:
        others = f" and of {len(missing) - 1} more inputs" if len(missing) > 1 else ""
        raise InputError(
            f"{path}: lacks the array {printable(missing[0], 60)!r}{others}, and has {_names(arrays)}; {takes}; add it"
        )
    if extra := [name for name in arrays if name not in keys.values()]:
        raise InputError(f"{path}: has {_names(extra)} besides, which the version does not take; {takes}; leave it out")
    inputs = {port.name: _input(arrays[keys[port.name]], port, lookups, str(path), say) for port in ports}
    counts = {name: len(x) for name, x in inputs.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{printable(name, 40)} {count:,}" for name, count in list(counts.items())[:_LISTED])
        raise InputError(f"{path}: the arrays have different numbers of rows ({shown}); give as many of each")
    return inputs


def _read(path: Path, ports: Sequence[Port]) -> dict[str, np.ndarray]:
    try:
        arrays = npz.read_arrays(path)
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; give an .npz file with an array for each input") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error, 160)}); give an .npz file of numbers and texts, without Python "
            "objects"
        ) from None
    if path.suffix.lower() == ".npy" and len(ports) > 1:
        raise InputError(
            f"{path}: is one array; accepted: {examples(ports)}; give an .npz file with an array for each of them"
        )
    return arrays


def _names(names: Any) -> str:
    shown = [repr(printable(name, 40)) for name in list(names)[:_LISTED]]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(shown) or "none") + more


def _input(array: np.ndarray, port: Port, lookups: Lookups, where: str, say: Say) -> np.ndarray:
    open_port = replace(port, shape=(None, *port.shape[1:]))  # of a fixed batch any number of rows is taken
    lookup = lookups.by_input.get(port.name)
    texts = array.dtype.kind in "US"
    if lookup is not None and texts:
        return _texts(array, port, lookup, where, say)
    if texts != (port.dtype == "string"):
        takes = "texts, numpy's str" if port.dtype == "string" else port.dtype
        raise InputError(f"{where}: {printable(port.name, 60)} is {array.dtype}; accepted: {takes}; convert it")
    check_shape(array, open_port, where)
    if 0 in array.shape:
        raise InputError(f"{where}: {printable(port.name, 60)} has shape {array.shape}, which is empty; give some rows")
    numbers = fitted(array, open_port, where)
    if lookup is not None:
        _check_words(numbers, lookup, f"{where}: {printable(port.name, 60)}")
    return numbers


def _check_words(numbers: np.ndarray, lookup: Lookup, where: str) -> None:
    low, high, words = int(numbers.min()), int(numbers.max()), len(lookup.words)
    if low < 0 or high >= words:
        raise InputError(
            f"{where} holds numbers from {low:,} to {high:,}; accepted: those of its words, 0 to {words - 1:,}, or "
            "texts, which are looked up; correct them"
        )


def _texts(array: np.ndarray, port: Port, lookup: Lookup, where: str, say: Say) -> np.ndarray:
    """Texts [N], as they are looked up."""
    name = printable(port.name, 60)
    if array.dtype.kind == "S":
        raise InputError(f"{where}: {name} holds bytes ({array.dtype}); accepted: texts, numpy's str; decode them")
    if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)) or not len(array):
        raise InputError(f"{where}: {name} has texts of shape {array.shape}; accepted: [N] or [N, 1]; reshape them")
    if array.dtype.itemsize // 4 > MAX_CHARACTERS:
        raise InputError(f"{where}: {name} has texts of up to {array.dtype.itemsize // 4:,} characters; accepted: "
                         f"{MAX_CHARACTERS:,}; shorten them")  # fmt: skip
    texts = np.ascontiguousarray(array.reshape(-1))
    if int(texts.view(np.dtype(np.uint32).newbyteorder(texts.dtype.byteorder)).max()) > sys.maxunicode:
        raise InputError(f"{where}: {name} holds what is not Unicode text; save it again as numpy's str")
    if lookup.kind == "category":
        texts = np.char.strip(texts)
        say_unknown(f"{where}: {name}", texts.tolist(), lookup.words, say)
    return texts


def _rows(rows: np.ndarray, name: str, lookups: Lookups) -> np.ndarray:
    """Texts as the numbers of their words; others as they are."""
    return lookups.encode(name, rows.tolist()) if rows.dtype.kind == "U" else rows
