"""What a benchmark says while it goes on: which row, what its process does, since when, and how long all may take."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence

from tfhalf.progress import Progress, duration

STAGE = b"S"  # the tag of a message that is a line of `Stages`


class Stages(Progress):
    """In the process that measures: what it does, to the one that asked for it, a line each.

    A stage begins with `stage`; `status` is a detail of it, and stands behind a tab.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        super().__init__(quiet=True)
        self._send = send

    def stage(self, text: str) -> None:
        """From now on ``text`` is done."""
        self._say(text)

    def status(self, text: str) -> None:
        """How far the stage is."""
        self._say("\t" + text)

    def _say(self, text: str) -> None:
        self._send(" ".join(text.split("\n")))


class Watch:
    """In the process that starts others: the rows ``names``, one after another, shown through ``progress``. Without
    names it is not known beforehand which rows there will be.

    A terminal shows one line that counts the seconds; elsewhere each stage is a line that stays, once.
    """

    def __init__(self, progress: Progress, names: Sequence[str]) -> None:
        self.progress, self.names, self._known = progress, list(names), bool(names)
        self.row_number = 0
        self.started = self.row_started = self.stage_started = time.monotonic()
        self.stage = self.detail = ""

    @property
    def width(self) -> int:
        """Columns that the name of a row takes, with its number."""
        return max(map(len, self.names)) + 2 * len(str(len(self.names))) + 2

    def begin(self, name: str) -> None:
        """The row ``name`` is next."""
        self.row_number += 1
        if not self._known:
            self.names.append(name)
        self.row_started = time.monotonic()
        self._enter("starting a process")

    def hear(self, line: str) -> None:
        """A line of the row's `Stages`."""
        if line.startswith("\t"):
            self.detail = line.strip()
        else:
            self._enter(line)
            if not self.progress.live:
                self.progress.line(f"{self._where()} {line}")
        self.tick()

    def tick(self) -> None:
        """Time has passed."""
        words = f"{self.stage}, {self.detail}" if self.detail else self.stage
        passed = duration(time.monotonic() - self.stage_started)
        line = f"{self._row()}: {words}; {passed}{self._left()}"
        self.progress.status(line[: shutil.get_terminal_size().columns - 1])  # a line that wraps cannot be taken away

    def end(self, words: str) -> None:
        """The row is over; ``words`` say what came of it."""
        seconds = time.monotonic() - self.row_started
        self.progress.line(f"{self._where()} {words}; took {duration(seconds)}{self._left(ended=True)}")

    def _enter(self, stage: str) -> None:
        self.stage, self.detail, self.stage_started = stage, "", time.monotonic()

    def _where(self) -> str:
        return f"{duration(time.monotonic() - self.started):>11}  {self._row():{self.width}} "

    def _row(self) -> str:
        number = f"{self.row_number}/{len(self.names)}" if self._known else f"{self.row_number}"
        return f"{number} {self.names[self.row_number - 1]}"

    def _left(self, ended: bool = False) -> str:
        """As long for each row to come as the rows that ended took on average; nothing is known before one did, nor
        once that time is over."""
        now = time.monotonic()
        done = self.row_number if ended else self.row_number - 1
        if not done or done == len(self.names):
            return ""
        spent = (now if ended else self.row_started) - self.started
        left = spent / done * (len(self.names) - done) - (now - self.started - spent)
        return f"; about {duration(left)} left" if left > 0 else ""
