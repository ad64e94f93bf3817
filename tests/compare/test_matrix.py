"""Cells run once each, whatever happens meanwhile."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_cell import PIPELINE, result_of

from tfhalf.compare.cell import RESULT
from tfhalf.compare.matrix import CELLS, Matrix
from tfhalf.compare.plan import Cell, Plan, make_plan
from tfhalf.compare.records import Result
from tfhalf.compare.report.cells import grid
from tfhalf.compare.report.wording import headline, notes
from tfhalf.compare.table import make_table
from tfhalf.errors import ConfigError
from tfhalf.progress import Progress

TESTS = Path(__file__).resolve().parent.parent
RUN = """
import sys
from pathlib import Path
from tfhalf.compare.matrix import Matrix
from tfhalf.compare.plan import make_plan
from tfhalf.progress import Progress
plan = make_plan(Path(sys.argv[1]), policies="float32,mixed_float16,mixed_bfloat16", seeds=2)
Matrix(plan, Path(sys.argv[2]), Progress(quiet=True), worker="fake_cell").run()
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    path = tmp_path / "small.yaml"
    path.write_text(PIPELINE)
    return make_plan(path, policies="float32,mixed_float16,mixed_bfloat16", seeds=2)


def run(plan: Plan, folder: Path, **options: Any) -> tuple[Matrix, str]:
    out = io.StringIO()
    matrix = Matrix(plan, folder, Progress(out), worker="fake_cell", **options)
    matrix.run()
    return matrix, out.getvalue()


def table(plan: Plan, matrix: Matrix) -> dict[str, object]:
    return make_table(plan, matrix.results, command="same").to_dict()


def test_all_cells_and_then_none(plan: Plan, tmp_path: Path) -> None:
    first, said = run(plan, tmp_path / "out")
    assert len(first.results) == 6
    assert "compare    6 trainings: 3 settings x 2 seeds" in said
    assert "    1/6    float32, seed 0: accuracy 90.00 %; " in said
    assert "the last one" in said
    again, said = run(plan, tmp_path / "out")
    assert "6 of them have ended before, and are not run again" in said
    assert table(plan, again) == table(plan, first)
    log = (tmp_path / "out" / CELLS / "log.txt").read_text().splitlines()
    assert len(log) == 6
    more = make_plan(plan.source, policies="float32,mixed_float16,mixed_bfloat16", seeds=3)
    run(more, tmp_path / "out")
    assert len((tmp_path / "out" / CELLS / "log.txt").read_text().splitlines()) == 9


def test_several_at_once_share_the_machine(plan: Plan, tmp_path: Path) -> None:
    """All cells run, the table is the same, and the report says that speeds are not of one alone."""
    alone, _ = run(plan, tmp_path / "alone")
    shared, said = run(plan, tmp_path / "shared", at_once=3)
    assert len(shared.results) == 6
    ends = [line for line in said.splitlines() if "/6 " in line]
    assert len(ends) == 6
    one, three = make_table(plan, alone.results), make_table(plan, shared.results)
    assert [row.differences for row in one.rows] == [row.differences for row in three.rows]
    note = "up to 3 trainings shared a GPU or the machine: seconds and rates are not of one alone"
    assert note in notes(three)
    assert note not in notes(one)


def results(plan: Plan) -> dict[Cell, Result]:
    """As a matrix of fake cells gives them, without a process for each."""
    return {cell: result_of(cell.setting.policy, cell.seed) for cell in plan.cells}


def test_a_verdict_from_it(plan: Plan) -> None:
    more = make_plan(plan.source, policies="float32,mixed_float16,mixed_bfloat16", seeds=4)
    made = make_table(more, results(more))
    by_policy = {row.setting.policy: row for row in made.rows}
    assert by_policy["float32"].reference
    assert by_policy["mixed_float16"].differences["accuracy"].words == "no loss at 0.1 point: 0.00 ± 0.00"
    assert by_policy["mixed_bfloat16"].differences["accuracy"].words == "loses 1.00 ± 0.00"
    assert made.target is not None
    assert made.target.metric == "val_accuracy"
    assert by_policy["float32"].time_to is not None
    assert by_policy["float32"].time_to.seconds == 4.0


def test_a_varied_value_is_held_to_the_first_one_too(plan: Plan) -> None:
    """Under the same policy; of the first value, and of a single policy, there is nothing more to say."""
    two = make_plan(plan.source, policies="float32,mixed_float16", seeds=3, vary=["train.epochs=3,2"])
    ended = results(two)
    for cell, result in ended.items():
        if cell.setting.changes == ("train.epochs=2",):
            ended[cell] = replace(result, metrics={**result.metrics, "accuracy": result.metrics["accuracy"] - 0.05})
    table = make_table(two, ended)
    content = grid(table)
    columns = {column.name: column for column in content.columns}
    words = columns["difference to epochs=3"].cells
    assert words[:2] == ("reference", "reference")
    assert words[2:] == ("loses 5.00 ± 0.00", "loses 5.00 ± 0.00")
    assert columns["difference to float32"].cells[2] == "reference"
    said = "float32, epochs=2 and mixed_float16, epochs=2 are worse than epochs=3 under the same policy."
    assert said in headline(table)
    alone = make_plan(plan.source, policies="float32", seeds=3, vary=["train.epochs=3,2"])
    assert "difference to epochs=3" not in {column.name for column in grid(make_table(alone, results(alone))).columns}


