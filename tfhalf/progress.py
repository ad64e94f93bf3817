"""What long work says while it runs: lines that stay, and on a terminal one line that is overwritten."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from tfhalf.text import clean


class Progress:
    """Lines to ``stream``. ``quiet`` leaves only what `line` has to keep; a stream that is not a terminal gets plain
    lines."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.quiet = quiet
        self.live = self.stream.isatty() and not quiet
        self._shown = False
        self._last = 0.0

    def line(self, text: str = "", always: bool = False) -> None:
        """A line that stays; ``always`` also with ``quiet``."""
        self.clear()
        if always or not self.quiet:
            print(clean(text), file=self.stream, flush=True)

    def status(self, text: str) -> None:
        """A line that the next one replaces; nothing where the stream is not a terminal."""
        if self.live and time.monotonic() - self._last > 0.1:
            self.stream.write(f"\r\x1b[2K{clean(text)[:150]}")
            self.stream.flush()
            self._shown, self._last = True, time.monotonic()

    def wait(self, thing: str) -> None:
        """What is being loaded, before it is: a line that the next one replaces, and that stays where the stream is no
        terminal."""
        if self.live:
            self._last = 0.0
            self.status(f"loading {thing} ...")
        else:
            self.line(f"loading    {thing}")

    def clear(self) -> None:
        """Take the status line away."""
        if self._shown:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
            self._shown, self._last = False, 0.0


class LoggedProgress(Progress):
    """For libraries: lines go to the logger ``tfhalf`` at level INFO, and nothing is printed."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self._logger = logging.getLogger("tfhalf")

    def line(self, text: str = "", always: bool = False) -> None:
        """A line of the log; an empty one is none."""
        if text:
            self._logger.info("%s", clean(text))


def duration(seconds: float) -> str:
    """``3.4 s``, ``2 min 05 s`` or ``1 h 12 min``."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def figure(value: float, share: bool) -> str:
    """A metric: ``93.12``, percent of a share; of numbers four digits, and all before the point."""
    if share:
        return f"{value * 100:.2f}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def size(count: float) -> str:
    """``512 bytes``, ``3.94 MB`` (decimal units)."""
    for limit, divisor, unit in ((1e3, 1, "bytes"), (1e6, 1e3, "kB"), (1e9, 1e6, "MB"), (float("inf"), 1e9, "GB")):
        if count < limit:
            return f"{count / divisor:.0f} {unit}" if divisor == 1 else f"{count / divisor:.2f} {unit}"
    raise AssertionError("unreachable")
