"""Whether a request is computed where it is submitted, on the event loop's own thread, with nothing handed over."""

from __future__ import annotations

LONGEST = 300e-6
"""Seconds that an execution may keep an event loop from all else: what the way to a thread and back takes by itself."""

_MOST_ROWS = 16
_ALONE = 3  # requests in a row that came alone, after which the next one is taken for alone, too
_SMOOTHING = 0.2  # weight of the newest execution where it was faster than expected


class Inline:
    """What decides that for one batcher, whose lock guards it.

    A request is computed inline where its execution is expected to take `LONGEST` at most, where nothing else waits or
    runs, and where nothing else did when the last few came. Each turn of the event loop computes one: a second one in
    the same turn is company, and so are all that are read together, for which a batch is worth more than a short way.

    What so many rows take is known from earlier executions of as many, by the thread at first. A slow one counts at
    once, faster ones little by little: one that was held up has the thread compute the next few.
    """

    def __init__(self, fixed: bool) -> None:
        """
        Args:
            fixed: whether rows are all of one size, so that one execution says what the next one takes.
        """
        self._most_rows = _MOST_ROWS if fixed else 0
        self._seconds: dict[int, float] = {}  # that an execution takes, by its rows
        self._alone = 0
        self._in_turn = False
        self.busy = False  # an event loop computes

    def begins(self, rows: int, others: bool) -> bool:
        """Whether a request of ``rows`` rows is computed inline; then that begins.

        Args:
            others: whether requests wait or run.
        """
        if others or self._in_turn or self.busy:
            self._alone = 0
            return False
        self._alone += 1
        if self._alone <= _ALONE or self._seconds.get(rows, LONGEST * 2) > LONGEST:
            return False
        self.busy = self._in_turn = True
        return True

    def end_turn(self) -> None:
        """The event loop has come round: what comes now was not there before."""
        self._in_turn = False

    def ran(self, rows: int, seconds: float) -> None:
        """An execution of ``rows`` rows took ``seconds``, wherever it was."""
        if rows <= self._most_rows:
            last = self._seconds.get(rows, seconds)
            self._seconds[rows] = max(seconds, last + _SMOOTHING * (seconds - last))
