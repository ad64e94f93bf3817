"""What the page is told to ask people for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.serve.http.page.form import form, takes_people
from tfhalf.serve.signature import from_manifest

VIEW = {"name": "view", "dtype": "float32", "shape": ["batch", 8, 6, 3]}
AGE = {"name": "age", "dtype": "float32", "shape": ["batch", 1]}
NOTE = {"name": "note", "dtype": "int32", "shape": ["batch", 4]}
SERIES = {"name": "series", "dtype": "float32", "shape": ["batch", 22, 1]}


def loaded(*inputs: dict[str, Any], **more: Any) -> Any:
    """A version of these inputs, with classes and other numbers as its outputs."""
    facts = {
        "name": "net",
        "inputs": inputs,
        "outputs": [
            {"name": "kind", "dtype": "float32", "shape": ["batch", 2], "classes": True},
            {"name": "features", "dtype": "float32", "shape": ["batch", 9]},
        ],
        "labels": ["a", "b"],
        "artifacts": [{"format": "onnx"}],
        "limits": {},
        "reference": {},
        **more,
    }
    manifest = Manifest.read(facts)
    words = {one["name"]: Lookup("text", ("", "[UNK]", "good"), 4) for one in inputs if one["name"] == "note"}
    signature = from_manifest(manifest, None, words)
    return SimpleNamespace(manifest=manifest, lookups=Lookups(words), signature=signature, version=1)


def test_an_image_alone() -> None:
    asked = form(loaded(VIEW))
    assert asked["image"] == {"input": "view", "size": (8, 6, 3)}
    assert "fields" not in asked
    assert [(one["name"], one["task"], one["labels"]) for one in asked["outputs"]] == [
        ("kind", "classification", ("a", "b")), ("features", "array", ()),
    ]  # fmt: skip


def test_an_image_with_fields_is_one_form() -> None:
    version = loaded(VIEW, AGE, NOTE)
    assert takes_people(version)
    asked = form(version)
    assert [(one["name"], one["input"], one["kind"]) for one in asked["fields"]] == [
        ("view", "view", "image"), ("age", "age", "number"), ("note", "note", "text"),
    ]  # fmt: skip
    assert "image" not in asked
    assert [one["kind"] for one in form(loaded(VIEW, {**VIEW, "name": "other"}))["fields"]] == ["image", "image"]


@pytest.mark.parametrize(
    "inputs", [(SERIES,), (VIEW, SERIES), (AGE, {**VIEW, "shape": ["batch", "height", "width", 3]})]
)
def test_what_has_no_form(inputs: tuple[dict[str, Any], ...]) -> None:
    version = loaded(*inputs)
    assert not takes_people(version)
    assert set(form(version)) <= {"version", "outputs"}
