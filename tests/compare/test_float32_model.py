"""Where the float32 model of a version is looked for, and what is said where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_helpers import run_at, version_at

from tfhalf.artifacts.record import Training
from tfhalf.compare.float32_model import Sources, request_of
from tfhalf.errors import ArtifactError
from tfhalf.export.request import Request
from tfhalf.files import sha256


def test_the_run_beside_the_exports(tmp_path: Path) -> None:
    version = version_at(tmp_path, training={"run": "b" * 32})
    run_at(tmp_path / "runs" / "net" / "1", "a" * 32)
    with pytest.raises(ArtifactError, match=r"the run that made .* is not beside its exports; give .*--model runs/"):
        request_of(version, Sources())
    run = run_at(tmp_path / "runs" / "net" / "2", "b" * 32)
    assert request_of(version, Sources(custom=Path("a.py"))) == Request(str(run / "model.keras"), Path("a.py"))
    (run / "model.keras").unlink()
    with pytest.raises(ArtifactError, match=r"holds no model.keras; tfhalf export .*/runs/net/2 writes it"):
        request_of(version, Sources())


def test_a_smoke_run_holds_its_exports(tmp_path: Path) -> None:
    run = run_at(tmp_path / "runs" / "net" / "1", "a" * 32)
    version = version_at(run, training={"run": "a" * 32})
    assert request_of(version, Sources()).model == str(run.resolve() / "model.keras")


def test_the_file_that_a_version_was_made_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.keras"
    path.write_text("weights")
    monkeypatch.chdir(tmp_path)
    facts = {"kind": "keras", "file": "net.keras", "sha256": sha256(path)}
    version = version_at(tmp_path, data=None, source=facts)
    assert Path(request_of(version, Sources()).model).resolve() == path
    path.write_text("others")
    with pytest.raises(ArtifactError, match=r"net\.keras, which .* was made from, is not here; give it: --model net"):
        request_of(version, Sources())
    builder = version_at(tmp_path, data=None, source={"kind": "builder", "reference": "net.py:build"})
    with pytest.raises(ArtifactError, match=r"--model file\.py:build --weights FILE"):
        request_of(builder, Sources())


def test_a_run_may_be_named(tmp_path: Path) -> None:
    run = run_at(tmp_path / "elsewhere", "c" * 32)
    version = version_at(tmp_path, training=Training(run="b" * 32).to_dict())
    assert request_of(version, Sources(Request(str(run)))).model == str(run / "model.keras")
    assert request_of(version, Sources(Request("a.keras"))) == Request("a.keras")
