"""What the smaller commands do: verify a version, write the starters."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError, InputError
from tfhalf.files import check_writable
from tfhalf.progress import Progress
from tfhalf.runtimes.child import not_covered
from tfhalf.tasks import Targets
from tfhalf.tasks.facts import targets_of_facts
from tfhalf.text import printable

if TYPE_CHECKING:
    from tfhalf.verify.version import TestSet


def verify_version(
    path: Path, data_dir: str | None, progress: Progress, pipeline: Path | None = None
) -> tuple[Path, list[Comparison]]:
    """Verify ``exports/NAME[/VERSION]`` over the samples beside it, or the test set that it was made with; returns the
    version directory and the comparisons. What they rest on, and what nothing here runs, is printed.

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
    version = manifests.open_version(path)  # before data is loaded: a changed file is reported at once
    directory, manifest = version.directory, version.manifest
    from tfhalf.verify.report import uncovered
    from tfhalf.verify.version import compare_version

    test_set = None
    if manifest.reference.origin == "test set":
        test_set = test_set_of(version, data_dir, progress, pipeline)
    elif pipeline is not None:
        raise ArtifactError(f"{directory}: the samples that it is compared on lie in it; leave --pipeline out")
    compared = compare_version(version, progress, test_set)
    lacking = not_covered([kind.name for kind in manifest.formats])
    for line in (*compared.lines, *lacking, *uncovered(compared.comparisons)):
        progress.line(line)
    return directory, compared.comparisons


def test_set_of(version: Version, data_dir: str | None, progress: Progress, pipeline: Path | None) -> TestSet:
    """The test set that a version was made with; arguments as those of `verify_version`.

    Raises:
        ArtifactError: its manifest does not say where that is from, or that is code.
        ConfigError, DataError: it is not to be had.
    """
    from tfhalf.data import load_splits
    from tfhalf.data.columns import Columns, by_name
    from tfhalf.system.device import grow_memory
    from tfhalf.verify.version import TestSet

    directory, manifest = version.directory, version.manifest
    data, base = _data(directory, manifest, pipeline)
    if manifest.data is None or manifest.seed is None:
        raise ArtifactError(f"{directory}: its manifest lacks data or seed; it is damaged, export again")
    grow_memory()
    task, outputs = manifest.config.task, manifest.config.outputs
    splits = load_splits(
        data,
        base=base,
        seed=manifest.seed,
        data_dir=data_dir,
        progress=progress.status,
        kind=kind_of(manifest),
        ignore={name: one.ignore for name, one in outputs.items()} or (task.ignore if task else None),
    )
    n = manifest.data.sizes.test  # fewer than there are after a --smoke run
    y = splits.y_test[:n]
    return TestSet(by_name(splits.x_test[:n], manifest.inputs[0].name), y.arrays if isinstance(y, Columns) else y)


def kind_of(manifest: Manifest) -> Targets | dict[str, Targets]:
    """What targets a version's data is read with, of several outputs by name.

    Raises:
        ArtifactError: its task is not one that is known here.
    """
    if not manifest.tasks:
        return "classes"
    kinds = {name: targets_of_facts(facts) for name, facts in manifest.tasks.items()}
    return kinds if manifest.config.outputs else next(iter(kinds.values()))


def _data(directory: Path, manifest: Manifest, pipeline: Path | None) -> tuple[config.Data, Path]:
    """Where a version's test data comes from, and the folder that relative paths start from.

    Raises:
        ArtifactError: from code, which only a pipeline that the user names may run.
    """
    from tfhalf.data import runs_code

    if pipeline is not None:
        return config.load_pipeline(pipeline).data, pipeline.resolve().parent
    data = manifest.config.data
    if data is None:
        raise ArtifactError(f"{directory}: its manifest lacks config.data; give the pipeline: --pipeline FILE")
    if runs_code(data.source):
        raise ArtifactError(
            f"{directory}: its test data comes from the code {printable(data.source, 80)!r}, and an artifact runs "
            "nothing that it names; give the pipeline that it was made from: --pipeline FILE"
        )
    url = next((text for text in (data.source, data.records.classes or "") if "://" in text), None)
    if url is not None:
        raise ArtifactError(
            f"{directory}: its test data comes from {printable(url, 80)!r}, and an artifact fetches nothing that it "
            "names; give the pipeline that it was made from: --pipeline FILE"
        )
    file = manifest.pipeline_file or "."  # older versions hold an absolute path
    return data, (directory / file).resolve().parent


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
        for pattern in ("pipelines/*.yaml", "pipelines/templates/*.yaml", "models/*.py"):
            for source in sorted(root.glob(pattern)):
                target = directory / source.relative_to(root)
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
