"""The whole state of a run at some step, in a folder that appears whole or not at all.

``run/checkpoints/STEP/`` holds ``arrays.npz`` (no pickle): every variable of model and optimizer, loss scale and random
seeds included, and what each step of the epoch that goes on gave; and ``record.json``: where that is, all that was
recorded before, and the sha256 of both. Data order and augmentation are functions of seed and step and need no state.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tfhalf.errors import ResumeError, TrainingError
from tfhalf.files import read_bytes, replacing, sha256
from tfhalf.text import one_line

FOLDER, ARRAYS, RECORD = "checkpoints", "arrays.npz", "record.json"
_NAME = re.compile(r"\d{8,}(\.\d+)?")  # the step; a second number where there is one of that step already
_DAMAGED = ".damaged"
_MAX_RECORD = 1 << 30
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Checkpoint(NamedTuple):
    """What `load` finds. ``arrays`` are the variables' values in their order, ``within`` and ``callbacks`` what `save`
    was given."""

    path: Path
    record: dict[str, Any]
    arrays: list[np.ndarray]
    within: dict[str, np.ndarray]
    callbacks: dict[str, np.ndarray]


def save(
    run: Path,
    step: int,
    arrays: Sequence[np.ndarray],
    record: Mapping[str, Any],
    within: Mapping[str, np.ndarray] | None = None,
    keep: int = 2,
    callbacks: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write ``run/checkpoints/STEP``, and remove older ones.

    The newest ``keep`` are kept, and of those whose ``record`` has a ``score`` the best.

    Raises:
        TrainingError: the disk does not take it; what was there before is as it was.
    """
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        _clear_leftovers(folder)
        path = _free(folder, step)
        with replacing(path, synced=True) as beside:
            beside.mkdir()
            _write(beside, arrays, record, within or {}, callbacks or {})
    except OSError as error:
        raise TrainingError(
            f"{folder}: a checkpoint cannot be written: {error.strerror or error}; make room, then go on with: "
            f"tfhalf train --resume {run}"
        ) from error
    _prune(folder, keep)
    return path


class Writer:
    """Writes checkpoints beside the training that goes on, one at a time.

    Within ``with writer:`` a checkpoint may be written still; where the outermost such block ends, all are there.
    ``seconds`` is what the last one took.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._depth = 0

    def __enter__(self) -> Writer:
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.wait()

    def save(
        self,
        run: Path,
        step: int,
        arrays: Sequence[Any],
        record: Mapping[str, Any],
        within: Mapping[str, np.ndarray],
        keep: int,
        callbacks: Mapping[str, np.ndarray],
    ) -> None:
        """As `save`, which goes on when this returns. ``arrays``, which may be tensors of the device, must stay as they
        are; the rest is copied.

        Raises:
            TrainingError: the disk did not take the checkpoint before this one.
        """
        self.wait()
        record, within, callbacks = copy.deepcopy((record, within, callbacks))  # callbacks go on changing theirs
        self._writing = self._thread.submit(self._save, run, step, arrays, record, within, keep, callbacks)

    def wait(self) -> None:
        """Until what was handed over is written.

        Raises:
            TrainingError: the disk does not take it.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _save(self, run: Path, step: int, arrays: Sequence[Any], *more: Any) -> None:
        start = time.monotonic()
        save(run, step, [np.asarray(array) for array in arrays], *more)
        self.seconds = time.monotonic() - start


def load(run: Path, say: Callable[[str], None] | None = None, *, set_aside: bool = False) -> Checkpoint | None:
    """The newest whole checkpoint of ``run``; None where none was written yet. Another process may be writing more.

    Args:
        say: is told of each that is damaged and passed over.
        set_aside: give such a one another name, so that it is not met again.

    Raises:
        ResumeError: there are some, and none of them is whole.
    """
    paths = _all(run / FOLDER)
    for path in reversed(paths):
        try:
            return _read(path)
        except _UNREADABLE as error:
            if not os.path.lexists(path):  # training goes on, and has newer ones
                return load(run, say, set_aside=set_aside)
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            if say:
                say(f"checkpoint {path}: passed over: {' '.join(why.split())[:120]}")
            if set_aside:
                with suppress(OSError):
                    path.rename(path.with_name(path.name + _DAMAGED))
    if paths:
        raise ResumeError(f"{run / FOLDER}: no checkpoint in it is whole ({len(paths)} damaged); start the run anew")
    return None


def load_epoch(run: Path, epoch: Literal["best"] | int) -> Checkpoint:
    """The checkpoint that ``run`` keeps of the end of ``epoch``, counted from 1; ``best`` is, of those that are kept,
    the one with the best score on the validation part.

    Raises:
        ResumeError: it is not kept, or damaged; the message says which are.
    """
    kept = _kept_epochs(run)
    best = _best(kept)
    number = best if epoch == "best" else epoch
    if number is None or number not in kept:
        named = ", ".join(f"{n} (best)" if n == best else str(n) for n in kept) or "none"
        why = "no epoch is kept with a score on a validation part" if number is None else f"epoch {number} is not kept"
        raise ResumeError(
            f"{run / FOLDER}: {why}; kept at their end: {named}; --epoch last takes the newest state, and "
            "train.keep_checkpoints and train.checkpoint_seconds decide what is kept"
        )
    path = kept[number][0]
    try:
        return _read(path)
    except _UNREADABLE as error:
        raise ResumeError(f"{path}: cannot be read: {one_line(error, 120)}; take another --epoch") from error


