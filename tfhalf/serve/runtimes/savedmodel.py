"""A SavedModel that computes batches, through TensorFlow, which is imported when the first one is opened."""

from __future__ import annotations

import os
from typing import Any

from tfhalf.errors import ArtifactError
from tfhalf.inspect.tf_check import check_saved_model
from tfhalf.serve.runtimes.base import Arrays, Source, check_names
from tfhalf.serve.settings import Settings
from tfhalf.system.device import grow_memory
from tfhalf.system.tensorflow import import_tensorflow

SIGNATURE = "serving_default"


class SavedModel:
    """On a GPU the signature is compiled by XLA once for each batch size of the ladder, unless its inputs have open
    sizes, each of which would be compiled; on a CPU XLA gains nothing."""

    platform = "tensorflow_savedmodel"

    def __init__(self, source: Source, settings: Settings) -> None:
        check_saved_model(source.directory)
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import_tensorflow(without=("keras",))
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        grow_memory()
        if tf.config.threading.get_intra_op_parallelism_threads() != settings.threads:
            tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
        self._tf = tf
        self._loaded = tf.saved_model.load(str(source.directory))  # kept: its variables go when it goes
        if SIGNATURE not in self._loaded.signatures:
            raise ArtifactError(f"{source.directory}: has no signature {SIGNATURE!r}")
        function = self._loaded.signatures[SIGNATURE]
        check_names(
            source.directory,
            source.signature,
            set(function.structured_input_signature[1]),
            set(function.structured_outputs),
        )
        fixed = not any(None in tensor.shape[1:] for tensor in source.signature.inputs.values())
        compiled = bool(gpus) and fixed
        self.ladder = settings.batching.ladder if compiled else None
        self._function: Any = function
        if compiled:
            self._function = self._compiled(function)
        self.about = f"TensorFlow {tf.__version__}, {'GPU' if gpus else 'CPU'}{', XLA' if compiled else ''}"

    def _compiled(self, function: Any) -> Any:
        """``function`` compiled for each number of rows."""
        tf, programs = self._tf, {}

        def run(**tensors: Any) -> Any:
            rows = len(next(iter(tensors.values())))
            if rows not in programs:
                # Concrete functions: TensorFlow warns of one that is traced for so many sizes.
                traced = tf.function(lambda **feeds: function(**feeds), jit_compile=True, autograph=False)
                programs[rows] = traced.get_concrete_function(**tensors)
            return programs[rows](**tensors)

        return run

    def __call__(self, feeds: Arrays) -> Arrays:
        tensors = {name: self._tf.constant(array) for name, array in feeds.items()}
        return {name: value.numpy() for name, value in self._function(**tensors).items()}
