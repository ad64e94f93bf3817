"""docs/api.md: its blocks run as they stand, each section in a process of its own, all in one folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tfhalf

CHECKOUT = Path(__file__).resolve().parents[2]
TEXT = (CHECKOUT / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0]: "\n".join(re.findall(r"^```python\n(.*?)^```$", part, re.MULTILINE | re.DOTALL))
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `tfhalf init` writes."""
    there = tmp_path_factory.mktemp("docs")
    for name in ("pipelines", "models"):
        shutil.copytree(CHECKOUT / name, there / name, ignore=shutil.ignore_patterns("__pycache__"))
    return there


@pytest.mark.slow
@pytest.mark.parametrize("section", [title for title, code in SECTIONS.items() if code])
def test_blocks_run_as_written(section: str, folder: Path) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", SECTIONS[section]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or section == "Load it and go on"


def test_every_function_stands_in_the_docs() -> None:
    errors = {name for name in tfhalf.__all__ if name.endswith("Error") or name == "Interrupted"}
    results = {"Artifact", "ExportedModel", "OutputComparison", "Pipeline", "Verification", "__version__"}
    for name in set(tfhalf.__all__) - results - errors:
        assert f"`{name}(" in TEXT, name
    tree = TEXT[TEXT.rindex("```\nTfhalfError") :]
    assert errors == set(re.findall(r"\w+Error\b|Interrupted", tree)) | {"TfhalfError"}


def test_the_tree_is_the_one_of_the_code() -> None:
    drawn = re.findall(r"([|` -]*)(\w+(?:Error)|Interrupted)\b", TEXT[TEXT.rindex("```\nTfhalfError") + 4 :])
    above: list[str] = []
    for margin, name in drawn:
        depth = len(margin) // 4
        above[depth:] = [name]
        parents = {base.__name__ for base in getattr(tfhalf, name).__mro__}
        assert set(above) <= parents, name
