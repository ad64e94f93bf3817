"""An ONNX file run in true float16 arithmetic on a CPU.

CPU runtimes upcast float16 to float32, so an activation beyond 65504 that is infinite on a GPU looks fine in them.
ONNX's own reference evaluator keeps every tensor in its declared dtype. Its convolution is slow, so convolution, matrix
product and pooling are defined here: products are summed in float32 and the result is rounded to float16 once, as GPU
matrix units do.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import load_op
from onnx.reference.ops.op_loop import Loop as _Loop
from onnx.reference.ops.op_one_hot import OneHot as _OneHot

from tfhalf.runtimes.base import TRUE_FLOAT16, Engine
from tfhalf.runtimes.onnx_reference_attention import Attention
from tfhalf.runtimes.onnx_reference_recurrent import RECURRENT


class Conv(OpRun):
    """Convolution of any spatial rank, groups and dilations included; NCHW."""

    op_domain = ""

    def _run(
        self,
        x: Any,
        w: Any,
        b: Any = None,
        auto_pad: Any = None,
        dilations: Any = None,
        group: Any = None,
        kernel_shape: Any = None,
        pads: Any = None,
        strides: Any = None,
    ) -> tuple[Any]:
        kernel = w.shape[2:]
        # Widened before the windows are cut, which hold each value many times.
        windows = _windows(x.astype(np.float32), kernel, auto_pad, dilations, pads, strides, fill=0.0)
        rank, groups = len(kernel), group or 1
        axes = [1, *range(2 + rank, 2 + 2 * rank)]
        parts = []
        for part, weights in zip(np.split(windows, groups, 1), np.split(w, groups, 0), strict=True):
            product = np.tensordot(part, weights.astype(np.float32), (axes, range(1, 2 + rank)))
            parts.append(np.moveaxis(product, -1, 1))
        y = np.concatenate(parts, 1)
        if b is not None:
            y = y + b.astype(np.float32).reshape(1, -1, *[1] * rank)
        return (_narrow(y, x.dtype),)


class MaxPool(OpRun):
    """Maximum over windows; NCHW."""

    op_domain = ""

    def _run(
        self,
        x: Any,
        auto_pad: Any = None,
        ceil_mode: Any = None,
        dilations: Any = None,
        kernel_shape: Any = None,
        pads: Any = None,
        storage_order: Any = None,
        strides: Any = None,
    ) -> tuple[Any]:
        if ceil_mode:
            raise ValueError("MaxPool with ceil_mode is not supported in true float16")
        windows = _windows(x, tuple(kernel_shape), auto_pad, dilations, pads, strides, fill=-np.inf)
        return (windows.max(axis=tuple(range(2 + len(kernel_shape), windows.ndim))),)


class MatMul(OpRun):
    """Matrix product as `numpy.matmul`."""

    op_domain = ""

    def _run(self, a: Any, b: Any) -> tuple[Any]:
        if a.dtype != np.float16:
            return (np.matmul(a, b),)
        return (_narrow(np.matmul(a.astype(np.float32), b.astype(np.float32)), a.dtype),)


class LayerNormalization(OpRun):
    """Mean and variance in float32 (``stash_type`` 1), scale and shift in the tensor's dtype, as the operator's text
    says; ONNX's reference squares in float16, where 256 is the largest that can be squared."""

    op_domain = ""

    def _run(
        self, x: Any, scale: Any, bias: Any = None, axis: Any = -1, epsilon: Any = 1e-5, stash_type: Any = 1
    ) -> tuple[Any, Any, Any]:
        wide = x.astype(np.float32) if stash_type == 1 else x
        axes = tuple(range(axis % x.ndim, x.ndim))
        mean = wide.mean(axes, keepdims=True)
        inverse = 1 / np.sqrt(np.square(wide - mean).mean(axes, keepdims=True) + np.float32(epsilon))
        y = _narrow((wide - mean) * inverse, x.dtype) * scale
        return _narrow(y if bias is None else y + bias, x.dtype), mean, inverse


class RMSNormalization(OpRun):
    """The mean square in float32 (``stash_type`` 1), the scale in the tensor's dtype."""

    op_domain = ""

    def _run(self, x: Any, scale: Any, axis: Any = -1, epsilon: Any = 1e-5, stash_type: Any = 1) -> tuple[Any]:
        wide = x.astype(np.float32) if stash_type == 1 else x
        axes = tuple(range(axis % x.ndim, x.ndim))
        inverse = 1 / np.sqrt(np.square(wide).mean(axes, keepdims=True) + np.float32(epsilon))
        return (_narrow(_narrow(wide * inverse, x.dtype) * scale, x.dtype),)


class OneHot(_OneHot):
    """With the number of classes as a scalar or as the only entry of a vector, as the operator's text allows."""

    def _run(self, indices: Any, depth: Any, values: Any, axis: Any = -1) -> tuple[Any, ...]:
        answers: tuple[Any, ...] = super()._run(indices, np.asarray(depth).reshape(()), values, axis=axis)
        return answers


class GatherElements(OpRun):
    """Look-up along one axis; of the others, the indices may have fewer than the values."""

    op_domain = ""

    def _run(self, x: Any, indices: Any, axis: Any = 0) -> tuple[Any]:
        positive = (axis or 0) % x.ndim
        part = x[tuple(slice(None) if k == positive else slice(0, size) for k, size in enumerate(indices.shape))]
        return (np.take_along_axis(part, indices, positive),)


