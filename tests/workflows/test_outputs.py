"""Places that results cannot go to, links in the way of them, and disks that fill up: one line, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from serve_helpers import make_version

from tfhalf.artifacts import version
from tfhalf.cli import main
from tfhalf.errors import ConfigError, InputError, ResumeError, ShortfallError
from tfhalf.files import check_writable, disk_fault, replacing
from tfhalf.system import plotting
from tfhalf.train.record import run_folder
from tfhalf.train.record.outcome import OUTCOME
from tfhalf.workflows.train_request import published
from tfhalf.workflows.verify import write_starters

LONG = "n" * 300


def made(path: Path, how: str) -> Path:
    """Something in the way at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "file":
        path.write_text("precious")
    elif how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(how)
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "a file": lambda folder: made(folder / "a", "file"),
    "below a file": lambda folder: made(folder / "a", "file") / "b" / "c",
    "a pipe": lambda folder: made(folder / "a", "pipe"),
    "a link to nothing": lambda folder: made(folder / "a", "nothing"),
    "a link to itself": lambda folder: made(folder / "a", "a"),
    "/proc": lambda _: Path("/proc/exports"),
    "/dev/null": lambda _: Path("/dev/null/exports"),
    "a long name": lambda folder: folder / LONG,
    "below a long name": lambda folder: folder / LONG / "b",
}


@pytest.mark.parametrize("what", PLACES)
def test_a_place_that_cannot_be_written_to(what: str, tmp_path: Path) -> None:
    place = PLACES[what](tmp_path)
    there = sorted(tmp_path.rglob("*"))
    for check in (lambda: check_writable(place, "--exports"), lambda: version.check(place)):
        with pytest.raises(ConfigError, match="is not a folder that can be written to"):
            check()
    with pytest.raises(ConfigError, match="--plot"):
        plotting.check(place if what == "a pipe" else place / "x.png")
    ended = CliRunner().invoke(main, ["init", str(place)])
    assert ended.exit_code == 2
    assert ended.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == there


def test_a_place_that_can_is_left_as_it_is(tmp_path: Path) -> None:
    version.check(tmp_path / "exports" / "net")
    plotting.check(tmp_path / "x.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "exports").symlink_to("folder")
    version.check(tmp_path / "exports" / "net")
    assert sorted(os.listdir(tmp_path)) == ["exports", "folder"]
    assert not os.listdir(tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (".lock", "folder"),
        (".lock", "pipe"),
        (".lock", "../file"),
        ("config.pbtxt", "folder"),
        (".config.pbtxt", "folder"),
    ],
)
def test_what_stands_in_the_way_of_a_version(name: str, how: str, tmp_path: Path) -> None:
    file = made(tmp_path / "file", "file")
    base = made(tmp_path / "net" / name, how).parent
    with pytest.raises(ConfigError, match=re.escape(str(base / name))):
        version.check(base)
    with pytest.raises(ConfigError, match="take it away"), version.staging(base):
        pass
    assert os.listdir(base) == [name]
    assert file.read_text() == "precious"


def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path) -> None:
    file, folder = made(tmp_path / "file", "file"), tmp_path / "folder"
    made(folder / ".lock", "file")
    base = tmp_path / "net"
    for name, target in (
        ("config.pbtxt", "../file"),
        (".config.pbtxt", "../file"),
        (".staging-link", "../folder"),
        (".staging-lock/.lock", "../../file"),
    ):
        made(base / name, target)
    with version.staging(base) as staged, version.numbered(base) as number:
        version.replace_file(base / "config.pbtxt", "name")
        version.publish(staged, base, number)
    assert (base / "config.pbtxt").read_text() == "name"
    assert not (base / "config.pbtxt").is_symlink()
    assert (base / "1").is_dir()
    assert file.read_text() == (folder / ".lock").read_text() == "precious"


