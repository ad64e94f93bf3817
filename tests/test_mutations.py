"""Some of the damaged and hostile files that ``python tests/mutations.py 300 0 0`` makes, run as that does."""

from __future__ import annotations

import pytest
from mutations import run


@pytest.mark.slow
def test_damaged_and_hostile_files_of_every_kind() -> None:
    assert run(22, seed=1) == []
