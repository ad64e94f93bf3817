"""Which kind of artifact a path holds, by its content: `inspect`."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfhalf.artifacts.version import find_version, versions
from tfhalf.errors import ArtifactError
from tfhalf.files import open_regular
from tfhalf.inspect import verdict
from tfhalf.inspect.constants import graph_constants, tell
from tfhalf.inspect.facts import Account, printable
from tfhalf.inspect.graph import Looked

ACCEPTED = (
    "a SavedModel folder, an ONNX file, a .keras or .h5 file, a LiteRT (.tflite) file, or a version that tfhalf made: "
    "exports/NAME[/VERSION]"
)

_SUFFIXES = (".onnx", ".tflite", ".keras", ".h5", ".hdf5")


@dataclass(frozen=True)
class Inspected:
    """An artifact's account, the verdict on it, and what its graph computes."""

    account: Account
    verdict: verdict.Verdict
    looked: Looked


def inspect(path: Path) -> list[Inspected]:
    """Every artifact that ``path`` means: one, or those of a version directory in the order of its formats.

    Raises:
        ArtifactError: it is not an artifact, or a damaged one.
    """
    try:
        return [_inspected(account) for account in _accounts(path)]
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}; give a readable artifact") from None
    except MemoryError:
        raise ArtifactError(f"{path}: needs more memory than there is to be read") from None


def _inspected(account: Account) -> Inspected:
    answer, looked = verdict.of_account(account)
    if account.graph is not None:
        tell(account, graph_constants(looked))
    return Inspected(account, answer, looked)


def _accounts(path: Path) -> list[Account]:
    if not path.exists():
        raise ArtifactError(f"{path}: does not exist; give {ACCEPTED}")
    if path.is_file():
        return [_reader(path)(path)]
    if not path.is_dir():
        raise ArtifactError(f"{path}: is neither a file nor a folder; give {ACCEPTED}")
    return _directory(path)


def _directory(path: Path) -> list[Account]:
    saved_model = (path / "saved_model.pb").is_file()
    if not saved_model and (versions(path) or (path / "manifest.json").is_file()):
        path = find_version(path)
        saved_model = (path / "saved_model.pb").is_file()
    accounts = []
    if saved_model:
        from tfhalf.inspect.saved_model import inspect_saved_model

        accounts.append(inspect_saved_model(path))
    if (path / "manifest.json").is_file() or not saved_model:
        beside = sorted(
            p for suffix in ("onnx", "tflite", "keras", "h5", "hdf5") for p in path.glob(f"*.{suffix}") if p.is_file()
        )
        accounts += [_reader(file)(file) for file in beside[:20]]
    if not accounts:
        inside = sorted(printable(p.name, 40) for p in path.iterdir())
        what = f"holds {', '.join(inside[:5])}{', ...' * (len(inside) > 5)}" if inside else "is an empty folder"
        raise ArtifactError(f"{path}: {what}; give {ACCEPTED}")
    if (path / "manifest.json").is_file():
        _describe(path, accounts[0])
    return accounts


def _describe(path: Path, account: Account) -> None:
    """Add what the version ``path`` says of its tasks and columns to the first of its accounts."""
    from tfhalf.artifacts import manifest as manifests  # loads pydantic, which files of other origin do not need
    from tfhalf.artifacts.contents import contents
    from tfhalf.artifacts.lookups import Lookups

    try:
        said = contents(manifests.read(path), Lookups.read(path))
    except ArtifactError as error:
        account.notes.append(str(error))
        return
    account.facts |= {what: "; ".join(lines) for what, lines in said.items()}
    account.details |= {"version": said}


def _reader(path: Path) -> Callable[[Path], Account]:
    """What reads a file, by its first bytes; ONNX has no mark, so it is what protobuf takes."""
    with open_regular(path) as file:
        start = file.read(512)
    if start[4:8] == b"TFL3":
        from tfhalf.inspect.litert_file import inspect_litert

        return inspect_litert
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06") or (path.suffix == ".keras" and zipfile.is_zipfile(path)):
        from tfhalf.inspect.keras_file import inspect_keras

        return inspect_keras
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        from tfhalf.inspect.keras_h5 import inspect_h5

        return inspect_h5
    if path.name == "saved_model.pb":
        from tfhalf.inspect.saved_model import inspect_saved_model

        return lambda file: inspect_saved_model(file.parent)
    other = _other(start)
    if not start or other or (path.suffix == ".keras" or path.suffix == ".tflite"):
        raise ArtifactError(
            f"{path}: is {other or ('empty' if not start else 'not what its name says')}; give {ACCEPTED}"
        )
    from tfhalf.inspect.onnx_file import inspect_onnx

    if path.suffix == ".onnx" or start[0] == 0x08:  # field 1, the IR version, which every writer puts first
        return inspect_onnx
    raise ArtifactError(f"{path}: starts with {start[:8]!r}, which no artifact does; give {ACCEPTED}")


def _other(start: bytes) -> str:
    """What a file is that people may well give instead."""
    marks = {
        b"\x80\x02": "a pickle, which runs code when it is read",
        b"\x80\x04": "a pickle, which runs code when it is read",
        b"\x93NUMPY": "a numpy array",
        b"GGUF": "a GGUF file",
        b"\x1f\x8b": "gzip-compressed; unpack it first",
        b"\x7fELF": "a program",
    }
    return next((kind for mark, kind in marks.items() if start.startswith(mark)), "")
