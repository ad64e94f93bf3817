"""Recurrent layers of an ONNX graph: GRU and RNN operators instead of Keras' while loops, and plain initial states.

tf2onnx knows the loop of an LSTM. Those of Keras' GRU and SimpleRNN become a Loop of some thirty nodes, which no
runtime runs in one kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from tfhalf.export.onnx.graph import Edit, attribute, axes_of, constant, dims, ints, producer, rank
from tfhalf.export.onnx.shapes import sizes

_FLOATS = (ir.DataType.FLOAT16, ir.DataType.FLOAT)
_STEPS, _BATCH = 3, 2


@dataclass(frozen=True)
class _Loop:
    """A loop over the first axis of ``sequence`` that carries one state; ``weights`` are its constants.

    ``state`` is its index among the loop's carried values.
    """

    body: ir.Graph
    sequence: ir.Value
    state: int
    weights: tuple[ir.Value, ...]


@dataclass(frozen=True)
class _Guess:
    """An operator with Keras' weights: ``kernel`` [D, gates * H], ``recurrent`` [H, gates * H], ``bias`` or None."""

    op: str
    kernel: ir.Value
    recurrent: ir.Value
    bias: ir.Value | None
    linear_before_reset: int


def loop_as_operator(node: ir.Node, edit: Edit) -> bool:
    """A Loop as GRU or RNN. What the loop computes is not read off its nodes but tried out: a step of it and of the
    operator must agree on drawn numbers, weights included."""
    loop = _read(node) if node.op_type == "Loop" else None
    if loop is None:
        return False
    state = node.inputs[2 + loop.state]
    hidden = (dims(state) or [None])[-1]
    if state is None or not isinstance(hidden, int):
        return False
    for guess in _guesses(loop, hidden):
        if _agrees(node, loop, guess, hidden):
            _put(node, loop, guess, hidden, edit)
            return True
    return False


def zero_state(node: ir.Node, edit: Edit) -> bool:
    """An initial state of zeros is what a recurrent operator begins with anyway."""
    if node.op_type not in ("LSTM", "GRU", "RNN"):
        return False
    zeros = [i for i in range(5, min(len(node.inputs), 7)) if node.inputs[i] is not None and _is_zero(node.inputs[i])]
    for index in zeros:
        old = node.inputs[index]
        node.replace_input_with(index, None)
        above = old.producer() if old is not None else None
        if above is not None:
            edit.drop(above)
    return bool(zeros)


def last_state(node: ir.Node, edit: Edit) -> bool:
    """The last step of all steps' states is the operator's second output."""
    cut = producer(node.inputs[0], "Slice") if node.op_type == "Squeeze" and axes_of(node) == [0] else None
    flat = producer(cut.inputs[0], "Squeeze") if cut is not None else None
    cell = producer(flat.inputs[0], "LSTM", "GRU", "RNN") if flat is not None else None
    if cut is None or flat is None or cell is None or axes_of(flat) != [1] or flat.inputs[0] is not cell.outputs[0]:
        return False
    starts, axes = ints(cut.inputs[1]), ints(cut.inputs[3]) if len(cut.inputs) > 3 else [0]
    ends = ints(cut.inputs[2])
    length = (dims(flat.outputs[0]) or [None])[0]
    if attribute(cell, "direction", "forward") != "forward" or axes != [0] or starts is None or ends is None:
        return False
    if not (starts == [-1] or (isinstance(length, int) and starts == [length - 1])) or 0 <= ends[0] <= starts[0]:
        return False
    steps, state = _with_state(cell, edit)
    edit.replace(flat.inputs[0], steps)
    axes_value = edit.constant(np.array([0]), "axes")
    edit.replace(node.outputs[0], edit.node("Squeeze", [state, axes_value], before=node, like=node.outputs[0]))
    return True


def _with_state(cell: ir.Node, edit: Edit) -> tuple[ir.Value, ir.Value]:
    """All steps [T, 1, N, H] and the last [1, N, H] of a recurrent operator like ``cell``, put in front of it."""
    attributes = {name: entry.value for name, entry in cell.attributes.items()}
    new = ir.node(cell.op_type, cell.inputs, attributes, num_outputs=2, name=cell.name)
    shape = dims(cell.outputs[0])
    shapes = (shape, shape[1:] if shape else None)
    for output, sizes_, label in zip(new.outputs, shapes, ("steps", "last"), strict=True):
        output.name, output.type = f"{cell.outputs[0].name}:{label}", cell.outputs[0].type
        output.shape = ir.Shape(sizes_) if sizes_ is not None else None
    edit.graph.insert_before(cell, new)
    return new.outputs[0], new.outputs[1]


