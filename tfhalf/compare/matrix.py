"""The cells of a comparison, run one after another, or one on each GPU; what has ended is never run again."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfhalf.compare.cell import LOG, RESULT, STAGE, read_result
from tfhalf.compare.plan import Cell, Plan
from tfhalf.compare.records import Result
from tfhalf.errors import ConfigError, InputError, Interrupted
from tfhalf.files import replacing
from tfhalf.progress import Progress, duration
from tfhalf.system.child import Child
from tfhalf.system.device import gpu_models
from tfhalf.train.record.run_folder import held_if_free

CELLS = "cells"
_PROGRAMS = "programs"  # XLA's, which cells share
_TICK = 0.1  # seconds


@dataclass(frozen=True)
class Bench:
    """What is measured of published artifacts: batch sizes with commas, and seconds for each."""

    batch_sizes: str = "1,32"
    seconds: float = 0.5


@dataclass
class Matrix:
    """``folder`` holds a folder for each cell.

    ``bench`` is of the first seed's artifacts, since a net is as fast whichever seed it began from; None leaves it out.
    ``retry``: what failed is tried once more. ``worker`` is the module that runs a cell in a process of its own.
    """

    plan: Plan
    folder: Path
    progress: Progress
    bench: Bench | None = None
    retry: bool = False
    worker: str = "tfhalf.compare.cell"
    results: dict[Cell, Result] = field(default_factory=dict)
    _seconds: dict[str, list[float]] = field(default_factory=dict)

    def run(self) -> Mapping[Cell, Result]:
        """The results of all cells.

        Raises:
            ConfigError: another process runs cells of ``folder``; or the pipeline, which is at fault in the first cell.
            OSError: the disk does not take them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with held_if_free(self.folder) as alone:
            if not alone:
                raise ConfigError(
                    f"{self.folder}: another process runs its cells; wait for its end, or give another --out"
                )
            self._read()
            waiting = deque(cell for cell in self.plan.cells if cell not in self.results)
            self._say_begin(len(waiting))
            with _Slots(_devices(), self.worker) as slots:
                while waiting or slots.busy:
                    while waiting and slots.free:
                        self._start(slots, waiting.popleft())
                    for cell, answer, seconds in slots.answers(self.progress, self._words(len(waiting))):
                        self._end(cell, answer, seconds, len(waiting) + len(slots.busy), slots.count)
        self.progress.clear()
        return self.results

    def cell_folder(self, cell: Cell) -> Path:
        """Where all that ``cell`` makes lies."""
        return self.folder / CELLS / cell.folder

    def _read(self) -> None:
        for cell in self.plan.cells:
            result = read_result(self.cell_folder(cell))
            if result is None:
                continue
            if result.error and self.retry:
                self._put_aside(self.cell_folder(cell))
                continue
            self.results[cell] = result

    @staticmethod
    def _put_aside(folder: Path) -> None:
        """A failed cell's folder stays, under another name."""
        number = 1
        while (aside := folder.with_name(f"{folder.name}.failed-{number}")).exists():
            number += 1
        folder.rename(aside)

    def _say_begin(self, left: int) -> None:
        plan, total = self.plan, len(self.plan.cells)
        seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}"
        self.progress.line(f"compare    {total} trainings: {len(plan.settings)} settings x {seeds}, in {self.folder}")
        if left < total:
            self.progress.line(f"           {total - left} of them have ended before, and are not run again")

    def _start(self, slots: _Slots, cell: Cell) -> None:
        folder = self.cell_folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        benched = self.bench if cell.seed == self.plan.seeds[0] else None
        request = {
            "source": str(self.plan.source),
            "overrides": list(cell.overrides),
            "folder": str(folder),
            "data_dir": self.plan.data_dir,
            "programs": str(self.folder / _PROGRAMS),
            "bench": None if benched is None else {"batch_sizes": benched.batch_sizes, "seconds": benched.seconds},
        }
        slots.start(cell, request)

    def _words(self, waiting: int) -> str:
        total = len(self.plan.cells)
        return f"{len(self.results)} of {total} done, {waiting} waiting"

    def _end(self, cell: Cell, answer: dict[str, Any], seconds: float, left: int, slots: int) -> None:
        """Take a cell's answer.

        Raises:
            ConfigError: of the first cell that ends: the others would do no better.
            Interrupted: a signal ended it, and not this process.
        """
        if answer.get("exit_code") == InputError.exit_code and not self.results:
            raise ConfigError(answer["error"])
        if answer.get("exit_code", 0) > 128:
            raise Interrupted("a training was stopped by a signal; the same command goes on", answer["exit_code"] - 128)
        if set(answer) <= {"error", "exit_code"}:  # it did not write one itself
            answer = Result(error=answer["error"]).to_dict()
            with replacing(self.cell_folder(cell) / RESULT) as beside:
                beside.write_text(json.dumps(answer) + "\n", encoding="utf-8")
        result = self.results[cell] = Result.from_dict(answer)
        self._seconds.setdefault(cell.setting.policy, []).append(seconds)
        number, total = len(self.results), len(self.plan.cells)
        what = f"failed: {result.error}" if result.error else _metric(result)
        remaining = f"about {duration(self._left(left, slots))} left" if left else "the last one"
        self.progress.line(
            f"{number:>5}/{total:<4} {cell.setting.words()}, seed {cell.seed}: {what}; {duration(seconds)}; {remaining}"
        )
        if result.problem:
            self.progress.line(f"           nothing was published of it: {result.problem}")
        if result.error:
            self.progress.line(
                f"           {self.cell_folder(cell) / LOG} has all that it said; --retry tries it again"
            )

    def _left(self, left: int, slots: int) -> float:
        """Seconds, were the cells that are left to take what those before took."""
        return left * statistics.mean(value for values in self._seconds.values() for value in values) / slots


