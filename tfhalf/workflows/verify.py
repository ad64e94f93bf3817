"""What the smaller commands do: verify a version, write the starters."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.version import find_version
from tfhalf.errors import ArtifactError, InputError
from tfhalf.files import check_writable
from tfhalf.progress import Progress
from tfhalf.runtimes.child import not_covered
from tfhalf.text import printable

if TYPE_CHECKING:
    from tfhalf.verify.reference import Verified


def verify_version(
    path: Path, data_dir: str | None, progress: Progress, pipeline: Path | None = None
) -> tuple[Path, list[Any]]:
    """Verify ``exports/NAME[/VERSION]`` over its test set, or the samples beside it; returns the version directory and
    the comparisons.

    Args:
        path: ``exports/NAME`` or ``exports/NAME/VERSION``.
        data_dir: where TFDS keeps its sets.
        progress: where lines go.
        pipeline: the file whose ``data`` section gives the test set. Without it the manifest's own section does, which
            may name a known form of data (``tfds:``, ``folder:``, ...) and no code.

    Raises:
        ArtifactError, IntegrityError: no such version, changed files, or its data comes from code and no pipeline is
            given.
        ConfigError, DataError: the pipeline or the test data is not to be had.
    """
    directory = find_version(path)
    if manifests.read_kind(directory) == "model":
        from tfhalf.verify.samples import verify_samples

        if pipeline is not None:
            raise ArtifactError(f"{directory}: was exported from a model file, with its samples; leave --pipeline out")
        found: Verified[Any] = verify_samples(directory, progress)
        return directory, _told(found, manifests.read(directory, kind="model"), progress)
    manifest = manifests.read(directory)
    manifests.check_files(directory, manifest)  # before data is loaded: a changed file is told at once
    from tfhalf.data import load_splits
    from tfhalf.system.device import grow_memory
    from tfhalf.verify.test_set import verify_directory

    data, base = _data(directory, manifest, pipeline)
    grow_memory()
    splits = load_splits(data, base=base, seed=manifest["seed"], data_dir=data_dir, progress=progress.status)
    n = manifest["data"]["sizes"]["test"]  # fewer than there are after a --smoke run
    found = verify_directory(directory, splits.x_test[:n], splits.y_test[:n], progress)
    return directory, _told(found, manifest, progress)


def _data(directory: Path, manifest: dict[str, Any], pipeline: Path | None) -> tuple[config.Data, Path]:
    """Where a version's test data comes from, and the folder that relative paths start from.

    Raises:
        ArtifactError: from code, which only a pipeline that the user names may run.
    """
    from tfhalf.data import runs_code

    if pipeline is not None:
        return config.load_pipeline(pipeline).data, pipeline.resolve().parent
    data = config.Data.model_validate(manifest["config"]["data"])
    if runs_code(data.source):
        raise ArtifactError(
            f"{directory}: its test data comes from the code {printable(data.source, 80)!r}, and an artifact runs "
            "nothing that it names; give the pipeline that it was made from: --pipeline FILE"
        )
    return data, (directory / manifest["pipeline_file"]).resolve().parent  # older versions hold an absolute path


def _told(found: Verified[Any], manifest: dict[str, Any], progress: Progress) -> list[Any]:
    """The comparisons; what they rest on and what nothing here runs is printed."""
    from tfhalf.verify.report import uncovered

    lacking = not_covered(manifest["config"]["export"]["formats"])
    for line in (*found.lines, *lacking, *uncovered(found.comparisons)):
        progress.line(line)
    return found.comparisons


def write_starters(directory: Path) -> list[Path]:
    """Copy the starter pipelines and models into ``directory``; returns the files.

    Raises:
        InputError: it exists and is not empty.
    """
    if os.path.lexists(directory) and (not directory.is_dir() or os.listdir(directory)):
        raise InputError(f"{directory}: is not empty; give a new or empty folder")
    check_writable(directory, "folder")
    there = directory.exists()
    here = Path(__file__).resolve().parents[1]
    # In a wheel they lie within the package; in a checkout beside it.
    root = here / "starters" if (here / "starters").is_dir() else here.parent
    written = []
    try:
        for folder, pattern in (("pipelines", "*.yaml"), ("models", "*.py")):
            for source in sorted((root / folder).glob(pattern)):
                target = directory / folder / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                written.append(target)
    except OSError as error:
        for name in ("pipelines", "models"):  # it was new or empty: half of the starters are none
            shutil.rmtree(directory / name, ignore_errors=True)
        if not there:
            shutil.rmtree(directory, ignore_errors=True)
        raise InputError(f"{directory}: cannot be written: {error.strerror}; give another folder") from None
    return written
