"""Cells on a Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cell import PIPELINE
from ray_nodes import WITH_RAY, two_nodes

from tfhalf.compare.cluster import run_task
from tfhalf.compare.matrix import CELLS, Matrix
from tfhalf.compare.plan import Plan, make_plan
from tfhalf.compare.table import make_table
from tfhalf.errors import ConfigError
from tfhalf.progress import Progress

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    path = tmp_path / "small.yaml"
    path.write_text(PIPELINE)
    return make_plan(path, policies="float32,mixed_bfloat16", seeds=3)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from two_nodes(monkeypatch, f"{TESTS}:{TESTS.parent}")


def run(plan: Plan, folder: Path, ray: str | None) -> dict[str, object]:
    matrix = Matrix(plan, folder, Progress(io.StringIO()), worker="fake_cell", ray=ray)
    return make_table(plan, matrix.run(), command="same").to_dict()


@WITH_RAY
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_nodes_give_the_table_of_one_process(
    plan: Plan, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(plan, tmp_path / "two", address) == run(plan, tmp_path / "one", None)
    assert not list((tmp_path / "two").glob(".shared-*"))
    more = make_plan(plan.source, policies="float32,mixed_bfloat16", seeds=4)
    assert run(more, tmp_path / "two", address) == run(more, tmp_path / "one", None)
    log = (tmp_path / "two" / CELLS / "log.txt").read_text()
    assert log.count("begun") == 8
    assert "again" not in log


@WITH_RAY
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_address_without_a_cluster(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--ray 127\.0\.0\.1:9: no cluster answers there .*; start one with"):
        run(plan, tmp_path / "out", "127.0.0.1:9")


def test_without_ray(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install 'tfhalf\[ray\]'"):
        run(plan, tmp_path / "out", "auto")


def test_a_folder_that_a_machine_does_not_see(tmp_path: Path) -> None:
    answer = run_task("fake_cell", {}, str(tmp_path / "elsewhere" / "token"))
    assert "is not seen by every machine of the cluster; give an --out that is" in answer["error"]


def test_a_task_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    token = tmp_path / "token"
    token.touch()
    (tmp_path / "cell").mkdir()
    overrides = ["precision.policy=float32", "seed=2"]
    request = {"folder": str(tmp_path / "cell"), "overrides": overrides, "at_once": 1}
    assert run_task("fake_cell", request, str(token))["metrics"] == {"accuracy": 0.902}
    monkeypatch.setenv("FAKE_CELL", json.dumps({"float32": "killed"}))
    assert run_task("fake_cell", request, str(token)) == {"error": "its process ended by signal 9 (Killed)"}
