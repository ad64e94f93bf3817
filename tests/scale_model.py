"""The loss scale's algorithm as its docstring has it, run in Python's own numbers."""

from __future__ import annotations

import textwrap
from itertools import takewhile
from types import CodeType
from typing import Any

from tfhalf.precision.loss_scale import Rule, ScaleState, next_state


def pseudocode() -> CodeType:
    """What stands in the docstring of `next_state`: it is Python."""
    text = (next_state.__doc__ or "").split("::\n", 1)[1]
    lines = takewhile(lambda line: not line or line.startswith("        "), text.splitlines()[1:])
    return compile(textwrap.dedent("\n".join(lines)), "pseudocode", "exec")


PSEUDOCODE = pseudocode()


def model(state: ScaleState, finite: bool, rule: Rule) -> ScaleState:
    """The pseudocode run as it stands, in Python's own numbers: float64 and integers without end."""
    names: dict[str, Any] = {**state._asdict(), **rule._asdict(), "finite": finite}
    exec(PSEUDOCODE, names)
    return ScaleState(*(names[name] for name in ScaleState._fields))