def read(path: Path) -> Checkpoint:
    """The checkpoint that the folder ``path`` is.

    Raises:
        ResumeError: it is damaged.
    """
    try:
        return _read(path)
    except _UNREADABLE as error:
        raise ResumeError(f"{path}: cannot be read: {' '.join(str(error).split())[:120]}; take another one") from error


def clear(run: Path) -> None:
    """Remove all checkpoints of ``run``."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def restore(arrays: Sequence[Any], variables: Sequence[Any]) -> None:
    """Put ``arrays``, or tensors, into ``variables``.

    Raises:
        ResumeError: they are not those of these variables.
    """
    if [tuple(v.shape) for v in variables] != [tuple(a.shape) for a in arrays]:
        raise ResumeError("the checkpoint holds other variables than this pipeline builds; start the run anew")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


# --- one of them ------------------------------------------------------------------------------------------------------


def _write(
    folder: Path,
    arrays: Sequence[np.ndarray],
    record: Mapping[str, Any],
    within: Mapping[str, np.ndarray],
    callbacks: Mapping[str, np.ndarray],
) -> None:
    named = {f"v{i}": array for i, array in enumerate(arrays)} | {f"within_{k}": v for k, v in within.items()}
    named |= {f"callbacks_{k}": v for k, v in callbacks.items()}
    with (folder / ARRAYS).open("wb") as file:
        np.savez(file, **named)  # type: ignore[arg-type]  # its stubs take the names for its own arguments
    held = {"record": dict(record), "variables": len(arrays), "within": sorted(within)}
    held["callbacks"] = sorted(callbacks)
    held["arrays_sha256"] = sha256(folder / ARRAYS)
    with (folder / RECORD).open("w", encoding="utf-8") as text:
        json.dump({**held, "sha256": _own_sha256(held)}, text)


def _read(path: Path) -> Checkpoint:
    """A checkpoint whose hashes hold; one of `_UNREADABLE` where it is not whole."""
    held = _held(path)
    if sha256(path / ARRAYS) != held["arrays_sha256"]:
        raise ValueError(f"{ARRAYS} is not what {RECORD} says (sha256)")
    with (path / ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as data:
        arrays = [data[f"v{i}"] for i in range(held["variables"])]
        within, callbacks = ({name: data[f"{kind}_{name}"] for name in held[kind]} for kind in ("within", "callbacks"))
        return Checkpoint(path, held["record"], arrays, within, callbacks)


def _held(path: Path) -> dict[str, Any]:
    try:
        held: dict[str, Any] = json.loads(read_bytes(path / RECORD, _MAX_RECORD))
    except ValueError:
        raise ValueError(f"{RECORD} is not JSON") from None
    if not isinstance(held, dict) or held.pop("sha256", None) != _own_sha256(held):
        raise ValueError(f"{RECORD} is not as it was written (sha256)")
    return held


def _own_sha256(held: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


# --- all of them ------------------------------------------------------------------------------------------------------


def _all(folder: Path) -> list[Path]:
    """Oldest first."""
    paths = [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: tuple(map(int, path.name.split("."))))


def _free(folder: Path, step: int) -> Path:
    there = [path.name.split(".") for path in _all(folder) if int(path.name.split(".")[0]) == step]
    return folder / (f"{step:08d}.{int(there[-1][-1]) + 1 if len(there[-1]) > 1 else 1}" if there else f"{step:08d}")


def score_of(record: Mapping[str, Any]) -> float | None:
    """How good the end of an epoch is, higher is better; None within an epoch, or without a validation part."""
    score: float | None = record.get("score", record.get("val_accuracy"))
    return score


def _kept_epochs(run: Path) -> dict[int, tuple[Path, float | None]]:
    """The checkpoints of ends of epochs: an epoch's number, from 1, to the newest of it and its score."""
    kept = {}
    for path in _all(run / FOLDER):
        with suppress(*_UNREADABLE):
            record = _held(path)["record"]
            if record["epochs_done"] and not record["done"]:
                kept[int(record["epochs_done"])] = (path, score_of(record))
    return kept


def _best(kept: Mapping[int, tuple[Path, float | None]]) -> int | None:
    """The first of those whose score is the highest; None where no epoch has one."""
    scores = {number: score for number, (_, score) in kept.items() if score is not None}
    return max(scores, key=lambda number: scores[number]) if scores else None


def _prune(folder: Path, keep: int) -> None:
    """What cannot be removed stays: nobody waits for that room."""
    paths = _all(folder)
    scores: list[tuple[float, Path]] = []
    for path in paths:
        with suppress(*_UNREADABLE):
            score = score_of(_held(path)["record"])
            scores += [] if score is None else [(float(score), path)]
    best = max(scores, key=lambda one: one[0])[1] if scores else None  # the first of equals
    for path in paths[:-keep]:
        if path != best:
            hidden = path.with_name(f".{path.name}")  # so that no half of one is ever seen
            with suppress(OSError):
                path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """What a killed process left half-written or half-removed, and what was set aside as damaged."""
    for path in folder.glob("*"):
        if path.name.startswith(".") or path.name.endswith(_DAMAGED):
            shutil.rmtree(path, ignore_errors=True)
