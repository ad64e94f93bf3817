"""A SavedModel's serving signature in TensorFlow, which is imported when the first one is opened."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tfhalf.errors import ArtifactError, UnavailableError
from tfhalf.inspect.tf_check import check_saved_model
from tfhalf.runtimes.base import TENSORFLOW, Arrays, Engine, RuntimeSpec, Tuning, computed_by
from tfhalf.system.device import grow_memory
from tfhalf.system.tensorflow import import_tensorflow


class SavedModel:
    """The signature of the SavedModel in ``directory``; with XLA it is compiled once for each shape, where
    ``tuning.batch_sizes`` are named for each number of rows: then the other sizes have to be fixed.

    Raises:
        ArtifactError: the folder is refused before TensorFlow sees it, or has no such signature.
        UnavailableError: TensorFlow computes on another device than ``spec`` names.
    """

    settings = ""

    def __init__(self, directory: Path, spec: RuntimeSpec, tuning: Tuning) -> None:
        check_saved_model(directory)
        tf = self._tf = _tensorflow(tuning)
        device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        if spec.device not in (None, device):
            raise UnavailableError(f"TensorFlow {tf.__version__} computes on the {device} here, not on {spec.device}")
        self._loaded = tf.saved_model.load(str(directory))  # kept: its variables go when it goes
        if spec.signature not in self._loaded.signatures:
            raise ArtifactError(f"{directory}: has no signature {spec.signature!r}")
        function = self._loaded.signatures[spec.signature]
        self.inputs = tuple(function.structured_input_signature[1])
        self.outputs = tuple(function.structured_outputs)
        self.engine = Engine(TENSORFLOW, device, device == "GPU" if spec.xla is None else spec.xla)
        self.about = computed_by(self.engine, tf.__version__)
        self.batch_sizes: tuple[int, ...] | None = tuning.batch_sizes if self.engine.xla else None
        self._function: Any = self._compiled(function) if self.engine.xla else function
        self._running: Any = None
        if tuning.stoppable:
            self._function = self._stoppable(self._function)

    def _compiled(self, function: Any) -> Any:
        """``function`` compiled for each number of rows."""
        tf, programs, by_rows = self._tf, dict[Any, Any](), self.batch_sizes is not None

        def run(**tensors: Any) -> Any:
            key = len(next(iter(tensors.values()))) if by_rows else tuple(tuple(x.shape) for x in tensors.values())
            if key not in programs:
                # Concrete functions: TensorFlow warns of one that is traced for so many sizes.
                traced = tf.function(lambda **arrays: function(**arrays), jit_compile=True, autograph=False)
                programs[key] = traced.get_concrete_function(**tensors)
            return programs[key](**tensors)

        return run

    def _stoppable(self, function: Any) -> Any:
        """``function`` so that `stop` ends it."""
        from tensorflow.python.eager.cancellation import CancellationManager

        def run(**tensors: Any) -> Any:
            self._running = CancellationManager()
            return self._running.get_cancelable_function(function)(**tensors)

        return run

    def __call__(self, arrays: Arrays) -> Arrays:
        tensors = {name: self._tf.constant(array) for name, array in arrays.items()}
        return {name: value.numpy() for name, value in self._function(**tensors).items()}

    def stop(self) -> None:
        """End the call that runs."""
        if self._running is not None:
            self._running.start_cancel()

    def close(self) -> None:
        """Free the variables and the programs."""
        self._loaded = self._function = None


def _tensorflow(tuning: Tuning) -> Any:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    first = "tensorflow" not in sys.modules
    import_tensorflow(without=("keras",))
    import tensorflow as tf

    if first:  # whoever imported it before has set this, or has started the GPU
        grow_memory()
    if tuning.threads and tf.config.threading.get_intra_op_parallelism_threads() != tuning.threads:
        tf.config.threading.set_intra_op_parallelism_threads(tuning.threads)
    return tf