def _metric(result: Result) -> str:
    shown = [f"{one.name} {one.shown(result.metrics[one.name])} {one.suffix}".strip() for one in result.facts[:1]]
    return ", ".join(shown) or "trained"


def _devices() -> list[dict[str, str]]:
    """For each process that may run at a time the variables that give it a GPU of its own; one without any, on a
    machine with one GPU or none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible is not None else [str(number) for number in range(len(gpu_models()))]
    names = [name.strip() for name in names if name.strip()]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names] if len(names) > 1 else [{}]


@dataclass
class _Running:
    cell: Cell
    child: Child
    began: float
    device: int
    said: str = ""


class _Slots:
    """Processes that run cells, one on each device; they end with the block."""

    def __init__(self, devices: list[dict[str, str]], worker: str) -> None:
        self._devices, self._worker = devices, worker
        self.free = list(range(len(devices)))
        self.busy: list[_Running] = []

    def __enter__(self) -> _Slots:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.busy:
            one.child.end()

    @property
    def count(self) -> int:
        """How many may run at a time."""
        return len(self._devices)

    def start(self, cell: Cell, request: dict[str, Any]) -> None:
        """Begin a cell on a free device."""
        device = self.free.pop(0)
        child = Child(self._worker, environment=self._devices[device])
        self.busy.append(_Running(cell, child, time.perf_counter(), device))
        child.send_json(request)

    def answers(self, progress: Progress, words: str) -> Iterator[tuple[Cell, dict[str, Any], float]]:
        """Of the cells that have ended since: the answer, and the seconds it took."""
        for one in list(self.busy):
            answer = self._receive(one)
            if answer is None:
                seconds = duration(time.perf_counter() - one.began)
                progress.status(f"{one.cell.setting.words()}, seed {one.cell.seed}, {seconds}: {one.said}   ({words})")
                continue
            one.child.end()
            self.busy.remove(one)
            self.free.append(one.device)
            yield one.cell, answer, time.perf_counter() - one.began

    @staticmethod
    def _receive(one: _Running) -> dict[str, Any] | None:
        try:
            tag, content = one.child.receive(_TICK)
        except TimeoutError:
            if one.child.alive:  # a process that its own made may hold the channel longer than it lives
                return None
            return {"error": f"its process ended {one.child.last_words()}"}
        except (EOFError, OSError):
            return {"error": f"its process ended {one.child.last_words()}"}
        if tag == STAGE:
            one.said = content.decode(errors="replace")
            return None
        answer: dict[str, Any] = json.loads(content)
        return answer
