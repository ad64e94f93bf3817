"""The rate at which a device multiplies large square matrices: what a training step is held against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfhalf.system.device import Device

_GPU_SIDE, _CPU_SIDE = 8192, 1024
# Products in a program: on a GPU enough that starting it does not count.
_GPU_CHAIN, _CPU_CHAIN = 8, 1
_PATIENCE = 2.0  # seconds
_CALLS = 20


@dataclass(frozen=True)
class Peak:
    """``flops`` a second (two per multiply-add), in the product that ``matrix`` describes."""

    matrix: str
    flops: float


def peak(dtype: str, device: Device) -> Peak:
    """The best of several programs of square products in ``dtype``, compiled by XLA, each with its result waited for.

    float32 is what TensorFlow makes of it: TF32 on a GPU that has it. At most 20 programs are timed, and as many as fit
    into two seconds, but at least one.
    """
    gpu = device.kind == "GPU"
    side, chain = (_GPU_SIDE, _GPU_CHAIN) if gpu else (_CPU_SIDE, _CPU_CHAIN)
    left, right = _matrices(side, dtype)

    @tf.function(jit_compile=True, autograph=False)
    def program(a: Any, b: Any) -> Any:
        for _ in range(chain):
            a = tf.matmul(a, b)
        return a

    _wait(program(left, right))  # compiles it
    best, start = float("inf"), time.perf_counter()
    for _ in range(_CALLS):
        began = time.perf_counter()
        _wait(program(left, right))
        best = min(best, time.perf_counter() - began)
        if time.perf_counter() - start > _PATIENCE:
            break
    tf32 = gpu and dtype == "float32" and tf.config.experimental.tensor_float_32_execution_enabled()
    return Peak(f"{dtype} {side}x{side}{', TF32' if tf32 else ''}", 2 * side**3 * chain / best)


def _matrices(side: int, dtype: str) -> tuple[Any, Any]:
    """Random, and so that products of any number of them keep about the size of the first: neither zeros nor infinities
    are to save the device power."""
    left, right = (tf.random.stateless_normal([side, side], [0, i]) for i in range(2))
    return tf.cast(left, dtype), tf.cast(right / side**0.5, dtype)


def _wait(result: Any) -> None:
    """Fetch one value. It is taken out here: within the program XLA would compute no more than its row."""
    result[0, 0].numpy()
