"""A model of the zoo exported in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zoo

from tfhalf.artifacts.manifest import open_version
from tfhalf.export.load.model import open_source
from tfhalf.export.model import export_source
from tfhalf.export.request import Options, Request
from tfhalf.progress import Progress
from tfhalf.verify.version import compare_version


class Here:
    """What verifies, in this process: a fresh one for each model would be most of the time."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def start(self) -> None:
        return None

    def __call__(self, directory: Path) -> Any:
        return compare_version(open_version(directory), self.progress).comparisons


def export_here(request: Request, options: Options, progress: Progress | None = None) -> Any:
    """What `tfhalf export` publishes, verified in this process."""
    progress = progress or Progress(quiet=True)
    here: Any = Here(progress)
    return export_source(open_source(request), options, progress, verifier=here)


def export(entry: zoo.Entry, folder: Path) -> Any:
    return export_file(zoo.make(entry, folder))


def export_file(path: Path, **options: Any) -> Any:
    """A model file exported into the folder ``exports`` beside it; ``options`` are those of `Options`."""
    return export_here(Request(str(path), custom=zoo.CUSTOM), Options(exports=path.parent / "exports", **options))
