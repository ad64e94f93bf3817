"""What rounding took away, in words: of one number, and of an operation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction

from tfhalf.float16 import text
from tfhalf.float16.formats import FLOAT16, Format, Number, exponent_of


@dataclass(frozen=True)
class Loss:
    """One thing that happened. ``text`` says with numbers what ``word`` names."""

    word: str
    text: str

    @property
    def special(self) -> bool:
        """An infinity or NaN by IEEE 754's rules, not a matter of rounding."""
        return self.word in ("invalid", "divided by zero", "nan operand")

    def to_dict(self) -> dict[str, str]:
        """Both fields, for JSON."""
        return asdict(self)


def of_rounding(fmt: Format, exact: Number, pattern: int) -> Loss | None:
    """Overflow to infinity, flush to zero, or fewer bits, where ``exact`` was rounded to ``pattern`` of ``fmt``."""
    kind = fmt.kind(pattern)
    if not exact.is_finite or exact.is_zero:
        return None
    if kind == "infinity":
        limit = text.brief(fmt.largest, 5)
        edge = text.brief(fmt.overflows_from, 8 if fmt.p > 11 else 5)
        return Loss("overflow", f"beyond {limit}, the largest; from {edge} on, rounding gives infinity")
    if kind == "zero":
        half = text.power(fmt.flushed_up_to)
        return Loss("flushed", f"zero is nearest, as it is up to {half}, half of the smallest subnormal")
    if kind == "subnormal":
        left, edge = fmt.significant_bits(pattern), text.power(fmt.smallest_normal)
        return Loss("subnormal", f"below {edge} bits go missing: {left} of {fmt.p} significant bits {_are(left)} left")
    return None


def of_operation(op: str, operands: list[Number], exact: Number, pattern: int) -> list[Loss]:
    """What ``pattern``, the float16 result, lost of ``exact``, the operation on the float16 ``operands``."""
    if any(operand.is_nan for operand in operands):
        return [Loss("nan operand", "NaN in, NaN out: it goes through every operation")]
    if exact.is_nan:
        return [Loss("invalid", f"{_invalid(op, operands)} has no value: NaN")]
    if op == "div" and operands[1].is_zero:
        return [Loss("divided by zero", "x/0 is an infinity by definition; its sign is that of both signs together")]
    rounding = of_rounding(FLOAT16, exact, pattern)
    losses = [rounding] if rounding else []
    if op in ("mul", "div") or not exact.is_finite:
        return losses
    a, b = operands[:2]
    if op == "fma":
        x, y, names = _product(a, b), operands[2], ("a*b", "c")
    else:
        x, y, names = (a, -b, ("a", "-b")) if op == "sub" else (a, b, ("a", "b"))
    return losses + _of_addition(x, y, names, exact, FLOAT16.decode(pattern))


def _of_addition(x: Number, y: Number, names: tuple[str, str], exact: Number, result: Number) -> list[Loss]:
    """Absorption and cancellation in x + y, two finite numbers of these names."""
    if x.is_zero or y.is_zero:
        return []
    if exact.is_zero:
        return [Loss("cancelled", f"{names[0]} and {names[1]} add up to nothing, exactly")]
    losses = []
    if result.is_finite and result.fraction != exact.fraction:
        losses += _absorbed(x, y, names, result.fraction)
    lost = max(exponent_of(x.fraction), exponent_of(y.fraction)) - exponent_of(exact.fraction)
    if lost > 1:  # one bit goes in every other subtraction
        factor = f"{2**lost:,}" if lost < 30 else f"2^{lost}"
        either = " or ".join(name.lstrip("-") for name in names)
        message = f"the leading {lost} bits: an earlier rounding error of {either} now weighs {factor} times as much"
        losses.append(Loss("cancelled", message))
    return losses


def _absorbed(x: Number, y: Number, names: tuple[str, str], result: Fraction) -> list[Loss]:
    (large, big), (small, little) = (x.fraction, names[0]), (y.fraction, names[1])
    if abs(large) < abs(small):
        (large, big), (small, little) = (small, little), (large, big)
    base = FLOAT16.round_to(large)  # large itself, unless it is the product of an fma
    if not base.is_finite:
        return []
    arrived = result - base.fraction
    if not arrived:
        ulp = text.power(FLOAT16.spacing(large))
        rounded = " rounded" if base.fraction != large else ""
        return [
            Loss("absorbed", f"the result is {big}{rounded}, of {little} nothing is left: the ulp of {big} is {ulp}")
        ]
    if arrived == small or FLOAT16.spacing(small) >= FLOAT16.spacing(result):
        return []
    share = text.brief(100 * arrived / small)
    message = f"{little} = {text.exact(small)} arrived as {text.exact(arrived)}, {share} % of it"
    return [Loss("partly absorbed", message)]


def _product(a: Number, b: Number) -> Number:
    return Number(a.fraction * b.fraction, a.negative != b.negative)


def _invalid(op: str, operands: list[Number]) -> str:
    signs = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
    shown = [text.exact(operand) for operand in operands]
    if op == "fma":
        return f"{shown[0]}*{shown[1]} + {shown[2]}"
    return f" {signs.get(op, '+')} ".join(shown)


def _are(count: int) -> str:
    return "are" if count != 1 else "is"
