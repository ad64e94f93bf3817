"""One operation in float16: its operands, its exact result, the rounded one, and what was lost between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tfhalf.errors import InputError
from tfhalf.float16 import arithmetic, losses, text
from tfhalf.float16.entry import Entry, Error, as_dict, point
from tfhalf.float16.formats import FLOAT16, FLOAT32, Number
from tfhalf.float16.losses import Loss
from tfhalf.float16.parse import Parsed

OPERANDS = {"add": (2, 2), "sub": (2, 2), "mul": (2, 2), "div": (2, 2), "fma": (3, 3), "sum": (2, 10_000)}


@dataclass(frozen=True)
class Operation:
    """add, sub, mul, div or fma on numbers that are rounded to float16 first."""

    op: str
    parsed: list[Parsed]

    @cached_property
    def operands(self) -> list[Number]:
        """What the operation computes with."""
        return [FLOAT16.decode(one.float16) for one in self.parsed]

    @cached_property
    def exact(self) -> Number:
        """The result before rounding."""
        return arithmetic.OPERATIONS[self.op](*self.operands)

    @cached_property
    def result(self) -> Entry:
        """The exact result rounded once to float16."""
        return Entry(FLOAT16, self.exact, FLOAT16.encode(self.exact))

    @cached_property
    def wide(self) -> Entry:
        """The same operands in float32."""
        return Entry(FLOAT32, self.exact, FLOAT32.encode(self.exact))

    @cached_property
    def in_steps(self) -> Entry | None:
        """For fma: the product rounded to float16, then the sum; None for the others."""
        if self.op != "fma":
            return None
        a, b, c = self.operands
        product = FLOAT16.decode(FLOAT16.encode(arithmetic.multiply(a, b)))
        return Entry(FLOAT16, self.exact, FLOAT16.encode(arithmetic.add(product, c)))

    @cached_property
    def as_typed(self) -> Number | None:
        """The exact result of the numbers as they were typed; None where float16 holds them all."""
        if all(held(one) for one in self.parsed):
            return None
        return arithmetic.OPERATIONS[self.op](*(one.number for one in self.parsed))

    @cached_property
    def losses(self) -> list[Loss]:
        """What was lost on the way."""
        lost = losses_before(self.parsed)
        lost += losses.of_operation(self.op, self.operands, self.exact, self.result.bits)
        if self.in_steps is not None and _differ(self.in_steps.bits, self.result.bits):
            message = f"multiplying first, then adding gives {text.exact(self.in_steps.value)}"
            lost.append(Loss("rounded twice", message))
        return lost

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = None if self.as_typed is None else Error.of(FLOAT16, self.as_typed, self.result.bits)
        as_typed = None if self.as_typed is None else {"exact": text.exact(self.as_typed), "error": as_dict(error)}
        return {
            "op": self.op,
            "operands": [operand(one) for one in self.parsed],
            "exact": text.exact(self.exact),
            "float16": self.result.to_dict(),
            "float32": self.wide.to_dict(),
            "multiplied_then_added": as_dict(self.in_steps),
            "as_given": as_typed,
            "losses": [loss.to_dict() for loss in self.losses],
        }


def losses_before(operands: list[Parsed]) -> list[Loss]:
    """Operands that became infinity or zero in rounding to float16, before anything was computed with them."""
    rounded = [losses.of_rounding(FLOAT16, one.number, one.float16) for one in operands]
    lost = []
    for word, became in (("overflow", "infinity"), ("flushed", "zero")):
        texts = [
            text.cut(one.text, 30) for one, loss in zip(operands, rounded, strict=True) if loss and loss.word == word
        ]
        more = f" and {len(texts) - 3:,} more" if len(texts) > 3 else ""
        if texts:
            message = f"{', '.join(texts[:3])}{more} became {became} in rounding to float16"
            lost.append(Loss(word, f"{message}, before anything was computed"))
    return lost


def held(parsed: Parsed) -> bool:
    """float16 has the number as it was typed."""
    return parsed.number.is_nan or FLOAT16.decode(parsed.float16).equals(parsed.number)


def _differ(a: int, b: int) -> bool:
    x, y = FLOAT16.decode(a), FLOAT16.decode(b)
    return not (x.equals(y) or (x.is_nan and y.is_nan))


def operand(parsed: Parsed) -> dict[str, Any]:
    """An operand for JSON, and whether rounding it to float16 changed it."""
    return {"given": parsed.text, "form": parsed.form, **point(FLOAT16, parsed.float16), "changed": not held(parsed)}


def check_count(op: str, count: int) -> None:
    """Raise InputError where ``op`` does not take ``count`` operands."""
    least, most = OPERANDS[op]
    if not least <= count <= most:
        accepted = f"takes {least} values" if least == most else f"takes {least} to {most:,} values"
        raise InputError(f"--op {op}: {accepted}, got {count}; tfhalf float16 --op {op} {' '.join('abc'[:least])}")
