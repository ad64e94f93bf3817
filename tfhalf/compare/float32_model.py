"""Where the float32 model of a version is: the run beside it, or the file that it was made from: `request_of`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tfhalf.artifacts.manifest import Version
from tfhalf.errors import ArtifactError
from tfhalf.export.request import Request
from tfhalf.files import sha256
from tfhalf.text import printable
from tfhalf.train.record.model_file import MODEL
from tfhalf.train.record.run_folder import FACTS, run_of


@dataclass(frozen=True)
class Sources:
    """What the command names of a version's origin.

    ``model``: the float32 model, where it is not looked for. ``custom``: the file that defines its own layers.
    ``pipeline``, ``data_dir``: where the test set comes from, as `verify_version` takes them.
    """

    model: Request | None = None
    custom: Path | None = None
    pipeline: Path | None = None
    data_dir: str | None = None


def request_of(version: Version, sources: Sources) -> Request:
    """The float32 model that ``version`` was made from: as the command names it; else the ``model.keras`` of the run
    that made it, if that lies beside its exports; else the file of its name here or beside its exports whose sha256
    the version has. Nothing runs that the version names.

    Raises:
        ArtifactError: it can no longer be reached; the message says what to give.
    """
    if sources.model is not None:
        return _named(sources.model)
    directory, manifest = version.directory, version.manifest
    if manifest.training is not None:
        run = run_of(directory, manifest.training.run) if manifest.training.run else None
        if run is None:
            raise ArtifactError(
                f"the run that made {directory} is not beside its exports; give its folder, or its {MODEL}: "
                "--model runs/NAME/STAMP"
            )
        return Request(str(_of_run(run)), sources.custom)
    facts = manifest.source or {}
    name = printable(str(facts.get("file") or facts.get("reference") or "an unknown model"), 80)
    if facts.get("kind") in ("keras", "hdf5"):
        for folder in (Path(), directory.resolve().parent.parent.parent):
            path = folder / Path(name).name
            if path.is_file() and sha256(path) == facts.get("sha256"):
                return Request(str(path), sources.custom)
    how = "--model file.py:build --weights FILE" if facts.get("kind") == "builder" else f"--model {Path(name).name}"
    raise ArtifactError(f"{name}, which {directory} was made from, is not here; give it: {how}")


def _named(request: Request) -> Request:
    path = Path(request.model)
    return replace(request, model=str(_of_run(path))) if (path / FACTS).is_file() else request


def _of_run(run: Path) -> Path:
    if not (run / MODEL).is_file():
        raise ArtifactError(f"{run}: holds no {MODEL}; tfhalf export {run} writes it once training has ended")
    return run / MODEL
