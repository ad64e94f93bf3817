"""Attention as ONNX's own operator (opset 23) beside the steps that opset 22 has for it: nodes, error and time.

    python benchmarks/onnx_attention.py [--batch 1] [--seconds 4] [--threads 2]

Every row is one attention layer of Keras with random weights, in float16. "error": the root mean square of what differs
from the layer in float64, in true float16 arithmetic and in onnxruntime. Times are medians of runs that take turns, so
that what else the machine does falls on all of them: onnxruntime with the file as it is, with the graph brought to
float32 at load, as `tfhalf serve` does on a CPU, and OpenVINO where it is installed. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from keras import layers

from tfhalf.artifacts.ports import Port
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import named_program
from tfhalf.runtimes.onnx_reference import TrueFloat16
from tfhalf.runtimes.onnx_upcast import upcast

Run = Callable[[np.ndarray], np.ndarray]


def nets() -> dict[str, tuple[int, int, Callable[[str], Any], dict[str, Any]]]:
    """Tokens, width, layer by dtype, and what it is called with, by name."""
    return {
        "ViT: 197 tokens, 6 heads of 64": (197, 384, lambda dtype: layers.MultiHeadAttention(6, 64, dtype=dtype), {}),
        "GPT: 256 tokens, 12 heads of 64, causal": (
            256,
            768,
            lambda dtype: layers.MultiHeadAttention(12, 64, dtype=dtype),
            {"use_causal_mask": True},
        ),
        "grouped: 256 tokens, 12 heads on 4 of 64, causal": (
            256,
            768,
            lambda dtype: layers.GroupQueryAttention(64, 12, 4, dtype=dtype),
            {"use_causal_mask": True},
        ),
    }


def built(make: Callable[[str], Any], dtype: str, width: int) -> Any:
    """The layer with weights that float16 holds, the same for each dtype."""
    layer, draw = make(dtype), np.random.default_rng(0)
    layer.build((None, None, width), (None, None, width))
    layer.set_weights(
        [(draw.normal(size=w.shape) / np.sqrt(width)).astype(np.float16).astype(np.float64) for w in layer.weights]
    )
    return layer


def session(model: onnx.ModelProto, threads: int) -> Run:
    """One run in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    inner = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: inner.run(None, {"x": x})[0]


def wide(model: onnx.ModelProto, threads: int) -> Run:
    """One run in onnxruntime of the graph in float32."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    upcast(other)
    return session(other, threads)


def openvino(model: onnx.ModelProto, threads: int) -> Run:
    """One run in OpenVINO, in float32."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "model.onnx")
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        compiled: Any = ov.Core().compile_model(str(Path(folder) / "model.onnx"), "CPU", settings)
    return lambda x: np.array(compiled([x])[0])


def milliseconds(runs: dict[Any, Run], x: np.ndarray, seconds: float) -> dict[Any, float]:
    """Median time of one run of each, taking turns."""
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        run(x)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for key, run in runs.items():
            start = time.perf_counter()
            run(x)
            times[key].append((time.perf_counter() - start) * 1000)
    return {key: statistics.median(taken) for key, taken in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="of running for each layer")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    engines = {"onnxruntime": session, "float32": wide}
    versions = f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
    if importlib.util.find_spec("openvino") is not None:
        engines["OpenVINO"] = openvino
        versions += f", OpenVINO {importlib.metadata.version('openvino')}"
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}, {versions}, batch {options.batch}, {options.threads} threads\n"
    )
    print("| layer | opset | nodes | error, true float16 | error, onnxruntime |", *(f"ms, {e} |" for e in engines))
    print("| --- | --- | --- | --- | --- |" + " --- |" * len(engines))
    for name, (tokens, width, make, call) in nets().items():
        x = np.random.default_rng(1).normal(size=(options.batch, tokens, width)).astype(np.float16).astype(np.float32)
        exact = np.asarray(built(make, "float64", width)(x.astype(np.float64), x.astype(np.float64), **call))
        layer = built(make, "float16", width)
        ports = [Port("x", "float32", (None, tokens, width))]

        def call_layer(tensors: Any, layer: Any = layer, call: dict[str, Any] = call) -> dict[str, Any]:
            half = tf.cast(tensors[0], tf.float16)
            return {"y": layer(half, half, **call)}

        program = named_program(call_layer, ports, (), (), "a benchmark")
        graphs = {opset: to_onnx.convert(program, opset) for opset in (22, 23)}
        runs = {
            (opset, engine): make_run(graph, options.threads)
            for opset, graph in graphs.items()
            for engine, make_run in engines.items()
        }
        taken = milliseconds(runs, x, options.seconds)
        for opset, graph in graphs.items():
            answers = TrueFloat16(graph)(x)["y"], runs[opset, "onnxruntime"](x)
            errors = [f"{np.sqrt(np.mean((y - exact) ** 2)):.2e}" for y in answers]
            times = [f"{taken[opset, engine]:.2f}" for engine in engines]
            print("|", " | ".join(map(str, (name, opset, len(graph.graph.node), *errors, *times))), "|", flush=True)


if __name__ == "__main__":
    main()
