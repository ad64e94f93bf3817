"""The processes of one training on the machines of a Ray cluster, one on each GPU: `RayProcesses`.

Ray places them and ends them with the command that started them; they meet and exchange tensors through TensorFlow's
own runtime, as those of any launcher (`tfhalf.system.join`).
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from tfhalf.errors import ConfigError
from tfhalf.system.child import Child
from tfhalf.system.join import free_port
from tfhalf.system.processes import THREADS
from tfhalf.system.ray_cluster import connect, resources

_PATIENCE = 60.0  # seconds in which the cluster must have the devices free
_MOST = 1 << 16  # processes
_AT_ONCE = 8  # calls that one member answers at a time
_LARGEST = 1 << 20  # bytes of what a process has written, at a time


class Member:
    """Of an actor of Ray: the machine that it is on, and one process there."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._out: IO[bytes] | None = None

    def address(self) -> str:
        """A free port of this machine, HOST:PORT."""
        import ray

        host = ray.util.get_node_ip_address()
        return f"[{host}]:{free_port()}" if ":" in host else f"{host}:{free_port()}"

    def start(self, folder: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str:
        """Start ``main`` of ``module`` in ``folder``; '' or, in words, why that cannot be."""
        try:
            os.chdir(folder)
        except OSError as error:
            return f"{folder}: is not seen by {socket.gethostname()} ({error.strerror})"
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the actor
        self._child = Child(module, *arguments, environment=environment, stdout=self._out)
        return ""

    def written(self, out: int, errors: int) -> tuple[bytes, bytes]:
        """What the process has written to standard output and error, each from so many bytes on."""
        assert self._out is not None
        assert self._child is not None
        return os.pread(self._out.fileno(), _LARGEST, out), self._child.words_from(errors, _LARGEST)

    def wait(self, with_words: bool) -> tuple[int, str]:
        """The exit code, negative for a signal, once the process has ended; ``with_words`` also how, in words, after
        which nothing that it has `written` is there any more."""
        assert self._child is not None
        code = self._child.process.wait()
        return code, f"ended {self._child.last_words()}, on {socket.gethostname()}" if with_words else ""

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        assert self._child is not None
        with suppress(ProcessLookupError):
            self._child.process.send_signal(number)


class RayProcesses:
    """``count`` processes on the cluster at ``address``; None for one on each GPU, or each machine without any.

    Args:
        arguments: of the command that all of them run; what makes a process one of the cluster is added.

    Raises:
        ConfigError: there is no such cluster, it has not so many devices, or a machine does not see this folder.
    """

    def __init__(self, address: str, count: int | None, module: str, arguments: Sequence[str]) -> None:
        self._ray = ray = connect(address)
        self.members: list[Any] = []
        self._read = [0, 0]
        try:
            self.count = self._start(address, count, module, arguments)
        except ray.exceptions.RayError as error:
            self.end()
            reason = str(error).strip().splitlines()[-1][:200]
            raise ConfigError(
                f"--ray {address}: its machines cannot run this command ({reason}); install the same tfhalf on all"
            ) from error
        except BaseException:
            self.end()
            raise

    def _start(self, address: str, count: int | None, module: str, arguments: Sequence[str]) -> int:
        ray = self._ray
        gpus, cores = resources(ray)
        count = count or gpus or len(cores)
        if count > (gpus or _MOST) or not cores:
            there = f"{gpus} GPUs" if gpus else f"{len(cores)} machines with cores to compute on"
            raise ConfigError(
                f"--ray {address}: {count} processes, and the cluster has {there}; accepted: 1 to {gpus or _MOST} "
                "processes; correct --num-processes, or add machines"
            )
        # Without GPUs the processes of a machine share its cores.
        bundle = {"GPU": 1.0, "CPU": 1.0} if gpus else {"CPU": max(1.0, min(cores) // math.ceil(count / len(cores)))}
        group = ray.util.placement_group([bundle] * count, strategy="PACK")
        if not ray.wait([group.ready()], timeout=_PATIENCE)[0]:
            raise ConfigError(
                f"--ray {address}: {count} times {_words(bundle)} were not free within {_PATIENCE:.0f} s; wait for "
                "what runs there, or give a smaller --num-processes"
            )
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        member = ray.remote(Member)
        self.members = [
            member.options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                max_concurrency=_AT_ONCE,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            ).remote()
            for index in range(count)
        ]
        where = ["--coordinator", ray.get(self.members[0].address.remote()), "--num-processes", str(count)]
        every = [*arguments, *(where if count > 1 else where[2:])]
        environment = {} if gpus else {THREADS: f"{bundle['CPU']:.0f}"}
        started = [
            one.start.remote(os.getcwd(), module, [*every, *(["--process-id", str(rank)] * (count > 1))], environment)
            for rank, one in enumerate(self.members)
        ]
        if refused := next(filter(None, ray.get(started)), ""):
            raise ConfigError(f"{refused}; all machines must see it under this path")
        self._ends = {one.wait.remote(rank > 0): rank for rank, one in enumerate(self.members)}
        return count

    def written(self) -> tuple[bytes, bytes]:
        """What process 0 has written to standard output and error since the last call."""
        try:
            out, errors = self._ray.get(self.members[0].written.remote(*self._read))
        except self._ray.exceptions.RayError:
            return b"", b""  # `ended` says so
        self._read = [self._read[0] + len(out), self._read[1] + len(errors)]
        return out, errors

    def ended(self, seconds: float) -> dict[int, tuple[int, str]]:
        """Exit code and words of each process that has ended since the last call, by its number, within ``seconds``."""
        ended: dict[int, tuple[int, str]] = {}
        done, _ = self._ray.wait(list(self._ends), num_returns=len(self._ends), timeout=seconds)
        for reference in done:
            rank = self._ends.pop(reference)
            try:
                ended[rank] = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                ended[rank] = 1, f"was lost by Ray: {str(error).splitlines()[0]}"
        return ended

    @property
    def running(self) -> int:
        """How many have not ended, of those that `ended` has told of."""
        return len(self._ends)

    def signal(self, number: int) -> None:
        """Send every process that has not ended a signal."""
        for rank in self._ends.values():
            self.members[rank].signal.remote(number)

    def end(self) -> None:
        """End whatever still runs, and leave the cluster."""
        for member in self.members:
            self._ray.kill(member)
        self._ray.shutdown()


def _words(bundle: dict[str, float]) -> str:
    return " and ".join(f"{count:g} {name}" for name, count in bundle.items())
