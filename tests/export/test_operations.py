"""Every function of `keras.ops` and every layer of `keras.layers`: a case or a reason for each, and what was mended.

The whole table: ``python benchmarks/operations_table.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import operations
import pytest
from zoo_helpers import export_here

from tfhalf.export.request import Options, Request


def test_none_is_left_out() -> None:
    assert operations.lacking() == []
    assert set(operations.cases()) <= set(operations.names())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ops.log", "ops.argmax", "ops.cumprod", "ops.erfinv", "ops.logsumexp", "ops.stft"])
def test_exported(name: str, tmp_path: Path) -> None:
    case = operations.cases()[name]
    path = tmp_path / "m.keras"
    operations.model_of(case).save(path)
    np.savez(tmp_path / "in.npz", **operations.inputs_of(case))
    options = Options(exports=tmp_path / "exports", verify_with=tmp_path / "in.npz")
    made = export_here(Request(str(path)), options)
    assert made.manifest.refused == {}
    assert {c.artifact.split(",")[0] for c in made.comparisons if c.passed} == {"savedmodel", "onnx"}
