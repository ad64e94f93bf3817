"""``tfhalf bench EXPORT``: what is asked of a runtime, what is timed, and an export of digits for real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fork_server
import numpy as np
import pytest
from bench_helpers import DIGITS, Clock, call, refused, tfhalf, unheard, unseen, version_of

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.manifest import open_version
from tfhalf.artifacts.reference import Reference, Samples
from tfhalf.bench import fresh, inference, inputs, runtimes
from tfhalf.bench.results import Inference
from tfhalf.data import memory
from tfhalf.errors import ArtifactError, DataError, InputError, UnavailableError, UnsupportedError
from tfhalf.runtimes import child


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(inference, "time", made)
    return made


def of_data(source: str, preprocess: dict[str, Any], count: int = 64) -> np.ndarray:
    """What an export of images is timed on."""
    data = {"source": source, "sizes": {"test": 9}, "preprocess": preprocess}
    return inputs.batch(version_of(data=data), count)["image"]


def test_images_for_an_export() -> None:
    x = inputs.batch(version_of(), 64)["image"]
    assert x.shape == (64, 4, 4, 3)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (1, 255)
    assert (x == x.round()).all()
    assert np.array_equal(x, inputs.batch(version_of(), 64)["image"])
    x = of_data("npz:mine.npz", {"mean": [3.0, 5.0], "std": [1.0, 2.0]})
    assert 2.5 <= x.min() < 2.6
    assert 5.4 < x.max() <= 5.5
    for preprocess in ({"mean": [0.0], "std": [255.0]}, {}):  # normalize: unit, and a manifest that does not say
        x = of_data("a.py:load", preprocess)
        assert x.min() > 0
        assert x.max() <= (255 if preprocess else 1)


def test_a_row_of_a_table(tmp_path: Path) -> None:
    """Numbers in the range of their own input, words by their numbers."""
    Lookups({"town": Lookup("category", ("", "Bonn", "Trier"))}).write(tmp_path)
    ports = [
        {"name": "numbers", "dtype": "float32", "shape": ["batch", 2]},
        {"name": "town", "dtype": "int32", "shape": ["batch", 1]},
    ]
    own = {"inputs": {"numbers": {"mean": [100.0, 200.0], "std": [2.0, 4.0], "missing": True}, "town": None}}
    version = version_of(inputs=ports, data={"source": "csv:x", "sizes": {"test": 1}, "preprocess": own})
    x = inputs.batch(replace(version, directory=tmp_path), 64)
    assert x["numbers"].shape == (64, 2)
    assert 147 <= x["numbers"].min() <= x["numbers"].max() <= 153
    assert set(x["town"].ravel()) == {1, 2}


def test_a_version_that_holds_its_inputs_is_timed_on_them(tmp_path: Path) -> None:
    """Several inputs, and such as are places in a table: none is drawn at random."""
    a, tokens = np.arange(6.0, dtype=np.float32).reshape(3, 2), np.array([[4], [5], [6]], np.int32)
    Reference(Samples({"a": a, "tokens": tokens}, {"y": np.zeros(3)})).save(tmp_path)
    ports = [
        {"name": "a", "dtype": "float32", "shape": ["batch", 2]},
        {"name": "tokens", "dtype": "int32", "shape": ["batch", 1]},
    ]
    version = replace(version_of(inputs=ports, data=None, reference={}), directory=tmp_path)
    found = inputs.batch(version, 7)
    assert found["tokens"].tolist() == [[4], [5], [6], [4], [5], [6], [4]]
    assert (found["a"].shape, found["tokens"].dtype) == ((7, 2), np.dtype("int32"))
    with pytest.raises(ArtifactError, match="its samples are not such as its manifest says"):
        inputs.batch(replace(version_of(data=None, reference={}), directory=tmp_path), 7)


@pytest.mark.parametrize("shape", [["batch"], ["batch", "wide"], ["batch", 1 << 20, 1 << 20]])
def test_a_shape_that_is_none(shape: list[Any]) -> None:
    port = {"name": "image", "dtype": "float32", "shape": shape}
    with pytest.raises(ArtifactError, match=r"input image has shape .* damaged"):
        inputs.batch(version_of(inputs=[port]), 2)


def test_a_batch_that_the_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10**5)
    with pytest.raises(DataError, match=r"take a smaller batch \(--batch-sizes\)"):
        inputs.batch(version_of(), 1000)


@pytest.mark.parametrize(
    ("pause", "seconds", "calls"), [(0.01, 0.1, 30), (0.01, 1.0, 101), (3.0, 2.0, 4), (60.0, 2.0, 1)]
)
def test_a_cell_holds_thirty_calls_unless_they_are_slow(clock: Clock, pause: float, seconds: float, calls: int) -> None:
    """Five times its seconds are the most that a call is begun after."""
    asked = []

    def answer(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(len(arrays["x"]))
        clock.now += pause
        return {}

    cell = inference._cell(answer, {"x": np.zeros((4, 2))}, seconds)  # type: ignore[arg-type]
    warm = len(asked) - cell.calls
    assert (cell.batch_size, cell.calls) == (4, pytest.approx(calls, abs=1 if calls > 30 else 0))
    assert 1 <= warm <= 3
    assert cell.warm_up_seconds == pytest.approx(warm * pause)
    assert (cell.p50_ms, cell.p99_ms) == pytest.approx((1000 * pause, 1000 * pause))
    assert cell.images_per_s == pytest.approx(4 / pause)


def test_percentiles_of_a_cell(clock: Clock) -> None:
    pauses = iter([9.0] * 3 + [0.001 * (k + 1) for k in range(1000)])

    def answer(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        clock.now += next(pauses)
        return {}

    cell = inference._cell(answer, {"x": np.zeros((1, 2))}, 100.0)  # type: ignore[arg-type]
    assert cell.p50_ms == pytest.approx(cell.calls / 2, abs=1)
    assert cell.p99_ms == pytest.approx(cell.calls * 0.99, abs=1)


def measured(monkeypatch: pytest.MonkeyPatch, runtime: str, opens: Callable[..., Any]) -> Inference:
    """An export whose files are all there, in a runtime that ``opens`` as it says."""
    monkeypatch.setattr(inference, "read", lambda path: version_of().manifest)
    monkeypatch.setattr(inference, "missing", lambda where, runtime: "")
    monkeypatch.setattr(inference, "open_to_measure", opens)
    monkeypatch.setattr(inference, "grow_memory", lambda: None)
    return inference.measure(
        directory="exports/net/1", runtime=runtime, batch_sizes=[8, 1, 4], seconds=0.001, stages=unheard()
    )


def test_a_batch_size_that_fails_leaves_the_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        about, settings, inputs = "a small one", "", ("image",)

        def __call__(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if len(arrays["image"]) > 4:
                raise ValueError("out of\nmemory")
            return {}

    row = measured(monkeypatch, "onnx-cpu", lambda where, runtime: Small())
    assert [cell.batch_size for cell in row.cells] == [1, 4]
    assert row.computed_by == "a small one"
    assert row.error == "batch 8: ValueError: out of memory; leave it out of --batch-sizes"
    assert row.note == ""


def test_a_gpu_runtime_that_does_not_start_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(where: Path, runtime: str) -> Any:
        raise UnavailableError("could not start CUDAExecutionProvider")

    row = measured(monkeypatch, "onnx-cuda", opens)
    assert (row.cells, row.error) == ((), "")
    assert row.note == "not available: could not start CUDAExecutionProvider"

    def refuses(where: Path, runtime: str) -> Any:
        raise ArtifactError("model.onnx: is not opened")

    with pytest.raises(ArtifactError, match="is not opened"):
        measured(monkeypatch, "onnx-cuda", refuses)


def test_what_openvino_does_not_open_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(where: Path, runtime: str) -> Any:
        raise UnsupportedError("model.onnx", "does not open: no such operator")

    row = measured(monkeypatch, "openvino", opens)
    assert (row.cells, row.error, row.note) == ((), "", "not available: model.onnx: does not open: no such operator")
    with pytest.raises(UnsupportedError):
        measured(monkeypatch, "onnx-cpu", opens)


def test_a_runtime_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtimes.missing(tmp_path, "savedmodel-xla") == "the version holds no saved_model.pb"
    assert runtimes.missing(tmp_path, "onnx-cuda") == "the version holds no model.onnx"
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    assert runtimes.missing(tmp_path, "onnx-cpu") == ""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert "onnxruntime-gpu brings CUDA" in runtimes.missing(tmp_path, "onnx-cuda")
    with pytest.raises(ArtifactError, match=r"model\.onnx: is not an ONNX file"):
        runtimes.open_to_measure(tmp_path, "onnx-cpu")
    monkeypatch.setattr(child.importlib.util, "find_spec", lambda name: None)
    assert runtimes.missing(tmp_path, "openvino") == "OpenVINO is not installed: pip install 'tfhalf[openvino]'"
    assert runtimes.missing(tmp_path, "onnx-cpu").startswith("onnxruntime is not installed: pip install 'tfhalf[cpu]'")
    with pytest.raises(UnavailableError, match="onnxruntime is not installed"):
        runtimes.open_to_measure(tmp_path, "onnx-cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``exports/digits`` of a smoke run."""
    where = tmp_path_factory.mktemp("exported")
    done = fork_server.run(where, "train", DIGITS, "--smoke", "--quiet")
    assert done.returncode == 0, done.stderr
    return next((where / "runs" / "digits").iterdir()) / "exports" / "digits"


