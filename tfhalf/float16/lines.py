"""The lines that `tfhalf.float16.show` and `tfhalf.float16.show_operation` are made of."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from fractions import Fraction

from tfhalf.float16 import text
from tfhalf.float16.entry import Error
from tfhalf.float16.losses import Loss
from tfhalf.float16.parse import Parsed

WIDTH = 100
LABEL = 11


def shown(parsed: Parsed) -> str:
    """A number as it was typed, if that is not too long."""
    return text.cut(parsed.text, 30)


def error_of(error: Error | None, against: str = "") -> str:
    """Absolute, relative and in ulps; ``against`` names what it is measured by, and gives more digits."""
    if error is None:
        return "infinite" if against else ""
    if not error.absolute:
        return "0: exact" if against else "0"
    relative = f"{text.brief(abs(error.relative), 3)} relative, " if error.relative is not None else ""
    ulps = f"{text.brief(abs(error.ulps), 3)} ulp"
    if against:
        return f"{signed(error.absolute)} against {against}: {relative}{ulps}"
    return f"{signed(error.absolute, 3)}, {relative}{ulps}"


def signed(value: Fraction, digits: int = 4) -> str:
    """A few digits, with a sign before positive ones too."""
    return ("+" if value > 0 else "") + text.brief(value, digits)


def warnings(losses: Sequence[Loss], label: str = "warning") -> list[str]:
    """Each loss under ``label``; infinities and NaN by IEEE 754's rules are called special instead."""
    lines = []
    for loss in losses:
        lines += line("special" if loss.special else label, f"{loss.word.upper()}: {loss.text}")
    return lines


def line(label: str, content: str) -> list[str]:
    """A label and its text, wrapped under itself; nothing where the text is empty."""
    wrapped = textwrap.wrap(content, WIDTH - LABEL, break_on_hyphens=False)
    return [f"{label if not i else '':<{LABEL}}{part}" for i, part in enumerate(wrapped)]
