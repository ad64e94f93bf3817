"""ONNX's Attention in true float16, as engines with a kernel for it compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun


class Attention(OpRun):
    """Attention without caches of earlier keys.

    The products are summed and scaled in float32, and the softmax is computed in it; scores and probabilities are
    rounded to the tensors' dtype, as onnxruntime's CPU does: what keeps scores in float32 overflows later, not sooner.
    ONNX's own evaluator multiplies query and key by the root of the scale first, each rounded.
    """

    op_domain = ""

    def _run(
        self,
        query: Any,
        key: Any,
        value: Any,
        mask: Any = None,
        *others: Any,
        scale: Any = None,
        is_causal: Any = 0,
        q_num_heads: Any = None,
        kv_num_heads: Any = None,
        softcap: Any = None,
        **attributes: Any,
    ) -> tuple[Any]:
        windows = [attributes.get(name) for name in ("left_window_size", "right_window_size")]
        if any(one is not None for one in others) or softcap or any(size not in (None, -1) for size in windows):
            raise ValueError("Attention with a cache, softcap or windows is not supported in true float16")
        tokens_first, dtype = query.ndim == 3, query.dtype
        if tokens_first:
            query = _heads(query, q_num_heads)
            key, value = _heads(key, kv_num_heads), _heads(value, kv_num_heads)
        repeats = query.shape[1] // key.shape[1]
        key, value = (np.repeat(x.astype(np.float32), repeats, axis=1) for x in (key, value))
        factor = np.float32(query.shape[-1] ** -0.5 if scale is None else scale)
        scores = (query.astype(np.float32) @ key.swapaxes(-1, -2) * factor).astype(dtype).astype(np.float32)
        allowed = np.ones(scores.shape, bool)
        if is_causal:
            allowed &= np.tril(np.ones(scores.shape[-2:], bool))
        if mask is not None and mask.dtype == np.bool_:
            allowed &= mask
        elif mask is not None:
            scores = scores + mask.astype(np.float32)
        scores = np.where(allowed, scores, -np.inf)
        top = scores.max(-1, keepdims=True)
        powers = np.where(allowed, np.exp(scores - np.where(np.isneginf(top), 0, top)), 0)
        total = powers.sum(-1, keepdims=True)
        probabilities = (powers / np.where(total == 0, 1, total)).astype(dtype)
        answer = (probabilities.astype(np.float32) @ value).astype(dtype)
        if tokens_first:
            answer = answer.swapaxes(1, 2).reshape(len(answer), answer.shape[2], -1)
        return (answer,)


def _heads(x: np.ndarray, count: int) -> np.ndarray:
    """[B, T, H * D] as [B, H, T, D]."""
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)