@pytest.mark.slow
def test_killed_at_ten_instants(plan: Plan, tmp_path: Path) -> None:
    """No cell runs twice once it has ended, and the table is that of a comparison nobody stopped."""
    draw = random.Random(0)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, "-c", RUN, str(plan.source), str(killed)]
    kills = 0
    while kills < 10:
        process = subprocess.Popen(command, env=environment)
        time.sleep(draw.uniform(0.3, 2.0))
        if process.poll() is None:
            process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        process.wait()
        kills += 1
    after, _ = run(plan, killed)
    log = (killed / CELLS / "log.txt").read_text()
    assert "again" not in log
    assert log.count("begun") >= 6
    expected, _ = run(plan, whole)
    assert table(plan, after) == table(plan, expected)


def test_what_fails_is_shown_and_tried_again_on_request(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CELL", json.dumps({"mixed_float16": "failed", "mixed_bfloat16": "killed"}))
    matrix, said = run(plan, tmp_path / "out")
    assert "mixed_float16, seed 0: failed: step 3: the loss is nan; " in said
    assert "mixed_bfloat16, seed 0: failed: its process ended by signal 9 (Killed); " in said
    made = make_table(plan, matrix.results)
    assert made.rows[1].failed == dict.fromkeys(range(2), "step 3: the loss is nan")
    assert made.rows[1].metrics == {}
    assert made.rows[1].time_to is not None
    assert made.rows[1].time_to.seconds is None
    monkeypatch.setenv("FAKE_CELL", "{}")
    assert len([r for r in run(plan, tmp_path / "out")[0].results.values() if r.error]) == 4  # nobody asked
    assert not [r for r in run(plan, tmp_path / "out", retry=True)[0].results.values() if r.error]
    aside = list((tmp_path / "out" / CELLS).glob("*.failed-1"))
    assert len(aside) == 4


def test_a_pipeline_at_fault_ends_it_at_once(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CELL", json.dumps({"float32": "refused"}))
    with pytest.raises(ConfigError, match="the data is not there"):
        run(plan, tmp_path / "out")
    monkeypatch.setenv("FAKE_CELL", json.dumps({"mixed_float16": "refused"}))  # of one setting it is a failed cell
    assert len([r for r in run(plan, tmp_path / "out")[0].results.values() if r.error]) == 2
    with pytest.raises(ConfigError, match="the data is not there"):  # tried again, and nothing else is left to do
        run(plan, tmp_path / "out")
    monkeypatch.setenv("FAKE_CELL", "{}")
    assert not [r for r in run(plan, tmp_path / "out")[0].results.values() if r.error]


def test_results_that_cannot_be_read_are_made_again(plan: Plan, tmp_path: Path) -> None:
    matrix, _ = run(plan, tmp_path / "out")
    one, two, three = (matrix.cell_folder(cell) / RESULT for cell in plan.cells[:3])
    one.write_text("{")
    two.write_text('{"error": ""}')
    three.write_text("[]")
    again, said = run(plan, tmp_path / "out")
    assert "3 of them have ended before" in said
    assert table(plan, again) == table(plan, matrix)


def test_two_at_once_are_refused(plan: Plan, tmp_path: Path) -> None:
    from tfhalf.train.record.run_folder import held

    (tmp_path / "out").mkdir()
    with held(tmp_path / "out"), pytest.raises(ConfigError, match="another process runs its cells"):
        run(plan, tmp_path / "out")


def test_a_cell_for_each_gpu(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes at a time, of which each sees one GPU; the table is the same."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    two, _ = run(plan, tmp_path / "two")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    one, _ = run(plan, tmp_path / "one")
    assert table(plan, two) == table(plan, one)


def test_versions_that_differ_are_all_named(plan: Plan) -> None:
    made = results(plan)
    last = list(made)[-1]
    made[last] = replace(made[last], versions={"tfhalf": "1", "keras": "3"})
    assert make_table(plan, made).versions == {"tfhalf": "0, 1", "keras": "none, 3"}


def test_unfinished_cells_are_counted(plan: Plan) -> None:
    some = dict(list(results(plan).items())[:4])
    made = make_table(plan, some)
    assert made.unfinished == 2
    assert [len(row.seeds) for row in made.rows] == [2, 1, 1]
    assert make_table(plan, {}).rows[0].metrics == {}
