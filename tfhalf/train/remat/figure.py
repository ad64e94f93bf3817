"""How much memory a compiled program takes, by XLA's own account."""

from __future__ import annotations

from typing import Any


def program_bytes(function: Any, tensors: tuple[Any, ...]) -> int:
    """Bytes of every buffer of the program that XLA makes of ``function`` (a `tf.function`) for ``tensors``: variables
    and ``tensors`` themselves, what it returns, and what it holds meanwhile. It is compiled and not run."""
    from tensorflow.compiler.xla.service import hlo_pb2

    content = function.experimental_get_compiler_ir(*tensors)(stage="optimized_hlo_proto_serialized")
    program = hlo_pb2.HloProto.FromString(content)
    return sum(one.size for one in program.buffer_assignment.buffer_allocations if not one.is_thread_local)


def size(count: int) -> str:
    """``count`` bytes as ``7.50 GiB`` or ``31.2 MiB``: in the unit of ``train.remat_gib``."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
