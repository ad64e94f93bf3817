"""How much memory may be taken by a file of somebody else: a graph of a few bytes may ask for any amount.

The bound is the kernel's on a process's data (``RLIMIT_DATA``), which an allocation meets when it is made: TensorFlow,
onnxruntime and numpy then say that there is none, where otherwise the kernel would end the process, or another one,
once it is written to. On machines with an NVIDIA GPU none is set: CUDA maps more than it uses.
"""

from __future__ import annotations

import os
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tfhalf.errors import InputError
from tfhalf.system.device import nvidia_device

SETTING = "TFHALF_MEMORY_GIB"
_SHARE = 0.75  # of the memory that is free
_LEAST = 1 << 30
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_LACK = re.compile(r"\bOOM\b|bad[_ ]?alloc|(?:unable|failed|cannot) to allocate|out of memory", re.IGNORECASE)


class _Inside:
    """How many blocks of `bounded` there are now, and the limit before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = resource.RLIM_INFINITY
        self.allowed = 0


_INSIDE = _Inside()


@contextmanager
def bounded() -> Iterator[None]:
    """Within the block this process may take three quarters of the memory that is free, or what ``TFHALF_MEMORY_GIB``
    says, beside what it has. Blocks may be within each other, and in several threads: the first sets the bound."""
    with _INSIDE.lock:
        if not _INSIDE.count:
            _INSIDE.before = resource.getrlimit(resource.RLIMIT_DATA)[0]
            bound_process()
        _INSIDE.count += 1
    try:
        yield
    finally:
        with _INSIDE.lock:
            _INSIDE.count -= 1
            if not _INSIDE.count:
                _limit(_INSIDE.before)


def bound_process() -> None:
    """Set that bound for good; a lower one stays.

    Raises:
        InputError: ``TFHALF_MEMORY_GIB`` is not a number above 0.
    """
    if _has_gpu():
        return
    allowed = _INSIDE.allowed = _allowed()
    data = _number("/proc/self/status", r"VmData:\s+(\d+)") << 10
    before = resource.getrlimit(resource.RLIMIT_DATA)[0]  # no more than the hard limit
    if before == resource.RLIM_INFINITY or data + allowed < before:
        _limit(data + allowed)


@cache
def _has_gpu() -> bool:
    return nvidia_device() is not None


def lacking(error: BaseException) -> str:
    """What to say where ``error``, of whichever library, says that there is no memory; empty where it does not."""
    if not isinstance(error, MemoryError) and not _LACK.search(str(error)):
        return ""
    allowed = f" than the {_INSIDE.allowed / 2**30:.1f} GiB" if _INSIDE.allowed else ""
    return f"takes more memory{allowed} that it may; free some, or allow more with {SETTING}, if you trust the file"


def free() -> int:
    """Bytes of memory that this process can still have: what the machine has available, or its control group."""
    available = _number("/proc/meminfo", r"MemAvailable:\s+(\d+)") << 10
    for most, now in _CGROUPS:
        try:
            available = min(available, int(Path(most).read_text()) - int(Path(now).read_text()))
        except (OSError, ValueError):
            continue  # no such group, or one without a limit
    return available


def _allowed() -> int:
    setting = os.environ.get(SETTING)
    if setting is None:
        return max(_LEAST, int(_SHARE * free()))
    try:
        gibibytes = float(setting)
    except ValueError:
        gibibytes = 0.0
    if not 0 < gibibytes < 1 << 20:
        raise InputError(f"{SETTING} is {setting!r}; accepted: GiB of memory, a number above 0")
    return int(gibibytes * 2**30)


def _limit(soft: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _number(file: str, pattern: str) -> int:
    match = re.search(pattern, Path(file).read_text())
    assert match, file
    return int(match[1])
