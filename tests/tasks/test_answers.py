"""What an output says of an item, by task."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tfhalf.tasks.answers import ARRAY, Meaning, in_words, meanings, number_words
from tfhalf.tasks.colours import colours


def meaning(name: str, labels: str = "", **more: Any) -> Meaning:
    return Meaning.of_facts({"name": name, "class_names": labels.split(), **more})


@pytest.mark.parametrize(
    ("what", "values", "words"),
    [
        (meaning("classification", "a b c"), [0.2, 0.7, 0.1], "b 70.00 %"),
        (meaning("classification", "a b c"), [2.0, 7.0, 1.0], "b 7"),
        (meaning("binary", "no yes"), [0.25, 0.75], "yes 75.00 %  no 25.00 %"),
        (meaning("multilabel", "a b c"), [0.9, 0.1, 0.6], "a 90.00 %  c 60.00 %"),
        (meaning("multilabel", "a b c"), [0.3, 0.1, 0.2], "(a 30.00 %)"),
        (meaning("regression", unit="EUR", columns=["a", "b"]), [-0.25, 12345.6], "a -0.25 EUR  b 12,346 EUR"),
        (meaning("regression"), [3.0], "value 3"),
        (meaning("regression"), [np.nan], "value not finite"),
        (meaning("sequence", "x y"), [[0.9, 0.1], [0.2, 0.8]], "x y"),
        (meaning("segmentation", "a b"), [[[0.1, 0.9], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]]], "b 75.00 %  a 25.00 %"),
        (meaning("their own"), [1.5], "value 1.5"),
        (Meaning(ARRAY), [[1.5, 2000.0], [np.inf, 0.0]], "[2, 2] 1.5  2,000  not finite  0"),
        (Meaning(ARRAY), np.arange(20).reshape(2, 5, 2), "[2, 5, 2] 0  1  2  3  4  5 ... 14 more"),
        (Meaning(ARRAY), [0.25], "0.25"),
        (Meaning(ARRAY), 3, "3"),
        (Meaning(ARRAY), [True, False], "[2] 1  0"),
        (Meaning(ARRAY), ["a", "b"], "[2] a  b"),
        (Meaning(ARRAY), np.zeros((3, 0)), "[3, 0] "),
    ],
)  # fmt: skip
def test_an_answer_of_each_task(what: Meaning, values: list[Any], words: str) -> None:
    row = np.array(values)
    assert what.fits(row.shape)
    answer = what.answer(row, 1)
    assert in_words(answer) == words
    json.dumps(answer, allow_nan=False)


def test_which_outputs_are_shown() -> None:
    task = {"name": "classification", "classes": 2, "class_names": ["a", "b"]}
    both = ("logits", "probabilities", "features")
    shown = meanings({"probabilities": task}, both, ("probabilities", ()))
    assert {name: one.task for name, one in shown.items()} == {"probabilities": "classification", "features": "array"}
    shown = meanings({}, ("kind", "features"), ("kind", ("x", "y")))
    assert {name: one.task for name, one in shown.items()} == {"kind": "classification", "features": "array"}
    assert shown["kind"].labels == ("x", "y")
    assert meanings({}, ("logits",), None) == {"logits": Meaning(ARRAY)}


def test_shapes_that_do_not_fit() -> None:
    assert not meaning("classification", "a b").fits((3,))
    assert not meaning("segmentation", "a b").fits((2,))
    assert not meaning("sequence", "a b").fits((2,))
    assert meaning("regression").fits((4,))


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0"), (1e-7, "1e-07"), (2.5, "2.5"), (1e20, "1e+20"), (999.94, "999.94")]
)
def test_numbers_in_words(value: float, words: str) -> None:
    assert number_words(value) == words


def test_colours_differ() -> None:
    assert len(set(colours(60))) == 60
    assert all(0 <= part <= 255 for colour in colours(256) for part in colour)