@pytest.mark.slow
def test_an_export_answers_for_real(exported: Path, tmp_path: Path) -> None:
    options = ("--batch-sizes", "8,1", "--seconds", 0.05)
    done = tfhalf(exported, *options, "--json", "--plot", tmp_path / "a.svg")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"kind", "version", "inputs", "settings", "versions", "runtimes", "failed"}
    assert told["version"] == str(exported / "1")
    assert told["inputs"] == {"image": [8, 8, 1]}
    assert [row["runtime"] for row in told["runtimes"]] == list(runtimes.RUNTIMES)
    by = {row["runtime"]: row for row in told["runtimes"]}
    there = [by[name] for name in ("savedmodel", "savedmodel-xla", "onnx-cpu")]
    for row in there:
        assert set(row) == {"runtime", "computed_by", "device", "cells", "note", "error"}
        assert (row["note"], row["error"]) == ("", "")
        assert [cell["batch_size"] for cell in row["cells"]] == [1, 8]
        for cell in row["cells"]:
            assert cell["calls"] >= 30
            assert 0 < cell["p50_ms"] <= cell["p99_ms"]
            assert cell["images_per_s"] < 1.01 * cell["batch_size"] / (cell["p50_ms"] / 1000) * 2
    assert ["XLA" in row["computed_by"] for row in there] == [False, True, False]
    assert there[2]["computed_by"].endswith(", CPU")
    assert by["onnx-cuda"]["cells"] or by["onnx-cuda"]["note"].startswith("not available: ")
    assert by["openvino"]["note"].startswith("float32, ")  # the settings that it was given
    assert by["litert"]["note"] == "not available: the version holds no model.tflite"
    assert "<!-- ONNX Runtime, CPU -->" in (tmp_path / "a.svg").read_text()
    for i, (name, _) in enumerate(runtimes.RUNTIMES.values()):
        assert f" {i + 1}/{len(runtimes.RUNTIMES)} {name} " in done.stderr


