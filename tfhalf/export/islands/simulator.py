"""A model that can be run in float32, run with any of its layers in float16, and turned into what ships.

Two kinds. A graph (functional and sequential models) is rebuilt from its layers' configurations. Everything else,
subclasses of keras.Model and layers that cannot be rebuilt, is changed in place: its layers' policies are set, and
in the end its variables are narrowed. It was loaded for this purpose alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfhalf.errors import ExportError
from tfhalf.export.interface import Interface
from tfhalf.export.rebuild.policies import Target
from tfhalf.precision.cast import CastCounts
from tfhalf.precision.constants import Trace
from tfhalf.precision.keras_graph import LayerError, reason
from tfhalf.precision.policy import NORMS, RAW_RANGE

Arrays = Mapping[str, np.ndarray]
BATCH = 8


@dataclass
class Seen:
    """What a run did: for each operation, in the order of first calls, the largest magnitudes that it took
    and ``returned``, and whether something that it returned was not finite."""

    taken: dict[str, float] = field(default_factory=dict)
    returned: dict[str, float] = field(default_factory=dict)
    broken: dict[str, None] = field(default_factory=dict)
    digests: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, taken: Any, returned: Any) -> None:
        """One call."""
        self.taken[name] = max(self.taken.get(name, 0.0), _largest(taken)[0])
        largest, finite, total = _largest(returned)
        self.returned[name] = max(self.returned.get(name, 0.0), largest)
        self.digests[name] = self.digests.get(name, 0.0) + total
        if not finite:
            self.broken[name] = None


def _largest(tensors: Any) -> tuple[float, bool, float]:
    """The largest finite magnitude, whether all are finite, and the sum of what is."""
    largest, finite, total = 0.0, True, 0.0
    for x in keras.tree.flatten(tensors):
        if tf.is_tensor(x) and x.dtype.is_floating:
            values = np.asarray(x).astype(np.float32, copy=False)
            there = np.isfinite(values)
            finite = finite and bool(there.all())
            values = values if finite else values[there]
            largest = max(largest, float(np.abs(values).max(initial=0.0)))
            total += float(values.sum(dtype=np.float64))
    return largest, finite, total


@dataclass(frozen=True)
class Shipped:
    """What an artifact holds: ``call`` takes the model's arguments.

    ``folded``: paths of BatchNormalizations; ``grouped``: whether ONNX needs a trace of its own (`export.grouped`).
    """

    call: Callable[..., Any]
    weights: tuple[Any, ...]
    state: tuple[Any, ...]
    counts: CastCounts
    folded: tuple[str, ...]
    grouped: bool


class Simulated(Protocol):
    """What islands can be searched in. ``names`` are the paths of what may be kept in float32, in the order of
    computing."""

    names: tuple[str, ...]
    interface: Interface

    def reference(self, inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """The float32 model's answers."""
        ...

    def simulate(self, kept: Iterable[str], inputs: Arrays, seen: Seen | None = None) -> dict[str, np.ndarray]:
        """Answers in float16 with ``kept`` in float32.

        Raises:
            LayerError: a layer cannot be computed so.
        """
        ...


class Simulator(Simulated, Protocol):
    """A model to be exported. It is simulated eagerly: nothing is built or traced."""

    model: keras.Model

    def trace(self, kept: Iterable[str] | None) -> Trace:
        """The graph that TensorFlow traces of it, in float16 with ``kept`` in float32; in float32 where it is None."""
        ...

    def outputs_from(self, name: str, fill: float, inputs: Arrays) -> dict[str, float]:
        """What may follow from one of ``names``: the largest magnitude that each operation then gives in float32, and
        those after it, if the floating-point tensors that it takes hold nothing but ``fill``."""
        ...

    def joins(self, name: str) -> bool:
        """Whether one of ``names`` is an operation without weights, which costs nothing in float32."""
        ...

    def ship(self, kept: Iterable[str], numbers: Target = "float16") -> Shipped:
        """The float16 model with ``kept`` in float32; or the same model in other ``numbers``."""
        ...

    def weights(self) -> Iterator[tuple[str, str, np.ndarray]]:
        """The values that are to be float16: whose they are (one of ``names``), their path, and they themselves."""
        ...

    def own_islands(self) -> tuple[str, ...]:
        """What the model itself computes in float32 though it is a half-precision one."""
        ...


def answers(interface: Interface, call: Callable[..., Any], inputs: Arrays) -> dict[str, np.ndarray]:
    """Answers in batches, floats as float32, by the outputs' names."""
    parts: list[dict[str, np.ndarray]] = []
    count = len(next(iter(inputs.values())))
    fixed = interface.inputs[0].shape[0]
    size = fixed or BATCH
    for start in range(0, count, size):
        tensors = [tf.constant(inputs[port.name][start : start + size]) for port in interface.inputs]
        with np.errstate(over="ignore"):  # numpy warns of a constant that becomes infinite
            named = interface.answer(call, tensors)
        for name, x in named.items():
            if len(x.shape) == 0 or x.shape[0] != tensors[0].shape[0]:
                raise ExportError(
                    f"output {name!r} has shape {list(x.shape)} for {tensors[0].shape[0]} samples: it joins samples, "
                    "so that what one caller gets would depend on the others; leave it out"
                )
        parts.append({name: _wide(np.asarray(x)) for name, x in named.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def traced_model(interface: Interface, function: Callable[..., Any]) -> Trace:
    """The graph of ``function(trace, x)``, where ``x`` are the model's arguments.

    Raises:
        LayerError: a layer cannot be traced so.
        ExportError: it cannot be traced.
    """

    def call(trace: Trace, *tensors: Any) -> None:
        interface.call(lambda *args, **kwargs: function(trace, *args, **kwargs), tensors)

    specs = [tf.TensorSpec(port.shape, port.dtype, name=port.name) for port in interface.inputs]
    try:
        return Trace.of(call, specs)
    except LayerError:
        raise
    except Exception as error:  # whatever a layer's code raises when it is traced
        raise ExportError(f"the model cannot be traced into a graph: {reason(error)}") from error


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype.kind == "f" or x.dtype.name == "bfloat16" else x


def set_policy(layer: Any, name: str) -> None:
    """Have a built layer compute under another policy; its variables stay as they are."""
    if layer.dtype_policy.name != name:
        layer.dtype_policy = name


def widened(x: Any) -> Any:
    """A floating-point tensor in float32; anything else as it is."""
    return tf.cast(x, tf.float32) if tf.is_tensor(x) and x.dtype.is_floating else x


def own_weights(layer: Any) -> Iterator[tuple[str, np.ndarray]]:
    """What a layer itself holds and float16 would: not what norms and raw-range preprocessing hold."""
    if isinstance(layer, NORMS) or (isinstance(layer, RAW_RANGE) and layer.compute_dtype == "float32"):
        return
    for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
        value = keras.ops.convert_to_numpy(variable.value)
        if value.dtype.name == "bfloat16":
            value = value.astype(np.float32)
        if value.dtype.kind == "f":
            yield variable.path, value
