"""A caller's arrays as a version's inputs."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tfhalf.artifacts.arrays import fitted, keys_of
from tfhalf.artifacts.ports import Port
from tfhalf.errors import DataError

PHOTO = Port("photo", "float32", (None, 2), aliases=("input_1",))
AGE = Port("age", "int32", (None, 1))


@pytest.mark.parametrize(
    ("names", "ports", "keys"),
    [
        ("photo age", (PHOTO, AGE), {"photo": "photo", "age": "age"}),
        ("input_1 photo", (PHOTO,), {"photo": "photo"}),
        ("input_1 y", (PHOTO,), {"photo": "input_1"}),
        ("x y", (PHOTO,), {"photo": "x"}),
        ("y x_test", (PHOTO,), {"photo": "x_test"}),
        ("any", (PHOTO,), {"photo": "any"}),
        ("any other", (PHOTO,), {}),
        ("x age", (PHOTO, AGE), {"age": "age"}),
    ],
)
def test_which_array_is_which_input(names: str, ports: tuple[Port, ...], keys: dict[str, str]) -> None:
    assert keys_of(names.split(), ports) == keys


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float32", [[1, 2]], np.float32),
        ("float32", np.array([[np.nan, np.inf]], ">f8"), np.float32),
        ("uint8", [[0.0, 255.0]], np.uint8),
        ("int64", np.array([[1, 2]], np.uint8), np.int64),
        ("bool", [[True, False]], np.bool_),
        ("string", [["a", "b"]], np.object_),
    ],
)
def test_numbers_are_cast_where_that_loses_nothing(dtype: str, values: Any, expected: type) -> None:
    array = fitted(values, Port("x", dtype, (None, 2)), "here")
    assert (array.dtype, array.shape) == (np.dtype(expected), (1, 2))
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        ("float32", [[1, 2, 3]], "here: x has shape (1, 3); ['batch', 2] is accepted"),
        ("float32", [[1], [1, 2]], "here: x makes no array"),
        ("float32", [[1e300, 0]], "here: x is float64, and holds values that float32 does not; correct them"),
        ("int32", [[0.5, 0]], "x is float64, and holds values that int32 does not"),
        ("int32", [[np.nan, 0]], "x is float64, and holds values that int32 does not"),
        ("uint8", [[256, -1]], "x is int64, and holds values that uint8 does not"),
        ("int32", [[1j, 0]], "x is complex128; int32 is accepted; convert it"),
        ("float32", [[True, False]], "x is bool; float32 is accepted"),
        ("bool", [[1, 0]], "x is int64; bool is accepted"),
        ("float32", [["a", "b"]], "x is <U1; float32 is accepted"),
        ("string", [[1, 2]], "x is int64; string is accepted"),
    ],
)
def test_what_does_not_fit(dtype: str, values: Any, words: str) -> None:
    with pytest.raises(DataError, match=re.escape(words)):
        fitted(values, Port("x", dtype, (None, 2)), "here")
