"""What tests of training share as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_loops import NET


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds the net of `train_loops`."""
    (tmp_path / "net.py").write_text(NET)
    return tmp_path
