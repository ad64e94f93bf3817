"""Loss and loss scale over all steps of a run, in a file of bounded size."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.files import replacing

NAME = "steps.npz"
CAPACITY = 8192  # points; a picture is narrower than that, and the file at most 230 kB


class Steps:
    """One point for each ``width`` steps: the mean ``loss`` of those applied (NaN for none), the lowest ``scale`` and
    the number ``skipped``. ``width`` doubles whenever the points would become more than `CAPACITY`.

    ``run/steps.npz`` holds these arrays, ``step`` (the first step of each point) and ``width``.
    """

    def __init__(self, run: Path, first_step: int = 0) -> None:
        """Take up what ``run`` recorded of the steps before ``first_step``; nothing where that cannot be read."""
        self.path = run / NAME
        self.width, self._points = 1, 0
        self._total = np.zeros(CAPACITY)
        self._applied, self._skipped = np.zeros(CAPACITY, np.int64), np.zeros(CAPACITY, np.int64)
        self._scale = np.full(CAPACITY, np.inf)
        if first_step and self.path.is_file():
            self._load(first_step)

    def add(self, first_step: int, loss: np.ndarray, scale: np.ndarray, finite: np.ndarray) -> None:
        """Record consecutive steps, the first of them ``first_step``; arrays of one length, ``finite`` bool."""
        if not len(loss):
            return
        steps = first_step + np.arange(len(loss))
        while steps[-1] // self.width >= CAPACITY:
            self._halve()
        indices = steps // self.width
        np.add.at(self._total, indices[finite], loss[finite].astype(np.float64))
        np.add.at(self._applied, indices[finite], 1)
        np.add.at(self._skipped, indices[~finite], 1)
        np.minimum.at(self._scale, indices, scale)
        self._points = max(self._points, int(indices[-1]) + 1)

    def arrays(self) -> dict[str, np.ndarray]:
        """``step``, ``skipped`` and ``applied`` int64, ``loss`` and ``scale`` float32, [points] each; and ``width``."""
        n = self._points
        applied = self._applied[:n]
        loss = np.where(applied > 0, self._total[:n] / np.maximum(applied, 1), np.nan)
        return {
            "step": np.arange(n) * self.width,
            "loss": loss.astype(np.float32),
            "scale": self._scale[:n].astype(np.float32),
            "skipped": self._skipped[:n].copy(),
            "applied": applied.copy(),
            "width": np.asarray(self.width),
        }

    def save(self) -> None:
        """Write the file: beside it first, then renamed over the one before."""
        arrays: dict[str, Any] = self.arrays()
        with replacing(self.path) as beside, beside.open("wb") as file:
            np.savez(file, **arrays)

    def _cut(self, first_step: int) -> None:
        """Forget the steps from ``first_step`` on: they are to be run again. A point that began before goes, too."""
        self._points = min(self._points, first_step // self.width)
        for name in ("_total", "_applied", "_skipped", "_scale"):
            getattr(self, name)[self._points :] = np.inf if name == "_scale" else 0

    def _halve(self) -> None:
        for name in ("_total", "_applied", "_skipped", "_scale"):
            old = getattr(self, name)
            new = np.full_like(old, np.inf if name == "_scale" else 0)
            pairs = old.reshape(-1, 2)
            new[: CAPACITY // 2] = pairs.min(1) if name == "_scale" else pairs.sum(1)
            setattr(self, name, new)
        self.width, self._points = 2 * self.width, -(-self._points // 2)

    def _load(self, first_step: int) -> None:
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                arrays = {name: data[name] for name in ("loss", "scale", "skipped", "applied", "width")}
                width, n = int(arrays["width"]), min(len(arrays["loss"]), CAPACITY)
                applied, skipped, scale = (arrays[name][:n] for name in ("applied", "skipped", "scale"))
                total = np.where(applied > 0, arrays["loss"][:n], 0.0) * applied
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error):
            return  # a picture is not worth a run
        self.width, self._points = width, n
        self._total[:n], self._applied[:n], self._skipped[:n], self._scale[:n] = total, applied, skipped, scale
        self._cut(first_step)
