"""Names say what a thing is: words that CONTRIBUTING.md lists under "Not used for names" name nothing that is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDERS = ("tfhalf", "benchmarks", "models")

# Names of other libraries: asyncio calls a protocol's method so.
THEIRS = {"benchmarks": {"connection_made"}, "tfhalf/serve": {"connection_made"}}


def listed_words() -> set[str]:
    """The words of CONTRIBUTING.md."""
    listed = re.search(r"^Not used for names: ([a-z, \n]+)\.", (CHECKOUT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert listed is not None
    return set(re.split(r",\s+", listed[1]))


WORDS = listed_words()


def named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that code binds, with its line: functions, classes, arguments, variables, attributes, imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def parts(name: str) -> set[str]:
    """``_last_place`` and ``LastPlace`` as ``last`` and ``place``."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def misnamed(path: Path) -> list[str]:
    """The lines of a file on which a name has one of the words, and is not another library's."""
    where = path.relative_to(CHECKOUT).as_posix()
    theirs = {name for folder, names in THEIRS.items() if where.startswith(f"{folder}/") for name in names}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    rows = dict.fromkeys(row for row in named(tree) if parts(row[1]) & WORDS and row[1] not in theirs)
    return [f"{where}:{line}: {name}" for line, name in rows]


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_say_what_a_thing_is(folder: str) -> None:
    files = sorted((CHECKOUT / folder).rglob("*.py"))
    assert files
    assert [row for path in files for row in misnamed(path)] == []


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("found = 1", ["found"]),
        ("for place, x in rows: pass", ["place"]),
        ("def ask(given, *made, **told): pass", ["ask", "given", "made", "told"]),
        ("class PlacedFound: pass", ["PlacedFound"]),
        ("self._last_place = 1", ["_last_place"]),
        ("import a as oracle", ["oracle"]),
        ("x = [room for room in y]", ["room"]),
        ("MAX_GIVEN: int = 1", ["MAX_GIVEN"]),
        ("x = y.found(place=1); asked = places = foundation = 1", []),
    ],
)
def test_a_name_is_seen(code: str, names: list[str]) -> None:
    assert sorted(name for _, name in named(ast.parse(code)) if parts(name) & WORDS) == sorted(names)
