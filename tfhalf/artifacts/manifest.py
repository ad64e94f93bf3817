"""``manifest.json``: what an artifact is, how it was made, and the sha256 of each of its files."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from tfhalf.artifacts.manifest_schema import wrong
from tfhalf.errors import ArtifactError, IntegrityError
from tfhalf.files import read_bytes, sha256
from tfhalf.text import one_line, printable

NAME = "manifest.json"
SCHEMA = 1
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
# Written after the artifacts are judged, so not among the files whose hash the manifest holds.
_UNHASHED = {NAME, "report.md"}
MAX_BYTES = 64 << 20


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that made an artifact."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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


def file_hashes(directory: Path) -> dict[str, dict[str, Any]]:
    """``{relative path: {"bytes", "sha256"}}`` of every artifact file below ``directory``."""
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in _files(directory).items()}


def _files(directory: Path) -> dict[str, Path]:
    """Every artifact file below ``directory`` by its relative path."""
    found = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name not in _UNHASHED and not path.name.startswith(".")}


def write(directory: Path, manifest: dict[str, Any]) -> None:
    """Write ``directory/manifest.json``."""
    (directory / NAME).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read(directory: Path, kind: str = "pipeline") -> dict[str, Any]:
    """The manifest of a version directory, of a pipeline's export or, with ``kind="model"``, of any other model's.

    Raises:
        ArtifactError: there is none, it is not one that this version reads, or it is of another kind.
    """
    manifest = _parsed(directory)
    path, found = directory / NAME, kind_of(manifest)
    if found != kind:
        what = {"pipeline": "a pipeline's run", "model": "a model file"}
        raise ArtifactError(f"{directory}: was exported from {what[found]}; this needs an export of {what[kind]}")
    if what_is_wrong := wrong(manifest, kind):
        raise ArtifactError(f"{path}: {what_is_wrong}; it is damaged, export again")
    return manifest


def kind_of(manifest: dict[str, Any]) -> str:
    """``pipeline`` or ``model``."""
    return "model" if manifest.get("kind") == "model" else "pipeline"


def read_kind(directory: Path) -> str:
    """Which kind of export a version directory holds.

    Raises:
        ArtifactError: it has no manifest that this version reads.
    """
    return kind_of(_parsed(directory))


def _parsed(directory: Path) -> dict[str, Any]:
    path = directory / NAME
    try:
        manifest = json.loads(read_bytes(path, MAX_BYTES).decode("utf-8"), object_pairs_hook=_no_key_twice)
    except FileNotFoundError:
        raise ArtifactError(f"{directory}: holds no {NAME}; give a version that `tfhalf train` made") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is not readable JSON: {one_line(error, 120)}") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(f"{path}: has schema {printable(repr(found), 60)}; this tfhalf reads {SCHEMA}")
    return manifest


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ: of two equal ones each reader takes another."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {printable(twice, 60)!r} stands in it twice")
    return found


def check_files(directory: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with its recorded size and hash.

    Raises:
        IntegrityError: names the first file that is missing, differs, cannot be read, or is not recorded.
    """
    recorded = manifest["files"]
    try:
        found = _files(directory)
        if missing := next((name for name in recorded if name not in found), None):
            raise IntegrityError(f"{directory / missing}: is missing; restore it, or export again")
        if unknown := next((name for name in found if name not in recorded), None):
            raise IntegrityError(f"{directory / unknown}: is not in the manifest; take it out")
        for name, path in found.items():
            if changed := _change(path, recorded[name]):
                raise IntegrityError(
                    f"{path}: is not the file that was published ({changed}); restore it, or export again"
                )
    except OSError as error:
        raise IntegrityError(f"{error.filename or directory}: cannot be read: {error.strerror}") from None


def _change(path: Path, recorded: dict[str, Any]) -> str:
    """How a file differs from its record; empty where it does not. Of another size, it is not read."""
    size = path.stat().st_size
    if size != recorded.get("bytes", size):
        return f"it has {size:,} bytes, recorded are {recorded['bytes']:,}"
    digest = sha256(path)
    if digest != recorded["sha256"]:
        return f"its sha256 is {digest[:12]}..., recorded is {recorded['sha256'][:12]}..."
    return ""
