"""Compiled programs and choices of kernels in the user's cache: where, by what, how many; folders that will not do."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfhalf.errors import ConfigError
from tfhalf.system import programs
from tfhalf.system.program_key import ProgramKey, keys_in

GIB = 1 << 30
DAY = 86400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of a machine with a GPU."""
    monkeypatch.setattr(programs, "nvidia_device", lambda: "/dev/nvidia0")
    monkeypatch.setattr(programs, "nvidia_driver", lambda: "580.1")
    monkeypatch.setattr(programs, "gpu_models", lambda: ["NVIDIA H200"])
    monkeypatch.setattr(programs, "_kept", None)
    monkeypatch.setattr(programs, "_last", None)
    for name, value in (("XLA_FLAGS", ""), ("TF_XLA_FLAGS", ""), ("TFHALF_CACHE_DIR", str(tmp_path / "cache"))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TFHALF_CACHE_LIMIT", raising=False)
    yield tmp_path / "cache"
    end()


def keep() -> list[str]:
    lines: list[str] = []
    programs.keep_programs(lines.append)
    return lines


def trim() -> list[str]:
    lines: list[str] = []
    programs.trim_programs(lines.append)
    return lines


def end() -> None:
    """As the end of this process: another one begins with flags of its own, unless it inherits them."""
    if programs._kept is not None:
        programs._kept.lock.close()
    programs._kept = programs._last = None
    os.environ["TF_XLA_FLAGS"] = ""


def flags(name: str = "TF_XLA_FLAGS") -> dict[str, str]:
    return dict(flag.split("=", 1) for flag in os.environ[name].split())


def place() -> Path:
    assert set(flags()["--tf_xla_persistent_cache_device_types"].split(",")) == {"GPU", "XLA_GPU_JIT"}
    return Path(flags()["--tf_xla_persistent_cache_directory"])


def program(folder: Path, name: str, size: int, age: float = 0.0) -> Path:
    """A program of ``size`` bytes, last used ``age`` days ago."""
    path = folder / f"{name}.pb"
    path.write_bytes(b"p" * size)
    when = os.stat(path).st_mtime - age * DAY
    os.utime(path, (when, when))
    return path


def other_key(cache: Path, name: str, size: int, age: float) -> Path:
    folder = cache / "programs" / (name * 16)
    (folder / "kernels/tmp").mkdir(parents=True)
    (folder / "key.json").write_text("{}")
    (folder / "kernels/k.textproto").write_text("k")
    for path in (folder / "key.json", folder / "kernels/k.textproto"):
        os.utime(path, (path.stat().st_mtime - age * DAY,) * 2)
    program(folder, "p", size, age)
    return folder


# --- where ------------------------------------------------------------------------------------------------------------


def test_programs_are_kept_by_versions_gpu_driver_and_flags(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    for name, value in (
        ("gpu_models", lambda: ["NVIDIA H200"]),
        ("gpu_models", lambda: ["NVIDIA A100"]),
        ("nvidia_driver", lambda: "590.1"),
    ):
        monkeypatch.setattr(programs, name, value)
        monkeypatch.setenv("XLA_FLAGS", "")
        assert keep() == []
        places.append(place())
        end()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    assert keep() == []
    places.append(place())
    assert len(set(places)) == 4
    assert all(path.parent == cache / "programs" for path in places)
    assert cache.stat().st_mode & 0o777 == place().parent.stat().st_mode & 0o777 == 0o700
    facts = json.loads((place() / "key.json").read_text())
    assert (facts["gpus"], facts["driver"], facts["flags"]) == (["NVIDIA A100"], "590.1", "--xla_gpu_autotune_level=0")
    assert set(facts) == {"tensorflow", "keras", "driver", "gpus", "flags"}


def test_the_same_machine_has_its_programs_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = set()
    for _ in range(2):
        monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
        monkeypatch.setenv("XLA_FLAGS", "")
        keep()
        assert os.environ["TF_XLA_FLAGS"].startswith("--tf_xla_clustering_debug ")
        places.add(os.environ["TF_XLA_FLAGS"])
        end()
    assert len(places) == 1


def test_the_fastest_kernels_are_kept_beside_the_programs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    keep()
    kernels = place() / "kernels"
    assert kernels.is_dir()
    assert os.environ["XLA_FLAGS"] == f"--xla_gpu_autotune_level=0 {programs._KERNELS}={kernels}"
    end()
    keep()  # again, as a process that inherits XLA's flags does
    assert flags("XLA_FLAGS")[programs._KERNELS] == str(kernels)
    assert os.environ["XLA_FLAGS"].count(programs._KERNELS) == 1
    assert place() / "kernels" == kernels


def test_the_users_own_cache_stands(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "--tf_xla_persistent_cache_directory=/mine"
    monkeypatch.setenv("TF_XLA_FLAGS", own)
    assert keep() == []
    assert os.environ["TF_XLA_FLAGS"] == own
    assert not cache.exists()


@pytest.mark.parametrize("why", ["no GPU", "limit"])
def test_nothing_is_kept_without_a_gpu_or_with_a_limit_of_0(
    cache: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "limit":
        monkeypatch.setenv("TFHALF_CACHE_LIMIT", "0")
    else:
        monkeypatch.setattr(programs, "nvidia_device", lambda: None)
    assert keep() == []
    assert os.environ["TF_XLA_FLAGS"] == os.environ["XLA_FLAGS"] == ""
    assert not cache.exists()


def test_a_limit_that_is_not_a_size_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFHALF_CACHE_LIMIT", "much")
    with pytest.raises(ConfigError):
        keep()


# --- folders that will not do -----------------------------------------------------------------------------------------


def test_a_folder_that_will_not_do_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(words: str) -> None:
        [line] = keep()
        assert line.startswith("xla        compiled programs are not kept: ")
        assert words in line
        assert os.environ["TF_XLA_FLAGS"] == os.environ["XLA_FLAGS"] == ""
        assert trim() == []

    monkeypatch.setenv("TFHALF_CACHE_DIR", str(cache.parent / "a b"))
    refused("a b: its path has a blank or a quote; set TFHALF_CACHE_DIR to another folder")
    (cache.parent / "file").write_text("")
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(cache.parent / "file"))
    refused("file: File exists")
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(cache))
    cache.mkdir(mode=0o700)
    cache.chmod(0o770)
    refused("others may write there")
    cache.chmod(0o755)
    elsewhere = cache.parent / "elsewhere"
    elsewhere.mkdir()
    (cache / "programs").symlink_to(elsewhere)
    refused("programs: it is a link; remove it")
    assert list(elsewhere.iterdir()) == []
    (cache / "programs").unlink()
    (cache / "programs").mkdir(mode=0o700)
    (cache / "programs").chmod(0o777)
    refused("programs: others may write there")
    (cache / "programs").chmod(0o755)  # read only, by others: made private
    assert keep() == []
    assert (cache / "programs").stat().st_mode & 0o777 == 0o700


def test_a_folder_of_another_user_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    [line] = keep()
    assert f"{cache}: it belongs to user {user - 1}; set TFHALF_CACHE_DIR to a folder of your own" in line


def test_a_disk_that_takes_nothing_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(programs.tempfile, "TemporaryFile", full)
    assert keep() == ["xla        compiled programs are not kept: /somewhere: No space left on device"]
    assert os.environ["TF_XLA_FLAGS"] == ""


def test_a_driver_that_hangs_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang() -> str:
        raise subprocess.TimeoutExpired("nvidia-smi", 30)

    monkeypatch.setattr(programs, "nvidia_driver", hang)
    assert keep() == ["xla        compiled programs are not kept: nvidia-smi does not answer"]


def test_a_disk_that_is_nearly_full_is_only_read(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's compilation fails where it cannot write its program."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(GIB - 1))
    [line] = keep()
    assert line == f"xla        new compiled programs are not kept: {cache} has less than 1 GiB of its disk left"
    folder = place()
    assert flags()["--tf_xla_persistent_cache_read_only"] == "true"
    assert os.environ["XLA_FLAGS"] == ""
    assert programs.program_names() is None
    end()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(GIB))
    monkeypatch.setenv("XLA_FLAGS", "")
    keep()
    assert place() == folder


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
def test_tensorflow_takes_the_flags_and_names_its_files_so(tmp_path: Path, read_only: bool) -> None:
    """On a CPU here; without the devices' types, which leave CPUs out."""
    kept = tmp_path / "0123456789abcdef"
    code = (
        "import tensorflow as tf\n"
        "f = tf.function(lambda x: tf.nn.relu(x @ x), jit_compile=True, autograph=False)\n"
        "print(float(tf.reduce_sum(f(tf.ones((4, 4))))))"
    )
    only = programs._READ_ONLY * read_only
    env = {
        "TF_XLA_FLAGS": f"{programs._CACHE}={kept} {only}",
        "XLA_FLAGS": f"{programs._KERNELS}={kept}/kernels",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )
    assert done.stdout.strip() == "64.0", done.stderr
    assert len(ProgramKey(kept).programs()) == (0 if read_only else 1)
    assert len(ProgramKey(kept).files()) == len([path for path in kept.rglob("*") if path.is_file()])


# --- use --------------------------------------------------------------------------------------------------------------


def test_an_empty_program_is_removed_at_the_start(cache: Path) -> None:
    """A power cut leaves it, and XLA fails at it."""
    keep()
    folder = place()
    kept, empty = program(folder, "kept", 1), program(folder, "empty", 0)
    end()
    os.environ["XLA_FLAGS"] = ""
    keep()
    assert kept.exists()
    assert not empty.exists()


def test_what_was_read_is_dated(cache: Path) -> None:
    keep()
    folder = place()
    read, unread = program(folder, "read", 1, age=3), program(folder, "unread", 1, age=3)
    dates = unread.stat().st_mtime_ns
    end()
    os.environ["XLA_FLAGS"] = ""
    keep()
    assert all(path.stat().st_atime_ns < path.stat().st_mtime_ns for path in (read, unread))  # so that a reading shows
    os.utime(read, ns=(programs._kept.since + 1, read.stat().st_mtime_ns))  # type: ignore[union-attr]  # as reading does
    assert trim() == []
    assert unread.stat().st_mtime_ns == dates
    assert read.stat().st_mtime_ns > dates + DAY * 10**9


def test_a_program_from_the_cache_adds_none(cache: Path) -> None:
    assert programs.program_names() is None
    assert programs.from_cache(None) is None
    keep()
    before = programs.program_names()
    assert before == frozenset()
    assert programs.from_cache(before) is None  # nothing was compiled for the GPU
    program(place(), "new", 1)
    assert programs.from_cache(before) is False
    assert programs.from_cache(programs.program_names()) is True
    assert [programs.origin_words(cached) for cached in (None, True, False)] == [
        *("", ", from the cache", ", kept for the next time"),
    ]


def test_a_process_that_goes_on_keeps_its_folder(cache: Path) -> None:
    """A program that trains twice: TensorFlow has read its flags once."""
    keep()
    folder, before = place(), os.environ["TF_XLA_FLAGS"]
    keep()
    trim()
    assert keep() == []
    assert (place(), os.environ["TF_XLA_FLAGS"]) == (folder, before)
    assert programs._kept is not None
    with ProgramKey(folder).alone() as alone:
        assert not alone


# --- size -------------------------------------------------------------------------------------------------------------


def limited(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setenv("TFHALF_CACHE_LIMIT", str(limit))


def test_keys_go_first_and_the_oldest_before_others(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep()
    old, older, oldest = (other_key(cache, name, 10_000, age) for name, age in (("a", 1), ("b", 2), ("c", 3)))
    program(place(), "new", 1_000)
    limited(monkeypatch, 23_000)  # trimmed to 20,700: two keys of three are too many
    assert trim() == []
    assert old.is_dir()
    assert not older.exists()
    assert not oldest.exists()
    assert [path.name for path in place().glob("*.pb")] == ["new.pb"]


def test_nothing_is_trimmed_within_the_limit_or_by_who_added_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = other_key(cache, "a", 10_000, 1)
    (cache / "programs").chmod(0o700)
    cache.chmod(0o700)
    limited(monkeypatch, 5_000)
    keep()
    trim()
    assert old.is_dir()
    limited(monkeypatch, 20_000)
    keep()
    program(place(), "new", 1_000)
    trim()
    assert old.is_dir()


def test_then_programs_go_that_this_process_did_not_use(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep()
    folder = place()
    for name, age in (("a", 3), ("b", 2), ("c", 1), ("used", 4)):
        program(folder, name, 10_000, age)
    unfinished = folder / "x.pb.1234.tmp"
    unfinished.write_bytes(b"p" * 100)
    os.utime(unfinished, (0, 0))
    writing = folder / "y.pb.1234.tmp"
    writing.write_bytes(b"p" * 100)
    end()
    os.environ["XLA_FLAGS"] = ""
    keep()
    os.utime(folder / "used.pb", ns=(programs._kept.since + 1, 1))  # type: ignore[union-attr]  # read just now
    program(folder, "new", 10_000)
    limited(monkeypatch, 35_000)  # trimmed to 31,500
    assert trim() == []
    left = sorted(path.name for path in folder.glob("*.pb*"))
    assert left == ["c.pb", "new.pb", "used.pb", "y.pb.1234.tmp"]
    limited(monkeypatch, 1)
    keep()
    program(folder, "newer", 10_000)
    trim()
    assert (folder / "newer.pb").exists()
    assert not (folder / "c.pb").exists()


def test_what_another_process_uses_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep()
    used, unused = other_key(cache, "a", 10_000, 9), other_key(cache, "b", 10_000, 1)
    own = program(place(), "old", 10_000, 5)
    program(place(), "new", 10_000)
    limited(monkeypatch, 1)
    with (used / "lock").open("wb") as theirs, (place() / "lock").open("r+b") as same:
        for lock in (theirs, same):
            fcntl.flock(lock, fcntl.LOCK_SH)
        assert trim() == []
    assert used.is_dir()
    assert not unused.exists()
    assert own.exists()


def test_two_that_trim_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(mode=0o700)
    for number in range(12):
        other_key(cache, f"{number:x}", 1000, number)
    failures: list[Exception] = []
    keys = keys_in(cache)

    def remove() -> None:
        try:
            for key in keys:
                with key.alone() as alone:
                    if alone:
                        key.remove()
        except Exception as error:  # noqa: BLE001  # whatever it is: the thread would end with it
            failures.append(error)

    threads = [threading.Thread(target=remove) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert keys_in(cache) == []


def test_a_key_that_is_removed_meanwhile_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the lock's opening and its locking the folder goes, as another process that trims has it."""
    key = ProgramKey(tmp_path / ("a" * 16))
    opened = []
    from tfhalf.system import program_key

    def opening(path: Path) -> Any:
        lock = open_lock(path)
        opened.append(path)
        if len(opened) == 2:  # the first is that of the look whether it is alone
            shutil.rmtree(key.folder)
        return lock

    open_lock = program_key.open_lock
    monkeypatch.setattr(program_key, "open_lock", opening)
    with key.begin({"gpus": []}):
        assert key.facts() == {"gpus": []}
        assert len(opened) == 3
        with key.alone() as alone:
            assert not alone


def test_what_cannot_be_removed_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep()
    other_key(cache, "a", 10_000, 9)
    program(place(), "new", 10_000)
    limited(monkeypatch, 1)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system", "/x")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert trim() == ["xla        the cache of compiled programs is not trimmed: /x: Read-only file system"]


def test_links_and_foreign_files_are_left_alone(cache: Path) -> None:
    folder = other_key(cache, "a", 10, 1)
    precious = cache.parent / "precious"
    precious.mkdir()
    (precious / "p.pb").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    (folder / "link.pb").symlink_to(precious / "p.pb")
    shutil.rmtree(folder / "kernels")
    (folder / "kernels").symlink_to(precious)
    (cache / "programs" / ("b" * 16)).symlink_to(precious)
    (precious / "k.textproto").write_text("mine")
    [key] = keys_in(cache)
    assert key.remove() > 0
    assert sorted(path.name for path in folder.iterdir()) == ["kernels", "link.pb", "notes.txt"]
    assert sorted(path.name for path in precious.iterdir()) == ["k.textproto", "p.pb"]
