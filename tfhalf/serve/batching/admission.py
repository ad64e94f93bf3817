"""How much may wait: whether a batcher has room for another request."""

from __future__ import annotations

import math

from tfhalf.serve.settings import Batching

_FULL_BATCHES = 1.5  # what waits and what runs take at most so long as this many full batches of a machine at rest
_SMOOTHING = 0.2  # weight of the newest batch's seconds per row


class Admission:
    """Rows that wait, rows that run, and the bound on them. Its batcher's lock guards it.

    Where ``batching.max_queue`` is given, so many rows may wait. Where it is not, the bound is one of time, and rows
    that run count too: there are never more than the model computes, at its present pace, in the time that one
    and a half full batches took when it was warmed up. So answers come in time also where the machine has other work,
    or too much of this one. One full batch may be there at any pace.

    Of a request no more than ``turn`` rows count at a time, half of ``batching.max_batch``: a larger one takes turns.
    """

    def __init__(self, batching: Batching, row_seconds: float | None) -> None:
        """
        Args:
            row_seconds: what a row of a full batch takes when nothing else goes on; None where nobody has measured it.
        """
        self._most, self._full_batch = batching.max_queue, batching.max_batch
        self.turn = max(1, batching.max_batch // 2)
        self.waiting = 0
        self.running = 0
        self.expected = 0  # requests that have come and are not read yet
        self._large = 0  # those of the waiting rows that belong to requests of more than a turn
        self._rest_pace = row_seconds
        self._pace = row_seconds or 0.0  # seconds a row takes now

    @property
    def bound(self) -> int:
        """How many rows may wait, or wait and run."""
        if self._most is not None:
            return self._most
        slower = max(1.0, self._pace / self._rest_pace) if self._rest_pace else 1.0
        return max(self._full_batch, int(_FULL_BATCHES * self._full_batch / slower))

    def admits(self, rows: int) -> bool:
        """Whether a request of ``rows`` rows may wait. One may always, however large: it is computed in turns."""
        cost = min(rows, self.turn)
        there = self.waiting + self.expected
        if not there:
            return True
        if self._most is None:
            there += self.running
        if there + cost > self.bound:
            return False
        # Half of the room is for requests that fit into one turn.
        return rows <= self.turn or not self._large or self._large + cost <= self.bound // 2

    def enter(self, rows: int, left: int) -> None:
        """``left`` of a request's ``rows`` rows begin to wait."""
        cost = min(left, self.turn)
        self.waiting += cost
        if rows > self.turn:
            self._large += cost

    def leave(self, rows: int, left: int) -> None:
        """The inverse of `enter`."""
        cost = min(left, self.turn)
        self.waiting -= cost
        if rows > self.turn:
            self._large -= cost

    def ran(self, rows: int, seconds: float) -> None:
        """A batch took so long. Small ones take longer for a row, and say nothing of the pace under load."""
        if rows >= self.turn:
            pace = seconds / rows
            self._pace = self._pace + _SMOOTHING * (pace - self._pace) if self._pace else pace

    def clear_expected(self) -> None:
        """Those that were expected are being read now, and wait or were refused."""
        self.expected = 0

    @property
    def seconds(self) -> int:
        """After how many whole seconds there will be room again, 1 at least."""
        return max(1, math.ceil((self.waiting + self.running) * self._pace))
