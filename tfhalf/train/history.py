"""What a run records: one row per epoch, and the loss scale of every step."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfhalf.progress import duration


@dataclass(frozen=True)
class Epoch:
    """One epoch. Accuracies are shares, 0 to 1; ``val_accuracy`` is None without a validation part. ``loss_scale`` is
    the one in force at the end, ``skipped`` counts this epoch's steps."""

    epoch: int
    steps: int
    loss: float
    accuracy: float
    val_accuracy: float | None
    images_per_s: float
    loss_scale: float
    skipped: int
    learning_rate: float
    seconds: float

    def line(self, epochs: int, left: str) -> str:
        """The row as a person reads it; ``left`` is the estimate of what remains."""
        val = "     -" if self.val_accuracy is None else f"{self.val_accuracy * 100:6.2f}"
        return (
            f"{self.epoch:>5}/{epochs:<5} {self.loss:>8.4f} {self.accuracy * 100:>7.2f} {val} "
            f"{self.images_per_s:>11,.0f} {self.loss_scale:>11,.0f} {self.skipped:>7} {left:>12}"
        )


HEADER = (
    f"{'epoch':>5}{'':6} {'loss':>8} {'train %':>7} {'val %':>6} "
    f"{'images/s':>11} {'loss scale':>11} {'skipped':>7} {'left':>12}"
)


def scale_changes(scales: Sequence[float], first_step: int) -> Iterator[str]:
    """A line for each change of the loss scale, with the step that caused it.

    Args:
        scales: the scale before each step, the first of them ``first_step``, and the one after the last.
    """
    for i, (old, new) in enumerate(pairwise(scales)):
        if old != new:
            why = "gradients were finite for long" if new > old else "a gradient was not finite; step skipped"
            yield f"      step {first_step + i}: loss scale {old:,.0f} -> {new:,.0f} ({why})"


class History:
    """Writes ``history.csv``, ``history.jsonl`` and TensorBoard scalars into ``run`` while the run goes on."""

    def __init__(self, run: Path, rows: list[dict[str, Any]]) -> None:
        self.run = run
        self.rows = [Epoch(**row) for row in rows]
        self._board = EventFileWriter(str(run / "tensorboard"))
        for name in ("history.csv", "history.jsonl"):
            (run / name).write_text("")
        with (run / "history.csv").open("w", newline="") as file:
            csv.writer(file).writerow(Epoch.__dataclass_fields__)
        for row in self.rows:
            self._append(row)

    def add(self, row: Epoch, first_step: int, loss: np.ndarray, scale: np.ndarray) -> None:
        """Record an epoch; ``loss`` and ``scale`` are per step, the first of them step ``first_step``."""
        self.rows.append(row)
        self._append(row)
        last = first_step + len(loss)
        for name in ("loss", "accuracy", "val_accuracy", "images_per_s", "learning_rate", "skipped"):
            value = getattr(row, name)
            if value is not None:
                self._scalar(f"epoch/{name}", value, last)
        # At most 50 points of each curve an epoch: a picture needs no more.
        for i in range(0, len(loss), max(1, len(loss) // 50)):
            self._scalar("step/loss", float(loss[i]), first_step + i)
            self._scalar("step/loss_scale", float(scale[i]), first_step + i)
        self._board.flush()

    def _scalar(self, name: str, value: float, step: int) -> None:
        """To TensorBoard, by its own writer: `tf.summary` takes twenty times as long, a tenth of a short training."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
        self._board.add_event(Event(step=step, wall_time=time.time(), summary=summary))

    def left(self, epochs: int) -> str:
        """About how long the epochs that are left of ``epochs`` will take."""
        return duration((epochs - len(self.rows)) * float(np.median([row.seconds for row in self.rows])))

    def _append(self, row: Epoch) -> None:
        values = asdict(row)
        with (self.run / "history.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
        with (self.run / "history.csv").open("a", newline="") as file:
            csv.writer(file).writerow(values.values())
