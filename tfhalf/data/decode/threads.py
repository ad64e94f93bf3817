"""Work on many images by all cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

THREADS = min(32, os.cpu_count() or 1)
_TASK = 8  # images that a thread decodes in a row


@lru_cache(maxsize=2)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of ``process``, however many callers there are. A fork has none of them."""
    return ThreadPoolExecutor(threads, "tfhalf-decode")


def at_once(items: object) -> int:
    """In how many threads ``items`` are best read: one a core, or more where a source waits for a network."""
    return max(THREADS, getattr(items, "parallel", THREADS))


def parallel(one: Callable[[int], None], count: int, task: int = _TASK, threads: int = THREADS) -> None:
    """Call ``one`` with 0 to ``count`` - 1 in ``threads``, ``task`` of them in a row in each. Of what it raises, the
    error of the lowest number comes out."""

    def some(start: int) -> None:
        for i in range(start, min(start + task, count)):
            one(i)

    pool = _pool(os.getpid(), threads)
    futures = [pool.submit(some, start) for start in range(0, count, task)]
    try:
        for future in futures:  # in the order of the numbers, so the first image at fault is the one named
            future.result()
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
