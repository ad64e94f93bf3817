"""One process of two, as a script: it waits, as within a program on a GPU, that another is or is not there.

``watch_job.py PORT RANK WHAT``: process 1 does WHAT to itself: ``SIGSTOP``, ``SIGKILL``, or ``leaves`` early.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from tfhalf.progress import Progress
from tfhalf.system import watch
from tfhalf.system.cluster import Cluster
from tfhalf.system.join import join


def main(port: str, rank: str, what: str) -> None:
    watch._EVERY, watch._TIMEOUT, watch._GONE, watch._PATIENCE = 0.5, 2.0, 4.0, 2.0
    group = join(Cluster(f"127.0.0.1:{port}", 2, int(rank), launcher="test"), {}, Progress(quiet=True))
    with group.watched("start it again"):
        group.gather(np.zeros(1))
        print("here", flush=True)
        if what != "leaves":
            if rank == "1":
                os.kill(os.getpid(), getattr(signal, what))
            time.sleep(100)
        if rank == "0":
            time.sleep(12)  # while process 1 waits for the end
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
