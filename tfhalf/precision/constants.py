"""Constants that float16 does not hold, read from the graph that TensorFlow traces of a model.

An epsilon of 1e-12 is 0 in float16, and a mask value of -1e9 is infinite: a row of zeros then divides 0 by 0, and a
masked tensor takes infinity times 0. Inputs that are drawn rarely show it, so the graph is read instead. The model is
traced twice, in float32 and in half precision; a constant is lost where an operation of the second trace holds more
zeros or infinities than in the first. What computes in float32 anyway, as norms' statistics do, or what Keras chooses
by the dtype, as the mask of a softmax, differs in neither.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfhalf.precision.keras_graph import graph_of, operations, run

# What hands a constant on as it is, or repeats it.
_PASSES = frozenset(("Identity", "Reshape", "ExpandDims", "BroadcastTo", "Fill", "Tile", "Squeeze"))
_COMPARES = frozenset(("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"))
_FLOATS = (tf.float16.as_datatype_enum, tf.float32.as_datatype_enum, tf.float64.as_datatype_enum)
_HALF = tf.float16.as_datatype_enum


@dataclass(frozen=True)
class Lost:
    """Constants that are 0 or infinite in float16: those of magnitude below 2^-25, and those beyond 65504."""

    small: tuple[float, ...] = ()
    large: tuple[float, ...] = ()

    def __str__(self) -> str:
        parts = [f"{value:.4g} is 0 in float16" for value in self.small]
        parts += [f"{value:.4g} is infinite in float16" for value in self.large]
        return f"the constant {' and '.join(parts)}"


def classify(value: np.ndarray) -> str:
    """What float16 makes of a constant: ``zero`` or ``infinite`` is what it is already, ``small`` and ``large`` what it
    would become; else ``held``. An array is small where all of it is, and large where any of it is."""
    wide = np.asarray(value, np.float64)
    if not wide.size or not wide.any():
        return "zero"
    if np.isinf(wide).any():
        return "infinite"
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    if np.isinf(narrow).any():
        return "large"
    return "held" if narrow.any() else "small"


@dataclass
class Trace:
    """A traced model: its graph's nodes, each with the operation or layer that made it (``owners``).

    ``order`` are the owners in the order in which they first compute, ``edges`` pairs of them of which the second takes
    values of the first.
    """

    owners: dict[str, str] = field(default_factory=dict)
    order: dict[str, None] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    _graph: Any = None
    _depth: int = 0
    _nodes: dict[str, Any] = field(default_factory=dict)
    _functions: dict[str, Any] = field(default_factory=dict)
    _constants: dict[str, list[tuple[np.ndarray, bool]]] = field(default_factory=dict)

    @classmethod
    def of(cls, call: Callable[..., Any], specs: Sequence[Any]) -> Trace:
        """Trace ``call(trace, *tensors)``, which enters `within` for each operation.

        Args:
            specs: `tf.TensorSpec` of each tensor.
        """
        trace = cls()

        @tf.function(autograph=False, input_signature=list(specs))
        def traced(*tensors: Any) -> None:
            call(trace, *tensors)

        with np.errstate(over="ignore"):  # numpy warns of a constant that becomes infinite
            graph = traced.get_concrete_function().graph.as_graph_def()
        trace._nodes = {node.name: node for node in graph.node}
        trace._functions = {function.signature.name: function for function in graph.library.function}
        trace._read()
        return trace

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Within the block nodes are ``name``'s, but those of a block within it."""
        graph = tf.compat.v1.get_default_graph()
        if self._depth and graph is not self._graph:  # the body of a loop: its While node says whose it is
            yield
            return
        self._graph = graph
        self._depth += 1
        begun = len(graph.get_operations())
        try:
            yield
        finally:
            self._depth -= 1
            self.order.setdefault(name)
            for operation in graph.get_operations()[begun:]:
                self.owners.setdefault(operation.name, name)

    def constants(self, name: str) -> list[tuple[np.ndarray, bool]]:
        """The floating-point constants of ``name``, and whether a cast makes each half precision."""
        return self._constants.get(name, [])

    def _read(self) -> None:
        own: dict[str, list[Any]] = defaultdict(list)
        for name, owner in self.owners.items():
            own[owner].append(self._nodes[name])
        for owner, nodes in own.items():
            self._constants[owner] = _constants_of(nodes, self._nodes)
            for function in [inner for node in nodes for inner in self._called(node)]:
                self._constants[owner] += _constants_of(function.node_def, {n.name: n for n in function.node_def})
            for other in dict.fromkeys(self.owners.get(name) for node in nodes for name in _inputs(node)):
                if other not in (None, owner):
                    self.edges.append((str(other), owner))

    def _called(self, node: Any, seen: frozenset[str] = frozenset()) -> Iterator[Any]:
        """The functions that a node calls: bodies of loops, branches; and those that these call."""
        named = [value.func.name for value in node.attr.values() if value.HasField("func")]
        named += [one.name for value in node.attr.values() for one in value.list.func]
        for name in named:
            function = self._functions.get(name)
            if function is not None and name not in seen:
                yield function
                for inner in function.node_def:
                    yield from self._called(inner, seen | {name})