class Loop(_Loop):
    """A loop whose scan outputs are stacked along a new first axis, as the operator's text says."""

    def _run(
        self,
        count: Any,
        cond: Any,
        *carried: Any,
        context: Any = None,
        body: Any = None,
        attributes: Any = None,
        bindings: Any = None,
    ) -> tuple[Any, ...]:
        names = self.body.input_names
        inputs = {**(context or {}), **dict(zip(names[2:], carried, strict=True))}
        goes_on = True if cond is None else cond
        scanned: list[tuple[Any, ...]] = []
        while goes_on and (count is None or len(scanned) < count):
            inputs[names[0]] = np.array(len(scanned), np.int64)
            inputs[names[1]] = np.array(bool(goes_on))
            goes_on, *results = self._run_body(inputs, attributes=attributes, bindings=bindings)
            inputs.update(zip(names[2:], results, strict=False))
            scanned.append(tuple(results[self.N :]))
        if not scanned and self.K:
            raise ValueError("Loop without a step has no scan outputs of a known shape")
        stacked = [np.stack(values) for values in zip(*scanned, strict=True)] if self.K else []
        answers: tuple[Any, ...] = self._check_and_fix_outputs((*(inputs[name] for name in names[2:]), *stacked))
        return answers


_OWN = (Attention, Conv, GatherElements, Loop, MatMul, MaxPool, OneHot)
# What kernels compute in float32 within and round once: sums above all. The evaluator's own would add in float16, or
# take an exponential or a square that does not fit.
_ROUNDED_ONCE = frozenset(
    (
        *("Gemm", "ConvTranspose", "Einsum", "AveragePool", "GlobalAveragePool", "Resize", "LSTM", "GRU", "RNN"),
        *("Softmax", "LogSoftmax", "Softplus", "LayerNormalization", "RMSNormalization", "InstanceNormalization"),
        *("BatchNormalization", "ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"),
    )
)


def _rounded_once(model: onnx.ModelProto) -> list[type[OpRun]]:
    """The evaluator's operators of ``model`` that are among `_ROUNDED_ONCE`, made so."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    graphs = [model.graph]
    used: set[str] = set()
    while graphs:
        nodes = graphs.pop().node
        used |= {node.op_type for node in nodes if not node.domain}
        graphs += [a.g for node in nodes for a in node.attribute if a.HasField("g")]
    names = sorted(used & _ROUNDED_ONCE)
    return [_widened(RECURRENT.get(name) or load_op("", name, versions.get("", 1))) for name in names]


def _widened(operator: Any) -> type[OpRun]:
    """An operator whose float16 arguments are float32 within it."""

    known = inspect.signature(operator._run).parameters

    def run(self: Any, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        half = any(getattr(x, "dtype", None) == np.float16 for x in inputs)
        wide = [x.astype(np.float32) if getattr(x, "dtype", None) == np.float16 else x for x in inputs]
        # The evaluator tells a new operator every attribute of the newest opset.
        answers = operator._run(self, *wide, **{name: v for name, v in attributes.items() if name in known})
        return tuple(_narrow(y, np.float16) if half and y.dtype == np.float32 else y for y in answers)

    name = operator.__name__.split("_")[0]
    return type(name, (operator,), {"_run": run, "op_domain": ""})


class TrueFloat16:
    """``model(x)`` in true float16; outputs by name. A `tfhalf.runtimes.base.Runtime` whose calls nothing ends."""

    engine, about, settings = Engine(TRUE_FLOAT16, "CPU"), TRUE_FLOAT16, ""
    batch_sizes: tuple[int, ...] | None = None

    def __init__(self, model: onnx.ModelProto) -> None:
        self.outputs = tuple(value.name for value in model.graph.output)
        self.inputs = tuple(value.name for value in model.graph.input)
        self._evaluator = ReferenceEvaluator(
            model,
            new_ops=[*_OWN, *_rounded_once(model), LayerNormalization, RMSNormalization],
        )

    def __call__(self, x: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs by name, or the only one, to one array per output."""
        with np.errstate(
            over="ignore", invalid="ignore", divide="ignore"
        ):  # overflow is what this looks for; it shows in the answers
            answers = self._evaluator.run(None, x if isinstance(x, dict) else {self.inputs[0]: x})
        return dict(zip(self.outputs, answers, strict=True))

    def stop(self) -> None:
        """Not possible."""

    def close(self) -> None:
        """It goes with its last reference."""


def _narrow(y: np.ndarray, dtype: Any) -> np.ndarray:
    return y.astype(dtype)


def _windows(
    x: np.ndarray, kernel: Any, auto_pad: Any, dilations: Any, pads: Any, strides: Any, fill: float
) -> np.ndarray:
    """View [N, C, *positions, *kernel] of the padded input."""
    rank = len(kernel)
    dilations, strides = list(dilations or [1] * rank), list(strides or [1] * rank)
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, span, stride in zip(x.shape[2:], spans, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + span - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if auto_pad == "SAME_UPPER" else large)
            after.append(large if auto_pad == "SAME_UPPER" else small)
    else:
        flat = list(pads or [0] * 2 * rank)
        before, after = flat[:rank], flat[rank:]
    padding = [(0, 0), (0, 0), *zip(before, after, strict=True)]
    if any(map(sum, padding)):
        x = np.pad(x, padding, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None, None, stride) for stride in strides]
    holes = [slice(None, None, dilation) for dilation in dilations]
    return view[(slice(None), slice(None), *steps, *holes)]
