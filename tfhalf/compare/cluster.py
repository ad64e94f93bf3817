"""Cells on the machines of a Ray cluster (docs.ray.io, Ray Core): one on each GPU, or on each machine without one.

Ray starts, places and ends the tasks; a task starts the same process that a cell has on one machine. All machines have
tfhalf installed, and see the comparison's folder and the pipeline's files under the same paths.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf.compare.local import Answered, receive
from tfhalf.compare.plan import Cell
from tfhalf.progress import Progress, duration
from tfhalf.system.child import Child
from tfhalf.system.ray_cluster import connect, resources

_TICK = 0.2  # seconds


def run_task(worker: str, request: dict[str, Any], token: str) -> dict[str, Any]:
    """In a task of Ray: the answer of a process that runs a cell.

    Args:
        token: a file that the comparison has put into its folder.
    """
    if not Path(token).is_file():
        return {"error": f"{Path(token).parent}: is not seen by every machine of the cluster; give an --out that is"}
    child = Child(worker)
    try:
        child.send_json(request)
        answer, said = None, ""
        while answer is None:
            answer, said = receive(child, said)
        return answer
    finally:
        child.end()


@dataclass
class _Task:
    cell: Cell
    reference: Any
    began: float


class Cluster:
    """A Ray cluster, left as it was at the end of the block.

    Args:
        address: as `ray.init` takes it: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at ``address``.
    """

    def __init__(self, address: str, worker: str, folder: Path) -> None:
        self._ray, self._worker = connect(address), worker
        self._token = folder.absolute() / f".shared-{uuid.uuid4().hex}"
        self._token.touch()
        self.busy: list[_Task] = []
        gpus, cores = resources(self._ray)
        self.count = gpus or len(cores)
        # Without GPUs a cell takes a whole machine: its processor is what trains.
        self._options = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": min(cores, default=1)}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.busy:
            self._ray.cancel(one.reference, force=True)
        self._token.unlink(missing_ok=True)
        self._ray.shutdown()

    @property
    def free(self) -> bool:
        """Whether one more cell may be started."""
        return len(self.busy) < self.count

    def start(self, cell: Cell, request: dict[str, Any]) -> None:
        """Hand a cell to Ray, whose paths it takes as they are seen from the root."""
        paths = {name: str(Path(request[name]).absolute()) for name in ("source", "folder")}
        task = self._ray.remote(run_task).options(**self._options, max_retries=0, scheduling_strategy="SPREAD")
        reference = task.remote(self._worker, {**request, **paths}, str(self._token))
        self.busy.append(_Task(cell, reference, time.perf_counter()))

    def answers(self, progress: Progress, words: str) -> Iterator[Answered]:
        """Of the cells that have ended since, waiting a little."""
        ended, _ = self._ray.wait([one.reference for one in self.busy], num_returns=len(self.busy), timeout=_TICK)
        if not ended:
            seconds = duration(time.perf_counter() - min(one.began for one in self.busy))
            progress.status(f"{len(self.busy)} trainings on the cluster, the longest {seconds}   ({words})")
        for one in [task for task in self.busy if task.reference in ended]:
            self.busy.remove(one)
            try:
                answer: dict[str, Any] = self._ray.get(one.reference)
            except self._ray.exceptions.RayError as error:  # a machine that was lost, say
                answer = {"error": f"Ray lost it: {str(error).splitlines()[0]}"}
            yield one.cell, answer, time.perf_counter() - one.began
