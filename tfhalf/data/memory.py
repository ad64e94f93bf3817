"""How much memory is left, so that a data set too large for it is refused before it is read."""

from __future__ import annotations

from pathlib import Path

from tfhalf.errors import DataError

SHARE = 0.8
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that can still be taken: the machine's, or the container's where that is less. None where nothing tells."""
    known = [size for size in (_machine(), _container()) if size is not None]
    return min(known) if known else None


def fits(needed: int) -> bool:
    """Whether ``needed`` bytes are at most 80 % of the available memory."""
    free = available()
    return free is None or needed <= SHARE * free


def guard(needed: int, source: str, remedy: str) -> None:
    """Refuse what would take more than 80 % of the available memory.

    Raises:
        DataError: with both sizes and ``remedy``.
    """
    if not fits(needed):
        raise DataError(
            f"{source}: needs about {_size(needed)} of memory where {_size(available() or 0)} is available; accepted: "
            f"up to {SHARE:.0%} of that; {remedy}"
        )


def _machine() -> int | None:
    if not _MEMINFO.is_file():
        return None
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container() -> int | None:
    limit, used, stat = _CGROUP / "memory.max", _CGROUP / "memory.current", _CGROUP / "memory.stat"
    if not (limit.is_file() and used.is_file()):
        return None
    ceiling = limit.read_text(encoding="ascii").strip()
    if ceiling == "max":
        return None
    # Cached file pages count as used but are given back on demand.
    lines = stat.read_text(encoding="ascii").splitlines() if stat.is_file() else []
    cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, int(ceiling) - int(used.read_text(encoding="ascii")) + cached)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
