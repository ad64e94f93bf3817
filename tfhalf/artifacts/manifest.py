"""``manifest.json``: what an artifact is, how it was made, and the sha256 of each of its files."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf.artifacts.record import SCHEMA, File, Manifest
from tfhalf.artifacts.schema1 import upgraded
from tfhalf.artifacts.version import find_version
from tfhalf.errors import ArtifactError, IntegrityError
from tfhalf.files import read_bytes, sha256
from tfhalf.text import one_line, printable

NAME = "manifest.json"
_PACKAGES = (
    "tfhalf",
    "tensorflow",
    "keras",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tf2onnx",
    "ai-edge-litert",
    "openvino",
    "tensorflow-datasets",
)
# Written after the artifacts are compared, so not among the files whose hash the manifest holds.
_UNHASHED = {NAME, "report.md"}
MAX_BYTES = 64 << 20
_READERS: dict[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {1: upgraded, SCHEMA: lambda facts: facts}


@dataclass(frozen=True)
class Version:
    """A version directory whose files are those of its ``manifest``."""

    directory: Path
    manifest: Manifest


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that made an artifact."""
    packages = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return packages


def git_revision(folder: Path) -> str | None:
    """The commit that ``folder`` stands at, with ``-dirty`` for uncommitted changes; None outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],  # noqa: S607
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    if not revision:
        return None
    return f"{revision}-dirty" if git("status", "--porcelain", "--untracked-files=no") else revision


def file_hashes(directory: Path) -> dict[str, File]:
    """Size and hash of every artifact file below ``directory`` by its relative path."""
    return {name: File(bytes=path.stat().st_size, sha256=sha256(path)) for name, path in _files(directory).items()}


def _files(directory: Path) -> dict[str, Path]:
    """Every artifact file below ``directory`` by its relative path."""
    files = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if name not in _UNHASHED and not path.name.startswith(".")}


def write(directory: Path, manifest: Manifest) -> None:
    """Write ``directory/manifest.json``."""
    text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False)
    (directory / NAME).write_text(text + "\n", encoding="utf-8")


def open_version(path: Path) -> Version:
    """The version that ``path`` means (`find_version`), once every file proves to be the one that was published.

    Raises:
        ArtifactError: there is no such version, or its manifest is not one that this tfhalf reads.
        IntegrityError: a file is not the published one.
    """
    directory = find_version(path)
    manifest = read(directory)
    check_files(directory, manifest)
    return Version(directory, manifest)


def read(directory: Path) -> Manifest:
    """The manifest of a version directory, of any schema.

    Raises:
        ArtifactError: there is none, or it is not one that this tfhalf reads.
    """
    path = directory / NAME
    facts = _parsed(path)
    schema = facts.get("schema") if isinstance(facts, dict) else type(facts).__name__
    if not isinstance(schema, int) or isinstance(schema, bool) or schema not in _READERS:
        known = " and ".join(map(str, _READERS))
        raise ArtifactError(f"{path}: has schema {printable(repr(schema), 60)}; this tfhalf reads {known}")
    try:
        return Manifest.read(_READERS[schema](facts))
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}; it is damaged, export again") from None


def _parsed(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path, MAX_BYTES).decode("utf-8"), object_pairs_hook=_no_key_twice)
    except FileNotFoundError:
        raise ArtifactError(f"{path.parent}: holds no {NAME}; give a version that `tfhalf train` made") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is not readable JSON: {one_line(error, 120)}") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ: of two equal ones each reader takes another."""
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {printable(twice, 60)!r} stands in it twice")
    return value


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare every file with its recorded size and hash.

    Raises:
        IntegrityError: names the first file that is missing, differs, cannot be read, or is not recorded.
    """
    recorded = manifest.files
    try:
        files = _files(directory)
        if missing := next((name for name in recorded if name not in files), None):
            raise IntegrityError(f"{directory / missing}: is missing; restore it, or export again")
        if unknown := next((name for name in files if name not in recorded), None):
            raise IntegrityError(f"{directory / unknown}: is not in the manifest; take it out")
        for name, path in files.items():
            if changed := _change(path, recorded[name]):
                raise IntegrityError(
                    f"{path}: is not the file that was published ({changed}); restore it, or export again"
                )
    except OSError as error:
        raise IntegrityError(f"{error.filename or directory}: cannot be read: {error.strerror}") from None


def _change(path: Path, recorded: File) -> str:
    """How a file differs from its record; empty where it does not. Of another size, it is not read."""
    size = path.stat().st_size
    if size != recorded.bytes and "bytes" in recorded.model_fields_set:
        return f"it has {size:,} bytes, recorded are {recorded.bytes:,}"
    digest = sha256(path)
    if digest != recorded.sha256:
        return f"its sha256 is {digest[:12]}..., recorded is {recorded.sha256[:12]}..."
    return ""
