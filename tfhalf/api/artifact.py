"""A published version opened, and verified: `open_artifact`, `verify_export`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfhalf.api.host import need_tensorflow, progress_of, python_words
from tfhalf.artifacts.arrays import fitted
from tfhalf.artifacts.manifest import Version, open_version
from tfhalf.artifacts.ports import Port
from tfhalf.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from tfhalf.artifacts.comparison import Comparison
    from tfhalf.runtimes.open import Predictor

Inputs = np.ndarray | Mapping[str, Any]


class Artifact:
    """One artifact of a version, opened: call it with arrays. A context manager, which closes it at the block's end.

    Attributes:
        path: the version directory.
        runtime: what computes, in words: ``onnxruntime 1.32.0, CPU``.
        inputs: name, dtype and shape of each input; None in a shape is a size that the caller chooses.
        outputs: the outputs' names.
        labels: the names of the classes; empty where the export has none.
    """

    def __init__(self, version: Version, predictor: Predictor) -> None:
        manifest = version.manifest
        self.path, self.runtime = version.directory, predictor.about
        self.inputs: tuple[Port, ...] = tuple(manifest.inputs)
        self.outputs, self.labels = tuple(port.name for port in manifest.outputs), manifest.labels
        self._predictor: Predictor | None = predictor

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        """The outputs by name, each [N, ...].

        Args:
            x: the inputs by name, each [N, ...]; or the array of the only one. Numbers are cast to the input's dtype
                where that loses nothing but digits.

        Raises:
            DataError: the arrays do not fit the inputs.
            ArtifactError: it is closed.
            UnsupportedError: the runtime fails on them.
        """
        if self._predictor is None:
            raise ArtifactError(f"{self.path}: is closed; open it again")
        arrays = dict(x) if isinstance(x, Mapping) else {port.name: x for port in self.inputs[:1]}
        arrays = {self._name(name): value for name, value in arrays.items()}
        if set(arrays) != {port.name for port in self.inputs}:
            names = ", ".join(f"{port.name} {port.dtype} {port.dims()}" for port in self.inputs)
            raise DataError(f"{self.path}: takes {names}; received {', '.join(map(str, arrays)) or 'nothing'}")
        answer = self._predictor({port.name: fitted(arrays[port.name], port, str(self.path)) for port in self.inputs})
        return {name: answer[name] for name in self.outputs if name in answer}

    def _name(self, name: str) -> str:
        return next((port.name for port in self.inputs if name in port.aliases), name)

    def close(self) -> None:
        """Give up the runtime, and the process that it may have; closing twice is not an error."""
        if self._predictor is not None:
            self._predictor.close()
        self._predictor = None

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_artifact(path: str | Path, runtime: str | None = None) -> Artifact:
    """Open a published version to predict with.

    Args:
        path: ``exports/NAME/VERSION``, or ``exports/NAME`` for the newest.
        runtime: ``savedmodel``, ``onnx``, ``litert``, ``litert-int8``; ``onnx-openvino`` or ``onnx-float16`` (true
            float16 arithmetic, slow) for the ONNX file. None takes ``onnx`` where it was exported, which imports no
            TensorFlow, else the first of the others.

    Raises:
        ArtifactError: there is no such version, or it lacks that format.
        IntegrityError: a file is missing, or is not what the manifest says.
        UnsupportedError: the runtime does not open the file.
    """
    from tfhalf.runtimes.open import BY_NAME, open_predictor

    version = open_version(Path(path))
    formats = [kind.name for kind in version.manifest.formats]
    chosen = runtime or ("onnx" if "onnx" in formats else formats[0])
    if chosen not in BY_NAME:
        raise ArtifactError(f"runtime {chosen!r}: {', '.join(BY_NAME)} are accepted")
    if chosen == "savedmodel":
        need_tensorflow()
    return Artifact(version, open_predictor(version.directory, chosen))


@dataclass(frozen=True)
class Verification:
    """What `verify_export` measures. ``comparisons``: one for each artifact and runtime, with ``passed``, ``problems``
    and their figures."""

    version: Path
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether every artifact holds its limits."""
        return all(comparison.passed for comparison in self.comparisons)

    @property
    def problems(self) -> tuple[str, ...]:
        """What exceeds the limits, each with its artifact's name."""
        return tuple(f"{c.artifact}: {problem}" for c in self.comparisons for problem in c.problems)


def verify_export(
    path: str | Path, *, pipeline: str | Path | None = None, data_dir: str | None = None, verbose: bool = False
) -> Verification:
    """Compare the artifacts of a published version with the float32 model, in this process, as `tfhalf verify` does.

    Args:
        path: ``exports/NAME/VERSION``, or ``exports/NAME`` for the newest.
        pipeline: the file that names the test data, needed where those come from code, which an export never runs.
        data_dir: where TensorFlow Datasets keeps its data.
        verbose: print what the command prints; otherwise it goes to the logger ``tfhalf``.

    Raises:
        ArtifactError, ConfigError, DataError: there is no such version, or its test data cannot be had.
        IntegrityError: a file is missing, or is not what the manifest says.
    """
    need_tensorflow()
    from tfhalf.workflows.verify import verify_version

    with python_words():
        version, comparisons = verify_version(
            Path(path), data_dir, progress_of(verbose), None if pipeline is None else Path(pipeline)
        )
    return Verification(version, tuple(comparisons))
