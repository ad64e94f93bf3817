"""Requests that call inputs and outputs by the model's own names, where the artifacts call them otherwise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError, RequestError
from tfhalf.serve.protocols import oip, tfserving_codec
from tfhalf.serve.settings import Limits
from tfhalf.serve.signature import Signature, called, from_manifest

FACTS = {
    "name": "net",
    "artifacts": [{"format": "onnx"}],
    "limits": {},
    "reference": {},
    "inputs": [
        {"name": "my_input", "dtype": "float32", "shape": ["batch", 2], "aliases": ["my-input", "input"]},
        {"name": "kind", "dtype": "int32", "shape": ["batch"]},
    ],
    "outputs": [{"name": "y_1", "dtype": "float32", "shape": ["batch", 3], "aliases": ["y"]}],
}


@pytest.fixture
def signature() -> Signature:
    return from_manifest(Manifest.read(FACTS))


@pytest.mark.parametrize("name", ["my_input", "my-input", "input"])
@pytest.mark.parametrize("output", ["y", "y_1"])
def test_both_names_are_taken(signature: Signature, name: str, output: str) -> None:
    rows = [
        {"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
        {"name": "kind", "shape": [1], "datatype": "INT32", "data": [3]},
    ]
    parsed = oip.parse(json.dumps({"inputs": rows, "outputs": [{"name": output}]}).encode(), None, signature, Limits())
    assert set(parsed.feeds) == {"my_input", "kind"}
    (requested,) = parsed.requested
    assert (requested.name, requested.alias) == ("y_1", output)


@pytest.mark.parametrize("name", ["my_input", "my-input"])
def test_both_names_are_taken_by_tensorflow_servings_dialect(signature: Signature, name: str) -> None:
    for message in ({"instances": [{name: [1, 2], "kind": 3}]}, {"inputs": {name: [[1, 2]], "kind": [3]}}):
        parsed = tfserving_codec.parse(message, signature)
        assert set(parsed.feeds) == {"my_input", "kind"}
        np.testing.assert_array_equal(parsed.feeds["my_input"], [[1, 2]])


def test_one_input_by_two_names_is_refused(signature: Signature) -> None:
    row = {"shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    rows = [{"name": "my_input", **row}, {"name": "my-input", **row}]
    with pytest.raises(RequestError, match="input 'my_input' is given twice"):
        oip.parse(json.dumps({"inputs": rows}).encode(), None, signature, Limits())
    rows = [{"name": "input", **row}, {"name": "kind", "shape": [1], "datatype": "INT32", "data": [3]}]
    body = json.dumps({"inputs": rows, "outputs": [{"name": "y"}, {"name": "y_1"}]}).encode()
    with pytest.raises(RequestError, match="outputs names one output twice"):
        oip.parse(body, None, signature, Limits())


def test_names_that_are_none(signature: Signature) -> None:
    assert called(signature.inputs, ["my_input"]) is None
    assert called(signature.inputs, "x") is None
    with pytest.raises(ValueError, match=r"outputs\.0\.aliases is not valid"):
        Manifest.read({**FACTS, "outputs": [{**FACTS["outputs"][0], "aliases": "y"}]})
    text = Manifest.read({**FACTS, "inputs": [{"name": "words", "dtype": "string", "shape": ["batch"]}]})
    with pytest.raises(ArtifactError, match="says string of 'words'; served are bool, uint8"):
        from_manifest(text)
