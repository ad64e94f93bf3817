"""Whether the processes that work together are all there, seen by a thread of its own.

A process that waits within a program on a GPU for one that has gone, or that stands still, hears of nothing: no error
of the runtime's reaches a program that runs. TensorFlow's servers answer each other beside it, whatever their processes
compute.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tfhalf.errors import ShortfallError
from tfhalf.text import clean

# Process 0 is to end within half a minute, and those that then miss it within another.
_EVERY, _TIMEOUT = 4.0, 4.0  # seconds between questions, and for an answer
_GONE = 14.0  # seconds without an answer
_PATIENCE = 8.0  # seconds that a process then has to notice by itself


@contextmanager
def watched(rank: int, size: int, remedy: str) -> Iterator[None]:
    """Within the block process ``rank`` of ``size`` ends, with a line on standard error and exit code 1, once it has
    no answer from another for a while: process 0 asks all of them, and they ask process 0.

    Args:
        remedy: what to do then.
    """
    over = threading.Event()
    others = range(1, size) if rank == 0 else (0,)
    threading.Thread(target=_watch, args=(others, size, remedy, over), name="tfhalf-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(others: Sequence[int], size: int, remedy: str, over: threading.Event) -> None:
    since: dict[int, float] = {}
    while not over.wait(_EVERY):
        for rank in others:
            if _answers(rank):
                since.pop(rank, None)
                continue
            gone = time.monotonic() - since.setdefault(rank, time.monotonic()) > _GONE
            if gone and not over.wait(_PATIENCE) and not _answers(rank):
                line = f"error: process {rank} of {size} has ended or does not answer; {remedy}"
                os.write(2, f"{clean(line)}\n".encode())
                os._exit(ShortfallError.exit_code)


def _answers(rank: int) -> bool:
    import tensorflow as tf
    from tensorflow.python.eager import context

    try:
        context.context().check_collective_ops_peer_health(
            f"/job:worker/replica:0/task:{rank}", timeout_in_ms=int(1000 * _TIMEOUT)
        )
    except tf.errors.OpError:  # unreachable, too late, or started anew
        return False
    return True
