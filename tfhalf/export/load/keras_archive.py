"""A ``.keras`` file looked through before Keras reads it: what it may name, what it may claim, and that it is whole.

Keras builds whatever its JSON names. Safe mode refuses stored bytecode; here everything else that could run code, read
other files or fill the memory is refused as well, by what is allowed rather than by what is known to be bad.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tfhalf.artifacts import hdf5
from tfhalf.errors import ArtifactError
from tfhalf.inspect.facts import damaged, printable
from tfhalf.inspect.keras_file import WEIGHTS, inspect_keras

MAX_RATIO = 200
MAX_BYTES = 32 << 30
_OLD_MODULES = ("keras.src.engine", "keras.engine", "tf_keras", "tensorflow.python.keras")


@dataclass(frozen=True)
class Archive:
    """A ``.keras`` file that is whole. ``config`` is without losses and the like; ``values`` are held for weights."""

    path: Path
    config: dict[str, Any]
    keras2: bool
    values: int

    @contextmanager
    def weights(self) -> Iterator[dict[str, hdf5.Stored]]:
        """The datasets of its HDF5 part, by path."""
        with zipfile.ZipFile(self.path) as archive:
            data = io.BytesIO(archive.read(WEIGHTS))
        with hdf5.opened(self.path, data) as contents:
            yield contents.datasets


def read(path: Path) -> Archive:
    """Look through a ``.keras`` file: its archive, its JSON, its HDF5 part.

    Raises:
        ArtifactError: it is damaged, links to elsewhere, or claims more than it has.
    """
    _check_archive(path)
    account = inspect_keras(path)  # its HDF5 part: no links, no other files, no claims beyond what is there
    with zipfile.ZipFile(path) as archive:
        config: dict[str, Any] = json.loads(archive.read("config.json"))
    config.pop("compile_config", None)  # losses and the like are not built
    version = str(account.details.get("keras_version", ""))
    keras2 = version.startswith("2.") or str(config.get("module")).startswith(_OLD_MODULES)
    held = sum(tensor.count for tensor in account.tensors if tensor.role != "optimizer")
    return Archive(path, config, keras2, held)


def _check_archive(path: Path) -> None:
    """Every member's size, name and checksum, in small pieces."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = 0
            for info in archive.infolist():
                name = PurePosixPath(info.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in info.filename:
                    raise ValueError(f"it has a member named {printable(info.filename, 60)!r}")
                if info.file_size > MAX_RATIO * max(info.compress_size, 1 << 16):
                    raise ValueError(
                        f"{printable(info.filename, 60)} claims {info.file_size:,} bytes out of {info.compress_size:,}"
                    )
                total += info.file_size
                if total > MAX_BYTES:
                    raise ValueError(f"it unpacks to more than {MAX_BYTES:,} bytes")
                with archive.open(info) as member:
                    while member.read(1 << 20):
                        pass
    except FileNotFoundError:
        raise ArtifactError(f"{path}: does not exist; give a .keras file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError, NotImplementedError) as error:
        raise damaged(path, f"cannot be read as a .keras file: {error}") from None
