"""Processes that share batches: they train what one trains, stay the same bits, and skip a bad step together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fork_server
import group_jobs
import numpy as np
import pytest

from tfhalf.system.join import free_port

pytestmark = pytest.mark.slow  # it trains, in several processes

HALF = ("mixed, streamed", "reduced in float16", "a bad row")
FOUR = ("masks", "norms together")
ALONE = ("dropout", "dropout again")  # what several devices draw or average is not what one does
Result = dict[str, Any]


def train(folder: Path, size: int, names: tuple[str, ...]) -> None:
    """Each of ``names`` in ``size`` processes."""
    where = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1"}
    script = Path(group_jobs.__file__)
    files = [(folder / f"said {size} {rank}.txt").open("w") for rank in range(size)]
    processes = [
        fork_server.start(
            folder, folder, where, size, rank, *names,
            script=script, stdout=file, stderr=file, environment=environment,
        )
        for rank, file in enumerate(files)
    ]  # fmt: skip
    try:
        codes = [process.wait(500) for process in processes]
    finally:
        for process in processes:
            process.kill()
        for file in files:
            file.close()
    assert not any(codes), [Path(file.name).read_text()[-2000:] for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("group")
    (where / "net.py").write_text(group_jobs.NET)
    train(where, 1, tuple(name for name in group_jobs.JOBS if name not in ALONE))
    train(where, 2, tuple(group_jobs.JOBS))
    train(where, 4, FOUR)
    return where


def result(folder: Path, name: str, size: int, rank: int = 0) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Its epochs, and all that it trained."""
    with np.load(folder / f"{name} {size} {rank}" / "result.npz") as arrays:
        return json.loads(str(arrays["rows"])), [arrays[key] for key in sorted(arrays.files) if key != "rows"]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("name", "size"), [*((name, 2) for name in group_jobs.JOBS), *((name, 4) for name in FOUR)])
def test_all_processes_hold_the_same_bits(folder: Path, name: str, size: int) -> None:
    rows, arrays = result(folder, name, size)
    for rank in range(1, size):
        others, theirs = result(folder, name, size, rank)
        assert others == rows
        assert same(arrays, theirs)


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, 2) for name in group_jobs.JOBS if name not in (*HALF, *ALONE)), *((name, 4) for name in FOUR)],
)
def test_several_train_what_one_trains(folder: Path, name: str, size: int) -> None:
    rows, arrays = result(folder, name, 1)
    shared, theirs = result(folder, name, size)
    for one, other in zip(rows, shared, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=1e-4), key
    for a, b in zip(arrays, theirs, strict=True):  # of sums in another order
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-4 * max(1e-2, np.abs(a).max(initial=0)))


@pytest.mark.parametrize("name", HALF)
def test_in_half_precision_they_train_alike(folder: Path, name: str) -> None:
    """A rounding that falls the other way grows while training goes on: what is compared is the loss."""
    rows, _ = result(folder, name, 1)
    shared, _ = result(folder, name, 2)
    assert [row["skipped"] for row in shared] == [row["skipped"] for row in rows]
    assert [row["loss_scale"] for row in shared] == [row["loss_scale"] for row in rows]
    for one, other in zip(rows, shared, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.1)


@pytest.mark.parametrize(("name", "size"), [("muon, weighted", 2), ("masks", 2), ("masks", 4)])
def test_a_test_set_is_answered_by_all_as_by_one(folder: Path, name: str, size: int) -> None:
    """11 rows, of which each process answers some, and every process has the answers to all."""
    for rank in range(size):
        with np.load(folder / f"{name} {size} {rank}" / "answers.npz") as answers:
            assert len(answers["together"]) == 11
            assert np.array_equal(answers["together"], answers["alone"])


@pytest.mark.parametrize("name", group_jobs.MEASURED)
def test_numbers_are_counted_over_the_whole_batch(folder: Path, name: str) -> None:
    results = []
    for size, rank in ((1, 0), (2, 0), (2, 1)):
        with np.load(folder / f"{name} {size} {rank}" / "numerics.npz") as measured:
            results.append((json.loads(str(measured["rows"])), measured["counts"], measured["largest"]))
    (rows, counts, largest), (shared_rows, shared, shared_largest), other = results
    assert shared_rows == rows
    assert {"activations", "activation gradients", "weight gradients"} <= {kind for kind, _ in rows}
    assert np.array_equal(shared.sum(1), counts.sum(1))
    # Sums in another order put a number here and there beyond a power of two.
    assert np.abs(shared - counts).sum() <= 0.01 * counts.sum()
    np.testing.assert_allclose(shared_largest, largest, rtol=1e-3)
    assert same([shared, shared_largest], list(other[1:]))


def test_a_bad_row_in_one_process_is_skipped_by_all(folder: Path) -> None:
    rows, arrays = result(folder, "a bad row", 2)
    assert [row["skipped"] for row in rows] == [1] * len(rows)  # the batch that holds it, once an epoch
    assert all(np.isfinite(array.astype(np.float64)).all() for array in arrays)


def test_each_draws_its_own_and_the_same_again(folder: Path) -> None:
    """Dropout in one process is not that of the other, and both are functions of the seed."""
    _, once = result(folder, "dropout", 2)
    _, again = result(folder, "dropout again", 2)
    assert same(once, again)
