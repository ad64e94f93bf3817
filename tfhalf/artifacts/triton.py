"""``config.pbtxt``: the model description that lets Triton take ``exports/`` as its model repository."""

from __future__ import annotations

from collections.abc import Sequence

from tfhalf.artifacts.ports import Port

MAX_BATCH = 256
_TYPES = {
    "float32": "FP32", "float16": "FP16", "float64": "FP64", "bool": "BOOL", "string": "STRING",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def config(name: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """Text for Triton's onnxruntime backend (its TensorFlow backend ended with release 25.02).

    Triton joins requests into batches where every input and output has the batch as its first, open dimension and
    others beside it; else ``max_batch_size`` is 0 and shapes are whole.
    """
    batched = all(port.shape and port.shape[0] is None for port in (*inputs, *outputs))
    text = f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {MAX_BATCH if batched else 0}\n'
    for kind, ports in (("input", inputs), ("output", outputs)):
        text += f"{kind} [\n" + ",\n".join(_port(port, batched) for port in ports) + "\n]\n"
    return text + ("dynamic_batching { max_queue_delay_microseconds: 1000 }\n" if batched else "")


def _port(port: Port, batched: bool) -> str:
    dims = [-1 if size is None else size for size in port.shape[1 if batched else 0 :]]
    if dims:
        return f'  {{ name: "{port.name}" data_type: TYPE_{_TYPES[port.dtype]} dims: [ {", ".join(map(str, dims))} ] }}'
    # Triton has no empty dims; the tensor of rank 1 is described as a reshaped [1].
    return f'  {{ name: "{port.name}" data_type: TYPE_{_TYPES[port.dtype]} dims: [ 1 ] reshape: {{ shape: [ ] }} }}'
