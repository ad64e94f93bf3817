"""The function that every artifact holds, and the names, dtypes and shapes of what it takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tfhalf.artifacts.ports import WIRE, Port
from tfhalf.data.normalize import normalizer
from tfhalf.data.preprocess import AnyPreprocess, ColumnsPreprocess
from tfhalf.tasks import Classification, Task

INPUT = "image"


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


Shapes = Mapping[str, Sequence[int]]
"""Of one item, by input."""


def input_ports(inputs: Sequence[int] | Shapes, dtypes: Mapping[str, str] | None = None) -> tuple[Port, ...]:
    """What a trained net's artifact takes: the shape of its images, or of each input by name, float32 but for those
    that ``dtypes`` names."""
    shapes = dict(inputs) if isinstance(inputs, Mapping) else {INPUT: inputs}
    dtypes = dtypes or {}
    return tuple(
        Port(name, dtypes.get(name, "float32"), (None, *(int(size) for size in shape)), _once(name))
        for name, shape in shapes.items()
    )


def _once(name: str) -> tuple[str, ...]:
    """What exports called an input before: every one was an image."""
    return (INPUT,) if name == "x" else ()


def as_ports(inputs: Sequence[int] | Sequence[Port]) -> tuple[Port, ...]:
    """Ports, or the shape of one input's items as a port."""
    ports = tuple(one for one in inputs if isinstance(one, Port))
    return ports or input_ports([one for one in inputs if isinstance(one, int)])


def make_program(
    model: keras.Model,
    preprocess: AnyPreprocess,
    inputs: Sequence[int] | Sequence[Port],
    task: Task | None = None,
) -> Program:
    """Preprocessing, ``model`` (any dtype policy, giving the task's answers) and what the task serves, in one function.

    Of a classifier of images it maps ``image`` float32 [N, H, W, C] to ``{"logits", "probabilities"}``, float32 [N, K].
    What is behind the net (softmax, units) is computed in float32.

    Args:
        inputs: of `input_ports`, or the shape of one input's items.
        task: what the net was trained for; None for classes that are numbered.
    """
    ports = as_ports(inputs)
    task = task or Classification([str(k) for k in range(model.outputs[0].shape[-1])])
    normalized = normalizer(preprocess, model)
    specs = [tf.TensorSpec(port.shape, port.dtype, name=port.name) for port in ports]

    @tf.function(input_signature=specs)
    def serve(*tensors: Any) -> dict[str, Any]:
        by_name = {port.name: tensor for port, tensor in zip(ports, tensors, strict=True)}
        x = normalized(by_name if isinstance(preprocess, ColumnsPreprocess) else tensors[0])
        with keras.StatelessScope():  # seeds do not go on
            answers = tf.nest.map_structure(lambda one: tf.cast(one, tf.float32), model(x, training=False))
        return dict(task.served(answers))

    names = ", ".join(port.name for port in ports)
    return Program(
        serve,
        ports,
        output_ports(model, task),
        *variables_of(model),
        f"{names}: raw values as {ports[0].dtype}; preprocessing is inside. {' and '.join(task.names)} are float32.",
    )


def output_ports(model: keras.Model, task: Task) -> tuple[Port, ...]:
    """What `make_program` gives."""
    struct = model._outputs_struct
    item: Any = model.outputs[0].shape[1:]
    if isinstance(struct, dict):
        item = {name: one.shape[1:] for name, one in struct.items()}
    ports = task.ports(item)
    return tuple(Port(name, "float32", (None, *shape), classes=task.has_classes(name)) for name, shape in ports.items())


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
