"""What `tfhalf doctor` shows of the user's cache, and what it empties."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from tfhalf.system.cache_contents import clear, contents
from tfhalf.system.cache_findings import cache_findings

FACTS = {
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "driver": "580.1",
    "gpus": ["NVIDIA H200", "NVIDIA H200"],
    "flags": "--xla_gpu_autotune_level=0",
}
LISTING = f"folder-{'0' * 32}.npz"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(folder))
    monkeypatch.delenv("TFHALF_CACHE_LIMIT", raising=False)
    for name in "ab":
        key = folder / "programs" / (name * 16)
        (key / "kernels").mkdir(parents=True)
        (key / "p.pb").write_bytes(b"p" * 1000)
        (key / "kernels/k.textproto").write_bytes(b"k" * 10)
        (key / "lock").write_text("")
    (folder / "programs").chmod(0o700)
    folder.chmod(0o700)
    (folder / "programs" / ("a" * 16) / "key.json").write_text(json.dumps(FACTS))
    (folder / "programs" / ("b" * 16) / "key.json").write_text("[")
    (folder / LISTING).write_bytes(b"l" * 300)
    (folder / f".{LISTING[:-4]}.ab_d1234").write_bytes(b"l" * 3)  # of a process that was killed
    (folder / "programs/mine").write_bytes(b"m" * 7)
    return folder


def test_what_each_part_takes(cache: Path) -> None:
    held = contents()
    facts = len(json.dumps(FACTS))
    assert (held.folder, held.limit, held.programs_bytes) == (cache, 10 << 30, 2 * 1010 + facts + 1)
    keys = {key.name[0]: key for key in held.keys}
    assert (keys["a"].facts, keys["b"].facts) == (FACTS, {})
    assert (keys["a"].programs.files, keys["a"].programs.bytes, keys["a"].kernels.files) == (1, 1000, 1)
    assert (held.listings.files, held.listings.bytes) == (2, 303)
    assert (held.others.files, held.others.bytes) == (1, 7)
    assert json.loads(json.dumps(held.to_dict()))["programs"]["bytes"] == held.programs_bytes
    assert len(list(cache.rglob("lock"))) == 2  # not listed, and left


def test_the_findings(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = {finding.name: finding for finding in cache_findings(contents())}
    assert findings["cache"].value == f"{cache}: compiled programs 2.16 kB of 10.74 GB"
    words = findings[f"programs {'a' * 16}"].value
    assert words.startswith(
        "NVIDIA H200, NVIDIA H200, driver 580.1, tensorflow 2.21.0, keras 3.15.1, --xla_gpu_autotune_level=0: "
        "1 programs, 1 kernel choices, 1.15 kB, last used 20"
    ), words
    assert findings[f"programs {'b' * 16}"].value.startswith("GPUs unknown: 1 programs")
    assert findings["listings of data"].value == "2, 303 bytes"
    assert findings["other files in the cache"].value == "1, 7 bytes"
    assert all((finding.status, finding.advice) == ("ok", "") for finding in findings.values())
    (cache / "programs").chmod(0o777)
    [finding] = [one for one in cache_findings(contents()) if one.name == "cache"]
    assert finding.status == "warn"
    assert "not kept" in finding.advice
    assert "programs: others may write there; chmod go-w" in finding.advice
    monkeypatch.setenv("TFHALF_CACHE_LIMIT", "0")
    assert "TFHALF_CACHE_LIMIT is 0" in cache_findings(contents())[0].value


def test_a_cache_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(tmp_path / "none"))
    [finding] = cache_findings(contents())
    assert (finding.status, finding.value) == ("ok", f"{tmp_path / 'none'}: compiled programs 0 bytes of 10.74 GB")
    assert clear().removed.files == 0
    assert not (tmp_path / "none").exists()


def test_only_what_tfhalf_wrote_is_removed(cache: Path) -> None:
    outside = cache.parent / "outside.npz"
    outside.write_text("mine")
    (cache / f"records-{'1' * 32}.npz").symlink_to(outside)
    (cache / "deep").mkdir()
    (cache / "deep" / LISTING).write_text("mine")
    held = contents()
    cleared = clear()
    assert cleared.removed.files == 2 * 3 + 2
    assert cleared.removed.bytes == held.programs_bytes + held.listings.bytes
    assert cleared.in_use == ()
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("*"))
    assert left == ["deep", f"deep/{LISTING}", "programs", "programs/mine", f"records-{'1' * 32}.npz"]
    assert outside.read_text() == "mine"
    assert cleared.others.files == 3


def test_what_another_process_uses_stays(cache: Path) -> None:
    name = "a" * 16
    with (cache / "programs" / name / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert clear().in_use == (name,)
        assert (cache / "programs" / name / "p.pb").exists()
    assert clear().in_use == ()
    assert not (cache / "programs" / name).exists()


def test_a_cache_that_is_a_link_is_looked_through(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own, to another disk: what lies below it is not followed, the folder itself is."""
    link = cache.parent / "link"
    link.symlink_to(cache)
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(link))
    assert len(contents().keys) == 2
    assert cache_findings(contents())[0].status == "ok"
    assert clear().removed.files == 8
    assert not (cache / LISTING).exists()
