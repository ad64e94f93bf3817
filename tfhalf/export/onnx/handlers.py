"""Translations of TensorFlow operators that tf2onnx lacks or makes long, in the form of its ``custom_op_handlers``."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto
from tf2onnx.utils import map_onnx_to_numpy_type


def erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    """``Erfc(x)`` as ``1 - Erf(x)``, since ONNX has no complementary error function.

    Keras' exact GELU has it: ``0.5 * x * erfc(-x / sqrt(2))``. tf2onnx knows no Erfc, only logs that, and writes a file
    that nothing opens. Where ``erf(x)`` comes near 1 digits are lost, of which a GELU multiplied by x shows none above
    float16's rounding of 1.
    """
    dtype, shape = ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
    source, output = node.input[0], node.output[0]
    ctx.remove_node(node.name)
    one = ctx.make_const(f"{name}/one", np.ones((), map_onnx_to_numpy_type(dtype)))
    erf = ctx.make_node("Erf", [source], name=f"{name}/erf", shapes=[shape], dtypes=[dtype])
    ctx.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=[output], shapes=[shape], dtypes=[dtype])


def einsum(ctx: Any, node: Any, name: str, args: Any) -> None:
    """A product of two tensors as one MatMul with transposes round it.

    tf2onnx makes of it a MatMul of rank 3 between shapes that are computed while the model runs: 17 nodes for each
    of attention's two products. What `_plan` does not cover stays ONNX's Einsum.
    """
    equation = node.attr["equation"].s.decode().replace(" ", "")
    del node.attr["N"]
    node.attr["equation"].s = equation.lower().encode()
    shapes = [ctx.get_shape(source) for source in node.input]
    plan = _plan(equation, shapes) if len(shapes) == 2 and None not in shapes else None
    if plan is None:
        return
    dtype, output_shape = ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
    sources, output = list(node.input), node.output[0]
    ctx.remove_node(node.name)

    def put(op: str, inputs: list[str], label: str, last: bool = False, **attributes: Any) -> str:
        new = ctx.make_node(
            op,
            inputs,
            name=name if last else f"{name}/{label}",
            attr=attributes,
            dtypes=[dtype],
            **({"outputs": [output], "shapes": [output_shape]} if last else {}),
        )
        result: str = new.output[0]
        return result

    ready = []
    for label, source, (perm, target) in zip("ab", sources, plan[0], strict=True):
        if perm != sorted(perm):
            source = put("Transpose", [source], f"{label}_transpose", perm=perm)
        if target is not None:
            shape = ctx.make_const(f"{name}/{label}_shape", np.array(target, np.int64)).output[0]
            source = put("Reshape", [source, shape], f"{label}_reshape")
        ready.append(source)
    target, perm = plan[1]
    steps = [step for step, needed in (("Reshape", target is not None), ("Transpose", perm != sorted(perm))) if needed]
    result = put("MatMul", ready, "matmul", last=not steps)
    if target is not None:
        shape = ctx.make_const(f"{name}/shape", np.array(target, np.int64)).output[0]
        result = put("Reshape", [result, shape], "reshape", last=steps[-1] == "Reshape")
    if perm != sorted(perm):
        put("Transpose", [result], "transpose", last=True, perm=perm)


_Side = tuple[list[int], "list[int] | None"]  # the order of the axes, then the shape they are merged into


_Plan = tuple[tuple[_Side, _Side], tuple["list[int] | None", list[int]]]


def _plan(equation: str, shapes: list[list[int]]) -> _Plan | None:
    """How both sides become matrices [batch..., rows, sum] and [batch..., sum, columns], and the product the output.

    In a target shape 0 keeps a size and -1 is the rest, so batch and length may be unknown.
    """
    if "." in equation or "->" not in equation:
        return None
    (a, b), out = equation.split("->")[0].split(","), equation.split("->")[1]
    if any(len(set(term)) != len(term) for term in (a, b, out)):
        return None
    batch = [k for k in out if k in a and k in b]
    summed = [k for k in a if k in b and k not in out]
    rows = [k for k in out if k in a and k not in b]
    columns = [k for k in out if k in b and k not in a]
    if not summed or set(a) != {*batch, *rows, *summed} or set(b) != {*batch, *columns, *summed}:
        return None
    sizes = {k: size for term, shape in zip((a, b), shapes, strict=True) for k, size in zip(term, shape, strict=True)}
    fixed = all(sizes[k] is not None and sizes[k] > 0 for k in (*summed, *columns))
    if batch and (len(rows) != 1 or len(columns) != 1):
        return None
    if (len(summed) != 1 or len(columns) != 1) and not fixed:
        return None
    depth, width = (int(np.prod([sizes[k] or 0 for k in part])) for part in (summed, columns))
    left = [*batch, *rows, *summed], ([0] * len(batch + rows) + [depth] if len(summed) > 1 else None)
    matrix = [*batch, *summed, *columns]
    merged = len(summed) > 1 or len(columns) > 1
    right = matrix, ([0] * len(batch) + [depth, width] if merged else None)
    if not columns or not (batch or rows):
        return None
    order = [*batch, *rows, *columns]
    back = [0] * len(batch + rows) + [sizes[k] for k in columns] if len(columns) > 1 else None
    orders = [[term.index(k) for k in side[0]] for term, side in ((a, left), (b, right))]
    return ((orders[0], left[1]), (orders[1], right[1])), (back, [order.index(k) for k in out])


def bucketize(ctx: Any, node: Any, name: str, args: Any) -> None:
    """The number of boundaries that are not above x (`keras.layers.Discretization`): comparisons, added up.

    ``not (x < boundary)`` rather than ``x >= boundary``: TensorFlow puts NaN above all boundaries.
    """
    boundaries = np.array(node.attr["boundaries"].floats, np.float32)
    shape, output = ctx.get_shape(node.output[0]), node.output[0]
    source = _float32(ctx, node.input[0], name)
    ctx.remove_node(node.name)
    steps = None if shape is None else [*shape, len(boundaries)]

    def put(op: str, inputs: list[str], label: str, dtype: int, shape: Any, **more: Any) -> str:
        new = ctx.make_node(op, inputs, name=f"{name}/{label}", dtypes=[dtype], shapes=[shape], **more)
        result: str = new.output[0]
        return result

    last = ctx.make_const(f"{name}/last", np.array([-1], np.int64)).output[0]
    edges = ctx.make_const(f"{name}/boundaries", boundaries).output[0]
    column = put("Unsqueeze", [source, last], "column", TensorProto.FLOAT, None if shape is None else [*shape, 1])
    below = put("Less", [column, edges], "below", TensorProto.BOOL, steps)
    passed = put("Not", [below], "not_below", TensorProto.BOOL, steps)
    ones = put("Cast", [passed], "ones", TensorProto.INT32, steps, attr={"to": TensorProto.INT32})
    put("ReduceSum", [ones, last], "sum", TensorProto.INT32, shape, attr={"keepdims": 0}, outputs=[output])


def log(ctx: Any, node: Any, name: str, args: Any) -> None:
    """``Log``, which is ONNX's own; tf2onnx refuses float16."""


