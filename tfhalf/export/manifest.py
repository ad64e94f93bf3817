"""``manifest.json``: what an artifact is, how it was made, and the sha256 of each of its files."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tfhalf import config
from tfhalf.errors import ArtifactError, IntegrityError
from tfhalf.files import sha256

NAME = "manifest.json"
SCHEMA = 1
_PACKAGES = (
    "tfhalf",
    "tensorflow",
    "keras",
    "numpy",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "ai-edge-litert",
    "openvino",
    "tensorflow-datasets",
)
# Written after the artifacts are judged, so not among the files whose hash the manifest holds.
_UNHASHED = {NAME, "report.md"}
# What the commands take from a manifest, and as what, by its kind: of a pipeline's export, and of any model's.
_NEEDED: dict[str, dict[str, type]] = {
    "pipeline": {
        "name": str,
        "pipeline_file": str,
        "config.data": dict,
        "config.export.formats": list,
        "config.verify": dict,
        "seed": int,
        "data.source": str,
        "data.sizes.test": int,
        "labels": list,
        "input.shape": list,
        "files": dict,
    },
    "model": {
        "name": str,
        "config.export.formats": list,
        "config.verify": dict,
        "samples": dict,
        "inputs": list,
        "outputs": list,
        "files": dict,
    },
}


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
    hashes = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if path.is_file() and relative not in _UNHASHED and not path.name.startswith("."):
            hashes[relative] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    return hashes


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
    missing = [key for key, of in _NEEDED[kind].items() if not isinstance(_value(manifest, key), of)]
    if not missing:
        missing = [f"files.{name}" for name, recorded in manifest["files"].items() if not isinstance(recorded, dict)]
    if not missing and kind == "model":
        missing = _missing_of_model(manifest)
    if missing:
        raise ArtifactError(f"{path}: lacks {', '.join(missing[:5])}; it is damaged, export again")
    if kind == "pipeline":
        _check_config(path, manifest)
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


def _missing_of_model(manifest: dict[str, Any]) -> list[str]:
    """What is not as it has to be in the ports, formats and limits of a model's export."""
    missing = [key for key in ("inputs", "outputs") if not manifest[key] or not all(map(_is_port, manifest[key]))]
    if not all(isinstance(kind, str) for kind in manifest["config"]["export"]["formats"]):
        missing.append("config.export.formats")
    limits = manifest["config"]["verify"]
    wanted = ("max_difference", "mean_difference", "min_agreement", "true_float16_samples")
    if set(limits) != set(wanted) or not all(isinstance(v, int | float) for v in limits.values()):
        missing.append("config.verify")
    return missing


def _is_port(told: Any) -> bool:
    return (
        isinstance(told, dict)
        and all(isinstance(told.get(key), str) for key in ("name", "dtype"))
        and isinstance(told.get("shape"), list)
        and bool(told["shape"])
    )


def _parsed(directory: Path) -> dict[str, Any]:
    path = directory / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{directory}: holds no {NAME}; give a version that `tfhalf train` made") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: is not readable JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(f"{path}: has schema {found!r}; this tfhalf reads {SCHEMA}")
    return manifest


def _check_config(path: Path, manifest: dict[str, Any]) -> None:
    for section, kind in (("data", config.Data), ("export", config.Export), ("verify", config.Verify)):
        try:
            kind.model_validate_json(json.dumps(manifest["config"][section]))
        except ValidationError as error:
            key = ".".join(map(str, error.errors()[0]["loc"]))
            raise ArtifactError(f"{path}: config.{section}.{key} is not valid; it is damaged, export again") from None


def _value(tree: Any, dotted: str) -> Any:
    for step in dotted.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def check_files(directory: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with its recorded hash.

    Raises:
        IntegrityError: names the first file that is missing, differs, or is not recorded.
    """
    there = file_hashes(directory)
    for relative, recorded in manifest["files"].items():
        if relative not in there:
            raise IntegrityError(f"{directory / relative}: is missing; restore it, or export again")
        if there[relative]["sha256"] != recorded.get("sha256"):
            raise IntegrityError(
                f"{directory / relative}: is not the file that was published (its sha256 is "
                f"{there[relative]['sha256'][:12]}..., recorded is {str(recorded.get('sha256'))[:12]}...); "
                "restore it, or export again"
            )
    unknown = sorted(set(there) - set(manifest["files"]))
    if unknown:
        raise IntegrityError(f"{directory / unknown[0]}: is not in the manifest; take it out")
