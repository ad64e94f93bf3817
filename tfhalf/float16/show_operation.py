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


def lines_of(computed: Operation | Sum) -> list[str]:
    """The lines of either."""
    return _sum(computed) if isinstance(computed, Sum) else _operation(computed)


def _operation(computed: Operation) -> list[str]:
    signs = {"add": "a + b", "sub": "a - b", "mul": "a * b", "div": "a / b", "fma": "a * b + c, rounded once"}
    lines = line(computed.op, signs[computed.op])
    for name, parsed in zip("abc", computed.parsed, strict=False):
        lines += line(name, _operand(parsed))
    lines += ["", *line("exact", _exactly(computed.exact))]
    lines += line("float16", _result(computed.result))
    if computed.in_steps is not None:
        lines += line("in 2 steps", _result(computed.in_steps))
    lines += line("float32", _result(computed.wide))
    lines += _as_typed(computed.as_typed, computed.result)
    return [*lines, *_lost(computed.losses, computed.result)]


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


def _as_typed(number: Number | None, result: Entry) -> list[str]:
    """How the float16 result compares with the numbers as they were typed, where float16 changed some of them."""
    if number is None:
        return []
    error = Error.of(FLOAT16, number, result.bits)
    note = f"; float16 is off by {error_of(error)}" if error else f"; float16 gives {text.exact(result.value)}"
    return line("as typed", f"exact {text.cut(_exactly(number), 40)}{note}")


def _lost(losses: list[Loss], result: Entry) -> list[str]:
    lines = warnings(losses, "lost")
    if lines:
        return lines
    return line(
        "lost", "nothing: float16 has the exact result" if result.is_exact else "only what the one rounding took"
    )


def _sum(computed: Sum) -> list[str]:
    changed = sum(not held(parsed) for parsed in computed.parsed)
    note = f"{changed:,} of them changed in rounding to float16" if changed else "float16 has them all"
    lines = [
        *line("sum", f"of {len(computed.parsed):,} terms; {note}"),
        "",
        *line("exact", _exactly(computed.exact)),
        "",
    ]
    lines.append(f"{'float16':<{LABEL}}{'':<35}{'sum':<16}{'pattern':<9}error")
    for way, entry in computed.ways.items():
        lines.append(_way(_WAYS[way], entry))
    lines += _as_typed(computed.as_typed, computed.ways["sequential"])
    lines += ["", *_running(computed), ""]
    return [*lines, *_lost(computed.losses, computed.ways["sequential"])]


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


def _running(computed: Sum) -> list[str]:
    count = len(computed.terms)
    shown = set(range(1, count + 1))
    if count > _ROWS:
        start = computed.stall[0] if computed.stall else 0
        shown = {1, 2, 3, *range(start - 2, start + 3), count - 1, count} & shown
    lines, before = [f"{'running':<{LABEL}}{'':>6}  {'term':<26}sum"], 0
    for position in sorted(shown):
        if position != before + 1:
            lines.append(f"{'':<{LABEL}}{'...':>6}")
        term, total = (text.exact(FLOAT16.decode(bits[position - 1])) for bits in (computed.terms, computed.running))
        mark = "  absorbed" if position in computed.absorbed else ""
        lines.append(f"{'':<{LABEL}}{position:>6}  {term:<26}{total}{mark}")
        before = position
    return lines
