"""Jobs of each kind of task, killed while they train and while they export, end as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_kills import Job
from task_jobs import KINDS

pytestmark = pytest.mark.slow

SEED = 0  # instants and who is killed are drawn from it


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_training_and_while_publishing(kind: str, tmp_path: Path) -> None:
    """``python tests/job_kills.py 20 --kind text`` does more of them, at any instant."""
    folders = [tmp_path / name for name in ("normal", "killed")]
    for folder in folders:
        folder.mkdir()
    job = Job(folders[0], [KINDS[kind](folders[0]).name])
    KINDS[kind](folders[1])
    print(kind, "seed", SEED, job.killed(folders[1], SEED, ("training", "export")))
