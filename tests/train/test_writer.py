"""Checkpoints that are written beside the training that goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfhalf.errors import TrainingError
from tfhalf.train.record import checkpoint


def handed_over(writer: checkpoint.Writer, run: Path, step: int, record: dict[str, Any] | None = None) -> None:
    writer.save(run, step, [np.full(3, step)], record or {"rows": []}, {}, 2, {"seen": np.zeros(2)})


def leave(writer: checkpoint.Writer) -> None:
    with writer:
        pass


def there(run: Path) -> list[str]:
    return sorted(path.name for path in (run / checkpoint.FOLDER).glob("0*"))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What the disk waits for."""
    opened, real = threading.Event(), checkpoint._write

    def slow(*arguments: Any) -> None:
        assert opened.wait(20)
        real(*arguments)

    monkeypatch.setattr(checkpoint, "_write", slow)
    return opened


def test_training_goes_on_while_the_disk_writes(tmp_path: Path, gate: threading.Event) -> None:
    writer = checkpoint.Writer()
    with writer:
        with writer:
            handed_over(writer, tmp_path, 5)
        assert there(tmp_path) == []  # the inner block has ended, the outer one goes on
        gate.set()
    assert there(tmp_path) == ["00000005"]
    assert writer.seconds > 0


def test_what_changes_afterwards_is_not_in_it(tmp_path: Path, gate: threading.Event) -> None:
    writer, record, seen = checkpoint.Writer(), {"rows": [1]}, np.zeros(2)
    writer.save(tmp_path, 1, [np.ones(2)], record, {}, 2, {"seen": seen})
    record["rows"].append(2)
    seen += 1
    gate.set()
    writer.wait()
    found = checkpoint.load(tmp_path)
    assert found is not None
    assert found.record == {"rows": [1]}
    assert found.callbacks["seen"].tolist() == [0, 0]


def test_one_at_a_time_in_order(tmp_path: Path) -> None:
    with checkpoint.Writer() as writer:
        for step in range(1, 9):
            handed_over(writer, tmp_path, step)
    assert there(tmp_path) == ["00000007", "00000008"]


@pytest.mark.parametrize("how", ["the next one", "the end"])
def test_a_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    writer = checkpoint.Writer()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        handed_over(writer, tmp_path, 1)
        with pytest.raises(TrainingError, match="No space left on device; make room, then go on with"):
            handed_over(writer, tmp_path, 2) if how == "the next one" else leave(writer)
    writer.wait()
    handed_over(writer, tmp_path, 3)
    writer.wait()
    assert there(tmp_path) == ["00000003"]


def test_a_failing_block_leaves_nothing_half_written(tmp_path: Path) -> None:
    def fail(writer: checkpoint.Writer) -> None:
        with writer:
            handed_over(writer, tmp_path, 4)
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail(checkpoint.Writer())
    assert there(tmp_path) == ["00000004"]
