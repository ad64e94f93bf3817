"""The other end of a `tfhalf.system.child.Child`: ``-m tfhalf.system.child_main SOCKET,LIFELINE,PARENT MODULE ...``.

Little is imported before the process is bound to the one that started it.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import select
import signal
import socket
import sys

from tfhalf.system.child import Channel

_PR_SET_PDEATHSIG, _F_SETSIG = 1, 10


def end_with_parent(lifeline: int, parent: int) -> None:
    """Have the kernel end this process when the one that started it ends, whatever either is doing.

    ``lifeline`` is the reading end of a pipe on which nothing is ever written and whose other end only the parent
    holds; its end becomes SIGKILL here, also while native code holds Python's lock. ``parent`` is the parent's process
    id where its main thread started this process, and else 0: PR_SET_PDEATHSIG speaks of that thread.
    """
    if parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0] or (parent and os.getppid() != parent):  # it ended before that
        os._exit(1)


def main(facts: str, module: str, *arguments: str) -> None:
    """Run ``module``'s ``main`` with the channel; the process ends without a word where the parent is gone."""
    connection, lifeline, parent = map(int, facts.split(","))
    end_with_parent(lifeline, parent)
    channel = Channel(socket.socket(fileno=connection))
    for inherited in (connection, lifeline):
        os.set_inheritable(inherited, False)
    importlib.import_module(module).main(channel, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