def _read(node: ir.Node) -> _Loop | None:
    body = node.attributes["body"].as_graph()
    carried = node.inputs[2:]
    floats = {i: value for i, value in enumerate(carried) if value is not None and value.dtype in _FLOATS}
    weights = [value for value in floats.values() if constant(value) is not None]
    states = [i for i, value in floats.items() if value not in weights]
    inner = {value for inside in body for value in inside.outputs} | {*body.inputs, *body.initializers.values()}
    outer = {value for inside in body for value in inside.inputs if value is not None and value not in inner}
    sequences = {inside.inputs[0] for inside in body if inside.op_type == "Gather" and inside.inputs[0] in outer}
    if len(states) != 1 or len(sequences) != 1:
        return None
    (sequence,) = sequences
    captured = []
    for value in sorted((*outer, *body.initializers.values()), key=lambda value: value.name or ""):
        array = constant(value)
        if array is not None and array.size > 1 and value.dtype in _FLOATS:
            captured.append(value)
    if sequence is None or rank(sequence) != 3:
        return None
    steps, length = sizes(node.inputs[0]), (dims(sequence) or [None])[0]
    if length is None or steps not in ([(length, ())], [(1, (length,))]):
        return None
    return _Loop(body, sequence, states[0], (*weights, *captured))


def _guesses(loop: _Loop, hidden: int) -> list[_Guess]:
    depth = (dims(loop.sequence) or [None])[-1]
    guesses = []
    for op, gates in (("GRU", 3), ("RNN", 1)):
        width = gates * hidden
        matrices = [w for w in loop.weights if list(w.shape or ()) in ([depth, width], [hidden, width])]
        biases: list[ir.Value | None] = [w for w in loop.weights if list(w.shape or ()) in ([2, width], [width])]
        used = len(matrices) + len(biases)
        if len(matrices) != 2 or len(biases) > 1 or used != len(loop.weights):
            continue
        for kernel, recurrent in itertools.permutations(matrices):
            if list(kernel.shape or ()) == [depth, width] and list(recurrent.shape or ()) == [hidden, width]:
                for reset in (1, 0) if op == "GRU" else (0,):
                    guesses.append(_Guess(op, kernel, recurrent, biases[0] if biases else None, reset))
    return guesses


def _agrees(node: ir.Node, loop: _Loop, guess: _Guess, hidden: int) -> bool:
    """Whether three steps of the loop's body and of the operator give the same on drawn numbers."""
    draw = np.random.default_rng(0)
    dtype = np.float16 if loop.sequence.dtype == ir.DataType.FLOAT16 else np.float32
    shapes = {weight: np.asarray(constant(weight)).shape for weight in loop.weights}
    weights = {
        weight: np.asarray(draw.normal(size=shape) / shape[0] ** 0.5).astype(dtype) for weight, shape in shapes.items()
    }
    sequence = draw.normal(size=(_STEPS, _BATCH, dims(loop.sequence)[-1])).astype(dtype)  # type: ignore[index,arg-type]
    state = draw.normal(size=(_BATCH, hidden)).astype(dtype)
    expected = np.asarray(_steps(guess, weights, sequence, state))
    free, evaluator = _body(loop, weights)
    carried: list[np.ndarray] = []
    for i, value in enumerate(node.inputs[2:]):
        known = constant(value)
        carried.append(state if i == loop.state else weights.get(value, known))  # type: ignore[arg-type]
    if any(value is None for value in carried):
        return False
    for step in range(_STEPS):
        names = [value.name or "" for value in loop.body.inputs]
        feed = dict(zip(names, [np.array(step), np.array(True), *carried], strict=True))
        feed |= {name: sequence if value is loop.sequence else weights[value] for name, value in free.items()}
        results = evaluator.run(None, feed)
        carried = list(results[1 : 1 + len(carried)])
        returned = (carried[loop.state], *results[1 + len(carried) :])
        if any(not np.allclose(state, expected[step], atol=8e-3) for state in returned):
            return False
    return True


