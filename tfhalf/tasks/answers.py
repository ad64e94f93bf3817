"""What an artifact's output says of an item, for people and as JSON: classes, labels, numbers, steps or pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfhalf.tasks.binary import Binary
from tfhalf.tasks.classification import Classification
from tfhalf.tasks.multilabel import Multilabel
from tfhalf.tasks.regression import Regression
from tfhalf.tasks.segmentation import Segmentation
from tfhalf.tasks.sequence import SequenceLabels

_LABELLED = (Classification.name, Binary.name, Multilabel.name, Segmentation.name, SequenceLabels.name)
_STEPS = 60  # that a line shows
_VALUES = 6  # of an array that has no task, likewise
ARRAY = "array"
"""Of an output that has neither task nor classes: its numbers as they are."""
_LOGITS, _PROBABILITIES = "logits", "probabilities"


@dataclass(frozen=True)
class Meaning:
    """What an output's values are. ``labels`` are the names of classes, ``columns`` those of numbers in ``unit``; empty
    where they are not known."""

    task: str
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    unit: str = ""

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Meaning:
        """Of what a manifest says of an output's task; one that is not known gives numbers."""
        task = str(facts.get("name"))
        if task not in _LABELLED:
            task = Regression.name
        return cls(task, _texts(facts.get("class_names")), _texts(facts.get("columns")), str(facts.get("unit") or ""))

    @property
    def is_mask(self) -> bool:
        """Whether there is a class for each pixel."""
        return self.task == Segmentation.name

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether ``shape``, without the batch, is that of an item's values."""
        if self.task == ARRAY:
            return True
        ranks = {Segmentation.name: 3, SequenceLabels.name: 2}
        if len(shape) != ranks.get(self.task, 1):
            return False
        return not self.labels or self.task == Regression.name or shape[-1] == len(self.labels)

    def answer(self, row: np.ndarray, top: int) -> dict[str, Any]:
        """What the values of an item say, as JSON holds it.

        ``labels``, each with ``label`` and ``probability`` (``score`` where they are none): the ``top`` best classes;
        of two, both; of independent labels also those above a half, each with ``applies``. ``values``, each with
        ``name`` and ``value``, and their ``unit``. ``steps``: a label and its probability for each. ``shares``: of each
        class of pixels its share of them, 0 to 1, the largest first. ``array``: values in nested lists, None for one
        that is not finite, and their ``shape``.
        """
        if self.task == ARRAY:
            return {"shape": list(row.shape), "array": _nested(row)}
        if self.task == Regression.name:
            values = [
                {"name": self._column(k, row.size), "value": _number(value)} for k, value in enumerate(row.reshape(-1))
            ]
            return {"values": values, **({"unit": self.unit} if self.unit else {})}
        if self.task == SequenceLabels.name:
            best = row.argmax(-1)
            return {"steps": [{"label": self.label(k), "probability": _number(step[k])}
                              for k, step in zip(best, row, strict=True)]}  # fmt: skip
        if self.is_mask:
            shares = np.bincount(self.mask(row).reshape(-1), minlength=row.shape[-1]) / row[..., 0].size
            order = [k for k in np.argsort(-shares, kind="stable") if shares[k]]
            return {"shares": [{"label": self.label(k), "share": float(shares[k])} for k in order]}
        if self.task == Multilabel.name:
            best = np.argsort(-row, kind="stable")[: max(top, int((row > 0.5).sum()))]
            return {"labels": [{"label": self.label(k), "probability": _number(row[k]), "applies": bool(row[k] > 0.5)}
                               for k in best]}  # fmt: skip
        return {"labels": self._ranked(row, 2 if self.task == Binary.name else top)}

    def mask(self, row: np.ndarray) -> np.ndarray:
        """The class of each pixel, int [H, W], of probabilities [H, W, K]."""
        top: np.ndarray = row.argmax(-1)
        return top

    def label(self, k: int) -> str:
        """The name of class ``k``; its number where it has none."""
        return self.labels[k] if k < len(self.labels) else str(int(k))

    def _column(self, k: int, count: int) -> str:
        return self.columns[k] if len(self.columns) == count else "value" if count == 1 else f"value_{k}"

    def _ranked(self, row: np.ndarray, top: int) -> list[dict[str, Any]]:
        kind = "probability" if row.min() >= -1e-6 and abs(row.sum() - 1) < 1e-2 else "score"
        return [{"label": self.label(k), kind: float(row[k])} for k in np.argsort(-row)[:top]]


