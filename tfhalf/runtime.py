"""An artifact opened as a Predictor: arrays in, arrays out, no Keras objects needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfhalf.errors import ArtifactError

FORMATS = {"savedmodel": "saved_model.pb", "onnx": "model.onnx"}
TRUE_FLOAT16 = "true float16, CPU"
RUNTIMES = ("savedmodel", "onnx", "onnx-float16")


Inputs = np.ndarray | Mapping[str, np.ndarray]


class Predictor(Protocol):
    """``runtime`` says what computes. Calling it with float32 [N, *input_shape] gives float32 outputs by name."""

    runtime: str

    def __call__(self, x: np.ndarray, /) -> dict[str, np.ndarray]:
        """One array per output; of a pipeline's export ``logits`` and ``probabilities``, float32 [N, num_classes]."""
        ...


class NamedPredictor(Protocol):
    """A `Predictor` that takes several inputs by name as well."""

    runtime: str

    def __call__(self, x: Inputs, /) -> dict[str, np.ndarray]:
        """One array per output."""
        ...


def open_predictor(directory: Path, runtime: str) -> NamedPredictor:
    """Open the version ``directory`` for one of ``RUNTIMES``.

    ``savedmodel``: TensorFlow. ``onnx``: onnxruntime, on a GPU where it has that provider. ``onnx-float16``: true
    float16 arithmetic, slow.

    Raises:
        ArtifactError: the file is not there or does not open.
    """
    name = FORMATS["savedmodel" if runtime == "savedmodel" else "onnx"]
    if not (directory / name).is_file():
        there = [kind for kind, file in FORMATS.items() if (directory / file).is_file()]
        raise ArtifactError(f"{directory}: holds no {name}; it has {', '.join(there) or 'no artifact'}")
    opener: Any = {"savedmodel": _SavedModel, "onnx": _Onnx, "onnx-float16": _OnnxTrueFloat16}[runtime]
    try:
        return opener(directory)  # type: ignore[no-any-return]
    except Exception as error:  # three libraries, each with exceptions of its own
        raise ArtifactError(f"{directory / name}: does not open: {' '.join(str(error).split())[:300]}") from error


def named(x: Inputs, names: list[str]) -> dict[str, np.ndarray]:
    """The inputs by name, where ``names`` are an artifact's own.

    Raises:
        ArtifactError: they are not its inputs.
    """
    given = dict(x) if isinstance(x, Mapping) else dict.fromkeys(names[:1], x)
    if set(given) != set(names):
        raise ArtifactError(f"the artifact takes {', '.join(names)}; given were {', '.join(given)}")
    return given


class _SavedModel:
    def __init__(self, directory: Path) -> None:
        import tensorflow as tf

        self._tf = tf
        self._loaded = tf.saved_model.load(str(directory))  # kept: its variables go when it goes
        self._function = self._loaded.signatures["serving_default"]
        self._inputs = list(self._function.structured_input_signature[1])
        device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        self.runtime = f"TensorFlow {tf.__version__}, {device}"

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        given = {name: self._tf.constant(value) for name, value in named(x, self._inputs).items()}
        return {name: value.numpy() for name, value in self._function(**given).items()}


class _Onnx:
    def __init__(self, directory: Path) -> None:
        import onnxruntime

        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(directory / FORMATS["onnx"]), options, providers=providers
        )
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        device = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self.runtime = f"onnxruntime {onnxruntime.__version__}, {device}"

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, named(x, self._inputs)), strict=True))


class _OnnxTrueFloat16:
    def __init__(self, directory: Path) -> None:
        import onnx

        from tfhalf.true_float16 import TrueFloat16

        self._model = TrueFloat16(onnx.load(str(directory / FORMATS["onnx"])))
        self.runtime = TRUE_FLOAT16

    def __call__(self, x: Inputs) -> dict[str, np.ndarray]:
        return self._model(named(x, self._model.inputs))
