"""Cells on this machine: a process for each, one or several on each GPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tfhalf.bench.watch import STAGE
from tfhalf.compare.plan import Cell
from tfhalf.progress import Progress, duration
from tfhalf.system.child import Child
from tfhalf.system.device import gpu_models

_TICK = 0.1  # seconds
Answered = tuple[Cell, dict[str, Any], float]
"""A cell that has ended, its answer, and the seconds it took."""


def devices(at_once: int = 1) -> list[dict[str, str]]:
    """For each process that may run at a time the variables that give it its GPU, which ``at_once`` of them share; none
    are needed on a machine with one GPU or none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible is not None else [str(number) for number in range(len(gpu_models()))]
    names = [name.strip() for name in names if name.strip()]
    own = [{"CUDA_VISIBLE_DEVICES": name} for name in names] if len(names) > 1 else [{}]
    return own * at_once


@dataclass
class _Running:
    cell: Cell
    child: Child
    began: float
    device: int
    said: str = ""


class Processes:
    """They end with the block."""

    def __init__(self, worker: str, at_once: int = 1) -> None:
        self._devices, self._worker = devices(at_once), worker
        self.free = list(range(len(self._devices)))
        self.busy: list[_Running] = []

    def __enter__(self) -> Processes:
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

    def answers(self, progress: Progress, words: str) -> Iterator[Answered]:
        """Of the cells that have ended since: the answer, and the seconds it took."""
        for one in list(self.busy):
            answer, one.said = receive(one.child, one.said)
            if answer is None:
                seconds = duration(time.perf_counter() - one.began)
                progress.status(f"{one.cell.setting.words()}, seed {one.cell.seed}, {seconds}: {one.said}   ({words})")
                continue
            one.child.end()
            self.busy.remove(one)
            self.free.append(one.device)
            yield one.cell, answer, time.perf_counter() - one.began


def receive(child: Child, said: str) -> tuple[dict[str, Any] | None, str]:
    """What a cell's process answers, None while it works; and what it said last, ``said`` where that is nothing new."""
    try:
        message = child.wait(_TICK)
    except (EOFError, OSError):
        return {"error": f"its process ended {child.last_words()}"}, said
    if message is None:
        return None, said
    tag, content = message
    if tag == STAGE:
        return None, content.decode(errors="replace")
    answer: dict[str, Any] = json.loads(content)
    return answer, said