def lost(wide: Trace, half: Trace) -> dict[str, Lost]:
    """What float16 loses of the constants: by owner, those of ``wide`` that ``half`` has as 0 or infinity."""
    losses: dict[str, Lost] = {}
    for name in wide.order:
        own = [(classify(value), value) for value, _ in wide.constants(name)]
        kinds = Counter(kind for kind, _ in own)
        if not kinds["small"] and not kinds["large"]:
            continue
        now = Counter(_narrowed(value, to_half) for value, to_half in half.constants(name))
        small = _largest(own, "small") if now["zero"] > kinds["zero"] else ()
        large = _largest(own, "large") if now["infinite"] > kinds["infinite"] else ()
        if small or large:
            losses[name] = Lost(small, large)
    return losses


def traced_graph(model: keras.Model) -> Trace:
    """A functional model of one input as it infers, its operations by their paths."""
    names = {id(operation): name for name, operation in operations(model).items()}

    def traced(trace: Trace, *tensors: Any) -> None:
        def within(operation: Any, *args: Any, **kwargs: Any) -> Any:
            with trace.within(names[id(operation)]):
                return operation(*args, **kwargs)

        run(model, keras.tree.pack_sequence_as(graph_of(model)._inputs_struct, list(tensors)), within)

    return Trace.of(traced, [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs])


def has_extremes(trace: Trace) -> bool:
    """Whether any constant of a float32 trace is one that float16 does not hold."""
    return any(classify(value) in ("small", "large") for name in trace.order for value, _ in trace.constants(name))


def _largest(own: list[tuple[str, np.ndarray]], kind: str) -> tuple[float, ...]:
    """Of each constant of that kind its value of the largest magnitude."""
    values = [float(value.reshape(-1)[np.abs(value.reshape(-1)).argmax()]) for size, value in own if size == kind]
    return tuple(dict.fromkeys(values))


def _narrowed(value: np.ndarray, to_half: bool) -> str:
    kind = classify(value)
    return {"small": "zero", "large": "infinite"}.get(kind, kind) if to_half else kind


def _constants_of(sources: Iterable[Any], graph: dict[str, Any]) -> list[tuple[np.ndarray, bool]]:
    """The float constants among the nodes ``wanted``, and whether each counts as half precision: a cast makes it so, or
    it is compared with what was."""
    constants = {node.name: False for node in sources if _is_constant(node)}
    for node in sources:
        narrows = node.op == "Cast" and node.attr["DstT"].type == _HALF
        if narrows or (node.op in _COMPARES and any(_was_half(name, graph) for name in _inputs(node))):
            for name in _inputs(node):
                constant = _source(name, graph)
                if constant is not None:
                    constants[constant.name] = True
    return [(tf.make_ndarray(graph[name].attr["value"].tensor), to_half) for name, to_half in constants.items()]


def _is_constant(node: Any) -> bool:
    return node.op == "Const" and node.attr["dtype"].type in _FLOATS


def _was_half(name: str, graph: dict[str, Any]) -> bool:
    node = graph.get(name)
    return node is not None and node.op == "Cast" and node.attr["SrcT"].type == _HALF


def _source(name: str, graph: dict[str, Any]) -> Any:
    """The constant that a value is, as it is or repeated; None where it is something else."""
    for _ in range(16):
        node = graph.get(name)
        if node is None or _is_constant(node):
            return node
        names = _inputs(node)
        if node.op not in _PASSES or not names:
            return None
        name = names[1 if node.op == "Fill" and len(names) > 1 else 0]
    return None


def _inputs(node: Any) -> list[str]:
    return [name.partition(":")[0] for name in node.input if not name.startswith("^")]
