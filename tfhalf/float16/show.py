"""What ``tfhalf float16`` prints: text of at most 100 columns, or the same as a dict for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tfhalf.float16 import show_operation, text
from tfhalf.float16.entry import RANGES, Entry, Value, facts
from tfhalf.float16.formats import FLOAT16, FORMATS, Format, exponent_of, two_to
from tfhalf.float16.lines import LABEL, error_of, line, shown, signed, warnings
from tfhalf.float16.operations import Operation, check_count
from tfhalf.float16.parse import Parsed, parse
from tfhalf.float16.sums import Sum


def look(values: Sequence[str], op: str | None, as_json: bool) -> str | dict[str, Any]:
    """Facts of the formats without ``values``; each value in the formats; with ``op``, their sum, product and so on.

    Raises:
        InputError: a value cannot be read, or ``op`` takes another number of them.
    """
    if op is not None:
        check_count(op, len(values))
    parsed = [parse(value) for value in values]
    if op is not None:
        result = Sum(parsed) if op == "sum" else Operation(op, parsed)
        return result.to_dict() if as_json else "\n".join(show_operation.lines_of(result))
    looks = [Value(one) for one in parsed]
    if as_json:
        return {"values": [one.to_dict() for one in looks]} if looks else {fmt.name: facts(fmt) for fmt in FORMATS}
    return "\n\n\n".join("\n".join(_value(one)) for one in looks) if looks else "\n".join(_facts())


# --- one number -------------------------------------------------------------------------------------------------------


def _value(value: Value) -> list[str]:
    first, *others = value.entries
    lines = [*line("given", _as_typed(value.parsed)), ""]
    lines += line("float16", f"{_fields(first)}  {first.hex}  {_class(first)}")
    lines += line("value", _written(first))
    lines += line("", _scientific(first))
    lines += line("ulp", _ulp(first))
    around = first.neighbours()
    if around is not None:
        below, above = (_neighbour(first, bits) for bits in around)
        lines += [*line("below", below), *line("above", above)]
    if value.parsed.number.is_finite:
        lines += line("error", error_of(first.error, against=shown(value.parsed)))
    if value.float64.error is not None and value.float64.error.absolute:
        lines += line("float64", f"is itself off by {signed(value.float64.error.absolute)}")
    lines += warnings([first.loss] if first.loss else [])
    for fmt, bits in value.rounded_twice():
        message = f"ROUNDED TWICE: through {fmt.name} first it becomes {text.exact(FLOAT16.decode(bits))}"
        lines += line("warning", f"{message}, {FLOAT16.hex(bits)}")
    return [*lines, "", *_beside(others)]


def _beside(entries: list[Entry]) -> list[str]:
    """A column for each entry."""
    around = [entry.neighbours() for entry in entries]
    rows = {
        "": [entry.fmt.name for entry in entries],
        "bits": [_fields(entry) for entry in entries],
        "pattern": [f"{entry.hex}  {_class(entry)}" for entry in entries],
        "value": [text.cut(text.exact(entry.value), 38) for entry in entries],
        "shortest": [text.shortest(entry.fmt, entry.bits) for entry in entries],
        "ulp": [_ulp(entry) for entry in entries],
    }
    for i, name in enumerate(("below", "above")):
        rows[name] = [_short(e, pair[i]) if pair else "" for e, pair in zip(entries, around, strict=True)]
    rows["error"] = [error_of(entry.error) for entry in entries]
    rows["warning"] = [entry.loss.word.upper() if entry.loss else "" for entry in entries]
    return [f"{name:<{LABEL}}{left:<43}{right}".rstrip() for name, (left, right) in rows.items() if left or right]


def _as_typed(parsed: Parsed) -> str:
    if parsed.pattern is not None:
        return f"{parsed.text}, taken as the bit pattern of a float16, not as the integer {parsed.pattern}"
    if not parsed.number.is_finite:
        return parsed.text
    forms = {"decimal": "a decimal", "fraction": "a fraction", "power": "a power", "hex float": "a hex float"}
    described = f"{text.cut(parsed.text, 60)}, {forms[parsed.form]}"
    if parsed.form in ("power", "hex float"):
        described += f": {text.cut(text.exact(parsed.number), 40)}"
    return described


def _fields(entry: Entry) -> str:
    return "|".join(entry.fmt.split(entry.bits))


def _class(entry: Entry) -> str:
    fmt, kind = entry.fmt, entry.fmt.kind(entry.bits)
    if kind == "NaN":
        quiet = entry.bits & fmt.nan_bits == fmt.nan_bits
        return "NaN, quiet" if quiet else "NaN, signalling"
    if kind == "subnormal":
        return f"subnormal, {fmt.significant_bits(entry.bits)} of {fmt.p} bits"
    return kind


def _written(entry: Entry) -> str:
    digits, short = text.exact(entry.value), text.shortest(entry.fmt, entry.bits)
    if short.removesuffix(".0") == digits:
        return digits
    return f"{digits}, of which {short} is the shortest decimal that reads back"


def _scientific(entry: Entry) -> str:
    """The fields as arithmetic: ``= 1.599609375 x 2^-4``."""
    value, fmt = entry.value, entry.fmt
    if not value.is_finite or value.is_zero:
        return ""
    e = max(exponent_of(value.fraction), fmt.emin)
    return f"= {text.exact(value.fraction / two_to(e))} x 2^{e}"


def _neighbour(entry: Entry, bits: int) -> str:
    if bits == entry.bits:  # an infinity has nothing beyond it
        return "none"
    return f"{text.exact(entry.fmt.decode(bits))}  {entry.fmt.hex(bits)}"


def _short(entry: Entry, bits: int) -> str:
    return text.shortest(entry.fmt, bits) if bits != entry.bits else "none"


def _ulp(entry: Entry) -> str:
    ulp = entry.fmt.ulp(entry.bits)
    return "none" if ulp is None else text.power(ulp)


# --- the formats ------------------------------------------------------------------------------------------------------


def _facts() -> list[str]:
    def row(name: str, cells: Sequence[str]) -> str:
        return f"{name:<31}" + "".join(f"{cell:<23}" for cell in cells).rstrip()

    def both(value: Fraction) -> str:
        return text.power(value) if value == two_to(exponent_of(value)) else text.brief(value, 8)

    lines = [row("", [fmt.name for fmt in FORMATS])]
    lines.append(
        row("bits, sign+exponent+fraction", [f"{f.bits}: 1+{f.exponent_bits}+{f.fraction_bits}" for f in FORMATS])
    )
    lines.append(row("significand", [_significand(fmt) for fmt in FORMATS]))
    for name, attribute in (
        ("largest", "largest"),
        ("infinity from", "overflows_from"),
        ("smallest normal", "smallest_normal"),
        ("smallest subnormal", "smallest_subnormal"),
        ("zero up to", "flushed_up_to"),
        ("epsilon, from 1 to the next", "epsilon"),
    ):
        lines.append(row(name, [both(getattr(fmt, attribute)) for fmt in FORMATS]))
    lines.append(row("every integer up to", [f"{1 << fmt.p:,}" for fmt in FORMATS]))
    for low, high in RANGES:
        name = f"spacing in [{_edge(low)}, {_edge(high)})"
        lines.append(row(name, [text.power(fmt.spacing(low)) for fmt in FORMATS]))
    return [*lines, "", "tfhalf float16 0.1 looks at a number; tfhalf float16 --op add 2048 1 computes with some"]


def _significand(fmt: Format) -> str:
    return f"{fmt.p} bits = {fmt.p * math.log10(2):.2f} digits"


def _edge(value: Fraction) -> str:
    return text.exact(value) if value >= 1 or value == two_to(-1) else f"2^{exponent_of(value)}"
