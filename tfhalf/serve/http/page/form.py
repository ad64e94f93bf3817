"""What the page needs to ask a model and to show its answer: an image, or fields of a table's row, some of which may be
images; and what outputs say.

The page sends numbers: a category's is its index, and a text or an image file goes to the server as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfhalf.artifacts.fields import Field, fields_of, is_image, takes_table
from tfhalf.artifacts.lookups import Lookups
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.signature import Tensor
from tfhalf.tasks.answers import Meaning, meanings
from tfhalf.tasks.colours import colours

_DIGITS = 4
_MOST_FIELDS = 500


def takes_people(loaded: Loaded) -> bool:
    """Whether `form` has something for the page."""
    return _image(loaded) is not None or _takes_row(loaded)


def form(loaded: Loaded) -> dict[str, Any]:
    """``image``: the input that takes one; or ``fields``: the columns of a row, each with an example. ``outputs``: what
    each says. Empty where the version takes neither.

    Raises:
        ArtifactError: the version's columns do not fit its inputs.
    """
    manifest, lookups = loaded.manifest, loaded.lookups
    facts = {"version": loaded.version, "outputs": [_output(*item) for item in _meanings(loaded).items()]}
    if _takes_row(loaded):
        fields = fields_of(manifest, lookups)
        return {**facts, "fields": [_field(field, lookups) for field in fields]} if len(fields) <= _MOST_FIELDS else {}
    image = _image(loaded)
    return {**facts, "image": {"input": image.name, "size": image.image}} if image else {}


def _image(loaded: Loaded) -> Tensor | None:
    """The only input, where that takes images of one size."""
    tensors = list(loaded.signature.inputs.values())
    return tensors[0] if len(tensors) == 1 and tensors[0].image else None


def _takes_row(loaded: Loaded) -> bool:
    """Whether a row of a table is all that it takes, images of one size among it."""
    tensors = loaded.signature.inputs
    images_fit = all(tensors[port.name].image for port in loaded.manifest.inputs if is_image(port))
    return images_fit and takes_table(loaded.manifest, loaded.lookups)


def _meanings(loaded: Loaded) -> dict[str, Meaning]:
    manifest = loaded.manifest
    return meanings(manifest.tasks, loaded.signature.outputs, manifest.classes)


def _output(name: str, meaning: Meaning) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": name,
        "task": meaning.task,
        "labels": meaning.labels,
        "columns": meaning.columns,
        "unit": meaning.unit,
    }
    if meaning.is_mask:
        facts["colours"] = colours(len(meaning.labels) or 2)
    return facts


def _field(field: Field, lookups: Lookups) -> dict[str, Any]:
    samples = lookups.by_input[field.input].samples if field.kind == "text" else ()
    return {
        "name": field.name,
        "input": field.input,
        "kind": field.kind,
        "categories": field.categories,
        "optional": field.optional,
        "example": samples[0] if samples else _example(field.kind, field.mean, field.categories),
    }


def _example(kind: str, mean: float | None, categories: Sequence[str]) -> str:
    """A cell for the form to begin with, where there is no sample: the training mean, or the first category."""
    if kind in ("category", "text"):
        return categories[0] if categories else ""
    return "0" if mean is None else f"{mean:.{_DIGITS}g}" if abs(mean) < 10**_DIGITS else f"{mean:.0f}"
