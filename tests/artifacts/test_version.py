"""Version directories that appear whole and never change, and the manifest that says what is in one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts import triton, version
from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import SCHEMA, File, Manifest
from tfhalf.errors import ArtifactError, IntegrityError

# --- versions ---------------------------------------------------------------------------------------------------------


def publish(base: Path, text: str = "x", failed: bool = False) -> Path:
    with version.staging(base) as folder:
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_text(text)
        with version.numbered(base) as number:
            return version.publish(folder, base, number, failed=failed)


def names(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if path.name != ".lock")


def test_numbers_rise_past_failed_ones(tmp_path: Path) -> None:
    base = tmp_path / "deep" / "name"
    made = [publish(base).name, publish(base, failed=True).name, publish(base).name]
    assert made == ["1", "failed-2", "3"]
    (base / "10").mkdir()
    for other in ("010", "x", "11.tmp", "failed-x", "-12", "0"):
        (base / other).mkdir()
    (base / "99").write_text("a file is no version")
    assert version.versions(base) == [1, 3, 10]
    assert publish(base).name == "11"
    assert (base / "1" / "variables" / "data").read_text() == "x"
    assert not (base / "1" / ".lock").exists()


def test_a_published_version_is_never_replaced(tmp_path: Path) -> None:
    publish(tmp_path, "first")
    with version.staging(tmp_path) as folder:
        (folder / "data").write_text("second")
        with pytest.raises(OSError, match=r"not empty|exists"):
            version.publish(folder, tmp_path, 1)
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1" / "variables" / "data").read_text() == "first"


def test_what_is_not_published_is_gone(tmp_path: Path) -> None:
    def fail() -> None:
        with version.staging(tmp_path) as folder:
            (folder / "data").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []


def staged_by_another(base: Path, *, and_dies: bool) -> subprocess.Popen[str]:
    """A process in the middle of an export."""
    code = (
        "import sys, time, os, pathlib\n"
        "from tfhalf.artifacts import version\n"
        f"with version.staging(pathlib.Path({str(base)!r})) as folder:\n"
        "    (folder / 'data').write_text('half')\n"
        "    print(folder.name, flush=True)\n"
        f"    {'os._exit(9)' if and_dies else 'sys.stdin.read()'}\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_leftovers_of_the_dead_are_removed_and_of_the_living_are_not(tmp_path: Path) -> None:
    with staged_by_another(tmp_path, and_dies=True) as dead:
        dead_name = dead.stdout.readline().strip()
    assert names(tmp_path) == [dead_name]
    with staged_by_another(tmp_path, and_dies=False) as living:
        living_name = living.stdout.readline().strip()
        assert names(tmp_path) == [living_name]  # it cleared away what the dead one left
        with version.staging(tmp_path) as mine:
            assert names(tmp_path) == sorted([living_name, mine.name])
            assert (tmp_path / living_name / "data").read_text() == "half"
            assert version.remove_leftovers(tmp_path) == []
        living.stdin.close()
        assert living.wait(30) == 0
    assert names(tmp_path) == []


def test_concurrent_exports_get_numbers_of_their_own(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from tfhalf.artifacts import version\n"
        "base = pathlib.Path(sys.argv[1])\n"
        "for i in range(6):\n"
        "    with version.staging(base) as folder:\n"
        "        (folder / 'who').write_text(sys.argv[2])\n"
        "        with version.numbered(base) as number:\n"
        "            (folder / 'number').write_text(str(number))\n"
        "            version.publish(folder, base, number)\n"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(i)]) for i in range(4)]
    assert [job.wait(60) for job in jobs] == [0] * 4
    assert version.versions(tmp_path) == list(range(1, 25))
    assert [int((tmp_path / str(n) / "number").read_text()) for n in range(1, 25)] == list(range(1, 25))
    owners = [(tmp_path / str(n) / "who").read_text() for n in range(1, 25)]
    assert sorted(owners) == sorted("0123" * 6)
    assert len(names(tmp_path)) == 24


def test_replace_file(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    version.replace_file(path, "one")
    before = path.stat()
    version.replace_file(path, "one")
    assert path.stat().st_ino == before.st_ino  # an equal one is left alone
    version.replace_file(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert path.stat().st_ino != before.st_ino  # another file under the name: no reader saw half of it
    assert os.listdir(tmp_path) == ["config.pbtxt"]


def test_find_version(tmp_path: Path) -> None:
    base = tmp_path / "exports" / "digits"
    for number in ("2", "10"):
        (base / number).mkdir(parents=True)
        (base / number / "manifest.json").write_text("{}")
    assert version.find_version(base) == base / "10"
    assert version.find_version(base / "2") == base / "2"
    with pytest.raises(ArtifactError, match="holds the exports digits; give one of them"):
        version.find_version(base.parent)
    with pytest.raises(ArtifactError, match="does not exist; give exports/NAME"):
        version.find_version(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="holds no exported version; `tfhalf train PIPELINE` makes one"):
        version.find_version(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="holds no exported version"):
        version.find_version(base / "2" / "manifest.json")


# --- the manifest -----------------------------------------------------------------------------------------------------


FACTS: dict[str, Any] = {
    "name": "job",
    "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 3]}],
    "outputs": [{"name": "kind", "dtype": "float32", "shape": ["batch", 2], "classes": True}],
    "artifacts": [{"format": "onnx", "files": ["model.onnx"], "bytes": 4}],
    "limits": {},
    "reference": {},
    "labels": ["ä", "b"],
    "config": config.Pipeline.model_validate(
        {"name": "job", "model": {"build": "a.py:b"}, "data": {"source": "npz:a.npz"}}
    ).dump(),
}


def described(directory: Path) -> Manifest:
    """A version directory with a manifest that is right."""
    (directory / "variables").mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"onnx")
    (directory / "variables" / "data").write_bytes(b"weights")
    manifest = Manifest.read(FACTS).model_copy(update={"files": manifests.file_hashes(directory)})
    manifests.write(directory, manifest)
    return manifest


def test_manifest_round_trip(tmp_path: Path) -> None:
    manifest = described(tmp_path)
    assert manifests.read(tmp_path) == manifest
    assert json.loads((tmp_path / "manifest.json").read_text())["schema"] == SCHEMA == 2
    manifests.check_files(tmp_path, manifest)
    assert set(manifest.files) == {"model.onnx", "variables/data"}
    assert manifest.files["model.onnx"] == File(bytes=4, sha256=hashlib.sha256(b"onnx").hexdigest())
    (tmp_path / "report.md").write_text("written later")
    manifests.check_files(tmp_path, manifest)


def test_no_limit_stays_no_limit(tmp_path: Path) -> None:
    """What is None is written, so that it does not come back as the usual limit."""
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    limits = Limits(None, None, 99.5, 0.1, 256)
    manifests.write(tmp_path, Manifest.read(FACTS).model_copy(update={"limits": limits}))
    assert manifests.read(tmp_path).limits == limits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no manifest.json; give a version"),
        ("", "is not readable JSON"),
        ("{", "is not readable JSON"),
        ("[]", "has schema 'list'; this tfhalf reads 1 and 2"),
        ("{}", "has schema None"),
        ('{"schema": true}', "has schema True"),
        ('{"schema": 3}', "has schema 3; this tfhalf reads 1 and 2"),
        ('{"schema": 1}', "lacks name, config, "),
        ('{"schema": 1, "kind": "model", "config": 3, "samples": {}}', "lacks name, inputs, outputs"),
        ('{"schema": 2}', "lacks name, inputs, outputs, artifacts, limits"),
    ],
)
def test_a_manifest_that_cannot_be_read(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / manifests.NAME).write_text(text)
    with pytest.raises(ArtifactError) as caught:
        manifests.read(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_in_which_one_thing_is_wrong(tmp_path: Path) -> None:
    described(tmp_path)
    path = tmp_path / "manifest.json"
    facts = json.loads(path.read_text())
    for key in ("name", "inputs", "outputs", "artifacts", "limits", "reference"):
        path.write_text(json.dumps({k: v for k, v in facts.items() if k != key}))
        with pytest.raises(ArtifactError, match=f"lacks {key}.*it is damaged, export again"):
            manifests.read(tmp_path)
    for keys, value, words in WRONG:
        changed = inner = json.loads(json.dumps(facts))
        *steps, last = keys.split(".")
        for step in steps:
            inner = inner[int(step) if step.isdigit() else step]
        inner[last] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(ArtifactError, match=f"{re.escape(words)}.*it is damaged, export again") as caught:
            manifests.read(tmp_path)
        assert str(caught.value).isprintable()


WRONG: list[tuple[str, Any, str]] = [
    ("labels", [None], "labels.0 is not valid: received None"),
    ("labels", ["\ud800"], "is not readable JSON"),
    ("inputs.0.shape", ["batch", 1 << 40], "inputs.0.shape.1"),
    ("inputs.0.shape", ["batch", True], "inputs.0.shape.1"),
    ("inputs.0.shape", [], "inputs.0.shape is not valid"),
    ("inputs.0.dtype", "float99", "inputs.0.dtype is not valid"),
    ("inputs", [], "inputs is not valid"),
    ("outputs.0.aliases", "y", "outputs.0.aliases is not valid"),
    ("artifacts.0.format", "exe", "artifacts.0.format is not valid: received 'exe'"),
    ("limits.max_difference", float("nan"), "limits.max_difference is not valid: received nan"),
    ("limits.max_difference", float("inf"), "limits.max_difference is not valid"),
    ("limits.min_agreement", "all", "limits.min_agreement is not valid"),
    ("reference.count", 1 << 70, "reference.count is not valid"),
    ("reference.origin", "a dream", "reference.origin is not valid"),
    ("files", {"model.onnx": {"sha256": "x"}}, "files.model.onnx.sha256 is not valid"),
    ("comparisons", [{"artifact": "onnx"}], "lacks comparisons.0.runtime"),
    (
        "comparisons",
        [{"artifact": "exe, x", "runtime": "r", "samples": 1, "outputs": [], "seconds": 0.0}],
        "comparisons.0.artifact is not valid: received 'exe, x'",
    ),
    ("config.data", {"source": 3}, "config.data.source is not valid"),
    ("seed", "\x1b[31m", "seed is not valid"),
    ("pipeline_file", "a\0b", "pipeline_file is not valid"),
]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "model.onnx").write_bytes(b"onnX"), "model.onnx: is not the file that was published"),
        (lambda d: (d / "variables/data").unlink(), "variables/data: is missing; restore it"),
        (lambda d: (d / "variables/more").write_text(""), "variables/more: is not in the manifest; take it out"),
    ],
)
def test_files_that_are_not_the_published_ones(tmp_path: Path, change: Any, words: str) -> None:
    manifest = described(tmp_path)
    change(tmp_path)
    with pytest.raises(IntegrityError, match=words):
        manifests.check_files(tmp_path, manifest)


def test_sha256_of_a_large_file(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20 + 17)
    (tmp_path / "a").write_bytes(content)
    assert manifests.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_git_revision(tmp_path: Path) -> None:
    assert manifests.git_revision(tmp_path) is None
    assert manifests.git_revision(tmp_path / "nothing") is None

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "--quiet", "-m", "one")
    revision = git("rev-parse", "HEAD")
    assert manifests.git_revision(tmp_path) == revision
    (tmp_path / "untracked").write_text("")
    assert manifests.git_revision(tmp_path) == revision
    (tmp_path / "a").write_text("2")
    assert manifests.git_revision(tmp_path) == f"{revision}-dirty"


def test_versions_name_what_made_an_artifact() -> None:
    found = manifests.versions()
    assert set(found) >= {"python", "tfhalf", "tensorflow", "keras", "numpy", "onnx", "onnxruntime", "tf2onnx"}


def test_triton_configuration() -> None:
    outputs = [Port(name, "float32", (None, 10)) for name in ("logits", "probabilities")]
    text = triton.config("digits", [Port("image", "float32", (None, 8, 8, 1))], outputs)
    for part in (
        'name: "digits"',
        'backend: "onnxruntime"',
        '{ name: "image" data_type: TYPE_FP32 dims: [ 8, 8, 1 ] }',
        '{ name: "logits" data_type: TYPE_FP32 dims: [ 10 ] }',
        '{ name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] }',
    ):
        assert part in text
    assert text.count("{") == text.count("}")
    assert text.count("[") == text.count("]")
