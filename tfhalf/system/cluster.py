"""Which processes train together, as options or the launcher that started this process say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tfhalf.errors import ConfigError

PORT = 29_400
"""Where process 0 waits for the others, if nothing says another; next to it, one is taken for each Slurm step."""
_PORTS = 10_000
_MOST = 65_536
_FORMS = "--coordinator HOST:PORT --num-processes N --process-id I"


@dataclass(frozen=True)
class Cluster:
    """``size`` processes, of which this one is number ``rank``; they meet at ``coordinator``, HOST:PORT of process 0.

    ``local`` counts this machine's processes from 0: each takes the GPU of its number, where it sees several.
    ``launcher`` says who started them.
    """

    coordinator: str
    size: int
    rank: int
    local: int = 0
    launcher: str = "options"

    @property
    def host(self) -> str:
        """The machine of process 0."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Where process 0 listens."""
        return int(self.coordinator.rpartition(":")[2])


def cluster_of(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Cluster | None:
    """The cluster that this process belongs to; None where it trains alone.

    Options come first. What they leave out is read from the variables of a launcher: those that ``torchrun`` sets
    (``WORLD_SIZE``, ``RANK``, ``MASTER_ADDR``), a Slurm step's, Open MPI's, MPICH's and Intel MPI's; an indexed job of
    Kubernetes tells its pods their numbers alone.

    Raises:
        ConfigError: a number or an address is missing, or is not one.
    """
    launcher = _launcher(environment)
    if num_processes is None and (coordinator is not None or process_id is not None):
        if launcher is None:
            option = "--coordinator" if coordinator is not None else "--process-id"
            raise ConfigError(f"{option} is for one of several processes; accepted: {_FORMS}; give --num-processes too")
        num_processes = launcher.size
    if num_processes is None:
        if launcher is None or launcher.size == 1:
            return None
        num_processes = launcher.size
    if num_processes == 1:
        return None
    rank = process_id
    if rank is None:
        rank = launcher.rank if launcher else _number(environment, "JOB_COMPLETION_INDEX")
    if rank is None:
        raise ConfigError(f"--num-processes is {num_processes} and no launcher says which of them this is; accepted: "
                          f"{_FORMS}; give --process-id")  # fmt: skip
    if not 0 <= rank < num_processes <= _MOST:
        raise ConfigError(
            f"process {rank} of {num_processes}; accepted: 0 to {num_processes - 1} of at most {_MOST}; correct "
            "--process-id or --num-processes"
        )
    where = coordinator or (launcher.coordinator if launcher else "")
    if not where:
        raise ConfigError(f"process {rank} of {num_processes} does not know where process 0 is; accepted: {_FORMS}; "
                          "give --coordinator, the same in all")  # fmt: skip
    local = launcher.local if launcher else 0
    return Cluster(_address(where), num_processes, rank, local, launcher.launcher if launcher else "options")


def _launcher(env: Mapping[str, str]) -> Cluster | None:
    """What the variables of a launcher say; its coordinator is '' where they name none."""
    if "WORLD_SIZE" in env and "RANK" in env:
        host, port = env.get("MASTER_ADDR", ""), env.get("MASTER_PORT", str(PORT))
        return _cluster(env, "torchrun", "WORLD_SIZE", "RANK", "LOCAL_RANK", f"{host}:{port}" if host else "")
    if "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env:  # SLURM_NTASKS is also set where no step was started
        first = _first_node(env.get("SLURM_STEP_NODELIST", ""))
        slurm_port = PORT + (_number(env, "SLURM_JOB_ID") or 0) % _PORTS
        where = f"{first}:{slurm_port}" if first else ""
        return _cluster(env, "Slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", where)
    for name, size, rank, local, here in (
        ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
         "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("MPI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ):  # fmt: skip
        if size in env and rank in env:
            host = env.get("MASTER_ADDR") or ("127.0.0.1" if env.get(here) == env[size] else "")
            return _cluster(env, name, size, rank, local, f"{host}:{env.get('MASTER_PORT', str(PORT))}" if host else "")
    return None


def _cluster(env: Mapping[str, str], launcher: str, size: str, rank: str, local: str, coordinator: str) -> Cluster:
    numbers = [_number(env, name) for name in (size, rank, local)]
    assert numbers[0] is not None
    assert numbers[1] is not None
    return Cluster(coordinator, numbers[0], numbers[1], numbers[2] or 0, launcher)


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 9):
        raise ConfigError(f"the environment's {name} is {value[:40]!r}; accepted: a whole number; correct or unset it")
    return int(value)


def _address(text: str) -> str:
    matched = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9_.-]*):(\d{1,5})", text)
    if not matched or not 0 < int(matched[2]) < 65_536:
        raise ConfigError(f"--coordinator is {text[:80]!r}; accepted: HOST:PORT, such as 10.0.0.1:{PORT}; correct it")
    return text


def _first_node(nodes: str) -> str:
    """The first host of Slurm's list: ``gpu[003-007,9],big1`` begins with ``gpu003``."""
    matched = re.match(r"([A-Za-z0-9_.-]+)(?:\[(\d+)[^\]]*\]([A-Za-z0-9_.-]*))?", nodes)
    return "" if not matched else f"{matched[1]}{matched[2] or ''}{matched[3] or ''}"
