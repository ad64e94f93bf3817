"""What a version has learnt and what its inputs are, in words: for `tfhalf inspect` and the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.text import printable

_LISTED = 12


def contents(manifest: Manifest, lookups: Lookups) -> dict[str, list[str]]:
    """Of ``task``, ``columns`` and ``words`` what there is to say, each as lines: the task of each output with its
    classes or targets; the table's columns of each input; categories and vocabularies."""
    said = {
        "task": [f"{printable(name, 60)}: {_task(facts)}" for name, facts in manifest.tasks.items()],
        "columns": [
            f"{printable(name, 60)}: {listed(names)}"
            for name, names in manifest.columns.items()
            if tuple(names) != (name,) or name not in lookups.by_input
        ],
        "words": [f"{printable(name, 60)}: {_words(lookup)}" for name, lookup in lookups.by_input.items()],
    }
    return {what: lines for what, lines in said.items() if lines}


def listed(names: Sequence[Any]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(printable(str(name), 40) or "(no name)" for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else "")


def _task(facts: Mapping[str, Any]) -> str:
    name, unit = printable(str(facts.get("name")), 60), printable(str(facts.get("unit") or ""), 40)
    names, columns = (facts.get(key) for key in ("class_names", "columns"))
    if isinstance(names, list | tuple) and names:
        return f"{name}, {len(names):,} classes: {listed(names)}"
    of = f" of {listed(columns)}" if isinstance(columns, list | tuple) and columns else ""
    return f"{name}{of}{f' in {unit}' if unit else ''}"


def _words(lookup: Lookup) -> str:
    if lookup.kind == "text":
        return f"texts of up to {lookup.length:,} {lookup.noun}, of a vocabulary of {len(lookup.words):,}"
    known = [word for word in lookup.words if word]
    return f"{len(known):,} categor{'y' if len(known) == 1 else 'ies'}: {listed(known)}"
