"""Work on many images by all cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

THREADS = min(32, os.cpu_count() or 1)
_TASK = 8  # images that a thread decodes in a row


def parallel(one: Callable[[int], None], count: int) -> None:
    """Call ``one`` with 0 to ``count`` - 1 in threads. Of what it raises, the error of the lowest number comes out."""

    def some(start: int) -> None:
        for i in range(start, min(start + _TASK, count)):
            one(i)

    with ThreadPoolExecutor(THREADS) as pool:
        # Results come in the order of the numbers, so the first image at fault is the one named.
        for _ in pool.map(some, range(0, count, _TASK)):
            pass
