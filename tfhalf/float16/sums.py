"""A sum in float16, four ways, and where its running sum stands still."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tfhalf.float16 import arithmetic, text
from tfhalf.float16.entry import Entry, Error, as_dict, point
from tfhalf.float16.formats import FLOAT16, FLOAT32, Number
from tfhalf.float16.losses import Loss
from tfhalf.float16.operations import held, losses_before, operand
from tfhalf.float16.parse import Parsed


@dataclass(frozen=True)
class Sum:
    """Numbers that are rounded to float16 first, and added from left to right unless a way says otherwise."""

    parsed: list[Parsed]

    @cached_property
    def terms(self) -> list[int]:
        """Patterns of the terms."""
        return [one.float16 for one in self.parsed]

    @cached_property
    def exact(self) -> Number:
        """The sum of the float16 terms, nothing rounded."""
        return arithmetic.exact_sum([FLOAT16.decode(term) for term in self.terms])

    @cached_property
    def running(self) -> list[int]:
        """Patterns of the sequential sums, the first term's own first."""
        return arithmetic.running_sums(self.terms)

    @cached_property
    def ways(self) -> dict[str, Entry]:
        """Float16 results: ``sequential``, ``pairwise``, ``float32`` (the accumulator), ``exact`` (rounded once)."""
        rounded = {
            "sequential": self.running[-1],
            "pairwise": arithmetic.pairwise_sum(self.terms),
            "float32": FLOAT16.encode(FLOAT32.decode(arithmetic.float32_sum(self.terms))),
            "exact": FLOAT16.encode(self.exact),
        }
        return {way: Entry(FLOAT16, self.exact, bits) for way, bits in rounded.items()}

    @cached_property
    def as_typed(self) -> Number | None:
        """The exact sum of the numbers as they were typed; None where float16 holds them all."""
        if all(held(one) for one in self.parsed):
            return None
        return arithmetic.exact_sum([one.number for one in self.parsed])

    @cached_property
    def absorbed(self) -> list[int]:
        """Positions, from 1, of the terms that are not zero and left a finite running sum as it was."""
        positions = []
        for i in range(1, len(self.terms)):
            before, after = FLOAT16.decode(self.running[i - 1]), FLOAT16.decode(self.running[i])
            if before.is_finite and before.equals(after) and not FLOAT16.decode(self.terms[i]).is_zero:
                positions.append(i + 1)
        return positions

    @cached_property
    def stall(self) -> tuple[int, int] | None:
        """First and last position of the longest run of absorbed terms, if two or more stand in a row."""
        runs: list[tuple[int, int]] = []
        for position in self.absorbed:
            goes_on = bool(runs) and runs[-1][1] == position - 1
            runs = [*runs[:-1], (runs[-1][0], position)] if goes_on else [*runs, (position, position)]
        longest = max(runs, key=lambda run: run[1] - run[0], default=(0, 0))
        return longest if longest[1] > longest[0] else None

    @cached_property
    def losses(self) -> list[Loss]:
        """What the sequential sum lost on the way."""
        numbers = [FLOAT16.decode(term) for term in self.terms]
        before = losses_before(self.parsed)
        if any(number.is_nan for number in numbers):
            return [*before, Loss("nan operand", "NaN in, NaN out: it goes through every operation")]
        if self.exact.is_nan:
            return [*before, Loss("invalid", "inf and -inf in one sum have no value: NaN")]
        return [*before, *self._overflow(numbers), *self._absorption(numbers)]

    def _overflow(self, numbers: list[Number]) -> list[Loss]:
        for i, bits in enumerate(self.running):
            if not numbers[i].is_finite:
                return []
            if not FLOAT16.decode(bits).is_finite:
                return [Loss("overflow", f"the running sum passes 65504 at term {i + 1}, and stays beyond")]
        return []

    def _absorption(self, numbers: list[Number]) -> list[Loss]:
        losses = []
        if self.absorbed:
            count, terms = len(self.absorbed), len(self.terms) - 1
            losses.append(Loss("absorbed", f"{count:,} of the {terms:,} terms after the first changed nothing"))
        if self.stall:
            first, last = self.stall
            at = FLOAT16.decode(self.running[last - 1])
            lost = text.exact(arithmetic.exact_sum(numbers[first - 1 : last]))
            ulp = text.power(FLOAT16.spacing(at.fraction))
            message = (
                f"at {text.exact(at)}, where the ulp is {ulp}: terms {first} to {last}, together {lost}, left no trace"
            )
            losses.append(Loss("stalled", message))
        return losses

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = None if self.as_typed is None else Error.of(FLOAT16, self.as_typed, self.running[-1])
        as_typed = None if self.as_typed is None else {"exact": text.exact(self.as_typed), "error": as_dict(error)}
        return {
            "op": "sum",
            "operands": [operand(one) for one in self.parsed],
            "exact": text.exact(self.exact),
            "ways": {way: entry.to_dict() for way, entry in self.ways.items()},
            "running": [point(FLOAT16, bits) for bits in self.running],
            "absorbed_terms": self.absorbed,
            "stall": None if self.stall is None else {"from": self.stall[0], "to": self.stall[1]},
            "as_given": as_typed,
            "losses": [loss.to_dict() for loss in self.losses],
        }
