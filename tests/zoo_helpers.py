"""A model of the zoo exported in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zoo

from tfhalf.artifacts.manifest import open_version
from tfhalf.export import model
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


def export(entry: zoo.Entry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return export_file(zoo.make(entry, folder), monkeypatch)


def export_file(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """A model file exported into the folder ``exports`` beside it; ``options`` are those of `Options`."""
    monkeypatch.setattr(model, "Verifier", Here)
    request = Request(str(path), custom=zoo.CUSTOM)
    return model.export_model(request, Options(exports=path.parent / "exports", **options), Progress(quiet=True))
