"""A version that answers people: what of its outputs is shown, and items run through one of its artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError
from tfhalf.tasks.answers import ARRAY, Meaning, meanings
from tfhalf.text import printable

BATCH = 64
"""Items that are run together, where nothing else is said."""
_VALUES = 1 << 24
"""Of the inputs of one call."""


@dataclass(frozen=True)
class Model:
    """An artifact that answers people. ``outputs`` are those that are shown, by name; ``runtime`` names the artifact,
    None the first. It is opened for the first items: a wrong path is said sooner than that takes."""

    directory: Path
    manifest: Manifest
    outputs: dict[str, Meaning]
    runtime: str | None = None

    @classmethod
    def of(cls, version: Version, runtime: str | None) -> Model:
        """With every output that says something: those of tasks, classes, and other numbers."""
        manifest = version.manifest
        shown = meanings(manifest.tasks, [port.name for port in manifest.outputs], manifest.classes)
        return cls(version.directory, manifest, shown, runtime)

    @cached_property
    def _predictor(self) -> Any:
        from tfhalf.runtimes.open import open_predictor

        return open_predictor(self.directory, self.runtime or self.manifest.formats[0].name)

    def size(self, each: int | None, most: int = BATCH) -> int:
        """How many items of ``each`` so many values go in one call: ``most`` of small ones, or as many as a call takes,
        where that number is fixed. One, where ``each`` is None: every item has a size of its own."""
        if each is None:
            return 1
        return self.manifest.batch or max(1, min(most, _VALUES // max(1, each)))

    def run(self, inputs: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """The shown outputs for ``count`` items, [N, ...], float64 where they have a task; a fixed batch is filled up.

        Raises:
            ArtifactError: an output is not of the shape that its task has.
        """
        short = max(0, (self.manifest.batch or 0) - count)
        whole = {name: np.concatenate([x, *[x[-1:]] * short]) if short else x for name, x in inputs.items()}
        arrays = self._predictor(whole)
        shown = {}
        for name, meaning in self.outputs.items():
            array = np.asarray(arrays.get(name, np.empty(0)))[:count]
            if len(array) != count or not meaning.fits(array.shape[1:]):
                raise ArtifactError(
                    f"{self.directory}: gives {printable(name, 40)} of shape {array.shape} to {count} items, not "
                    f"{meaning.task} of each"
                    + (f"; its manifest lists {len(meaning.labels)} labels" if meaning.labels else "")
                )
            shown[name] = array if meaning.task == ARRAY else array.astype(np.float64)
        return shown

    def answer(self, rows: Mapping[str, np.ndarray], top: int) -> dict[str, Any]:
        """Of one item's ``rows`` what the only output says, or what each of several does, below ``outputs``."""
        each = {name: self.outputs[name].answer(row, top) for name, row in rows.items()}
        return next(iter(each.values())) if len(each) == 1 else {"outputs": each}

    def answers(self, inputs: Mapping[str, np.ndarray], count: int, top: int) -> list[dict[str, Any]]:
        """`run`, and the `answer` of each item."""
        outputs = self.run(inputs, count)
        return [self.answer({name: array[k] for name, array in outputs.items()}, top) for k in range(count)]
