"""The processes that one machine's devices get, one each: this one, and those that it starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tfhalf.errors import ConfigError, PeerError, ShortfallError
from tfhalf.system.child import Child
from tfhalf.system.cluster import Cluster
from tfhalf.system.device import cores, gpu_models, nvidia_device
from tfhalf.system.join import free_port
from tfhalf.text import clean

_VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "TF_NUM_INTRAOP_THREADS"
"""The environment variable of how many cores one operation of TensorFlow takes."""
_PATIENCE = 20.0  # seconds in which this process is to notice by itself that another has failed
_ENDING = 60.0  # seconds that the others have to end, once this process is done with them


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a process sees, by the names that ``CUDA_VISIBLE_DEVICES`` knows; without TensorFlow."""
    if _VISIBLE in environment:
        return [name.strip() for name in environment[_VISIBLE].split(",") if name.strip()]
    if nvidia_device() is None:
        return []
    count = len(gpu_models())
    if not count and (program := shutil.which("nvidia-smi")):
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
        count = len(re.findall(r"^GPU \d+:", listed.stdout, re.MULTILINE))
    return [str(index) for index in range(count)]


def devices_of(text: str, gpus: Sequence[str]) -> list[str | None]:
    """What each process of ``--devices`` is to see: a GPU's name, or None of one that computes on the CPU.

    Args:
        text: ``all``; a number of devices; or GPUs by their numbers, with commas: ``0,1``, ``2,``.
        gpus: those that there are.

    Raises:
        ConfigError: it is none of these, or there are not so many.
    """
    accepted = "all, a number of devices, or GPUs by their numbers with commas (0,1)"
    if text == "all":
        return list(gpus) or [None]
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if not numbers or not all(re.fullmatch(r"[0-9]{1,4}", number) for number in numbers):
        raise ConfigError(f"--devices is {text[:40]!r}; accepted: {accepted}")
    if "," not in text:
        count = int(numbers[0])
        if not count or (gpus and count > len(gpus)):
            there = f"1 to {len(gpus)}" if gpus else "1 or more"
            raise ConfigError(f"--devices is {count}; accepted here: {there}, or {accepted}")
        return [*gpus[:count]] if gpus else [None] * count
    chosen = [int(number) for number in numbers]
    if len(set(chosen)) != len(chosen) or max(chosen) >= len(gpus):
        there = f"numbers from 0 to {len(gpus) - 1}, each once" if gpus else "a number of processes: there is no GPU"
        raise ConfigError(f"--devices is {text[:40]!r}; accepted here: {there}")
    return [gpus[number] for number in chosen]


class Processes:
    """Processes 1, 2, ... of a cluster of which this one is number 0; each runs ``main`` of ``module``.

    They end when this process ends, even by SIGKILL.

    Args:
        devices: as `devices_of` gives them; the first is this process's.
        arguments: of the command that all of them run; what makes a process one of the cluster is added.
        remedy: what to do where one of them fails.
    """

    def __init__(self, devices: Sequence[str | None], module: str, arguments: Sequence[str], *, remedy: str) -> None:
        self.remedy = remedy
        self.cluster = Cluster(f"127.0.0.1:{free_port()}", len(devices), 0, launcher="--devices")
        self.children: list[Child] = []
        for rank, device in enumerate(devices):
            environment = {_VISIBLE: device} if device is not None else self._share(len(devices))
            if rank == 0:
                os.environ.update(environment)
                continue
            where = ["--coordinator", self.cluster.coordinator, "--num-processes", str(len(devices))]
            command = [*arguments, *where, "--process-id", str(rank)]
            self.children.append(Child(module, *command, environment=environment))

    @staticmethod
    def _share(count: int) -> dict[str, str]:
        """Processes that compute on one CPU share its cores."""
        return {THREADS: os.environ.get(THREADS) or str(max(1, cores() // count))}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the block they run. After it they have a while to end by themselves.

        Where one fails and this process does not notice, since it waits within a program on a GPU, it is ended after a
        while, with a line on standard error.

        Raises:
            PeerError: from within the block, with the last words of the process that ended first.
        """
        over = threading.Event()
        threading.Thread(target=self._watch, args=(over,), daemon=True).start()
        try:
            yield
        except PeerError as error:
            raise PeerError(self._words() or error.reason, error.remedy) from error
        else:
            for child in self.children:
                try:
                    child.process.wait(_ENDING)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            over.set()
            for child in self.children:
                child.end()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(1):
            if any(child.process.poll() for child in self.children) and not over.wait(_PATIENCE):
                line = f"error: {self._words()}; {self.remedy}"
                os.write(2, f"{clean(line)}\n".encode())
                os._exit(ShortfallError.exit_code)

    def _words(self) -> str:
        """How those that are gone have ended; '' where all are there."""
        for rank, child in enumerate(self.children, 1):
            try:
                child.process.wait(2)
            except subprocess.TimeoutExpired:
                continue
            return f"process {rank} of {self.cluster.size} ended {child.last_words()}"
        return ""
