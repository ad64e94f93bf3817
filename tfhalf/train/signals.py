"""SIGINT and SIGTERM while training: the first asks for an end at the next good place, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

_HEARD = (signal.SIGINT, signal.SIGTERM)
_TOGETHER = 0.5  # seconds; `timeout` and others signal a process and then its whole group, which is one request


class Signals:
    """Within the block ``number`` becomes that of the first signal, as soon as it comes.

    Python runs a handler only between two instructions of the main thread, which a program of many steps keeps waiting.
    So the signal's number goes down a pipe, and a thread reads it there. Signals that are ignored stay so; outside the
    main thread, where Python lets nobody set handlers, all stay as they are.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._before = {n: signal.getsignal(n) for n in _HEARD}
        self._before = {n: old for n, old in self._before.items() if old not in (signal.SIG_IGN, None)}
        if not self._before:
            return self
        out, self._into = os.pipe()
        os.set_blocking(self._into, False)
        self._old_wakeup = signal.set_wakeup_fd(self._into, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, args=(out,), daemon=True)
        self._thread.start()
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if not self._before:
            return
        for number, old in self._before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._into)
        self._thread.join()

    def _note(self, number: int, _frame: Any = None) -> None:
        """The handler too, where Python comes to run it before the thread has read the pipe."""
        if self.number is None:
            self.number = number

    def _listen(self, out: int) -> None:
        first: float | None = None
        with open(out, "rb", buffering=0) as pipe:
            while byte := pipe.read(1):
                if byte[0] not in self._before:
                    continue
                if first is None:
                    first = time.monotonic()
                    self._note(byte[0])
                elif time.monotonic() - first > _TOGETHER:
                    os._exit(128 + byte[0])  # whoever asks twice does not want to wait; what is on disk is whole
