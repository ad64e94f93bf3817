"""A model told to clients: metadata, configuration, statistics, as the Open Inference Protocol and Triton have them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tfhalf.artifacts.formats import FORMATS
from tfhalf.runtimes.base import ONNXRUNTIME, TENSORFLOW
from tfhalf.serve.models.model import Model
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import BYTES, Tensor

Totals = Mapping[tuple[str, str], Mapping[str, float]]

# By library: the protocol's platform, Triton's backend, and the file.
_PLATFORMS = {
    ONNXRUNTIME: ("onnxruntime_onnx", "onnxruntime", FORMATS["onnx"].file),
    TENSORFLOW: ("tensorflow_savedmodel", "tensorflow", FORMATS["savedmodel"].file),
}


def metadata(model: Model, loaded: Loaded) -> dict[str, Any]:
    """The protocol's model metadata; ``parameters`` also tell labels, runtime, and versions that do not load."""
    return {
        "name": model.name,
        "versions": [str(number) for number in sorted(model.loaded)],
        "platform": _platform(loaded)[0],
        "inputs": [_tensor(tensor) for tensor in loaded.signature.inputs.values()],
        "outputs": [_tensor(tensor) for tensor in loaded.signature.outputs.values()],
        "parameters": {"version": str(loaded.version), **_computed(loaded), **_state(model)},
    }


def _platform(loaded: Loaded) -> tuple[str, str, str]:
    return _PLATFORMS.get(loaded.runtime.engine.library, ("", "", ""))


def _computed(loaded: Loaded) -> dict[str, Any]:
    """What computes, what says that it answers like the float32 model, and which engines may not."""
    opened = loaded.opened
    return {"runtime": opened.runtime.about, "verified": opened.verified, "refused_engines": dict(opened.refused)}


def unloaded(model: Model) -> dict[str, Any]:
    """The metadata of a model that has no version which answers."""
    empty: list[Any] = []
    return {
        "name": model.name,
        "versions": [],
        "platform": "",
        "inputs": empty,
        "outputs": empty,
        "parameters": _state(model),
    }


def _state(model: Model) -> dict[str, Any]:
    return {
        "labels": {
            label.name: {"version": "newest" if label.version is None else str(label.version), "share": label.share}
            for label in model.labels
        },
        "failures": {str(number): failure.message for number, failure in sorted(model.failures.items())},
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    datatype, shape = tensor.described
    return {"name": tensor.name, "datatype": datatype, "shape": shape}


def config_type(tensor: Tensor) -> str:
    """The datatype as Triton's model configuration spells it."""
    datatype, _ = tensor.described
    return f"TYPE_{'STRING' if datatype == BYTES else datatype}"


def config(loaded: Loaded, settings: Settings) -> dict[str, Any]:
    """Triton's model configuration, as far as it says anything here."""
    platform, backend, file = _platform(loaded)
    inputs = [
        {"name": t.name, "data_type": config_type(t), "format": "FORMAT_NONE", "dims": t.described[1][1:]}
        for t in loaded.signature.inputs.values()
    ]
    outputs = [
        {"name": t.name, "data_type": config_type(t), "dims": t.open_shape[1:], "label_filename": ""}
        for t in loaded.signature.outputs.values()
    ]
    return {
        "name": loaded.model,
        "platform": platform,
        "backend": backend,
        "version_policy": {"latest": {"num_versions": settings.latest}},
        "max_batch_size": settings.batching.max_batch,
        "input": inputs,
        "output": outputs,
        "dynamic_batching": {
            "preferred_batch_size": list(loaded.ladder),
            "max_queue_delay_microseconds": int(settings.batching.max_delay_ms * 1000),
        },
        "default_model_filename": file,
        "parameters": {
            "runtime": {"string_value": loaded.runtime.about},
            "verified": {"string_value": loaded.opened.verified},
            **{f"refused: {name}": {"string_value": why} for name, why in loaded.opened.refused.items()},
        },
    }


def statistics(loaded: Loaded, totals: Totals) -> dict[str, Any]:
    """Triton's statistics of a version; durations in nanoseconds."""
    counts = totals.get((loaded.model, str(loaded.version)), {})

    def value(name: str) -> float:
        return counts.get(f"nv_inference_{name}", 0.0)

    answered = int(value("request_success"))

    def duration(name: str) -> dict[str, int]:
        return {"count": answered, "ns": int(value(f"{name}_duration_us") * 1000)}

    nothing = {"count": 0, "ns": 0}
    return {
        "name": loaded.model,
        "version": str(loaded.version),
        "last_inference": int(counts.get("tfhalf_last_inference_seconds", 0.0) * 1000),
        "inference_count": int(value("count")),
        "execution_count": int(value("exec_count")),
        "inference_stats": {
            "success": duration("request"),
            "fail": {"count": int(value("request_failure")), "ns": 0},
            "queue": duration("queue"),
            "compute_input": duration("compute_input"),
            "compute_infer": duration("compute_infer"),
            "compute_output": duration("compute_output"),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [row.to_dict() for row in loaded.sizes.rows()],
    }


def status(model: Model, totals: Totals) -> dict[str, Any]:
    """What the page for people shows of a model."""
    default = model.newest()
    versions = []
    for number in sorted({*model.available, *model.loaded}, reverse=True):
        loaded, failure = model.loaded.get(number), model.failures.get(number)
        row: dict[str, Any] = {"version": number, "state": "ready" if loaded else "failed" if failure else "not served"}
        if loaded:
            row |= {**_facts(loaded), "statistics": statistics(loaded, totals)}
        elif failure:
            row["reason"] = failure.message
        versions.append(row)
    return {"name": model.name, "default": default.version if default else None, "versions": versions, **_state(model)}


def _facts(loaded: Loaded) -> dict[str, Any]:
    manifest = loaded.manifest
    training = manifest.training
    return {
        **_computed(loaded),
        "inputs": [_tensor(tensor) for tensor in loaded.signature.inputs.values()],
        "outputs": [_tensor(tensor) for tensor in loaded.signature.outputs.values()],
        "accuracy": training.test_accuracy if training else None,
        "quality": list(loaded.quality),
        "policy": training.policy if training else None,
        "created": manifest.created or None,
        "classes": len(loaded.labels),
        "images": any(tensor.image for tensor in loaded.signature.inputs.values())
        and manifest.class_output is not None,
        "pending": loaded.batcher.pending,
        "loaded_seconds": loaded.seconds,
        "now": time.time(),
    }
