"""The function that every artifact holds, and the names, dtypes and shapes of what it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tfhalf.artifacts.ports import WIRE, Port
from tfhalf.data.preprocess import Preprocess
from tfhalf.precision.policy import takes_integers

INPUT = "image"
PROBABILITIES = "probabilities"
OUTPUTS = ("logits", PROBABILITIES)


@dataclass(frozen=True)
class Program:
    """One TensorFlow function: ``inputs`` by name, in their order, to a dict of ``outputs`` by name.

    ``weights`` are Keras' variables that the function computes with, each once; ``state``, what else it reaches (random
    seeds of dropout), as TensorFlow's. ``about`` is one line for people who open an artifact.
    """

    function: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: tuple[Any, ...]
    state: tuple[Any, ...]
    about: str


def make_program(model: keras.Model, preprocess: Preprocess, input_shape: Sequence[int]) -> Program:
    """A classifier of images: preprocessing, ``model`` (any dtype policy, giving logits) and softmax in one function.

    It maps ``image`` float32 [N, *input_shape] to ``{"logits", "probabilities"}``, float32 [N, num_classes]; softmax is
    computed in float32.
    """
    shift, scale = preprocess.shift_and_scale()
    plain, whole = not shift.any() and (scale == 1).all(), takes_integers(model)
    shape = tuple(int(size) for size in input_shape)

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.float32, name=INPUT)])
    def serve(image: Any) -> dict[str, Any]:
        x = tf.cast(image, tf.int32) if whole else image if plain else (image - shift) * scale
        with keras.StatelessScope():  # seeds do not go on
            logits = tf.cast(model(x, training=False), tf.float32)
        return {"logits": tf.identity(logits, "logits"), "probabilities": tf.nn.softmax(logits, name="probabilities")}

    classes = model.outputs[0].shape[-1]
    return Program(
        serve,
        (Port(INPUT, "float32", (None, *shape)),),
        tuple(Port(name, "float32", (None, classes)) for name in OUTPUTS),
        *variables_of(model),
        "image: raw values as float32; preprocessing is inside. logits and probabilities are float32.",
    )


def named_program(
    call: Callable[[Sequence[Any]], Mapping[str, Any]],
    inputs: Sequence[Port],
    weights: Sequence[Any],
    state: Sequence[Any],
    about: str,
) -> Program:
    """Any function of tensors: ``call`` takes one for each of ``inputs`` and gives the outputs by name.

    Half-precision outputs are float32 for callers.
    """
    specs = [tf.TensorSpec(port.shape, port.dtype, name=port.name) for port in inputs]

    @tf.function(input_signature=specs, autograph=False)
    def serve(*tensors: Any) -> dict[str, Any]:
        answers = {}
        with keras.StatelessScope():  # what layers note as they go, seeds above all, is not part of an answer
            structured = call(tensors)
        for name, x in structured.items():
            dtype = WIRE.get(x.dtype.name, x.dtype.name)
            answers[name] = tf.identity(x if dtype == x.dtype.name else tf.cast(x, dtype), name)
        return answers

    structured = serve.get_concrete_function().structured_outputs
    outputs = tuple(Port(name, x.dtype.name, tuple(x.shape)) for name, x in structured.items())
    return Program(serve, tuple(inputs), outputs, tuple(weights), tuple(state), about)


def variables_of(model: keras.Model) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A model's weights, and what is not a weight, as TensorFlow has it: other variables, and tables of words."""
    weights = {id(variable) for variable in model.weights}
    rest = [variable.value for variable in model.variables if id(variable) not in weights]
    tables = [getattr(layer, "lookup_table", None) for layer in model._flatten_layers()]
    rest += [table for table in tables if isinstance(table, tf.lookup.experimental.MutableHashTable | _TABLE)]
    return tuple(model.weights), tuple(rest)


_TABLE = tf.lookup.StaticHashTable
