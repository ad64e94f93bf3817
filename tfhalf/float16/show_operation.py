"""What is printed of an operation, and of a sum."""

from __future__ import annotations

from tfhalf.float16 import text
from tfhalf.float16.entry import Entry, Error
from tfhalf.float16.formats import FLOAT16, Number
from tfhalf.float16.lines import LABEL, error_of, line, shown, signed, warnings
from tfhalf.float16.losses import Loss
from tfhalf.float16.operations import Operation, held
from tfhalf.float16.parse import Parsed
from tfhalf.float16.sums import Sum

_ROWS = 12  # of a running sum; a longer one is shown at its start, where it stalls, and at its end
_WAYS = {
    "sequential": "one after another in float16",
    "pairwise": "pairwise in float16",
    "float32": "float32 accumulator, then rounded",
    "exact": "exact, rounded once",
}


def lines_of(found: Operation | Sum) -> list[str]:
    """The lines of either."""
    return _sum(found) if isinstance(found, Sum) else _operation(found)


def _operation(found: Operation) -> list[str]:
    signs = {"add": "a + b", "sub": "a - b", "mul": "a * b", "div": "a / b", "fma": "a * b + c, rounded once"}
    lines = line(found.op, signs[found.op])
    for name, parsed in zip("abc", found.parsed, strict=False):
        lines += line(name, _operand(parsed))
    lines += ["", *line("exact", _exactly(found.exact))]
    lines += line("float16", _result(found.result))
    if found.in_steps is not None:
        lines += line("in 2 steps", _result(found.in_steps))
    lines += line("float32", _result(found.wide))
    lines += _as_given(found.as_given, found.result)
    return [*lines, *_lost(found.losses, found.result)]


def _operand(parsed: Parsed) -> str:
    entry = Entry(FLOAT16, parsed.number, parsed.float16)
    shown_value = f"{text.exact(entry.value)}  {entry.hex}"
    if parsed.text in (text.exact(entry.value), entry.hex):
        return shown_value
    if held(parsed):
        return f"{shown_value}  from {shown(parsed)}"
    loss = f", {entry.loss.word.upper()}" if entry.loss else ""
    changed = f" by {signed(entry.error.absolute)}" if entry.error else ""
    return f"{shown_value}  from {shown(parsed)}, changed{changed} in rounding to float16{loss}"


def _exactly(number: Number) -> str:
    digits = text.exact(number)
    if "/" in digits:
        return f"{text.cut(digits, 60)} = {text.brief(number.fraction, 17)}..."
    return text.cut(digits, 80)


def _result(entry: Entry) -> str:
    digits = text.cut(text.exact(entry.value), 40)
    if entry.error is None:
        return f"{digits}  {entry.hex}"
    note = "exact" if entry.is_exact else f"error {error_of(entry.error)}"
    return f"{digits}  {entry.hex}  {note}"


def _as_given(number: Number | None, result: Entry) -> list[str]:
    """How the float16 result compares with the numbers as they were typed, where float16 changed some of them."""
    if number is None:
        return []
    error = Error.of(FLOAT16, number, result.bits)
    note = f"; float16 is off by {error_of(error)}" if error else f"; float16 gives {text.exact(result.value)}"
    return line("as typed", f"exact {text.cut(_exactly(number), 40)}{note}")


def _lost(found: list[Loss], result: Entry) -> list[str]:
    lines = warnings(found, "lost")
    if lines:
        return lines
    return line(
        "lost", "nothing: float16 has the exact result" if result.is_exact else "only what the one rounding took"
    )


def _sum(found: Sum) -> list[str]:
    changed = sum(not held(parsed) for parsed in found.parsed)
    note = f"{changed:,} of them changed in rounding to float16" if changed else "float16 has them all"
    lines = [*line("sum", f"of {len(found.parsed):,} terms; {note}"), "", *line("exact", _exactly(found.exact)), ""]
    lines.append(f"{'float16':<{LABEL}}{'':<35}{'sum':<16}{'pattern':<9}error")
    for way, entry in found.ways.items():
        lines.append(_way(_WAYS[way], entry))
    lines += _as_given(found.as_given, found.ways["sequential"])
    lines += ["", *_running(found), ""]
    return [*lines, *_lost(found.losses, found.ways["sequential"])]


def _way(name: str, entry: Entry) -> str:
    digits = text.exact(entry.value)
    if len(digits) > 14:
        digits = text.shortest(FLOAT16, entry.bits)
    if entry.error is None:
        error = ""
    elif not entry.error.absolute:
        error = "0"
    else:
        relative = f", {text.brief(abs(entry.error.relative), 3)} relative" if entry.error.relative else ""
        error = signed(entry.error.absolute, 3) + relative
    return f"{'':<{LABEL}}{name:<35}{digits:<16}{entry.hex:<9}{error}".rstrip()


def _running(found: Sum) -> list[str]:
    count = len(found.terms)
    shown = set(range(1, count + 1))
    if count > _ROWS:
        start = found.stall[0] if found.stall else 0
        shown = {1, 2, 3, *range(start - 2, start + 3), count - 1, count} & shown
    lines, before = [f"{'running':<{LABEL}}{'':>6}  {'term':<26}sum"], 0
    for position in sorted(shown):
        if position != before + 1:
            lines.append(f"{'':<{LABEL}}{'...':>6}")
        term, total = (text.exact(FLOAT16.decode(bits[position - 1])) for bits in (found.terms, found.running))
        mark = "  absorbed" if position in found.absorbed else ""
        lines.append(f"{'':<{LABEL}}{position:>6}  {term:<26}{total}{mark}")
        before = position
    return lines
