"""Several processes that serve one port: started, watched, replaced when one dies, and ended together."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType

from tfhalf.errors import ShortfallError, TfhalfError
from tfhalf.serve.settings import Settings

_FAST = 5.0  # a worker that dies sooner counts towards giving up
_MOST_FAST = 5


@dataclass
class _Worker:
    pid: int
    started: float
    ready: int  # the reading end of a pipe that closes, or says so, when the worker is ready
    announced: bool = False


class Workers:
    """Forked before anything heavy is imported. They share the listening socket, so that what waits to be accepted by
    one that dies is accepted by the others."""

    def __init__(
        self,
        count: int,
        serve: Callable[[int, Callable[[], None]], None],
        say: Callable[[], None],
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            serve: what a worker does; takes the pipe whose closing says that this process is gone, and what to call
                when it is ready.
            say: called when all are ready for the first time.
            end: called, perhaps more than once, when they are about to be ended.
        """
        self._count, self._serve, self._say, self._end = count, serve, say, end
        self._workers: dict[int, _Worker] = {}
        self._stopping = False
        self._fast = 0
        self._alive = os.pipe()

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until a worker cannot start; the exit code."""
        folder = tempfile.mkdtemp(prefix="tfhalf-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._watch()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            shutil.rmtree(folder, ignore_errors=True)

    def _watch(self) -> int:
        # The first alone: what is wrong with the models is reported once.
        self._start()
        code = 0
        announced = False
        while self._workers:
            ready = self._all_announced()
            if ready and not self._stopping and len(self._workers) < self._count:
                self._start()
                continue
            if ready and not announced and len(self._workers) == self._count:
                announced = True
                self._say()
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                time.sleep(0.05)
                continue
            worker = self._workers.pop(pid, None)
            if worker is None:
                continue
            code = max(code, self._gone(worker, os.waitstatus_to_exitcode(status)))
        return code

    def _all_announced(self) -> bool:
        for worker in self._workers.values():
            if not worker.announced:
                with contextlib.suppress(BlockingIOError):
                    worker.announced = bool(os.read(worker.ready, 1))
        return all(worker.announced for worker in self._workers.values())

    def _gone(self, worker: _Worker, code: int) -> int:
        os.close(worker.ready)
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
        if self._stopping:
            return code if code > 0 else 0
        if not worker.announced and code > 0:  # it said why, and another would not fare better
            self._stop(signal.SIGTERM, None)
            return code
        self._fast = self._fast + 1 if time.monotonic() - worker.started < _FAST else 0
        if self._fast >= _MOST_FAST:
            self._stop(signal.SIGTERM, None)
            raise ShortfallError(
                f"workers ended {_MOST_FAST} times within {_FAST:g} s of their start (the last: {code})"
            )
        self._start()
        return 0

    def _start(self) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            os.close(write)
            self._workers[pid] = _Worker(pid, time.monotonic(), read)
            return
        os.close(self._alive[1])
        os.close(read)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        code = 1
        try:
            self._serve(self._alive[0], lambda: _tell(write))
            code = 0
        except TfhalfError as error:
            sys.stderr.write(f"error: {error}\n")
            code = error.exit_code
        except BaseException:  # noqa: BLE001  # the end of the process, whatever it was
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._end()
        for pid in list(self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _tell(pipe: int) -> None:
    os.write(pipe, b".")


def share_of(settings: Settings, count: int) -> Settings:
    """``settings`` for one of ``count`` workers: a part of the cores and of the memory for bodies."""
    limits = replace(settings.limits, max_bodies=max(settings.limits.max_body, settings.limits.max_bodies // count))
    return replace(settings, threads=max(1, settings.threads // count), limits=limits)


def serve(
    settings: Settings, count: int, listener: socket.socket, run: Callable[..., None], say: Callable[[], None]
) -> int:
    """Have ``count`` workers ``run`` the server on ``listener``; the exit code."""
    own = share_of(settings, count)

    def work(parent: int, ready: Callable[[], None]) -> None:
        run(own, listener, parent, ready)

    # Held on to here, it would take connections that no worker accepts any more.
    return Workers(count, work, say, listener.close).run()