@pytest.mark.parametrize("synced", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(synced: bool, tmp_path: Path) -> None:
    path = made(tmp_path / "facts.json", "file")
    precious = made(tmp_path / "file", "file")
    (tmp_path / ".facts.json").symlink_to("file")

    def write_half() -> None:
        with replacing(path, synced=synced) as beside:
            beside.write_text("hal")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()
    assert (path.read_text(), precious.read_text()) == ("precious", "precious")
    assert sorted(os.listdir(tmp_path)) == ["facts.json", "file"]
    (tmp_path / ".facts.json").write_text("what a killed process left, which is longer")
    with replacing(path, synced=synced) as beside:
        beside.write_text("whole")
        assert path.read_text() == "precious"
    assert path.read_text() == "whole"
    assert sorted(os.listdir(tmp_path)) == ["facts.json", "file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "00000001"

    def write_half() -> None:
        with replacing(path, synced=True) as beside:
            made(beside / "in" / "it", "file")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert os.listdir(tmp_path) == []
    with replacing(path, synced=True) as beside:
        made(beside / "in" / "it", "file")
    assert (path / "in" / "it").read_text() == "precious"
    made(tmp_path / ".theirs" / "in" / "it", "file")
    with pytest.raises(OSError, match="theirs"), replacing(tmp_path / "theirs"):
        pytest.fail("a folder that nobody here made is not emptied")
    assert (tmp_path / ".theirs" / "in" / "it").read_text() == "precious"


def test_a_lock_keeps_its_content(tmp_path: Path) -> None:
    lock = made(tmp_path / "net" / ".lock", "file")
    with version.staging(lock.parent):
        pass
    assert lock.read_text() == "precious"


@pytest.mark.parametrize("name", [".lock", "history.jsonl", "history.csv", "checkpoints", "outcome.json", ".run.json"])
def test_a_run_folder_with_a_link_is_not_taken_up(name: str, tmp_path: Path) -> None:
    file = made(tmp_path / "file", "file")
    run = made(tmp_path / "run" / name, "../file").parent
    with pytest.raises(ResumeError, match=f"{name}: is a link"), run_folder.held(run):
        pass
    assert file.read_text() == "precious"


def test_a_full_disk_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "runs/net/history.csv")
    library = RuntimeError("UNKNOWN: exports/net/variables; No space left on device")
    for error, words in ((full, "runs/net/history.csv: No space"), (library, "variables; No space")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise ValueError("because") from error

        monkeypatch.setattr("tfhalf.workflows.train_request.check", fail)
        ended = CliRunner().invoke(main, ["train", "x.yaml"])
        assert ended.exit_code == 1
        assert ended.stderr.count("\n") == 1
        assert words in ended.stderr
        assert "make room, then go on with: tfhalf train PIPELINE --resume" in ended.stderr
    assert disk_fault(ValueError("no such thing")) is None
    assert disk_fault(OSError(errno.ENOENT, "gone")) is None


def test_half_of_the_starters_are_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, count = shutil.copyfile, 0

    def full(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(*arguments)

    monkeypatch.setattr(shutil, "copyfile", full)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        count = 0
        with pytest.raises(InputError, match="No space left"):
            write_starters(tmp_path / name)
    assert os.listdir(tmp_path) == ["empty"]
    assert not os.listdir(tmp_path / "empty")


def test_a_picture_that_the_disk_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(ShortfallError, match=r"--plot .*: the picture cannot be written: "):
        plotting.save(plotting.figure(1, 1), tmp_path / "none" / "x.png", 50)


def test_a_version_that_was_published_before_the_outcome_was_written(tmp_path: Path) -> None:
    run, base = tmp_path / "run", tmp_path / "net"
    run.mkdir()

    def facts(**more: object) -> None:
        (run / run_folder.FACTS).write_text(json.dumps({"pipeline_file": "x.yaml", **more}))

    for number in (1, 2, 3, 4):
        manifest = make_version(tmp_path, "net", number) / "manifest.json"
        content = json.loads(manifest.read_text())
        content["training"]["run"] = f"run {number}"
        manifest.write_text(json.dumps(content) if number != 3 else "{")
    facts()
    assert published(run, tmp_path, "net") is None  # of a run that an older version started
    facts(id="run 9")
    assert published(run, tmp_path, "net") is None
    assert not (run / OUTCOME).exists()
    facts(id="run 2")
    assert published(run, tmp_path, "net") == base / "2"
    assert json.loads((run / OUTCOME).read_text())["version"] == str(base / "2")
    assert published(run, tmp_path, "net") is None  # to take it up once more is to publish once more
    assert published(run, tmp_path / "none", "net") is None


def test_what_a_smoke_run_published_lies_in_its_own_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for folder in (tmp_path, run / "exports"):
        manifest = make_version(folder, "net", 1) / "manifest.json"
        content = json.loads(manifest.read_text())
        content["training"]["run"] = "run 1"
        manifest.write_text(json.dumps(content))
    (run / run_folder.FACTS).write_text(json.dumps({"pipeline_file": "x.yaml", "id": "run 1", "smoke": True}))
    assert published(run, tmp_path, "net") == run / "exports" / "net" / "1"
