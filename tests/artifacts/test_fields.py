"""The columns of a table that a version takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tfhalf.artifacts.fields import CellError, Field, as_inputs, fields_of, takes_table
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError

LOOKUPS = Lookups({"town": Lookup("category", ("", "Bonn", "Trier"))})


def manifest(columns: dict[str, Any] | None = None, *, missing: bool = True, **more: Any) -> Manifest:
    own = {"mean": [1.5, 2.0], "std": [1.0, 1.0], **({"missing": True} if missing else {})}
    facts = {
        "name": "net",
        "inputs": [
            {"name": "numbers", "dtype": "float32", "shape": ["batch", 2]},
            {"name": "town", "dtype": "int32", "shape": ["batch", 1]},
        ],
        "outputs": [{"name": "value", "dtype": "float32", "shape": ["batch", 1]}],
        "columns": {"numbers": ["age", "size"], "town": ["town"]} if columns is None else columns,
        "artifacts": [{"format": "onnx"}],
        "limits": {},
        "reference": {},
        "data": {"source": "csv:x", "sizes": {"test": 1}, "preprocess": {"inputs": {"numbers": own, "town": None}}},
        **more,
    }
    return Manifest.read(facts)


def test_columns_are_those_of_the_table() -> None:
    age, size, town = fields_of(manifest(), LOOKUPS)
    assert age == Field("age", "numbers", 0, "number", (), True, 1.5)
    assert (size.index, size.mean) == (1, 2.0)
    assert (town.kind, town.categories) == ("category", ("Bonn", "Trier"))
    assert takes_table(manifest(), LOOKUPS)


def test_without_names_they_are_called_as_the_input() -> None:
    fields = fields_of(manifest({}), Lookups())
    assert [(field.name, field.kind) for field in fields] == [
        ("numbers_0", "number"), ("numbers_1", "number"), ("town", "whole number"),
    ]  # fmt: skip


def test_rows_become_inputs() -> None:
    fields = fields_of(manifest(), LOOKUPS)
    cells = {"age": [1.0, math.nan], "size": [3.0, 4.0], "town": [" Trier", "Rome"]}
    inputs = as_inputs(fields, cells, manifest(), LOOKUPS)
    np.testing.assert_array_equal(inputs["numbers"], np.array([[1, 3], [np.nan, 4]], np.float32))
    np.testing.assert_array_equal(inputs["town"], np.array([[2], [0]], np.int32))
    assert {name: x.dtype.name for name, x in inputs.items()} == {"numbers": "float32", "town": "int32"}


def test_cells_of_numbers() -> None:
    age = fields_of(manifest(), LOOKUPS)[0]
    assert age.number("1e3") == 1000
    assert math.isnan(age.number(" N/A "))
    for cell in ("x", "inf", "1_000", "1e39", "-inf"):
        with pytest.raises(CellError, match="accepted: a number"):
            age.number(cell)
    strict = fields_of(manifest(missing=False), LOOKUPS)[0]
    with pytest.raises(CellError, match=r"is empty.*fill it in"):
        strict.number("")
    for cell in ("1.5", "3000000000", "1e400"):
        with pytest.raises(CellError, match="a whole number"):
            Field("k", "k", 0, "whole number").number(cell)


def test_manifests_that_contradict_themselves() -> None:
    with pytest.raises(ArtifactError, match="3 columns for 'numbers', which takes 2"):
        fields_of(manifest({"numbers": ["a", "b", "c"]}), LOOKUPS)
    with pytest.raises(ArtifactError, match="'town' twice"):
        fields_of(manifest({"numbers": ["a", "town"]}), LOOKUPS)
    with pytest.raises(ArtifactError, match="names 'city', which is not an input"):
        fields_of(manifest(), Lookups({"city": LOOKUPS.by_input["town"]}))
    series = {"name": "series", "dtype": "float32", "shape": ["batch", 4, 4]}
    assert not takes_table(manifest(inputs=[series]), Lookups())
    with pytest.raises(ArtifactError, match="not a row of a table"):
        fields_of(manifest(inputs=[series]), Lookups())


def test_images_are_columns_beside_other_inputs() -> None:
    image = {"name": "image", "dtype": "uint8", "shape": ["batch", 2, 2, 3]}
    assert not takes_table(manifest(inputs=[image]), Lookups())  # a folder of them does
    of_both = manifest(inputs=[image, {"name": "numbers", "dtype": "float32", "shape": ["batch", 2]}])
    assert takes_table(of_both, Lookups())
    fields = fields_of(of_both, Lookups())
    assert [(field.name, field.kind) for field in fields] == [("image", "image"), ("age", "number"), ("size", "number")]
    cells = {"age": [1.0, 2.0], "size": [3.0, 4.0], "image": [np.full((2, 2, 3), 7.0), np.zeros((2, 2, 3))]}
    inputs = as_inputs(fields, cells, of_both, Lookups())
    assert (inputs["image"].dtype, inputs["image"].shape, inputs["image"][0, 0, 0, 0]) == (np.uint8, (2, 2, 2, 3), 7)
    for other in ([4, 4, 4, 3], [4, 4, 2]):
        inputs = [{**image, "shape": ["batch", *other]}, image]
        assert not takes_table(manifest(inputs=inputs), Lookups())
