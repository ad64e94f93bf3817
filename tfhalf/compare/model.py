"""``tfhalf compare MODEL``: every format that this machine can make of a model, published below the comparison."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.manifest import Version, open_version
from tfhalf.compare.offers import Absent
from tfhalf.errors import ArtifactError, ConfigError, IntegrityError
from tfhalf.export.request import Options, Request
from tfhalf.files import read_bytes, replacing, sha256
from tfhalf.progress import Progress
from tfhalf.runtimes.child import lacking

EXPORTS = "exports"
_RECORD = "exported.json"
_MAX_BYTES = 1 << 20


def formats_here(options: Options) -> tuple[Options, list[Absent]]:
    """``options`` with every format that can be made and run on this machine, where none is named; and the others."""
    if options.formats is not None:
        return options, []
    lacks = {kind.name: lacking(kind.needs) if kind.needs else "" for kind in FORMATS.values()}
    here = tuple(name for name, lack in lacks.items() if not lack)
    return replace(options, tried=here), [Absent(name, lack) for name, lack in lacks.items() if lack]


def exported(request: Request, options: Options, folder: Path, progress: Progress) -> tuple[Version, list[Absent]]:
    """The version that the model of ``request`` is exported as; one that ``folder`` says was made of the same files
    with the same options is not made again. And the formats that are not in it.

    Args:
        request: which model; a builder with weights, since one without them draws others each time.
        options: how to export.
        folder: of the comparison of formats, which this process works in alone.
        progress: where lines go.

    Raises:
        InputError, ShortfallError: as `export_model`.
        ConfigError: the model is a builder without weights.
    """
    if ":" in request.model and request.weights is None and not Path(request.model).exists():
        raise ConfigError(
            f"{request.model}: draws its weights anew each time, and several numbers of one model are compared; give "
            "--weights FILE, or a .keras file"
        )
    options, absent = formats_here(options)
    digest = _digest(request, options)
    version = _recorded(folder, digest)
    if version is None:
        from tfhalf.export.model import export_model

        directory = export_model(request, options, progress).version
        with replacing(folder / _RECORD) as beside:
            beside.write_text(json.dumps({"digest": digest, "version": os.path.relpath(directory, folder)}) + "\n")
        progress.line(f"published  {directory}")
        version = Version(directory, manifests.read(directory))
    else:
        progress.line(f"export     {version.directory} was made of the same file, and is not made again")
    absent += [Absent(name, why) for name, why in version.manifest.refused.items()]
    return version, absent


def _recorded(folder: Path, digest: str) -> Version | None:
    """The version that was made of the same; None where there is none, or it was changed."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError, ArtifactError, IntegrityError):
        record = json.loads(read_bytes(folder / _RECORD, _MAX_BYTES))
        if record["digest"] == digest:
            return open_version(Path(os.path.normpath(folder / record["version"])))
    return None


def _digest(request: Request, options: Options) -> str:
    """Of the files and the options that an export depends on, and the packages that make it."""
    name = Path(request.model)
    code = Path(request.model.rpartition(":")[0])
    files: Mapping[str, Path | None] = {
        "model": name if name.exists() else code if code.is_file() else None,
        "custom": request.custom,
        "weights": request.weights,
        "verify_with": options.verify_with,
    }
    facts: dict[str, Any] = {
        "model": request.model,
        "arguments": dict(request.arguments),
        "formats": options.formats or options.tried,
        "sizes": dict(options.sizes),
        "labels": options.labels,
        "files": {key: _content(path) for key, path in files.items() if path is not None},
        "versions": manifests.versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _content(path: Path) -> Any:
    """The sha256 of a file, or of each file of a folder.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        if path.is_dir():
            return {name: file.sha256 for name, file in manifests.file_hashes(path).items()}
        return sha256(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
