"""What a run records: one row per epoch, and the loss scale of every step."""

from __future__ import annotations

import csv
import json
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfhalf.progress import duration


@dataclass(frozen=True)
class Epoch:
    """One epoch. Accuracies are shares, 0 to 1; ``val_accuracy`` and ``val_loss`` are None without a validation part,
    ``val_loss`` also in rows of runs that did not record it. ``loss_scale`` is the one in force at the end, ``skipped``
    counts this epoch's steps, ``skipped_at_floor`` those of them that no lower scale was left for; ``rollbacks`` are
    those so far."""

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
    skipped_at_floor: int = 0
    rollbacks: int = 0
    val_loss: float | None = None

    def line(self, epochs: int, left: str, scaled: bool) -> str:
        """The row as a person reads it; ``left`` is the estimate of what remains, ``scaled`` as in `header`."""
        val_loss = "-" if self.val_loss is None else f"{self.val_loss:.4f}"
        val = "-" if self.val_accuracy is None else f"{self.val_accuracy * 100:.2f}"
        scale = f" {scale_words(self.loss_scale):>11} {self.skipped:>7}" if scaled else ""
        return (
            f"{self.epoch:>5}/{epochs:<5} {self.loss:>8.4f} {self.accuracy * 100:>7.2f} {val_loss:>8} {val:>6} "
            f"{self.images_per_s:>11,.0f}{scale} {left:>12}"
        )


def header(scaled: bool) -> str:
    """The line above the rows; ``scaled`` where the policy has a loss scale, of which the others say nothing."""
    scale = f" {'loss scale':>11} {'skipped':>7}" if scaled else ""
    names = f"{'epoch':>5}{'':6} {'loss':>8} {'train %':>7} {'val loss':>8} {'val %':>6} {'images/s':>11}"
    return f"{names}{scale} {'left':>12}"


_SCALARS = (
    *("loss", "accuracy", "val_loss", "val_accuracy", "images_per_s", "learning_rate", "skipped", "skipped_at_floor"),
)


def scale_words(scale: float) -> str:
    """``32,768``; ``0.0625`` or ``5.96e-08`` for what is less than 1."""
    return f"{scale:,.0f}" if scale >= 1 else f"{scale:.3g}"


class History:
    """Writes ``history.csv``, ``history.jsonl`` and TensorBoard scalars into ``run`` while the run goes on.

    The scalars are written by a thread of their writer, a second or two later; the end of ``with history:`` waits for
    it.

    Raises:
        OSError: the disk does not take them; not where the block ends by another error, which is then what is told.
    """

    def __init__(self, run: Path, rows: list[dict[str, Any]]) -> None:
        self.run = run
        # By default ten events wait at most, and training with them.
        self._board = EventFileWriter(str(run / "tensorboard"), max_queue_size=1000, flush_secs=2)
        self.begin(rows)

    def __enter__(self) -> History:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(OSError) if kind else nullcontext():
            self._board.close()

    def begin(self, rows: list[dict[str, Any]]) -> None:
        """Write the tables anew, with ``rows``, and go on from there."""
        self.rows = [Epoch(**row) for row in rows]
        (self.run / "history.jsonl").write_text("")
        with (self.run / "history.csv").open("w", newline="") as file:
            csv.writer(file).writerow(Epoch.__dataclass_fields__)
        for row in self.rows:
            self._append(row)

    def add(self, row: Epoch, first_step: int, curves: dict[str, np.ndarray]) -> None:
        """Record an epoch; ``curves`` hold a number per step, the first of them step ``first_step``."""
        self.rows.append(row)
        self._append(row)
        values = {f"epoch/{name}": getattr(row, name) for name in _SCALARS}
        steps = min(map(len, curves.values()))
        self._point({name: value for name, value in values.items() if value is not None}, first_step + steps)
        # At most 50 points of each curve an epoch: a picture needs no more.
        for i in range(0, steps, max(1, steps // 50)):
            self._point({f"step/{name}": float(curve[i]) for name, curve in curves.items()}, first_step + i)

    def _point(self, values: dict[str, float], step: int) -> None:
        """To TensorBoard, by its own writer: `tf.summary` takes twenty times as long, a tenth of a short training."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
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
