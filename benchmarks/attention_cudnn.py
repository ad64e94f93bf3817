"""cuDNN's fused attention from within TensorFlow, by the custom call that XLA has for it (`__cudnn$fmhaSoftmax`).

Once through the operation for custom calls, whose tensors have default layouts, and once through a module of StableHLO,
which may name layouts and so spares the transposition of heads and tokens. What the call wants to know is XLA's
`cudnn_fmha_backend_config` (xla/service/gpu/backend_configs.proto), as JSON.
"""

from __future__ import annotations

import json
import math
from typing import Any


def _fused_config(shape: tuple[int, ...], causal: bool, *, heads_first: bool, backward: bool) -> str:
    """What XLA's custom call wants to know, of query, key and value of ``shape`` [batch, tokens, heads, width]."""
    batch, tokens, heads, width = shape
    row, head = (2, 1) if heads_first else (1, 2)
    names = {
        "bmm1_dot_dimension_numbers": (3, 3, (0, head), (0, head)),
        "bmm2_dot_dimension_numbers": (3, row, (0, 1), (0, head)),
        "bmm1_grad_gemm1_dot_dimension_numbers": (2, row, (0, 1), (0, head)),
        "bmm1_grad_gemm2_dot_dimension_numbers": (3, row, (0, 1), (0, head)),
        "bmm2_grad_gemm1_dot_dimension_numbers": (2, row, (0, 1), (0, head)),
        "bmm2_grad_gemm2_dot_dimension_numbers": (3, 3, (0, head), (0, head)),
    }
    products = {
        name: {
            "lhs_contracting_dimensions": [str(left)],
            "rhs_contracting_dimensions": [str(right)],
            "lhs_batch_dimensions": list(map(str, left_batch)),
            "rhs_batch_dimensions": list(map(str, right_batch)),
        }
        for name, (left, right, left_batch, right_batch) in names.items()
        if ("grad" in name) == backward
    }
    attention = {
        "algorithm": {"algo_id": "0", "math_type": "TENSOR_OP_MATH", "tuning_knobs": {"17": "1", "24": "0"},
                      "is_cudnn_frontend": True, "workspace_size": "0"},
        "fmha_scale": 1 / math.sqrt(width),
        "dropout_rate": 0.0,
        "intermediate_tensor_shape": {
            "element_type": "F16",
            "dimensions": list(map(str, (batch, heads, tokens, tokens))),
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "seed": 42,
        "is_flash_attention": True,
        "mask_type": "CAUSAL" if causal else "NO_MASK",
        **products,
    }  # fmt: skip
    return json.dumps({"operation_queue_id": "0", "wait_on_operation_queues": [],
                       "cudnn_fmha_backend_config": attention})  # fmt: skip


def by_custom_call(query: Any, key: Any, value: Any, causal: bool) -> Any:
    """cuDNN's kernels by the operation for custom calls, of heads before tokens."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    shape, half = tuple(query.shape), tf.float16
    first = shape[0], shape[2], shape[1], shape[3]

    def call(target: str, operands: list[Any], dtypes: list[Any], shapes: list[Any], *, backward: bool) -> Any:
        settings = _fused_config(shape, causal, heads_first=True, backward=backward)
        return gen_xla_ops.xla_custom_call_v2(operands, target, settings, False, dtypes, shapes)

    @tf.custom_gradient
    def attention(query: Any, key: Any, value: Any) -> Any:
        operands = [tf.transpose(x, (0, 2, 1, 3)) for x in (query, key, value)]
        output, sums, _ = call(
            "__cudnn$fmhaSoftmax", operands, [half, tf.float32, tf.uint8], [first, first[:3], (0,)], backward=False
        )

        def gradient(upstream: Any) -> Any:
            more = [*operands, sums, tf.transpose(upstream, (0, 2, 1, 3)), output]
            results = call(
                "__cudnn$fmhaSoftmaxBackward", more, [half] * 3 + [tf.uint8], [first] * 3 + [(0,)], backward=True
            )
            return [tf.transpose(x, (0, 2, 1, 3)) for x in results[:3]]

        return tf.transpose(output, (0, 2, 1, 3)), gradient

    return attention(query, key, value)


def _module(target: str, settings: str, kinds: list[str], results: list[tuple[str, str]]) -> str:
    """A module of StableHLO that calls ``target``: operands of ``kinds``; each of ``results`` is a type and a layout.

    Results of rank 4 have heads before tokens and are laid out the other way, which their transposition undoes.
    """

    def layout(order: str) -> str:
        return f"dense<[{order}]> : tensor<{len(order.split(','))}xindex>" if order else "dense<> : tensor<0xindex>"

    names = [f"%a{i}" for i in range(len(kinds))]
    arguments = ", ".join(f"{name}: tensor<{kind}>" for name, kind in zip(names, kinds, strict=True))
    orders = [", ".join(map(str, reversed(range(kind.count("x"))))) for kind in kinds]
    types = ", ".join(f"tensor<{kind}>" for kind, _ in results)
    lines, back, back_types = [], [], []
    for i, (kind, order) in enumerate(results[:-1]):  # the last is the kernel's own memory
        if order != "3, 1, 2, 0":
            back.append(f"%r#{i}")
            back_types.append(f"tensor<{kind}>")
            continue
        sides = kind.split("x")
        turned = "x".join((sides[0], sides[2], sides[1], *sides[3:]))
        lines.append(f"%t{i} = stablehlo.transpose %r#{i}, dims = [0, 2, 1, 3] : (tensor<{kind}>) -> tensor<{turned}>")
        back.append(f"%t{i}")
        back_types.append(f"tensor<{turned}>")
    call = (
        f'%r:{len(results)} = stablehlo.custom_call @"{target}"({", ".join(names)}) {{api_version = 2 : i32, '
        f"backend_config = {json.dumps(settings)}, operand_layouts = [{', '.join(map(layout, orders))}], "
        f"result_layouts = [{', '.join(layout(order) for _, order in results)}]}} : "
        f"({', '.join(f'tensor<{kind}>' for kind in kinds)}) -> ({types})"
    )
    body = "\n".join((call, *lines, f"return {', '.join(back)} : {', '.join(back_types)}"))
    return f"module @attention {{ func.func public @main({arguments}) -> ({', '.join(back_types)}) {{\n{body}\n}} }}"


def by_module(query: Any, key: Any, value: Any, causal: bool) -> Any:
    """cuDNN's kernels by a module of StableHLO, of tokens before heads."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    shape, platform = tuple(query.shape), "CUDA" if tf.config.list_physical_devices("GPU") else "CPU"
    batch, tokens, heads, width = shape
    whole, turned = f"{batch}x{tokens}x{heads}x{width}xf16", f"{batch}x{heads}x{tokens}x{width}xf16"
    sums = f"{batch}x{heads}x{tokens}xf32"
    own, heads_last = ("0xui8", "0"), (turned, "3, 1, 2, 0")

    def call(target: str, operands: list[Any], kinds: list[str], results: list[Any], *, backward: bool) -> Any:
        settings = _fused_config(shape, causal, heads_first=False, backward=backward)
        shapes = [shape] * 3 if backward else [shape, (batch, heads, tokens)]
        dtypes = [tf.float16] * 3 if backward else [tf.float16, tf.float32]
        text = _module(target, settings, kinds, results)
        return gen_xla_ops.xla_call_module(
            operands, version=9, module=text, Sout=shapes, Tout=dtypes, platforms=[platform]
        )

    @tf.custom_gradient
    def attention(query: Any, key: Any, value: Any) -> Any:
        results = [heads_last, (sums, "2, 1, 0"), own]
        output, kept = call("__cudnn$fmhaSoftmax", [query, key, value], [whole] * 3, results, backward=False)

        def gradient(upstream: Any) -> Any:
            return call(
                "__cudnn$fmhaSoftmaxBackward", [query, key, value, kept, upstream, output],
                [whole] * 3 + [sums] + [whole] * 2, [heads_last] * 3 + [own], backward=True,
            )  # fmt: skip

        return output, gradient

    return attention(query, key, value)
