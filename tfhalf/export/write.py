"""A trained model written in each format: `write_artifacts`."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

from tfhalf import config
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import Artifact, Cast, Parameters
from tfhalf.artifacts.share import float32_share
from tfhalf.data.preprocess import AnyPreprocess
from tfhalf.errors import ConfigError, ExportError
from tfhalf.export import savedmodel
from tfhalf.export.litert import to_litert
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import as_ports, make_program, output_ports
from tfhalf.export.rebuild import grouped_conv
from tfhalf.export.rebuild.rebuild import Rebuilt, rebuild
from tfhalf.runtimes.child import lacking
from tfhalf.tasks import Task


def write_artifacts(
    model: keras.Model,
    directory: Path,
    pipeline: config.Pipeline,
    *,
    preprocess: AnyPreprocess,
    inputs: Sequence[int] | Sequence[Port],
    task: Task | None = None,
    labels: Sequence[str],
    git_revision: str | None = None,
    lookups: Lookups = Lookups(),  # noqa: B008  # frozen
) -> tuple[list[Artifact], Rebuilt]:
    """Rebuild ``model`` in float16 and write it in the formats of ``pipeline.export``.

    Args:
        model: trained, giving its task's answers; any policy.
        directory: exists and is empty.
        preprocess, inputs, task: what is around the net, see `make_program`.
        lookups: the words of inputs that callers may send as texts.
        labels, git_revision: for the metadata of ONNX and LiteRT files, which also says what the preprocessing is.

    Raises:
        ExportError: the model cannot be rebuilt or a format cannot hold it.
    """
    rebuilt = rebuild(model, keep_float32=pipeline.precision.islands, fold_batchnorm=pipeline.export.fold_batchnorm)
    program = make_program(rebuilt.model, preprocess, inputs, task)
    some_grouped = grouped_conv.any_grouped(rebuilt.model)
    metadata = {"labels": list(labels), **preprocess.to_dict(), "precision": "float16"}
    metadata |= {"git_revision": git_revision} if git_revision else {}
    artifacts = []
    for kind in (FORMATS[name] for name in pipeline.export.formats):
        if kind.container == "savedmodel":
            files = savedmodel.write(program, directory, lookups)
        elif kind.container == "onnx":
            with grouped_conv.for_onnx():
                plain = make_program(rebuilt.model, preprocess, inputs, task) if some_grouped else program
                files = to_onnx.write(plain, directory / kind.file, opset=pipeline.export.opset, metadata=metadata)
        else:
            continue
        names = tuple(path.relative_to(directory).as_posix() for path in files)
        artifacts.append(Artifact(format=kind.name, files=names, bytes=sum(path.stat().st_size for path in files)))
    results = to_litert.write(program, directory, pipeline.export.formats, metadata=metadata)
    artifacts += [litert_artifact(kind, result) for kind, result in results.items()]
    return artifacts, rebuilt


def litert_artifact(kind: str, result: to_litert.LiteRtFile | ExportError) -> Artifact:
    """What `to_litert.write` returns.

    Raises:
        ExportError: the file is missing, for the reason that it says.
    """
    if isinstance(result, ExportError):
        raise result
    return Artifact(format=kind, files=(result.path.name,), bytes=result.path.stat().st_size, details=result.details())


def rehearse(
    model: keras.Model,
    pipeline: config.Pipeline,
    *,
    preprocess: AnyPreprocess,
    inputs: Sequence[int] | Sequence[Port],
    task: Task | None = None,
) -> None:
    """Find out before training whether ``model`` can be exported at all; nothing is written.

    Raises:
        ExportError, ConfigError: as `write_artifacts` would, after training.
    """
    kinds = [FORMATS[name] for name in pipeline.export.formats]
    for kind in kinds:
        if kind.needs and (lack := lacking(kind.needs)):
            raise ConfigError(f"export.formats: {lack}")
    rebuilt = rebuild(model, keep_float32=pipeline.precision.islands, fold_batchnorm=pipeline.export.fold_batchnorm)
    if any(kind.container == "onnx" for kind in kinds):
        with grouped_conv.for_onnx():
            to_onnx.convert(make_program(rebuilt.model, preprocess, inputs, task), pipeline.export.opset)
    if any(kind.is_litert for kind in kinds):
        program = make_program(rebuilt.model, preprocess, inputs, task)
        with tempfile.TemporaryDirectory(prefix="tfhalf-rehearsal-") as folder:
            results = to_litert.write(program, Path(folder), pipeline.export.formats, metadata={})
            for name, result in results.items():
                litert_artifact(name, result)


def described(rebuilt: Rebuilt, inputs: Sequence[int] | Sequence[Port], task: Task) -> dict[str, Any]:
    """The fields of a `Manifest` that a float16 model has: ports, parameters, what was folded, kept and clamped."""
    counts = parameters(rebuilt.model.weights)
    return {
        "inputs": as_ports(inputs),
        "outputs": output_ports(rebuilt.model, task),
        "parameters": counts,
        "float32_share": round(float32_share(counts), 4),
        "cast": Cast(**asdict(rebuilt.counts)),
        "kept_float32": tuple(rebuilt.kept_float32),
        "folded_batchnorm": tuple(rebuilt.folded),
    }


def parameters(weights: Iterable[Any]) -> dict[str, Parameters]:
    """By dtype, the count of the parameters in ``weights``, Keras variables, and their bytes."""
    counts: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for weight in weights:
        dtype = weight.value.dtype
        counts[dtype.name] += math.prod(weight.shape)
        sizes[dtype.name] = dtype.size
    return {dtype: Parameters(count=counts[dtype], bytes=counts[dtype] * sizes[dtype]) for dtype in sorted(counts)}
