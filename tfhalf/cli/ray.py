"""``--ray``: a command whose processes run on the machines of a Ray cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from tfhalf.errors import InputError, ShortfallError
from tfhalf.progress import Progress
from tfhalf.train.signals import Signals

_TICK = 0.3  # seconds
_ENDING = 60.0  # seconds that the others have to end, once one has failed


def run_on_ray(address: str, count: int | None, arguments: Sequence[str], progress: Progress) -> int:
    """Run ``tfhalf`` with ``arguments`` in ``count`` processes of the cluster at ``address``, which share batches; None
    takes all its GPUs. What process 0 writes is written here, and a signal is passed on to all.

    Returns:
        Process 0's exit code; 1 where another failed and it did not.

    Raises:
        ConfigError: as `tfhalf.system.ray_processes.RayProcesses`.
    """
    from tfhalf.system.ray_processes import RayProcesses

    progress.wait(f"processes on the Ray cluster at {address}")
    processes = RayProcesses(address, count, "tfhalf.cli.process", arguments)
    progress.clear()
    ended: dict[int, tuple[int, str]] = {}
    failed_at: float | None = None
    stopped = False  # by a signal: then each ends when it has saved what there is
    try:
        with Signals() as signals:
            while processes.running:
                ended |= processes.ended(_TICK)
                _relay(processes.written())
                if signals.number is not None and not stopped:
                    stopped = True
                    processes.signal(signals.number)
                if failed_at is None and any(code for code, _ in ended.values()):
                    failed_at = time.monotonic()
                if failed_at is not None and not stopped and time.monotonic() - failed_at > _ENDING:
                    break
        while any(written := processes.written()):
            _relay(written)
    finally:
        processes.end()
    return _exit_code(ended, processes.count, stopped)


def _exit_code(ended: Mapping[int, tuple[int, str]], count: int, stopped: bool) -> int:
    """Process 0's, with a line for whatever it has not said itself."""
    code, words = ended.get(0, (ShortfallError.exit_code, f"did not end within {_ENDING:.0f} s of another"))
    lines = [f"process {rank} of {count} {said}" for rank, (other, said) in sorted(ended.items())
             # Bad input is refused by each of them, in the same line.
             if rank and other and not stopped and not other == code == InputError.exit_code]  # fmt: skip
    if code < 0 or words:
        lines.insert(0, f"process 0 of {count} {words or f'ended by signal {-code}'}")
    for line in lines:
        Progress(sys.stderr).line(f"error: {line}", always=True)
    return ShortfallError.exit_code if code < 0 or (lines and not code) else code


def _relay(written: tuple[bytes, bytes]) -> None:
    for stream, content in zip((sys.stdout, sys.stderr), written, strict=True):
        if content:
            stream.write(content.decode(errors="replace"))
            stream.flush()
