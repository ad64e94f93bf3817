"""Files beside the artifacts that mean harm: arrays, manifests, pipes; and what of them reaches a terminal."""

from __future__ import annotations

import io
import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.reference import Reference
from tfhalf.config import refs
from tfhalf.data.sources import folder as folder_source
from tfhalf.data.sources import npz as npz_source
from tfhalf.errors import ArtifactError, TfhalfError
from tfhalf.export.inputs import draw
from tfhalf.files import read_bytes
from tfhalf.inspect import bundle
from tfhalf.inspect.look import inspect
from tfhalf.progress import Progress
from tfhalf.system.npz import read_arrays, read_npz
from tfhalf.train.record import run_folder
from tfhalf.verify.version import TestSet, Verified
from tfhalf.workflows import predict, verify
from tfhalf.workflows.image_files import read_image

# --- arrays -----------------------------------------------------------------------------------------------------------


def npz(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}")}, "claims 4,000,000,000"),
        ({"a.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"x")}, "Python objects"),
        ({"a.npy": npy("{'descr': '|V9', 'fortran_order': False, 'shape': (1,)}", bytes(9))}, "not numbers or text"),
        ({"a.npy": npy("\x1b[31m" * 30)}, "'a' has no readable header"),
        ({"a.npy": npy("(" * 5000)}, "'a' has no readable header"),
        ({"a.npy": bytes(257 << 20)}, "unpacks into 269,484,032 bytes"),
        ({"a": npy("{}"), "a.npy": npy("{}")}, "two arrays of it have one name"),
        ({"a.npy": b""}, "'a' has no readable header"),
    ],
)
def test_archives_that_lie(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    path = npz(tmp_path / "samples.npz", members)
    with pytest.raises(ValueError, match=words) as caught:
        read_npz(path)
    assert str(caught.value).isprintable()
    with pytest.raises(ArtifactError, match=r"samples.npz: cannot be read: .*; export again"):
        Reference.load(tmp_path)


def test_arrays_of_every_kind_are_read(tmp_path: Path) -> None:
    arrays = {
        "in/x": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        "text": np.array(["a", "bcd"]),
        "flag": np.array(True),
        "none": np.zeros((0, 3), np.int64),
    }
    np.save(tmp_path / "a.npy", arrays["in/x"])
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npy")["x"], arrays["in/x"])
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz")
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_samples_that_do_not_fit_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", **{"in/x": np.zeros((2, 3)), "out/y": np.zeros(())})
    with pytest.raises(ArtifactError, match="its samples do not go together"):
        Reference.load(tmp_path)
    (tmp_path / "samples.npz").unlink()
    good = {"probabilities": np.zeros((2, 3), np.float32), "y": np.zeros(2, np.int32), "x_sha256": np.zeros(64, "u1")}
    for wrong in ({"y": np.zeros(3, np.int32)}, {"probabilities": np.zeros(2, np.float32)}, {"y": np.zeros(2)}):
        np.savez(tmp_path / "reference.npz", **{**good, **wrong})
        with pytest.raises(
            ArtifactError, match=r"reference.npz: it.* holds .*; it is damaged, export again|do not go together"
        ):
            Reference.load(tmp_path)


# --- files that are not files -----------------------------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A pipe whose other end nobody opens: a test that waits for one is ended."""

    def waited(*_: object) -> None:
        raise AssertionError("it was waited for")

    os.mkfifo(tmp_path / "pipe")
    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(20)
    yield tmp_path / "pipe"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_pipe_where_a_file_is_read(pipe: Path, tmp_path: Path) -> None:
    classes = tmp_path / "images"
    for name in ("a", "b"):
        (classes / name).mkdir(parents=True)
        (classes / name / "x.png").symlink_to(pipe)
    (tmp_path / "m.py").symlink_to(pipe)
    readers: list[Callable[[], Any]] = [
        lambda: config.load_pipeline(pipe),
        lambda: refs.resolve("m.py:build", tmp_path),
        lambda: draw.read_arrays(pipe),
        lambda: folder_source.read(classes, None, "folder:images", lambda _: None),
        lambda: npz_source.read(pipe, "npz:pipe"),
        lambda: read_image(pipe, (8, 8, 3), np.dtype("float32"), (0.0, 255.0)),
        lambda: inspect(pipe),
        lambda: bundle.read(pipe),
        lambda: run_folder.facts(tmp_path / "run"),
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").symlink_to(pipe)
    for reader in readers:
        with pytest.raises(TfhalfError) as caught:
            reader()
        assert str(caught.value).isprintable()


def test_pipes_devices_and_loops_are_not_waited_for(pipe: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "long").write_bytes(bytes(11))
    for name, words in (("pipe", "a pipe"), ("zero", "a device"), ("loop", "symbolic links"), ("long", "11 bytes")):
        with pytest.raises(OSError, match=words):
            read_bytes(tmp_path / name, 10)
    for kind in ("pipe", "zero", "loop"):
        version = tmp_path / f"version-{kind}"
        version.mkdir()
        (version / "manifest.json").symlink_to(tmp_path / kind)
        with pytest.raises(ArtifactError, match=r"manifest.json: cannot be read"):
            manifests.read(version)


# --- manifests --------------------------------------------------------------------------------------------------------


def described(folder: Path, **changes: Any) -> Path:
    """A manifest of schema 1, of a pipeline's export; keys of ``changes`` are paths, with ``__`` for a step."""
    pipeline = {"name": "job", "model": {"build": "m.py:build"}, "data": {"source": "sklearn:digits"}}
    manifest: dict[str, Any] = {
        "schema": 1,
        "name": "job",
        "config": config.Pipeline.model_validate(pipeline).dump(),
        "pipeline_file": "/nowhere/p.yaml",
        "seed": 0,
        "data": {"source": "sklearn:digits", "sizes": {"train": 1294, "validation": 144, "test": 359}},
        "input": {"name": "image", "dtype": "float32", "shape": ["batch", 8, 8, 1]},
        "labels": list("0123456789"),
        "files": {},
    }
    for path, value in changes.items():
        inner = manifest
        *steps, last = path.split("__")
        for step in steps:
            inner = inner[step]
        inner[last] = value
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("labels", [None], "labels.0 is not valid: received None"),
        ("labels", {}, "labels is not valid"),
        ("input__shape", ["batch", 1 << 40], "inputs.0.shape.1"),
        ("input__shape", [], "inputs.0.shape is not valid"),
        ("input__shape", ["batch", True], "inputs.0.shape.1"),
        ("input__dtype", "float99", "inputs.0.dtype is not valid"),
        ("seed", 1 << 80, "seed is not valid"),
        ("seed", "\x1b[31m", "seed is not valid"),
        ("pipeline_file", "a\0b", "pipeline_file is not valid"),
        ("files", {"model.onnx": {"bytes": -1, "sha256": "0" * 64}}, "files.model.onnx.bytes"),
        ("files", {"model.onnx": {"sha256": ["x"]}}, "files.model.onnx.sha256"),
        ("data__sizes__test", 0, "data.sizes.test"),
        ("data__preprocess", {"mean": ["a"]}, "data.preprocess.mean"),
        ("config__data__source", 3, "config.data.source"),
        ("config__export__formats", ["exe"], "artifacts.0.format"),
        ("name", None, "name is not valid"),
    ],
)
def test_manifests_with_one_value_of_another_kind(tmp_path: Path, path: str, value: Any, words: str) -> None:
    manifests.read(described(tmp_path))
    with pytest.raises(ArtifactError, match=words.replace(".", r"\.")) as caught:
        manifests.read(described(tmp_path, **{path: value}))
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith("it is damaged, export again")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 1, "schema": 1}', "the key 'schema' stands in it twice"),
        ('{"schema": ' + "9" * 5000 + "}", "not readable JSON"),
        ('{"schema": "\\u001b[31m"}', "has schema"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "not readable JSON"),
    ],
)
def test_manifests_that_no_reader_agrees_on(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=words) as caught:
        manifests.read(tmp_path)
    assert str(caught.value).isprintable()