def meanings(
    tasks: Mapping[str, Mapping[str, Any]], outputs: Iterable[str], classes: tuple[str, tuple[str, ...]] | None
) -> dict[str, Meaning]:
    """What is shown of a version, by output: its ``tasks``; where there are none its ``classes``: their output and its
    labels. Of every other output the numbers; logits are left out beside their probabilities."""
    names = list(outputs)
    shown = {name: Meaning.of_facts(facts) for name, facts in tasks.items() if name in names}
    if not shown and classes is not None:
        shown = {classes[0]: Meaning(Classification.name, classes[1])}
    hidden = {_LOGITS} if _PROBABILITIES in shown else set()
    return shown | {name: Meaning(ARRAY) for name in names if name not in shown and name not in hidden}


def in_words(answer: Mapping[str, Any]) -> str:
    """What `Meaning.answer` gave, as a part of a line."""
    if "values" in answer:
        unit = f" {answer['unit']}" if "unit" in answer else ""
        return "  ".join(f"{row['name']} {number_words(row['value'])}{unit}" for row in answer["values"])
    if "array" in answer:
        return _array_words(answer["shape"], answer["array"])
    if "steps" in answer:
        labels = [row["label"] for row in answer["steps"]]
        more = f" ... {len(labels) - _STEPS:,} more" if len(labels) > _STEPS else ""
        return " ".join(labels[:_STEPS]) + more
    if "shares" in answer:
        return "  ".join(f"{row['label']} {row['share'] * 100:.2f} %" for row in answer["shares"])
    return "  ".join(_label_words(row) for row in answer["labels"])


def number_words(value: float | None) -> str:
    """A number as people read it: seven digits, thousands apart."""
    if value is None:
        return "not finite"
    whole = abs(value) >= 1000 or value == round(value)
    return f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.5g}"


def _array_words(shape: Sequence[int], values: Any) -> str:
    """The shape and the first values; of a single number that alone."""
    flat, count = _first(values, _VALUES), int(np.prod(shape))
    more = f" ... {count - len(flat):,} more" if count > len(flat) else ""
    return (f"{list(shape)} " if count != 1 else "") + "  ".join(map(_value_words, flat)) + more


def _first(values: Any, most: int) -> list[Any]:
    """The first ``most`` values of nested lists."""
    if not isinstance(values, list):
        return [values]
    first: list[Any] = []
    for one in values:
        if len(first) >= most:
            break
        first += _first(one, most - len(first))
    return first


def _value_words(value: Any) -> str:
    return number_words(value) if value is None or isinstance(value, int | float) else str(value)


def _label_words(row: Mapping[str, Any]) -> str:
    value = row.get("probability")
    if "score" in row:
        return f"{row['label']} {row['score']:.4g}"
    shown = f"{row['label']} " + ("not finite" if value is None else f"{value * 100:.2f} %")
    return f"({shown})" if row.get("applies") is False else shown


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _nested(row: np.ndarray) -> Any:
    """``row`` as JSON holds it."""
    if row.dtype.kind not in "biuf":
        return row.astype(str).tolist()
    if row.dtype.kind == "f" and not np.isfinite(row).all():
        values = row.astype(object)
        values[~np.isfinite(row)] = None
        return values.tolist()
    return row.tolist()


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(map(str, values)) if isinstance(values, list | tuple) else ()
