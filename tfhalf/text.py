"""Text that came out of a file, made fit for a terminal: `clean`, which every line and error of tfhalf goes through."""

from __future__ import annotations

import re
import unicodedata

MAX_LINE = 4000
# A terminal's own commands, as colours are: ECMA-48's control sequences, and those that end with BEL or ST.
_COMMANDS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x9b[0-?]*[ -/]*[@-~]")
_EMPTY = ("", "na", "n/a", "nan", "null", "none")
_JOINERS = "\u200c\u200d"  # parts of words and of emoji


def clean(text: str) -> str:
    """``text`` as one line without what a terminal would act on: control and formatting characters (among them those
    that turn the direction of writing) become ``?``, line ends and tabs become blanks, and very long text is cut."""
    if len(text) > MAX_LINE:
        text = f"{text[: MAX_LINE - 200]}...{text[-190:]}"
    if text.isprintable():
        return text
    return "".join(map(_shown, _COMMANDS.sub("", text)))


def printable(text: str, length: int = 200) -> str:
    """A name out of a file as it may be shown: no control characters, cut in its middle to ``length``."""
    shown = clean(text[: 4 * length])
    return shown if len(shown) <= length else f"{shown[: length // 2 - 2]}...{shown[-(length - length // 2 - 1) :]}"


def one_line(error: BaseException, length: int = 300) -> str:
    """What an exception says, or what it is called where it says nothing."""
    return printable(" ".join(str(error).split()), length) or type(error).__name__


def first_line(error: BaseException, length: int = 300) -> str:
    """The first line of what an exception says, for those whose other lines are advice of a library's own."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return printable(said, length)


def is_empty_cell(cell: str) -> bool:
    """Whether a table's ``cell`` is blank, or says in a word that its value is not known."""
    return cell.strip().lower() in _EMPTY


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    if character.isspace() and unicodedata.category(character) in ("Cc", "Zs"):
        return " "
    return "?"
