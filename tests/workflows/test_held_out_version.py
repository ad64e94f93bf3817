"""The test part of a version is read again by what its manifest says, which names a part, items or a share."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tfhalf import config
from tfhalf.progress import Progress
from tfhalf.workflows import verify


def version(directory: Path, test: Any) -> Any:
    written = config.Data(source="npz:a.npz", test=test).model_dump_json()
    known = SimpleNamespace(
        config=SimpleNamespace(data=config.Data(**json.loads(written)), task=None, outputs={}),
        data=SimpleNamespace(sizes=SimpleNamespace(test=4)),
        seed=3,
        tasks=None,
        pipeline_file="a.yaml",
        inputs=[SimpleNamespace(name="x")],
    )
    return SimpleNamespace(directory=directory, manifest=known)


@pytest.mark.parametrize(
    ("test", "items"), [("dev", [20, 21, 22, 23]), ({"items": ["4-7"]}, [4, 5, 6, 7]), (0.2, [3, 12, 14, 19])]
)
def test_the_test_part_that_a_manifest_names(tmp_path, test, items):
    x = np.arange(24, dtype=np.float32)[:, None]
    np.savez(tmp_path / "a.npz", x_train=x[:20], y_train=np.arange(20) % 2, x_val=x[20:], y_val=np.arange(4) % 2)
    known = version(tmp_path, test)
    read = verify.test_set_of(known, None, Progress(quiet=True), None)
    assert np.asarray(read.x["x"])[:, 0].tolist() == items
    assert len(read.y) == 4
