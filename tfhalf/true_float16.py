"""An ONNX file run in true float16 arithmetic on a CPU.

CPU runtimes upcast float16 to float32, so an activation beyond 65504 that is infinite on a GPU looks fine in them.
ONNX's own reference evaluator keeps every tensor in its declared dtype. Its convolution is slow, so convolution, matrix
product and pooling are given here: products are summed in float32 and the result is rounded to float16 once, as GPU
matrix units do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


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


class TrueFloat16:
    """``model(x)`` in true float16; outputs by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.outputs = [value.name for value in model.graph.output]
        self.input = model.graph.input[0].name
        self._evaluator = ReferenceEvaluator(model, new_ops=[Conv, MaxPool, MatMul])

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Float32 [N, ...] to one array per output."""
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is what this looks for; it shows in the answers
            answers = self._evaluator.run(None, {self.input: x})
        return dict(zip(self.outputs, answers, strict=True))


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
