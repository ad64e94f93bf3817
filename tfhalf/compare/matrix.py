"""The cells of a comparison, run one after another, or beside one another; what has ended is never run again."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tfhalf.compare.cell import LOG, read_result, write_result
from tfhalf.compare.local import Answered, Processes
from tfhalf.compare.plan import Cell, Plan
from tfhalf.compare.records import Result
from tfhalf.errors import ConfigError, InputError, Interrupted
from tfhalf.progress import Progress, duration
from tfhalf.train.record.run_folder import held_if_free

CELLS = "cells"


class Workers(Protocol):
    """What runs cells: `Processes` of this machine, or the machines of a `Cluster`."""

    busy: list[Any]

    def __enter__(self) -> Workers: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def free(self) -> Any:
        """True where one more cell may be started."""

    @property
    def count(self) -> int:
        """How many may run at a time."""

    def start(self, cell: Cell, request: dict[str, Any]) -> None:
        """Begin a cell."""

    def answers(self, progress: Progress, words: str) -> Iterator[Answered]:
        """Of the cells that have ended since, waiting a little; ``words`` say how far the whole is."""


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
    ``ray``: the address of a Ray cluster whose machines run the cells; None runs them here. ``at_once``: how many share
    a GPU, or this machine without one; their speed is then not that of one alone, which results tell.
    """

    plan: Plan
    folder: Path
    progress: Progress
    bench: Bench | None = None
    retry: bool = False
    worker: str = "tfhalf.compare.cell"
    ray: str | None = None
    at_once: int = 1
    results: dict[Cell, Result] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)

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
            with self._workers() as slots:
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

    def _start(self, slots: Workers, cell: Cell) -> None:
        folder = self.cell_folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        benched = self.bench if cell.seed == self.plan.seeds[0] else None
        request = {
            "source": str(self.plan.source),
            "overrides": list(cell.overrides),
            "folder": str(folder),
            "data_dir": self.plan.data_dir,
            "at_once": self.at_once,
            "bench": None if benched is None else {"batch_sizes": benched.batch_sizes, "seconds": benched.seconds},
        }
        slots.start(cell, request)

    def _workers(self) -> Workers:
        if self.ray is None:
            return Processes(self.worker, self.at_once)
        from tfhalf.compare.cluster import Cluster

        return Cluster(self.ray, self.worker, self.folder)

    def _words(self, waiting: int) -> str:
        total = len(self.plan.cells)
        return f"{len(self.results)} of {total} done, {waiting} waiting"

    def _end(self, cell: Cell, answer: dict[str, Any], seconds: float, left: int, slots: int) -> None:
        """Take a cell's answer.

        Raises:
            ConfigError: of the first cell that ends: the others would do no better.
            Interrupted: a signal ended it, and not this process.
        """
        refused = answer.get("exit_code") == InputError.exit_code
        if refused and not self._seconds:
            raise ConfigError(answer["error"])
        if answer.get("exit_code", 0) > 128:
            raise Interrupted("a training was stopped by a signal; the same command goes on", answer["exit_code"] - 128)
        if set(answer) <= {"error", "exit_code"}:  # it did not write one itself
            failed = Result(error=answer["error"])
            answer = failed.to_dict()
            if not refused:  # by what can be put right, and is tried again then
                write_result(self.cell_folder(cell), failed)
        result = self.results[cell] = Result.from_dict(answer)
        self._seconds.append(seconds)
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
        return left * statistics.mean(self._seconds) / slots


def _metric(result: Result) -> str:
    shown = [f"{one.name} {one.shown(result.metrics[one.name])} {one.suffix}".strip() for one in result.facts[:1]]
    return ", ".join(shown) or "trained"
