"""What tfhalf's rewrites make of tf2onnx's plain output: nodes, Casts, Transposes, bytes, and time in onnxruntime.

    python benchmarks/onnx_rewrites.py [--opset 18] [--batch 1] [--seconds 4]

Every row is one net with random weights. "plain": Keras' own mixed_float16 model through tf2onnx, nothing folded;
"folded": norms folded by the float16 rebuild, tf2onnx's output as it is; "tfhalf": what `tfhalf export` writes. The
sessions of a row take turns, so that what else the machine does falls on all of them. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from keras import layers

from tfhalf.data import Preprocess
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import Program, make_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.precision.policy import policy

MODELS = Path(__file__).resolve().parent.parent / "models"


def built(file: str, **arguments: Any) -> keras.Model:
    """A net of models/."""
    spec = importlib.util.spec_from_file_location(file, MODELS / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: keras.Model = module.build(num_classes=10, **arguments)
    return model


def recurrent(layer: type) -> keras.Model:
    """Two recurrent layers of 128 on 64 steps of 32 values."""
    x = keras.Input((64, 32))
    return keras.Model(x, layers.Dense(10)(layer(128)(layer(128, return_sequences=True)(x))))


def nets() -> dict[str, tuple[tuple[int, ...], Any]]:
    """Input shape and builder by name."""
    image = (32, 32, 3)
    mobile = {"input_shape": (224, 224, 3), "weights": None, "classes": 10, "classifier_activation": None}
    return {
        "speednet": (image, lambda: built("speednet", input_shape=image)),
        "ResNet-20": (image, lambda: built("resnet", input_shape=image, depth=20)),
        "ViT (4 blocks of 64)": (image, lambda: built("vit_small", input_shape=image)),
        "MobileNetV2": ((224, 224, 3), lambda: keras.applications.MobileNetV2(**mobile)),
        "LSTM": ((64, 32), lambda: recurrent(layers.LSTM)),
        "GRU": ((64, 32), lambda: recurrent(layers.GRU)),
    }


def perturbed(model: keras.Model) -> keras.Model:
    """The norms' statistics away from 0 and 1, and no two kernels alike: what is alike is stored once."""
    draw = np.random.default_rng(1)
    for v in model.weights:
        if v.path.endswith(("moving_variance", "gamma")):
            v.assign(draw.uniform(0.5, 1.5, v.shape))
        elif v.path.endswith(("moving_mean", "beta", "bias")):
            v.assign(draw.normal(size=v.shape) * 0.1)
        else:
            v.assign(np.asarray(v) * draw.uniform(0.9, 1.1, v.shape))
    return model


def plain(program: Program, opset: int) -> onnx.ModelProto:
    """tf2onnx's output as it is."""
    signature = program.function.input_signature
    model, _ = tf2onnx.convert.from_function(program.function, input_signature=signature, opset=min(opset, 18))
    return model


def milliseconds(graphs: dict[str, onnx.ModelProto], x: np.ndarray, seconds: float) -> dict[str, float]:
    """Median time of one run of each, taking turns."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = {
        name: onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name, graph in graphs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(None, {"image": x})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["tfhalf"]) < 5:
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"image": x})
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opset", type=int, default=18)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="of running for each net")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}, tf2onnx {tf2onnx.__version__}, onnx {onnx.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, opset {options.opset}, batch {options.batch}\n"
    )
    print("| net | export | nodes | Casts | Transposes | bytes | ms |\n| --- | --- | --- | --- | --- | --- | --- |")
    for name, (shape, build) in nets().items():
        keras.utils.set_random_seed(0)
        with policy("mixed_float16"):
            model = perturbed(build())
        preprocess = Preprocess((0.0,), (1.0,))
        program = make_program(rebuild(model).model, preprocess, shape)
        graphs = {
            "plain": plain(make_program(model, preprocess, shape), options.opset),
            "folded": plain(program, options.opset),
            "tfhalf": to_onnx.convert(program, options.opset),
        }
        x = np.random.default_rng(0).normal(size=(options.batch, *shape)).astype(np.float32)
        taken = milliseconds(graphs, x, options.seconds)
        for kind, graph in graphs.items():
            counts = Counter(node.op_type for node in graph.graph.node)
            cells = (name, kind, sum(counts.values()), counts["Cast"], counts["Transpose"], f"{graph.ByteSize():,}")
            print("|", " | ".join(map(str, (*cells, f"{taken[kind]:.2f}"))), "|", flush=True)


if __name__ == "__main__":
    main()
