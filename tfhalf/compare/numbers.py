"""The float32 and the bfloat16 model beside a version's float16 artifacts: `other_numbers`.

Each row is a folder that holds the model in one format and one kind of numbers, with the version's reference: it is
opened in a fresh process and benched as a version is. Folders are named by a digest of all that they depend on, and one
that is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.formats import Format
from tfhalf.artifacts.manifest import Version, open_version
from tfhalf.compare.float32_model import Sources, request_of
from tfhalf.compare.offers import Absent
from tfhalf.errors import ArtifactError, ExportError, IntegrityError, ParityError, TfhalfError, UnsupportedError
from tfhalf.export.load.model import open_source
from tfhalf.export.other_numbers import NUMBERS, Numbers, OtherNumbers, formats_of
from tfhalf.files import read_bytes, replacing
from tfhalf.progress import Progress, size
from tfhalf.runtimes.open import open_predictor
from tfhalf.system.device import grow_memory
from tfhalf.verify.process import Verifier
from tfhalf.verify.version import TestSet
from tfhalf.workflows.verify import test_set_of

ABSENT = "absent.json"
SAME = 0.05
"""How far the float32 files may answer from the version's float32 model, relative to the output's largest magnitude:
what float16 may by default. What is farther off is another model."""
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Row:
    """A version's model in other ``numbers``: a ``version`` of its own, in a folder that is not published."""

    numbers: Numbers
    version: Version


def other_numbers(
    version: Version, folder: Path, sources: Sources, progress: Progress
) -> tuple[tuple[Row, ...], tuple[Absent, ...]]:
    """Each float16 format of ``version`` in float32 and bfloat16, compared with its float32 model; and the rows that
    are not to be had, with the reason.

    Args:
        version: whose files are checked.
        folder: exists; what is made stays there.
        sources: what the command names of the model's origin.
        progress: where lines go.
    """
    rows: list[Row] = []
    absent: list[Absent] = []
    with Verifier(progress) as verifier:
        work = _Work(version, folder, sources, progress, verifier)
        for numbers in NUMBERS:
            for kind in formats_of(version.manifest):
                try:
                    rows.append(Row(numbers, work.row(numbers, kind)))
                except _NotHereError as error:
                    absent.append(Absent(f"{numbers} {kind.name}", str(error)))
                    progress.line(f"numbers    {numbers} {kind.name} is not here: {error}")
    return tuple(rows), tuple(absent)


class _NotHereError(TfhalfError):
    """A row is not to be had; the message says why."""


@dataclass
class _Work:
    """``unreachable`` is why the model is not to be had in any numbers; empty where it is, as far as is known."""

    version: Version
    folder: Path
    sources: Sources
    progress: Progress
    verifier: Verifier
    unreachable: str = ""
    model: OtherNumbers | None = None
    test_set: TestSet | None = None

    @cached_property
    def _digest(self) -> str:
        """Of all that a row depends on: the version as it was published, and the packages that make and run it."""
        digest = hashlib.sha256((self.version.directory / manifests.NAME).read_bytes())
        digest.update(json.dumps(manifests.versions(), sort_keys=True).encode())
        return digest.hexdigest()[:12]

    def row(self, numbers: Numbers, kind: Format) -> Version:
        """The model in ``numbers`` in one format, made and compared unless it is there.

        Raises:
            _NotHereError: it is not to be had.
        """
        target = self.folder / f"{numbers}-{kind.name}-{self._digest}"
        if (known := _known(target)) is not None:
            return known
        self._reach()
        assert self.model is not None
        self.verifier.start()
        self.progress.status(f"writing {numbers} {kind.name} ...")
        try:
            with _staged(self.folder) as staged:
                self._write(self.model, numbers, kind, staged)
                os.rename(staged, target)
        except (ExportError, UnsupportedError) as error:  # as long as nothing else is installed it stays so
            why = error.reason if isinstance(error, UnsupportedError) else str(error)
            _keep_reason(target, why)
            raise _NotHereError(why) from error
        except (ArtifactError, ParityError, IntegrityError) as error:
            raise _NotHereError(str(error)) from error
        return Version(target, manifests.read(target))

    def _reach(self) -> None:
        """Read the model, and the test set where the version is compared on one.

        Raises:
            _NotHereError: one of them is not to be had, now or when a row before was made.
        """
        if not self.unreachable and self.model is None:
            try:
                grow_memory()  # the fresh process, and those that are timed, take their part
                request = request_of(self.version, self.sources)
                self.progress.status(f"reading {request.model} ...")
                if self.version.manifest.reference.origin == "test set":
                    pipeline, data_dir = self.sources.pipeline, self.sources.data_dir
                    self.test_set = test_set_of(self.version, data_dir, self.progress, pipeline)
                self.model = OtherNumbers(open_source(request), self.version)
            except TfhalfError as error:
                self.unreachable = str(error)
        if self.unreachable:
            raise _NotHereError(self.unreachable)

    def _write(self, model: OtherNumbers, numbers: Numbers, kind: Format, staged: Path) -> None:
        manifest = model.write(numbers, kind, staged)
        if numbers == "bfloat16":  # what no runtime opens is known before a process is asked, and in its own words
            open_predictor(staged, kind.name).close()
        written = f"{numbers} {kind.name}: {size(manifest.artifacts[0].bytes)}"
        self.progress.line(f"numbers    {written}; a fresh process compares it")
        comparisons = self.verifier(staged, self.test_set)
        if numbers == "float32":
            self._check_same(comparisons)
        manifests.write(staged, manifest.model_copy(update={"comparisons": tuple(comparisons)}))

    def _check_same(self, comparisons: list[Comparison]) -> None:
        """Refuse another model than the version's.

        Raises:
            _NotHereError: it answers otherwise.
        """
        outputs = [output for one in comparisons for output in one.outputs]
        farthest = max((output.max_difference for output in outputs), default=0.0)
        if farthest > SAME or any(output.non_finite for output in outputs):
            self.unreachable = (
                f"{self.model.source.facts.get('file') if self.model else 'the model'} answers otherwise than the "
                f"float32 model of {self.version.directory} (largest difference {farthest:.1e}): it was trained on, or "
                "is another; give the one that the version was made from: --model FILE"
            )
            raise _NotHereError(self.unreachable)


def _known(target: Path) -> Version | None:
    """What a folder holds that was made before; None where there is none, or it was changed.

    Raises:
        _NotHereError: it was tried before, and could not be made.
    """
    if (target / ABSENT).is_file():
        raise _NotHereError(str(json.loads(read_bytes(target / ABSENT, _MAX_BYTES))["why"]))
    if not target.is_dir():
        return None
    try:
        return open_version(target)
    except (ArtifactError, IntegrityError):  # made again; nothing else is lost
        shutil.rmtree(target)
        return None


def _keep_reason(target: Path, why: str) -> None:
    target.mkdir(exist_ok=True)
    with replacing(target / ABSENT) as beside:
        beside.write_text(json.dumps({"why": why}) + "\n", encoding="utf-8")


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A new folder within ``folder``, which is gone after the block unless it was renamed."""
    staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)
