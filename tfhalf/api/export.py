"""A Keras model, in memory or in a file, as verified float16 artifacts: `export_model`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfhalf.api.host import need_tensorflow, progress_of, python_words, undisturbed
from tfhalf.errors import ArtifactError, ConfigError, DataError
from tfhalf.text import one_line

if TYPE_CHECKING:
    import keras

    from tfhalf.artifacts.comparison import Comparison
    from tfhalf.artifacts.record import Manifest
    from tfhalf.export.load.model import Source
    from tfhalf.export.request import Options

Samples = np.ndarray | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class ExportedModel:
    """What `export_model` published.

    Attributes:
        version: the directory ``exports/NAME/NUMBER``.
        comparisons: of each artifact with the float32 model, as `tfhalf verify` prints them.
        float32_layers: the layers that stay in float32, each with the reason.
        manifest: ``manifest.json`` of the version.
    """

    version: Path
    comparisons: tuple[Comparison, ...]
    float32_layers: dict[str, str]
    manifest: Manifest


def export_model(
    model: keras.Model | str | Path,
    base: str | Path,
    *,
    samples: Samples | None = None,
    formats: Sequence[str] | None = None,
    keep_float32: Sequence[str] = (),
    sizes: Mapping[str, int | tuple[int, ...]] | None = None,
    labels: Sequence[str] = (),
    opset: int = 18,
    max_difference: float | None = None,
    mean_difference: float | None = None,
    bisect_seconds: float = 120.0,
    allow_float32: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> ExportedModel:
    """Make a Keras model float16, write it in each format, compare each file with the float32 model in a fresh process,
    and publish them as the next version below ``base``. As `tfhalf export`, for a model that need not be a file.

    A model in memory is copied first: it stays as it is, and so do the global dtype policy, seeds and TensorFlow's
    settings. Where TensorFlow has taken a GPU's memory whole, the fresh process compares on the CPU, and the log says
    so; ``tf.config.experimental.set_memory_growth`` before TensorFlow starts leaves it room.

    Args:
        model: functional, sequential or subclassed, built, under any dtype policy; or what ``tfhalf export`` takes.
        base: ``exports/NAME``. The folder that holds it is one that `tfhalf serve` serves.
        samples: inputs to compare on: an array, a list in the order of the model's inputs, or arrays by the inputs'
            names; [N, ...] each, of which the first 512 are taken. None draws them from what the model says of its
            inputs.
        formats: of ``savedmodel``, ``onnx``, ``litert``, ``litert-int8``, or ``all``; each must be writable. None
            writes ``savedmodel`` and ``onnx`` as far as the model can be.
        keep_float32: regular expressions for the layers to keep in float32; ``auto`` measures which.
        sizes: what to draw for open sizes, by input: 16000, or (300, 200).
        labels: names of the classes, in their order.
        opset: ONNX operator set, 13 to 25.
        max_difference: allowed, relative to an output's largest magnitude. [0.05]
        mean_difference: allowed, relative to an output's root mean square. [0.01]
        bisect_seconds: time to search for the smallest set of layers to keep in float32.
        allow_float32: publish also what has no parameter in float16.
        custom_objects: classes and functions that a model in memory names beside its own layers.
        verbose: print what the command prints; otherwise it goes to the logger ``tfhalf``.

    Raises:
        InputError: the model, the samples or an argument is at fault.
        ExportError: the model cannot become float16, or cannot be written in a requested format.
        ParityError: an artifact does not answer like the float32 model; it is kept as ``failed-N``.
    """
    need_tensorflow()
    from tfhalf.export.model import export_source
    from tfhalf.export.request import check_labels, read_options
    from tfhalf.system.device import grow_memory
    from tfhalf.verify.process import Verifier

    base, progress = Path(base), progress_of(verbose)
    with python_words(exports="base", name="base"), undisturbed():
        if not 13 <= opset <= 25:
            raise ConfigError(f"opset {opset}: 13 to 25 are accepted")
        options = read_options(
            base.parent,
            name=base.name,
            formats=None if formats is None else ",".join([formats] if isinstance(formats, str) else formats),
            verify_with=None,
            keep_float32=(keep_float32,) if isinstance(keep_float32, str) else tuple(keep_float32),
            opset=opset,
            bisect_seconds=bisect_seconds,
            max_difference=max_difference,
            mean_difference=mean_difference,
            allow_float32=allow_float32,
            sizes=tuple(f"{name}={_size(size)}" for name, size in (sizes or {}).items()),
        )
        taken = not grow_memory()
        if taken:
            progress.line("device     TensorFlow holds the GPU's memory: the artifacts are compared on the CPU")
        source = _source(model, custom_objects)
        options = replace(_with_samples(options, source, samples), labels=check_labels("labels", labels))
        exported = export_source(source, options, progress, verifier=Verifier(progress, hide_gpus=taken))
    kept = {island.path: island.reason for island in exported.manifest.islands}
    return ExportedModel(exported.version, exported.comparisons, kept, exported.manifest)


def _size(size: int | tuple[int, ...]) -> str:
    return "x".join(map(str, size if isinstance(size, tuple | list) else (size,)))


def _source(model: keras.Model | str | Path, custom_objects: Mapping[str, Any] | None) -> Source:
    import keras

    if isinstance(model, keras.Model):
        from tfhalf.export.load.in_memory import source_of

        return source_of(model, custom_objects)
    from tfhalf.export.load.model import open_source
    from tfhalf.export.request import Request

    if not isinstance(model, str | Path):
        raise ArtifactError(f"model is a {type(model).__name__}; a keras.Model, or the path of a model is accepted")
    if custom_objects:
        raise ConfigError("custom_objects: of a model in memory; register those of a file, or load it yourself")
    if (Path(model) / "run.json").is_file():
        raise ConfigError(f"{model}: is a run folder, which `tfhalf export {model}` exports as its pipeline says")
    return open_source(Request(str(model)))


def _with_samples(options: Options, source: Source, samples: Samples | None) -> Options:
    """``options`` with ``samples`` by the inputs' names, where there are any; ``x`` stands for the only one.

    Raises:
        ConfigError: they are not as many as the model has inputs.
        DataError: one makes no array.
    """
    from tfhalf.export.interface import interface_of

    if samples is None:
        return options
    if isinstance(samples, Mapping):
        named = dict(samples)
    elif isinstance(samples, list | tuple) and len(samples) and hasattr(samples[0], "shape"):
        names = [port.name for port in interface_of(source, None).inputs]
        if len(names) != len(samples):
            raise ConfigError(f"samples: {len(samples)} arrays for the inputs {', '.join(names)}; give one for each")
        named = dict(zip(names, samples, strict=True))
    else:
        named = {"x": samples}
    return replace(options, samples={name: _array(name, value) for name, value in named.items()})


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"samples: {name} makes no array ({one_line(error, 120)}); give numbers [N, ...]") from error
