"""What training leaves: `TrainResult`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from tfhalf.train.record.history import Epoch


@dataclass(frozen=True)
class TrainResult:
    """The trained ``model`` (float32 variables, under ``float16`` float16 ones), one row per epoch, and what it took.

    ``seconds`` splits into ``compile`` and ``train`` (validation and checkpoints included). ``rollbacks`` holds one
    entry for each time that training went back. ``ended`` is False for the state of a run that stopped, or goes on,
    after ``epochs``; ``steps_more`` it had done of the next one. ``remat``: what was computed twice, `Remat.facts`.
    """

    model: keras.Model
    epochs: tuple[Epoch, ...]
    loss_scale: float
    seconds: dict[str, float]
    rollbacks: tuple[dict[str, Any], ...] = ()
    ended: bool = True
    steps_more: int = 0
    remat: dict[str, Any] | None = None

    @property
    def skipped(self) -> int:
        """Steps that were skipped, of all ``epochs``."""
        return sum(row.skipped for row in self.epochs)
