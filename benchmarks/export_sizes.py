"""Bytes of tfhalf's artifacts beside Keras' own `model.export` of the trained mixed model and a float32 ONNX file.

    python benchmarks/export_sizes.py RUN [RUN ...]

RUN is a finished run folder. Prints one JSON line for each.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from tfhalf.export import savedmodel
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import make_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.precision.policy import policy
from tfhalf.progress import Progress
from tfhalf.train.job import Places, open_run, prepare
from tfhalf.train.restore import restore_run


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def measure(run: Path) -> dict[str, object]:
    """Bytes of each form of one trained model."""
    pipeline, places, smoke = open_run(run, Places(Path(), Path("runs"), Path("exports")))
    job = prepare(pipeline, places, Progress(quiet=True), smoke=smoke)
    model = restore_run(job, run).model
    float32_model = job.model("float32")
    float32_model.set_weights(model.get_weights())
    preprocessing = (job.preprocess, job.splits.input_shape)
    with tempfile.TemporaryDirectory() as scratch:
        keras_own, ours, float32 = (Path(scratch) / name for name in ("keras", "ours", "float32"))
        with policy("mixed_float16"):
            model.export(keras_own, verbose=False)
        program = make_program(rebuild(model).model, *preprocessing)
        for folder in (ours, float32):
            folder.mkdir()
        savedmodel.write(program, ours)
        to_onnx.write(program, ours / "model.onnx", opset=18, metadata={})
        to_onnx.write(make_program(float32_model, *preprocessing), float32 / "model.onnx", opset=18, metadata={})
        row: dict[str, object] = {
            "run": pipeline.name,
            "parameters": int(np.sum([np.prod(w.shape) for w in model.weights])),
            "keras_export_variables": _bytes(keras_own, "variables.data*"),
            "savedmodel_variables": _bytes(ours, "variables.data*"),
            "float32_onnx": _bytes(float32, "model.onnx"),
            "onnx": _bytes(ours, "model.onnx"),
        }
    row["savedmodel_ratio"] = round(row["savedmodel_variables"] / row["keras_export_variables"], 4)  # type: ignore[operator]
    row["onnx_ratio"] = round(row["onnx"] / row["float32_onnx"], 4)  # type: ignore[operator]
    return row


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(measure(Path(argument))), flush=True)
