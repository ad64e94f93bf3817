"""What a run records: one row per epoch, and the loss scale of every step."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfhalf.progress import duration
from tfhalf.tasks import Metric


@dataclass(frozen=True)
class Epoch:
    """One epoch. ``metrics`` by name are those of the task, over the epoch's training items as they were answered while
    weights moved; ``val_metrics`` and ``val_loss`` of the validation part, none and None without one, ``val_loss`` also
    in rows of runs that did not record it. ``images_per_s`` counts items, whatever they are; ``waited`` is the share of
    the steps' time in which the device had no data, None where a run did not record it. ``loss_scale`` is the one
    in force at the end, ``skipped`` counts this epoch's steps, ``skipped_at_floor`` those of them that no lower scale
    was left for; ``rollbacks`` are those so far."""

    epoch: int
    steps: int
    loss: float
    metrics: Mapping[str, float]
    val_metrics: Mapping[str, float]
    images_per_s: float
    loss_scale: float
    skipped: int
    learning_rate: float
    seconds: float
    skipped_at_floor: int = 0
    rollbacks: int = 0
    val_loss: float | None = None
    waited: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """One level: metrics by their names, those of the validation part as ``val_NAME``, in the place of both."""
        facts: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "metrics":
                facts |= value
            elif name == "val_metrics":
                facts |= {f"val_{metric}": value.get(metric) for metric in self.metrics}
            else:
                facts[name] = value
        return facts

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Epoch:
        """The inverse of `to_dict`."""
        own = {name: facts[name] for name in cls.__dataclass_fields__ if name in facts}
        metrics = {name: value for name, value in facts.items() if f"val_{name}" in facts and name != "loss"}
        validation = {name: facts[f"val_{name}"] for name in metrics if facts[f"val_{name}"] is not None}
        return cls(**own, metrics=metrics, val_metrics=validation)

    def line(self, epochs: int, left: str, scaled: bool, columns: Sequence[Metric], streams: bool = False) -> str:
        """The row as a person reads it; ``left`` is the estimate of what remains, the rest as in `header`."""
        cells = [f"{self.loss:>8.4f}", *_cells(columns, self.metrics, "train")]
        cells += [f"{'-' if self.val_loss is None else f'{self.val_loss:.4f}':>8}"]
        cells += _cells(columns, self.val_metrics, "val")
        scale = f" {scale_words(self.loss_scale):>11} {self.skipped:>7}" if scaled else ""
        wait = f" {'-' if self.waited is None else f'{self.waited:.1%}':>7}" if streams else ""
        return f"{self.epoch:>5}/{epochs:<5} {' '.join(cells)} {self.images_per_s:>11,.0f}{wait}{scale} {left:>12}"


def _cells(columns: Sequence[Metric], values: Mapping[str, float], part: str) -> list[str]:
    heads = zip(columns, _heads(columns, part), strict=True)
    return [
        f"{metric.shown(values[metric.name]) if metric.name in values else '-':>{len(head)}}" for metric, head in heads
    ]


def _heads(columns: Sequence[Metric], part: str) -> list[str]:
    """``train %`` of an accuracy alone, which needs no name; else names."""
    if [metric.name for metric in columns] == ["accuracy"]:
        return ["train %" if part == "train" else " val %"]
    before = "" if part == "train" else "val "
    return [f"{before}{metric.name}{' %' * metric.share}".rjust(8) for metric in columns]


def header(scaled: bool, columns: Sequence[Metric], streams: bool = False, noun: str = "images") -> str:
    """The line above the rows.

    Args:
        scaled: whether the policy has a loss scale, of which the others say nothing.
        columns: the metrics that are shown.
        streams: whether data is brought to the device, which may have to wait for it.
        noun: what items are called, `Splits.noun`.
    """
    scale = f" {'loss scale':>11} {'skipped':>7}" if scaled else ""
    train, val = (" ".join(_heads(columns, part)) for part in ("train", "val"))
    names = f"{'epoch':>5}{'':6} {'loss':>8} {train} {'val loss':>8} {val} {noun + '/s':>11}"
    return f"{names}{' waited' * streams:>{8 * streams}}{scale} {'left':>12}"


_SCALARS = ("loss", "val_loss", "images_per_s", "waited", "learning_rate", "skipped", "skipped_at_floor")


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

    def __init__(self, run: Path, rows: list[dict[str, Any]], metrics: Sequence[str] = ("accuracy",)) -> None:
        self.run = run
        nothing = dict.fromkeys(Epoch.__dataclass_fields__, 0) | {
            "metrics": dict.fromkeys(metrics, 0.0),
            "val_metrics": {},
        }
        self.columns = list(Epoch(**nothing).to_dict())  # type: ignore[arg-type]
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
        self.rows = [Epoch.from_dict(row) for row in rows]
        (self.run / "history.jsonl").write_text("")
        with (self.run / "history.csv").open("w", newline="") as file:
            csv.writer(file).writerow(self.columns)
        for row in self.rows:
            self._append(row)

    def add(self, row: Epoch, first_step: int, curves: dict[str, np.ndarray]) -> None:
        """Record an epoch; ``curves`` hold a number per step, the first of them step ``first_step``."""
        self.rows.append(row)
        self._append(row)
        facts = row.to_dict()
        names = (*_SCALARS, *row.metrics, *(f"val_{name}" for name in row.val_metrics))
        values = {f"epoch/{name}": facts[name] for name in names}
        steps = min(map(len, curves.values()))
        self._point({name: value for name, value in values.items() if value is not None}, first_step + steps)
        # At most 50 points of each curve an epoch: a picture needs no more.
        for i in range(0, steps, max(1, steps // 50)):
            self._point({f"step/{name}": float(curve[i]) for name, curve in curves.items()}, first_step + i)

    def _point(self, values: dict[str, float], step: int) -> None:
        """To TensorBoard, by its own writer: `tf.summary` takes twenty times as long, a tenth of a short training."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        self._board.add_event(Event(step=step, wall_time=time.time(), summary=summary))

    def left(self, epochs: int, stepping: float) -> str:
        """About how long the epochs that are left of ``epochs`` will take. Of the first only its steps count, which
        took ``stepping`` seconds: the evaluation was compiled in it."""
        seconds = [row.seconds for row in self.rows] if len(self.rows) > 1 else [stepping]
        return duration((epochs - len(self.rows)) * float(np.median(seconds)))

    def _append(self, row: Epoch) -> None:
        values = row.to_dict()
        with (self.run / "history.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
        with (self.run / "history.csv").open("a", newline="") as file:
            csv.writer(file).writerow(values.values())