_PARTS = ("Real", "Imag", "ComplexAbs")


def rfft(ctx: Any, node: Any, name: str, args: Any) -> None:
    """The Fourier transform of real numbers (`keras.ops.rfft`, `stft`, `keras.layers.MelSpectrogram`) as DFT. ONNX has
    no complex numbers: real and imaginary part lie along a last axis, which `part` reads.

    Raises:
        ValueError: the opset has no DFT, or something else reads the complex numbers.
    """
    if ctx.opset < 17:
        raise ValueError(f"opset {ctx.opset} has no Fourier transform; 17 and later have")
    others = sorted({reader.type for reader in ctx.find_output_consumers(node.output[0])} - set(_PARTS))
    if others or node.output[0] in ctx.outputs:
        raise ValueError(f"{', '.join(others) or 'an output'} takes complex numbers, which ONNX has not")
    shape, output = ctx.get_shape(node.output[0]), node.output[0]
    rank = len(ctx.get_shape(node.input[0]))
    length = np.array(node.inputs[1].get_tensor_value()).astype(np.int64).reshape(())
    source = _float32(ctx, node.input[0], name)
    ctx.remove_node(node.name)
    last = ctx.make_const(f"{name}/last", np.array([-1], np.int64)).output[0]
    column = ctx.make_node("Unsqueeze", [source, last], name=f"{name}/column").output[0]
    # Both sides, of which one is cut off: of onesided=1 OpenVINO (2026.4) gives another shape than ONNX says.
    whole = ctx.make_node(
        "DFT",
        [column, ctx.make_const(f"{name}/length", length).output[0]],
        name=f"{name}/dft",
        attr={"axis": rank - 1, "onesided": 0},
        dtypes=[TensorProto.FLOAT],
        shapes=[None if shape is None else [*shape[:-1], int(length), 2]],
    ).output[0]
    ends = (("start", 0), ("end", int(length) // 2 + 1), ("axis", rank - 1))
    cut = [ctx.make_const(f"{name}/{label}", np.array([number], np.int64)).output[0] for label, number in ends]
    ctx.make_node(
        "Slice",
        [whole, *cut],
        name=name,
        outputs=[output],
        dtypes=[TensorProto.FLOAT],
        shapes=[None if shape is None else [*shape, 2]],
    )


def part(ctx: Any, node: Any, name: str, args: Any) -> None:
    """The real or imaginary part of what `rfft` gives, or the magnitude of both.

    Raises:
        ValueError: the complex numbers come from elsewhere.
    """
    if node.inputs[0].type != "Slice" or node.inputs[0].inputs[0].type != "DFT":
        raise ValueError(f"{node.type} of complex numbers, which ONNX has not, unless rfft or stft gives them")
    kind, source, output = node.type, node.input[0], node.output[0]
    shape = ctx.get_shape(output)
    rank = len(ctx.get_shape(source))
    ctx.remove_node(node.name)
    common = {"name": name, "outputs": [output], "dtypes": [TensorProto.FLOAT], "shapes": [shape]}
    if kind == "ComplexAbs":
        axes = [rank - 1]
        if ctx.opset < 18:
            ctx.make_node("ReduceL2", [source], attr={"axes": axes, "keepdims": 0}, **common)
        else:
            inner = ctx.make_const(f"{name}/axes", np.array(axes, np.int64)).output[0]
            ctx.make_node("ReduceL2", [source, inner], attr={"keepdims": 0}, **common)
        return
    index = ctx.make_const(f"{name}/part", np.array(_PARTS.index(kind), np.int64)).output[0]
    ctx.make_node("Gather", [source, index], attr={"axis": rank - 1}, **common)


def _float32(ctx: Any, source: str, name: str) -> str:
    """The tensor itself, or cast to float32."""
    if ctx.get_dtype(source) == TensorProto.FLOAT:
        return source
    new = ctx.make_node(
        "Cast",
        [source],
        name=f"{name}/float32",
        attr={"to": TensorProto.FLOAT},
        dtypes=[TensorProto.FLOAT],
        shapes=[ctx.get_shape(source)],
    )
    result: str = new.output[0]
    return result


HANDLERS: dict[str, tuple[Any, list[Any]]] = {
    "Bucketize": (bucketize, []),
    "Einsum": (einsum, []),
    "Erfc": (erfc, []),
    "Log": (log, []),
    "RFFT": (rfft, []),
    **{kind: (part, []) for kind in _PARTS},
}
