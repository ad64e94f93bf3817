"""``config.pbtxt``: the model description that lets Triton take ``exports/`` as its model repository."""

from __future__ import annotations

from collections.abc import Sequence

MAX_BATCH = 256


def config(name: str, input_shape: Sequence[int], num_classes: int) -> str:
    """Text for Triton's onnxruntime backend (its TensorFlow backend ended with release 25.02)."""
    dims = ", ".join(map(str, input_shape))
    outputs = ",\n".join(
        f'  {{ name: "{output}" data_type: TYPE_FP32 dims: [ {num_classes} ] }}'
        for output in ("logits", "probabilities")
    )
    return (
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        f"max_batch_size: {MAX_BATCH}\n"
        f'input [\n  {{ name: "image" data_type: TYPE_FP32 dims: [ {dims} ] }}\n]\n'
        f"output [\n{outputs}\n]\n"
        "dynamic_batching { max_queue_delay_microseconds: 1000 }\n"
    )