def test_code_that_a_manifest_names_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')\ndef load(): raise SystemExit\n")
    version = tmp_path / "version"
    version.mkdir()
    for source, args in (("os:system", {"command": f"touch {canary}"}), ("evil.py:load", {}), ("antigravity:x", {})):
        changes = {"config__data__source": source, "config__data__args": args}
        folder = described(version, pipeline_file=str(tmp_path / "p.yaml"), **changes)
        with pytest.raises(ArtifactError, match=r"runs nothing that it names; give the pipeline.*: --pipeline FILE"):
            verify.verify_version(folder, None, Progress(quiet=True))
    assert not canary.exists()


def test_a_url_that_a_manifest_names_is_not_fetched(tmp_path: Path) -> None:
    for changes in (
        {"config__data__source": "records:http://127.0.0.1:9/secret"},
        {"config__data__source": "folder:s3://bucket/x"},
        {"config__data__source": "records:x", "config__data__records": {"classes": "http://127.0.0.1:9/secret"}},
    ):
        folder = described(tmp_path, pipeline_file=str(tmp_path / "p.yaml"), **changes)
        with pytest.raises(ArtifactError, match=r"fetches nothing that it names; give the pipeline.*: --pipeline FILE"):
            verify.verify_version(folder, None, Progress(quiet=True))


def test_code_that_the_users_own_pipeline_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\ndef load(n): return {'x': np.arange(n * 4).reshape(n, 2, 2, 1), 'y': np.arange(n) % 2}\n"
    )
    (tmp_path / "p.yaml").write_text(
        "name: job\nmodel: {build: m.py:build}\ndata: {source: 'own.py:load', args: {n: 40}, test: 0.25}\n"
    )
    version = tmp_path / "version"
    version.mkdir()
    described(version, config__data__source="own.py:load", pipeline_file="/elsewhere/p.yaml", data__sizes__test=10)
    seen = {}

    def compared(version: Version, progress: Progress, test_set: TestSet) -> Verified:
        seen.update(x=test_set.x, y=test_set.y)
        return Verified([], ())

    monkeypatch.setattr("tfhalf.verify.version.compare_version", compared)
    monkeypatch.setattr(verify.manifests, "check_files", lambda *_: None)
    verify.verify_version(version, None, Progress(quiet=True), tmp_path / "p.yaml")
    assert {name: x.shape for name, x in seen["x"].items()} == {"image": (10, 2, 2, 1)}


def test_what_predict_makes_room_for_is_bounded(tmp_path: Path) -> None:
    described(tmp_path, input__shape=["batch", 1 << 20, 1 << 20, 3])
    (tmp_path / ".a.png").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"its manifest says images of .*it is damaged"):
        list(predict.predict(tmp_path, predict.Request([tmp_path / ".a.png"]), lambda line: None))


# --- what a terminal is shown -----------------------------------------------------------------------------------------


def test_control_characters_never_reach_the_terminal() -> None:
    hostile = "a\x1b[31mred\x1b[0m\x1b]0;title\x07\x9b2J\rb\u202egnp.exe\u2066\x00\ud800 \u00a0\u200d\nc\t\u00e9"
    stream = io.StringIO()
    Progress(stream).line(hostile)
    shown = stream.getvalue()
    assert shown == "ared b?gnp.exe???  \u200d c \u00e9\n"
    assert str(ArtifactError(hostile)) + "\n" == shown
    assert len(str(ArtifactError("x" * 100_000))) < 5000
