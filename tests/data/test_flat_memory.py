"""Memory stays flat: a set of ten times what a process may grow by is read twice, shuffled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from record_files import array_record, example, tfrecord

CHECKOUT = Path(__file__).resolve().parents[2]
ITEMS, SIZE, SHARDS = 4_800, 65_536, 16
ALLOWED = 30 * 2**20


def images(first: int, count: int) -> Iterator[bytes]:
    noise = os.urandom(SIZE)
    for index in range(first, first + count):
        yield index.to_bytes(4, "little") + noise


def write(kind: str, root: Path) -> None:
    """Images of 64 kB, 315 MB in all."""
    each = ITEMS // SHARDS
    if kind == "files":
        (root / "only").mkdir(parents=True)
        for index, image in enumerate(images(0, ITEMS)):
            (root / "only" / f"{index:05}.png").write_bytes(image)
        return
    for shard in range(SHARDS):
        records = (example(image, 0) for image in images(shard * each, each))
        {"tfrecord": tfrecord, "array_record": array_record}[kind](root / f"a-{shard:05}-of-{SHARDS:05}", records)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tfrecord", "array_record", "files"])
def test_a_set_of_ten_times_the_memory_is_read_twice_in_any_order(tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path / "set")
    assert sum(path.stat().st_size for path in (tmp_path / "set").rglob("*") if path.is_file()) > 10 * ALLOWED
    command = [sys.executable, CHECKOUT / "tests" / "flat_memory.py", kind, tmp_path / "set"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    count, same, grown = done.stdout.split()
    assert (int(count), same) == (ITEMS, "True")
    assert int(grown) < ALLOWED, f"{int(grown) / 2**20:.0f} MiB"