def _body(loop: _Loop, weights: dict[ir.Value, np.ndarray]) -> tuple[dict[str, ir.Value], ReferenceEvaluator]:
    """The body as a model of its own, with what it takes from outside as inputs."""
    graph = ir.serde.serialize_graph(loop.body)
    own = {name for item in graph.node for name in item.output} | {value.name for value in graph.input}
    drawn = {w.name: w for w in (*weights, loop.sequence)}
    kept = [tensor for tensor in graph.initializer if tensor.name not in drawn]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    own |= {tensor.name for tensor in kept}
    free: dict[str, ir.Value] = {}
    others = {value.name: value for inside in loop.body for value in inside.inputs if value is not None}
    for name in dict.fromkeys(name for item in graph.node for name in item.input if name and name not in own):
        if name in drawn:
            free[name] = drawn[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(drawn[name].dtype.numpy())  # type: ignore[union-attr]
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
        else:
            array = constant(others[name])
            if array is not None:
                graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    del graph.value_info[:]
    return free, ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]))


def _steps(guess: _Guess, weights: dict[ir.Value, np.ndarray], x: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
    """Keras' definition: z, r and the candidate h, ``state = z * state + (1 - z) * h``; or ``tanh`` of the sum."""
    wide = {w: array.astype(np.float64) for w, array in weights.items()}
    kernel, recurrent = wide[guess.kernel], wide[guess.recurrent]
    zero = np.zeros((2, kernel.shape[1]))
    bias = zero if guess.bias is None else wide[guess.bias]
    bias = bias if bias.ndim == 2 else np.stack([bias, zero[1]])
    h, states = state.astype(np.float64), []
    for step in x.astype(np.float64):
        inner, outer = step @ kernel + bias[0], h @ recurrent + bias[1]
        if guess.op == "RNN":
            h = np.tanh(inner + outer)
        else:
            (xz, xr, xh), (hz, hr, hh) = np.split(inner, 3, -1), np.split(outer, 3, -1)
            z, r = 1 / (1 + np.exp(-xz - hz)), 1 / (1 + np.exp(-xr - hr))
            last = np.split(recurrent, 3, -1)[2]
            part = r * hh if guess.linear_before_reset else (r * h) @ last + np.split(bias[1], 3)[2]
            h = z * h + (1 - z) * np.tanh(xh + part)
        states.append(h)
    return states


def _put(node: ir.Node, loop: _Loop, guess: _Guess, hidden: int, edit: Edit) -> None:
    kernel, recurrent = constant(guess.kernel), constant(guess.recurrent)
    assert kernel is not None
    assert recurrent is not None
    bias = constant(guess.bias)
    both = np.zeros((2, kernel.shape[1]), kernel.dtype)
    both[: 1 if bias is not None and bias.ndim == 1 else 2] = 0 if bias is None else bias
    start = edit.node("Unsqueeze", [node.inputs[2 + loop.state], edit.constant(np.array([0]), "axes")], before=node,
                      dtype=loop.sequence.dtype)  # fmt: skip
    inputs = [
        loop.sequence,
        edit.constant(kernel.T[None], "W"),
        edit.constant(recurrent.T[None], "R"),
        edit.constant(both.reshape(1, -1), "B") if bias is not None else None,
        None,
        start,
    ]
    attributes = {"hidden_size": hidden}
    if guess.op == "GRU":
        attributes["linear_before_reset"] = guess.linear_before_reset
    new = ir.node(guess.op, inputs, attributes, num_outputs=2, name=node.name)
    length, batch = (dims(loop.sequence) or [None, None])[:2]
    for output, shape, name in zip(new.outputs, ([length, 1, batch, hidden], [1, batch, hidden]), "yh", strict=True):
        output.name, output.shape = f"{node.outputs[-1].name}:{name}", ir.Shape(shape)
        output.type = loop.sequence.type
    edit.graph.insert_before(node, new)
    carried = len(node.inputs) - 2
    for i, old in enumerate(node.outputs):
        if not old.uses() and not old.is_graph_output():
            continue
        index = 0 if i >= carried else 1 if i == loop.state else None
        if index is None:
            continue
        axis = edit.constant(np.array([1 - index]), "axes")
        state = edit.node("Squeeze", [new.outputs[index], axis], before=node, like=old, dtype=loop.sequence.dtype)
        edit.replace(old, state)


def _is_zero(value: ir.Value | None) -> bool:
    array = constant(value)
    if array is not None:
        return not array.any()
    node = producer(value, "Expand", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Cast", "Concat", "Tile")
    if node is None:
        return False
    sources: Sequence[ir.Value | None] = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return all(_is_zero(source) for source in sources)
