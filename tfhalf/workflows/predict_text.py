"""Texts for `tfhalf predict`: of the command line, and of files that hold one a line, as the numbers of their words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import InputError
from tfhalf.files import read_bytes
from tfhalf.text import one_line, printable

MAX_CHARACTERS = 1 << 20
"""Of one text."""
MAX_BYTES = 256 << 20
"""Of a file of texts."""
_BATCH = 64
_SHOWN = 60  # characters of a text that a line of the terminal shows
_TABLES = (".csv", ".tsv")

Answer = Callable[[Mapping[str, np.ndarray], int], Sequence[Mapping[str, Any]]]
"""Of inputs by name and their number what is said of each item."""


@dataclass(frozen=True)
class TextItem:
    """A text, and in ``where`` what says which one it is."""

    text: str
    where: Mapping[str, Any]


def takes_texts(manifest: Manifest, lookups: Lookups, files: Sequence[Path] = ()) -> bool:
    """Whether a version's only input is text; ``files`` that are tables are not texts, one a line."""
    lookup = lookups.by_input.get(manifest.inputs[0].name) if len(manifest.inputs) == 1 else None
    return lookup is not None and lookup.kind == "text" and not any(file.suffix.lower() in _TABLES for file in files)


def predict_texts(
    manifest: Manifest, lookups: Lookups, texts: Sequence[str], files: Sequence[Path], answer: Answer
) -> Iterator[dict[str, Any]]:
    """What ``answer`` says of each of ``texts``, and of each line of ``files``.

    Yields:
        ``text`` (of a file also ``file`` and ``line``), ``words``: how many it has, ``unknown``: how many of those that
        count the version does not know, ``cut``: how many it does not look at, ``noun``: what they are, where not
        words; and what ``answer`` gives.

    Raises:
        InputError: there are none, a text is too long, or a file cannot be read or is not UTF-8.
    """
    (port,) = manifest.inputs
    lookup, size = lookups.by_input[port.name], manifest.batch or _BATCH
    items = _items(texts, files)
    while batch := list(islice(items, size)):
        numbers = lookup.encode([item.text for item in batch])
        for item, row, said in zip(batch, numbers, answer({port.name: numbers}, len(batch)), strict=True):
            yield {**item.where, "text": item.text, **_counts(item.text, row, lookup), **said}


def in_words(answer: Mapping[str, Any]) -> str:
    """Which text an answer of `predict_texts` is for, and what of it did not count."""
    where = f"{answer['file']}:{answer['line']} " if "file" in answer else ""
    text = printable(answer["text"], _SHOWN)
    counted, noun = answer["words"] - answer["cut"], answer.get("noun", "words")
    notes = [f"{answer['unknown']} of {counted} {noun} unknown"] if answer["unknown"] else []
    notes += [f"{answer['cut']} more {noun} not looked at"] if answer["cut"] else []
    notes += [f"no {noun}"] if not answer["words"] else []
    return f'{where}"{text}"' + (f" ({', '.join(notes)})" if notes else "")


def _counts(text: str, row: np.ndarray, lookup: Lookup) -> dict[str, Any]:
    words = len(lookup.words_of(text))
    counts = {"words": words, "unknown": int((row == 1).sum()), "cut": max(0, words - lookup.length)}
    return counts if lookup.noun == "words" else {**counts, "noun": lookup.noun}


def _items(texts: Sequence[str], files: Sequence[Path]) -> Iterator[TextItem]:
    for number, text in enumerate(texts, 1):
        if not _is_unicode(text):
            raise InputError(f"--text {number} is not UTF-8; accepted: Unicode text; set the terminal to UTF-8")
        yield TextItem(_bounded(text, f"--text {number}"), {})
    for path in files:
        lines = _lines(path)
        if not any(line.strip() for line in lines):
            raise InputError(f"{path}: holds no text; one a line is needed; add some")
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield TextItem(_bounded(line, f"{path}, line {number}"), {"file": str(path), "line": number})


def _bounded(text: str, where: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where} has {len(text):,} characters; accepted: {MAX_CHARACTERS:,}; shorten it")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path) -> list[str]:
    try:
        return read_bytes(path, MAX_BYTES).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except FileNotFoundError:
        raise InputError(
            f"{path}: does not exist; this version takes texts: give a file of them, one a line, or --text TEXT"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error, 120)}); give a file of texts, one a line") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line} is not UTF-8; accepted: UTF-8; save it as UTF-8") from None
