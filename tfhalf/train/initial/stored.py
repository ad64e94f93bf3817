"""The weights of a file, a run or a version, as `Stored` arrays: `opened`, `file_of`, `of_checkpoint`.

Nothing of a file runs, no layer is made of it.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np

from tfhalf.artifacts import hdf5
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.tensors import damaged
from tfhalf.artifacts.version import find_version
from tfhalf.errors import ConfigError
from tfhalf.files import open_regular
from tfhalf.text import one_line, printable
from tfhalf.train.record import checkpoint, model_file, run_folder

ACCEPTED = (
    "a .weights.h5, .keras or HDF5 file of Keras, a run folder, a checkpoint in one, or exports/NAME[/VERSION] "
    "whose run is kept"
)
_MEMBER = "model.weights.h5"
_LEGACY_ROOTS = ("", "model_weights")


@dataclass(frozen=True)
class Stored:
    """An array of a file. ``name`` is the path of a variable, or of a layer and the variable's number (``conv#0``);
    ``key`` is where Keras 3 puts it, empty in other files."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    key: str = ""


# --- which file -------------------------------------------------------------------------------------------------------


def file_of(path: Path, ref: str) -> Path:
    """The file, or the folder of a checkpoint, that the weights lie in."""
    if not path.is_dir() or (path / checkpoint.RECORD).is_file():
        return path
    if (path / run_folder.FACTS).is_file():
        return _of_run(path)
    if (path / manifests.NAME).is_file() or any(child.name.isdecimal() for child in path.iterdir()):
        return _of_run(_run_of_version(path, ref))
    raise ConfigError(f"model.weights: {ref}: is a folder that holds no weights of these kinds; give {ACCEPTED}")


def _of_run(run: Path) -> Path:
    """``model.keras``, or of a run that has not ended its newest checkpoint."""
    if (run / model_file.MODEL).is_file():
        return run / model_file.MODEL
    held = checkpoint.load(run)
    if held is None:
        raise ConfigError(
            f"model.weights: {run}: holds neither {model_file.MODEL} nor a checkpoint yet; train it first"
        )
    return held.path


def _run_of_version(path: Path, ref: str) -> Path:
    """The run that a version was made by, among those that lie beside its exports."""
    version = find_version(path)
    training = manifests.read(version).training
    if training is not None and training.run and (run := run_folder.run_of(version, training.run)):
        return run
    runs = version.resolve().parent.parent.parent / "runs" / version.resolve().parent.name
    raise ConfigError(
        f"model.weights: {ref}: a version holds float16 weights alone, and the run that made it is not in {runs}; give "
        "the run folder, or its model.keras"
    )


# --- what is in it ----------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[list[Stored]]:
    """The weights of a file that Keras wrote, whose values are read within the block.

    Raises:
        ArtifactError: it is damaged, or holds what is not followed.
        ConfigError: it is not of these kinds.
    """
    with open_regular(path) as file:
        start = file.read(8)
    if start == hdf5.MAGIC:
        with hdf5.opened(path) as contents:
            yield _of_hdf5(contents)
    elif start[:2] == b"PK":
        with _archived(path) as contents:
            yield _of_hdf5(contents)
    else:
        raise ConfigError(f"model.weights: {path}: is neither HDF5 nor a .keras file; give {ACCEPTED}")


@contextmanager
def _archived(path: Path) -> Iterator[hdf5.Contents]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise damaged(path, f"cannot be read as a zip archive: {error}") from None
    with archive:
        if _MEMBER not in archive.namelist():
            raise damaged(path, f"cannot be read as a .keras file: it lacks {_MEMBER}")
        try:
            with hdf5.member(path, archive, _MEMBER) as file, hdf5.opened(path, file) as contents:
                yield contents
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            raise damaged(path, f"cannot be read as a .keras file: {error}") from None


def _of_hdf5(contents: hdf5.Contents) -> list[Stored]:
    try:
        for root in _LEGACY_ROOTS:
            if (not root or root in contents.root) and (layers := contents.texts(root, "layer_names")):
                return list(_of_layers(contents, root, layers))
        return list(_of_groups(contents))
    except hdf5.DAMAGE as error:
        raise damaged(contents.path, one_line(error)) from None


def _of_layers(contents: hdf5.Contents, root: str, layers: Sequence[str]) -> Iterator[Stored]:
    """HDF5 as Keras 2 wrote it, and Keras 3 in that form: for each layer a list of names."""
    for layer in layers:
        group = f"{root}/{layer}" if root else layer
        for name in contents.texts(group, "weight_names"):
            held = contents.datasets.get(f"{group}/{name}")
            if held is None:
                raise ValueError(f"it lists {printable(name, 80)} and lacks it")
            plain = re.sub(r":\d+$", "", name)
            plain = plain if plain.startswith(f"{layer}/") else f"{layer}/{plain}"
            yield Stored(plain, held.tensor.shape, held.read)


def _of_groups(contents: hdf5.Contents) -> Iterator[Stored]:
    """HDF5 of Keras 3: a group for each layer, by its class and number, which says the layer's name."""

    def named(group: str) -> str:
        listed = contents.texts(f"{group}/vars", "name") if f"{group}/vars" in contents.root else []
        return listed[0] if listed else ""

    for key, held in contents.datasets.items():
        group, _, number = key.rpartition("/")
        if held.tensor.role != "weight" or not number.isdecimal() or group.rpartition("/")[2] != "vars":
            continue
        parts = group.split("/")[:-1]
        above = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
        layers = [name for name in map(named, above) if name]
        yield Stored(f"{'/'.join(layers)}#{number}", held.tensor.shape, held.read, key)


def of_checkpoint(held: checkpoint.Checkpoint, model: keras.Model, ref: str) -> list[Stored]:
    """The model's arrays of a checkpoint, which come first in it."""
    names = held.record.get("names", {}).get("model")
    if names is None:  # of a version of tfhalf that wrote none
        names = [variable.path for variable in model.variables]
        if [tuple(v.shape) for v in model.variables] != [a.shape for a in held.arrays[: len(names)]]:
            raise ConfigError(f"{ref}: its checkpoint does not name its weights, and is of another model")
    pairs = zip(names, held.arrays, strict=False)
    return [
        Stored(name, array.shape, partial(np.asarray, array)) for name, array in pairs if "seed_generator" not in name
    ]