@pytest.mark.slow
def test_runtimes_answer_alike(exported: Path) -> None:
    """What is timed is the model: each runtime gives the same probabilities for the same images."""
    x = inputs.batch(open_version(exported), 16)
    answers = [
        runtimes.open_to_measure(exported / "1", name)(x) for name in ("savedmodel", "savedmodel-xla", "onnx-cpu")
    ]
    for answer in answers:
        assert set(answer) == {"logits", "probabilities"}
        np.testing.assert_allclose(answer["probabilities"], answers[0]["probabilities"], atol=0.01)
    np.testing.assert_allclose(answers[0]["probabilities"].sum(-1), 1, atol=1e-3)


@pytest.mark.slow
def test_files_that_were_changed_are_not_opened(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "exports" / "digits")
    version = tmp_path / "exports" / "digits" / "1"
    with (version / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "model.onnx: is not the file that was published" in refused(call(version), 1)
    request = {"directory": str(version), "runtime": "onnx-cpu", "batch_sizes": [1], "seconds": 0.01}
    # The process that asks has checked the files: what became of them since, their readers refuse.
    with pytest.raises(InputError, match=r"^onnx: .*model\.onnx: is not an ONNX file"):
        fresh.measure_row({"kind": "inference", **request}, "onnx", unseen("onnx"))
    shutil.rmtree(version)
    with pytest.raises(InputError, match=r"^onnx: "):
        fresh.measure_row({"kind": "inference", **request}, "onnx", unseen("onnx"))
