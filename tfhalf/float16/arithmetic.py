"""Arithmetic on exact numbers with the special cases of IEEE 754, and sums as float16 hardware forms them.

An operation of IEEE 754 is the exact one, rounded once: ``fmt.encode(add(a, b))`` is a + b in the format ``fmt``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfhalf.float16.formats import FLOAT16, FLOAT32, NAN, Format, Number, finite, infinity


def add(a: Number, b: Number) -> Number:
    """a + b. Infinities of unlike signs give NaN; zeros of unlike signs, and x - x, give +0 (round to nearest)."""
    if a.is_nan or b.is_nan:
        return NAN
    if a.is_infinite or b.is_infinite:
        if a.is_infinite and b.is_infinite and a.negative != b.negative:
            return NAN
        return a if a.is_infinite else b
    return finite(a.fraction + b.fraction, negative_zero=a.is_zero and b.is_zero and a.negative and b.negative)


def subtract(a: Number, b: Number) -> Number:
    """a - b, which is a + (-b)."""
    return add(a, -b)


def multiply(a: Number, b: Number) -> Number:
    """a * b. Zero times infinity gives NaN; the sign is that of both signs together."""
    if a.is_nan or b.is_nan:
        return NAN
    negative = a.negative != b.negative
    if a.is_infinite or b.is_infinite:
        return NAN if a.is_zero or b.is_zero else infinity(negative)
    return finite(a.fraction * b.fraction, negative_zero=negative)


def divide(a: Number, b: Number) -> Number:
    """a / b. 0/0 and inf/inf give NaN, x/0 an infinity, x/inf a zero."""
    if a.is_nan or b.is_nan or (a.is_zero and b.is_zero) or (a.is_infinite and b.is_infinite):
        return NAN
    negative = a.negative != b.negative
    if a.is_infinite or b.is_zero:
        return infinity(negative)
    if b.is_infinite:
        return finite(0, negative_zero=negative)
    return finite(a.fraction / b.fraction, negative_zero=negative)


def multiply_add(a: Number, b: Number, c: Number) -> Number:
    """a * b + c with nothing rounded between: the fused operation's exact result."""
    return add(multiply(a, b), c)


OPERATIONS: dict[str, Callable[..., Number]] = {
    "add": add,
    "sub": subtract,
    "mul": multiply,
    "div": divide,
    "fma": multiply_add,
}


def running_sums(terms: Sequence[int], fmt: Format = FLOAT16) -> list[int]:
    """Patterns of the partial sums, each rounded to ``fmt``, one term after another; the last is the sum."""
    sums = [terms[0]]
    for term in terms[1:]:
        sums.append(fmt.encode(add(fmt.decode(sums[-1]), fmt.decode(term))))
    return sums


def pairwise_sum(terms: Sequence[int], fmt: Format = FLOAT16) -> int:
    """Sum of the halves' sums, each rounded to ``fmt``: the error grows with log(n), not n (Higham 2002, 4.2)."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    left, right = pairwise_sum(terms[:half], fmt), pairwise_sum(terms[half:], fmt)
    return fmt.encode(add(fmt.decode(left), fmt.decode(right)))


def float32_sum(terms: Sequence[int]) -> int:
    """The float32 pattern of float16 terms added one after another in float32, as Tensor Cores accumulate.

    Each step rounds to nearest, as IEEE 754 asks. Tensor Cores align several products at once and cut bits off there,
    so their last bits differ (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores").
    """
    return running_sums([FLOAT32.encode(FLOAT16.decode(term)) for term in terms], FLOAT32)[-1]


def exact_sum(terms: Sequence[Number]) -> Number:
    """The sum with nothing rounded."""
    total = terms[0]
    for term in terms[1:]:
        total = add(total, term)
    return total
