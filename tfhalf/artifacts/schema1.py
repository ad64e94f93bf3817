"""Versions of schema 1, whose two forms are read into the one record and the one reference.

A pipeline's export had one ``input``, and an artifact's comparison was of its probabilities alone; a model's had
``inputs``, ``samples``, and a comparison of each output. Both had the limits in ``config.verify`` and the formats in
``config.export``. Values are moved as they are, of whatever type: the record checks them (`upgraded`). So are the
arrays of ``reference.npz`` and ``samples.npz`` (`upgraded_arrays`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfhalf.artifacts.edges import edge_mask

SAMPLES = "samples.npz"
"""Where a model's export had its samples."""

Facts = dict[str, Any]
Arrays = Mapping[str, np.ndarray]

_NEEDED = ("name", "config", "files", "labels", "input", "seed", "data", "pipeline_file")
_PIPELINE_LIMITS = {
    "max_difference": None,
    "mean_difference": None,
    "max_accuracy_drop": 0.1,
    "min_agreement": 99.5,
    "true_float16_samples": 256,
}
_OUTPUTS = ("logits", "probabilities")


def upgraded(old: Mapping[str, Any]) -> Facts:
    """What `record.Manifest` reads of a manifest of schema 1.

    Raises:
        ValueError: in one line, what it lacks.
    """
    form = _of_model if old.get("kind") == "model" else _of_pipeline
    settings = _dict(old.get("config"))
    rest = {key: value for key, value in old.items() if key not in ("input", "kind", "samples", "verification")}
    return {**rest, "artifacts": _artifacts(old, settings), **form(old, settings)}


def _of_model(old: Mapping[str, Any], settings: Facts) -> Facts:
    moved = {"limits": settings.get("verify"), "reference": old.get("samples")}
    return {**moved, "comparisons": old.get("verification", [])}


def _of_pipeline(old: Mapping[str, Any], settings: Facts) -> Facts:
    if lacking := [key for key in _NEEDED if key not in old] or ["config.data"] * ("data" not in settings):
        raise ValueError(f"lacks {', '.join(lacking[:5])}")
    verify, image, labels, rows = settings.get("verify"), old["input"], old["labels"], old.get("verification", [])
    classes = len(labels) if isinstance(labels, list) else None
    port = {"dtype": "float32", "shape": ["batch", classes]}
    outputs = old.get("outputs") or [{"name": name, **port} for name in _OUTPUTS]
    return {
        "inputs": [{"name": "image", "dtype": "float32", **image} if isinstance(image, dict) else image],
        "outputs": [{**row, "classes": True} if isinstance(row, dict) else row for row in _list(outputs)],
        "limits": {**_PIPELINE_LIMITS, **verify} if isinstance(verify, dict) else verify,
        "reference": {"origin": "test set", "count": _dict(_dict(old["data"]).get("sizes")).get("test", 0)},
        "comparisons": [_compared(row) if isinstance(row, dict) else row for row in _list(rows)],
    }


def _artifacts(old: Mapping[str, Any], settings: Facts) -> list[Any]:
    """What is known of each format, in the order in which the configuration names them."""
    rows: Facts = {str(row.get("format")): row for row in _list(old.get("artifacts", [])) if isinstance(row, dict)}
    formats = _dict(settings.get("export")).get("formats")
    return [rows.get(str(name), {"format": name}) for name in _list(formats)]


def _compared(row: Facts) -> Facts:
    """A pipeline's comparison, as that of its one output."""
    numbers = ("max_difference", "mean_difference", "non_finite", "agreement", "accuracy", "reference_accuracy")
    edges: Facts = {key: row[key] for key in ("edge_difference", "edge_non_finite") if key in row}
    output: Facts = {"name": "probabilities", "scale": 1.0, "spread": 1.0, "problems": row.get("problems", []), **edges}
    output.update({key: row.get(key) for key in numbers})
    not_covered = row.get("not_covered", "")
    new: Facts = {key: row.get(key) for key in ("artifact", "runtime", "seconds")}
    return new | {
        "samples": row.get("images"),
        "outputs": [] if not_covered else [output],
        "not_covered": not_covered,
    }


def _dict(value: Any) -> Facts:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- arrays -----------------------------------------------------------------------------------------------------------


def upgraded_arrays(arrays: Arrays) -> Arrays:
    """What `reference.Reference` reads of a version's arrays, of whatever schema.

    Raises:
        ValueError: in one line, what is wrong with them.
    """
    if "probabilities" in arrays:
        return _arrays_of_pipeline(arrays)
    return _arrays_of_model(arrays) if "kinds" in arrays else arrays


def _arrays_of_pipeline(arrays: Arrays) -> Arrays:
    """A pipeline's ``reference.npz``, which had probabilities of images alone, under today's names."""
    names = {
        "probabilities": "out/probabilities", "y": "labels", "x_sha256": "digest", "edge_x": "edge/in/image",
        "edge_kinds": "edge/kinds", "edge_probabilities": "edge/out/probabilities",
    }  # fmt: skip
    if lacking := [name for name in ("y", "x_sha256") if name not in arrays]:
        raise ValueError(f"lacks {', '.join(lacking)}")
    return {new: arrays[old] for old, new in names.items() if old in arrays}


def _arrays_of_model(arrays: Arrays) -> Arrays:
    """A model's ``samples.npz``, in which edge rows stood among the others, with edge rows by themselves."""
    kinds = arrays["kinds"]
    rows = {name: x for name, x in arrays.items() if name.startswith(("in/", "out/"))}
    if kinds.ndim != 1 or kinds.dtype.kind != "U" or any(x.shape[:1] != kinds.shape for x in rows.values()):
        raise ValueError("its samples do not go together")
    edge = edge_mask(kinds.tolist())
    rest = {name: x for name, x in arrays.items() if name.startswith("size/")}
    edges = {f"edge/{name}": x[edge] for name, x in rows.items()} | {"edge/kinds": kinds[edge]}
    return {**rest, **{name: x[~edge] for name, x in rows.items()}, **(edges if edge.any() else {})}
