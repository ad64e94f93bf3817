"""Small pipelines of each kind of task, for tests that kill them: a function of each writes one, with its data, into a
folder, and returns the path of its file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODELS = Path(__file__).resolve().parent.parent / "models"
SEVERAL = """
import keras
import numpy as np
from keras import layers


def load():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(900, 6)).astype(np.float32)
    code = draw.integers(0, 5, (900, 1)).astype(np.int32)
    total = x.sum(-1) + code[:, 0]
    y = {"sign": (total > 2).astype(np.int32), "price": (2e5 + 9e4 * total).astype(np.float32)}
    return {"x_train": {"numbers": x, "code": code}, "y_train": y}


def build(*, input_shape, num_outputs):
    numbers = keras.Input(input_shape["numbers"], name="numbers")
    code = keras.Input(input_shape["code"], name="code", dtype="int32")
    x = layers.Concatenate()([layers.Dense(16)(numbers), layers.Flatten()(layers.Embedding(5, 3)(code))])
    x = layers.Dropout(0.2)(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model({"numbers": numbers, "code": code}, {k: layers.Dense(n)(x) for k, n in num_outputs.items()})
"""


def table(where: Path) -> Path:
    """A number from numbers, a category and empty cells; in mixed float16, with averaged weights."""
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(900):
        size, age, city = draw.uniform(20, 200), draw.integers(0, 90), draw.choice(["Ulm", "Bonn", "Kiel", ""])
        price = 3000 * size - 900 * age + (80000 if city == "Bonn" else 0) + draw.normal(0, 9000)
        rows.append([f"{size:.1f}" if draw.random() > 0.1 else "", age, city, f"{price:.0f}"])
    _csv(where / "data.csv", ["size", "age", "city", "price"], rows)
    return _pipeline(
        where,
        model={"build": f"{MODELS / 'table.py'}:build", "args": {"widths": [32, 16], "dropout": 0.1}},
        data={"source": "csv:data.csv", "columns": {"price": "target"}, "empty": "mean", "validation": 0.1},
        task={"name": "regression", "unit": "euros"},
        train={"epochs": 30, "batch_size": 16, "optimizer": {"name": "adamw", "ema_momentum": 0.99}},
        precision={"policy": "mixed_float16", "loss_scale": {"growth_interval": 200}},
    )


def text(where: Path) -> Path:
    """A class of each text, by recurrent layers with dropout; in float32."""
    draw = np.random.default_rng(0)
    good, bad, rest = ["great", "fun", "warm"], ["dull", "bad", "cold"], [f"word{k}" for k in range(40)]
    rows = []
    for k in range(400):
        words = [*draw.choice(good if k % 2 else bad, 2), *draw.choice(rest, draw.integers(2, 8))]
        rows.append([" ".join(draw.permutation(words)), ("no", "yes")[k % 2]])
    _csv(where / "data.csv", ["review", "liked"], rows)
    return _pipeline(
        where,
        model={"build": f"{MODELS / 'text_gru.py'}:build", "args": {"width": 8, "units": 8}},
        data={"source": "csv:data.csv", "columns": {"review": "text", "liked": "target"}, "validation": 0.1},
        train={"epochs": 12, "batch_size": 8, "optimizer": {"name": "adam", "learning_rate": 0.01}},
        precision={"policy": "float32"},
    )


def segmentation(where: Path) -> Path:
    """A class of each pixel of 16x16 images, which are flipped and shifted; in mixed float16."""
    draw = np.random.default_rng(0)
    for name in ("image", "label"):
        (where / "data" / name).mkdir(parents=True)
    row, column = np.mgrid[:16, :16]
    for k in range(60):
        mask = (row - draw.integers(4, 12)) ** 2 + (column - draw.integers(4, 12)) ** 2 < draw.integers(9, 30)
        image = np.clip(90 + 80 * mask + draw.normal(0, 30, mask.shape), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(where / f"data/image/{k}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(where / f"data/label/{k}.png")
    return _pipeline(
        where,
        export={"formats": ["onnx"]},
        model={"build": f"{MODELS / 'unet.py'}:build", "args": {"width": 4, "depth": 1, "dropout": 0.2}},
        data={
            "source": "masks:data",
            "validation": 0.1,
            "augment": {"flip": "random", "crop": 2, "crop_padding": "reflect"},
        },
        task="segmentation",
        train={"epochs": 12, "batch_size": 4, "optimizer": {"name": "adam", "learning_rate": 0.003}},
        precision={"policy": "mixed_float16", "loss_scale": {"growth_interval": 50}},
    )


def several(where: Path) -> Path:
    """Two inputs and two outputs, one of them weighted; in mixed float16, with slow weights."""
    (where / "own.py").write_text(SEVERAL)
    optimizer = {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9, "lookahead": {"every": 5}}
    return _pipeline(
        where,
        export={"formats": ["onnx"]},
        model={"build": "own.py:build"},
        data={"source": "own.py:load", "validation": 0.1},
        outputs={"sign": {"name": "binary"}, "price": {"name": "regression", "weight": 0.5}},
        train={"epochs": 30, "batch_size": 16, "optimizer": optimizer, "schedule": {"name": "cosine"}},
        precision={"policy": "mixed_float16", "loss_scale": {"growth_interval": 200}},
    )


KINDS: Mapping[str, Callable[[Path], Path]] = {
    "table": table,
    "text": text,
    "segmentation": segmentation,
    "several": several,
}


def _pipeline(where: Path, *, train: dict[str, Any], **sections: Any) -> Path:
    """A file of these sections, saved as often as can be."""
    file = where / "job.yaml"
    file.write_text(json.dumps({"name": "job", "seed": 5, "train": {"checkpoint_seconds": 0, **train}, **sections}))
    return file


def _csv(file: Path, header: list[str], rows: list[list[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([header, *rows])
