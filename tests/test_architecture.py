"""The house as DESIGN describes it: who may import whom, what a glance at the command costs, what every file owes."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "tfhalf"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "starters" not in path.parts)

# From the top. A room imports from rooms below it (and within itself); rooms of one floor do not know each other.
FLOORS = (
    "__main__ __init__",
    "api cli",
    "compare",
    "workflows",
    "export",
    "bench serve",
    "verify",
    "numerics runtimes",
    "inspect train",
    "artifacts data tasks",
    "config float16 precision system",
    "progress",
    "files",
    "errors",
    "_version text",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}


def name(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def import_nodes(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Every statement of a file that imports, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def imports(path: Path) -> set[str]:
    """Modules of tfhalf that a file imports, wherever in it: in functions and for type checkers alone, too."""
    found = set()
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "tfhalf"}
        else:
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if (node.module or "").split(".")[0] == "tfhalf":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    there = CHECKOUT.joinpath(*inner.split("."))
                    found.add(inner if there.is_dir() or there.with_suffix(".py").is_file() else node.module)
    return found


GRAPH = {name(path): imports(path) for path in FILES}


def test_every_file_has_its_room() -> None:
    assert {room(module) for module in GRAPH} == set(FLOOR)


@pytest.mark.parametrize("module", GRAPH)
def test_imports_run_one_way(module: str) -> None:
    for other in GRAPH[module]:
        here, there = room(module), room(other)
        if here != there:
            assert FLOOR[here] < FLOOR[there], f"{module} imports {other}"


def test_the_checks_of_the_machine_are_for_the_command_alone() -> None:
    assert {module for module, others in GRAPH.items() if "tfhalf.system.doctor" in others} == {"tfhalf.cli.doctor"}


def test_what_judges_knows_nothing_of_training() -> None:
    """The fresh process must not be able to fall back on what trained the model."""
    seen, todo = set(), ["tfhalf.verify.process"]
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += GRAPH.get(module, GRAPH.get(f"{module}.__init__", set()))
    assert not {module for module in seen if room(module) in ("train", "precision", "data", "workflows")}


def test_an_export_knows_no_training() -> None:
    """It works on what a run folder or a model file holds."""
    assert not {
        module for module, others in GRAPH.items() if room(module) == "export" if {*map(room, others)} & {"train"}
    }


def test_no_cycles() -> None:
    """Of files, whatever they import and wherever."""
    graph = {module.removesuffix(".__init__"): others for module, others in GRAPH.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        if module in done:
            return
        for other in graph.get(module, ()):
            visit(other, (*above, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_tests_lie_in_folders_named_as_the_rooms() -> None:
    """What whole commands do, and helpers of several rooms, lie above them."""
    folders = {path.parent.name for path in (CHECKOUT / "tests").glob("*/test_*.py")}
    assert folders <= set(FLOOR)
    assert set(FLOOR) - folders == {"__main__", "__init__", "_version", "errors", "files", "progress", "text"}


def importers(package: str) -> set[str]:
    """Files that import ``package`` anywhere."""
    found = set()
    for path in FILES:
        for node in import_nodes(path):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if any(n.split(".")[0] == package for n in names):
                found.add(name(path))
    return found


def test_tensorflow_stays_where_it_is_needed() -> None:
    train = {module for module in importers("tensorflow") if room(module) == "train"}
    folders = ("feeds", "kernels", "remat", "diagnose")
    parts = (*folders, "step", "evaluate", "heads", "stages", "traced", "objective", "tasks")
    train.remove("tfhalf.train.optim.stochastic")  # the optimizers themselves are Keras' alone
    assert {".".join(module.split(".")[:3]) for module in train} <= {f"tfhalf.train.{part}" for part in parts}
    rooms = "bench data export numerics precision runtimes system tasks train"
    assert {room(module) for module in importers("tensorflow")} <= set(rooms.split())
    assert {m for m in importers("tensorflow") if room(m) == "runtimes"} == {"tfhalf.runtimes.tensorflow"}
    assert {room(module) for module in importers("onnx")} <= {"export", "inspect", "runtimes"}
    assert {room(module) for module in importers("onnxruntime")} == {"runtimes", "system"}


def test_the_map_of_rooms_is_complete() -> None:
    """The table in CONTRIBUTING: each room in the order of its floor, and each folder within one that has some."""
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("\n## ")[0]
    listed = re.findall(r"`([a-z0-9_]+)(?:/|\.py)`", "".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE)))
    assert set(listed) == {room for room in FLOOR if not room.startswith("__")}
    floors = [FLOOR[room] for room in listed]
    assert floors == sorted(floors)
    inner = {path.parent.relative_to(PACKAGE).as_posix() for path in FILES if len(path.relative_to(PACKAGE).parts) > 2}
    assert inner == set(re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_]+)+)/`", text))


# --- what the command costs -------------------------------------------------------------------------------------------


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, json\n"
        "from click.testing import CliRunner\n"
        "from tfhalf.cli import main\n"
        "result = CliRunner().invoke(main, ['--help'])\n"
        "assert result.exit_code == 0 and 'train' in result.output\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    loaded = set(json.loads(python(code)))
    heavy = (
        "tensorflow",
        "keras",
        "onnx",
        "onnxruntime",
        "tf2onnx",
        "pydantic",
        "numpy",
        "sklearn",
        "PIL",
        "tensorflow_datasets",
    )
    assert not {module for module in heavy if module in loaded}


def test_the_command_is_imported_fast() -> None:
    code = "import time; start = time.process_time(); import tfhalf.cli; print(time.process_time() - start)"
    assert min(float(python(code)) for _ in range(5)) < 0.3


# --- what every file owes ---------------------------------------------------------------------------------------------


def undocumented(tree: ast.AST, where: str) -> list[str]:
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            overrides = isinstance(tree, ast.ClassDef) and node.name in ("build", "call", "update_step")
            if not ast.get_docstring(node) and not overrides:
                found.append(f"{where}.{node.name}")
            if isinstance(node, ast.ClassDef):
                found += undocumented(node, f"{where}.{node.name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "no docstring"
    assert undocumented(tree, name(path)) == []
    assert text.count("\n") <= 340


def test_models_are_files_of_their_own() -> None:
    for path in CHECKOUT.glob("models/*.py"):
        text = path.read_text(encoding="utf-8")
        assert "tfhalf" not in text.replace("tfhalf train", "")
        assert ast.get_docstring(ast.parse(text))
