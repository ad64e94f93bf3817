"""Nothing serves that was not compared in that engine: one that the manifest holds no passed comparison for is compared
when a version is loaded, and refused where it falls short. The GPU is faked: it computes on the CPU, or wrongly."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serve_helpers import (
    IMAGE_NET,
    LABELS,
    SHAPE,
    client,
    expected,
    exported,
    images,
    lines,
    make_version,
    run,
    tensor,
    weights,
)

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Comparison, Limits, OutputParity
from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Reference, Samples, data_sha256
from tfhalf.errors import ArtifactError, ShortfallError, UnsupportedError
from tfhalf.runtimes.base import ONNXRUNTIME, TENSORFLOW, Arrays, Engine, Runtime, RuntimeSpec, engine_of
from tfhalf.runtimes.open import open_runtime
from tfhalf.serve.models import open as engines
from tfhalf.serve.models.open import Opened, Source, open_version
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import from_manifest
from tfhalf.verify.at_load import drawn_between, passed_before

FELL_SHORT = OutputParity("probabilities", 1.0, 0.5, 0.1, 0, None, 1.0, ("the largest difference is 0.5",))
CPU_PASSED = Comparison("onnx", "onnxruntime 1.30.0, CPU", 10, (), 0.1)
CUDA_PASSED = replace(CPU_PASSED, runtime="onnxruntime 1.30.0, CUDA")

Answers = Callable[[Arrays, Arrays], Arrays]


def rewritten(version: Path, **changes: Any) -> Path:
    """A version whose manifest says ``changes``, and the hashes of the files that are there now."""
    changes = {**changes, "files": manifests.file_hashes(version)}
    manifests.write(version, manifests.read(version).model_copy(update=changes))
    return version


def with_answers(version: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A version whose float32 answers are others."""
    reference = Reference.load(version)
    usual, edges = (
        replace(part, outputs={name: np.ascontiguousarray(change(y)) for name, y in part.outputs.items()})
        for part in (reference.usual, reference.edges)
    )
    replace(reference, usual=usual, edges=edges).save(version)
    return rewritten(version)


def of_a_model(exports: Path, number: int = 1, *passed: Comparison) -> Path:
    """A version as `tfhalf export MODEL` writes it, with ten samples, two of them edge rows."""
    version = make_version(exports, "net", number)
    x = np.concatenate([images(8), np.zeros((1, *SHAPE), np.float32), np.full((1, *SHAPE), 255, np.float32)])
    logits = x.reshape(len(x), -1) @ weights().astype(np.float32)
    kinds = ("drawn",) * 8 + ("zeros", "largest")
    Reference.of_rows({"image": x}, {"logits": logits, "probabilities": expected(x)}, kinds).save(version)
    return rewritten(version, comparisons=passed)


def of_a_pipeline(exports: Path, *passed: Comparison, edges: bool = True) -> Path:
    """A version as `tfhalf train` writes it: of its test set the answers alone, and edge rows."""
    version = make_version(exports, "net", 1)
    x = np.stack([np.zeros(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8)])
    ends = Samples({"image": x}, {"probabilities": expected(x.astype(np.float32)).astype(np.float32)})
    test = images(20).astype(np.uint8)
    answers = expected(test.astype(np.float32)).astype(np.float32)
    labels, kinds = answers.argmax(-1).astype(np.int32), ("smallest", "largest")
    reference = Reference(Samples({}, {"probabilities": answers}), labels=labels, digest=data_sha256(test))
    (replace(reference, edges=ends, edge_kinds=kinds) if edges else reference).save(version)
    limits = Limits(max_difference=None, mean_difference=None, max_accuracy_drop=0.5)
    return rewritten(version, comparisons=passed, limits=limits)


class FakeGpu:
    """onnxruntime on CUDA, which gives ``answers`` of what the CPU gives."""

    def __init__(self, directory: Path, answers: Answers) -> None:
        self._runtime = open_runtime(directory, RuntimeSpec(ONNXRUNTIME, "onnx", "CPU"))
        self._answers = answers
        self.engine, self.about, self.settings = Engine(ONNXRUNTIME, "CUDA"), "onnxruntime 1.30.0, CUDA", ""
        self.inputs, self.outputs = self._runtime.inputs, self._runtime.outputs
        self.batch_sizes = (1, 2, 4, 8, 16, 64)
        self.sizes: list[int] = []
        self.closed = False

    def __call__(self, arrays: Arrays) -> Arrays:
        self.sizes.append(len(arrays["image"]))
        return self._answers(arrays, self._runtime(arrays))

    def stop(self) -> None:
        """Nothing can."""

    def close(self) -> None:
        """No longer used."""
        self.closed = True


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], list[FakeGpu]]:
    """Gives the machine a GPU that answers so; returns what is opened on it."""

    def add(answers: Answers) -> list[FakeGpu]:
        opened: list[FakeGpu] = []

        def door(directory: Path, spec: RuntimeSpec, *more: Any) -> Runtime:
            if spec.device != "CUDA":
                return open_runtime(directory, spec, *more)
            opened.append(FakeGpu(directory, answers))
            return opened[-1]

        monkeypatch.setattr(engines, "gpu_devices", lambda: ("CUDA",))
        monkeypatch.setattr(engines, "open_runtime", door)
        return opened

    return add


def right(arrays: Arrays, answers: Arrays) -> Arrays:
    return answers


def wrong(arrays: Arrays, answers: Arrays) -> Arrays:
    """Classes in another order."""
    return {name: np.ascontiguousarray(y[:, ::-1]) for name, y in answers.items()}


def opened(version: Path, runtime: str | None = None, **more: Any) -> Opened:
    manifest = manifests.read(version)
    settings = Settings((version,), runtime, **more)
    return open_version(Source(version, manifest, from_manifest(manifest, 64)), settings)


def test_what_has_passed_is_not_compared_again(tmp_path: Path, gpu: Any) -> None:
    on_gpu = gpu(wrong)
    served = opened(of_a_model(tmp_path, 1, CPU_PASSED, CUDA_PASSED))
    assert served.runtime is on_gpu[0]
    assert on_gpu[0].sizes == []
    assert served.verified == "when it was published, in onnxruntime 1.30.0, CUDA"
    assert served.refused == {}


def test_an_engine_that_is_new_is_compared_and_serves(tmp_path: Path, gpu: Any) -> None:
    on_gpu = gpu(right)
    served = opened(of_a_model(tmp_path, 1, CPU_PASSED))
    assert served.runtime is on_gpu[0]
    assert served.verified.startswith("at load, on 8 samples and 2 edge rows, in ")
    assert on_gpu[0].sizes == [8, 8]  # sizes that it is ready for, the last filled up


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (wrong, "logits: "),
        (lambda x, y: {**y, "logits": np.full_like(y["logits"], np.nan)}, "values are not finite"),
        (lambda x, y: {**y, "logits": y["logits"][:, :2]}, "it gives shape"),
        (lambda x, y: 1 // 0, "does not run: integer division"),
    ],
)
def test_an_engine_that_falls_short_is_refused_and_the_next_serves(
    tmp_path: Path, gpu: Any, answers: Answers, why: str
) -> None:
    on_gpu = gpu(answers)
    served = opened(of_a_model(tmp_path, 1, CPU_PASSED))
    assert served.runtime.engine == Engine(ONNXRUNTIME, "CPU")
    assert served.verified == "when it was published, in onnxruntime 1.30.0, CPU"
    assert list(served.refused) == ["onnxruntime on CUDA"]
    assert why in served.refused["onnxruntime on CUDA"]
    assert on_gpu[0].closed


def test_an_engine_that_does_not_open_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def door(directory: Path, spec: RuntimeSpec, *more: Any) -> Runtime:
        if spec.device == "CUDA":
            raise UnsupportedError("model.onnx", "does not open: no kernel")
        return open_runtime(directory, spec, *more)

    monkeypatch.setattr(engines, "gpu_devices", lambda: ("CUDA",))
    monkeypatch.setattr(engines, "open_runtime", door)
    served = opened(of_a_model(tmp_path, 1, CPU_PASSED))
    assert served.runtime.engine.device == "CPU"
    assert served.refused == {"onnxruntime on CUDA": "model.onnx: does not open: no kernel"}


def test_where_every_engine_falls_short_the_reason_is_one_line(tmp_path: Path, gpu: Any) -> None:
    """Neither is the model's other format taken where onnx is what --runtime names."""
    gpu(right)
    version = of_a_model(tmp_path)
    with_answers(version, lambda y: y[:, ::-1])
    (version / "saved_model.pb").write_bytes(b"not opened")
    with pytest.raises(ArtifactError, match="no engine here may serve it: onnxruntime on CUDA: logits: ") as caught:
        opened(rewritten(version), "onnx")
    assert "; onnxruntime on CPU: logits: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_engine_that_never_answers_is_refused_in_time(
    tmp_path: Path, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(engines, "PATIENCE", 0.3)
    gpu(lambda x, y: gate.wait(30) and y)
    try:
        served = opened(of_a_model(tmp_path, 1, CPU_PASSED))
    finally:
        gate.set()
    assert served.runtime.engine.device == "CPU"
    assert "did not answer the samples of the version within 0 s" in served.refused["onnxruntime on CUDA"]


def test_a_pipelines_version_is_compared_on_its_edge_rows_and_on_drawn_ones(tmp_path: Path, gpu: Any) -> None:
    gpu(right)
    served = opened(of_a_pipeline(tmp_path, CPU_PASSED))
    assert served.runtime.engine.device == "CUDA"
    assert "at load, on 2 edge rows, and on 32 drawn ones beside onnxruntime " in served.verified

    def wrong_within(arrays: Arrays, answers: Arrays) -> Arrays:
        ends = arrays["image"].reshape(len(arrays["image"]), -1).std(-1) == 0
        return {name: np.where(ends[:, None], y, y[:, ::-1]) for name, y in answers.items()}

    gpu(wrong_within)
    served = opened(tmp_path / "net" / "1")
    assert served.runtime.engine.device == "CPU"
    assert served.refused["onnxruntime on CUDA"].startswith("beside onnxruntime ")


def test_without_an_engine_that_has_passed_the_edge_rows_decide(tmp_path: Path) -> None:
    version = of_a_pipeline(tmp_path)
    assert "at load, on 2 edge rows, in " in opened(version).verified
    with pytest.raises(ArtifactError, match="onnxruntime on CPU: probabilities: edge row 'largest': the largest diff"):
        opened(with_answers(version, lambda y: y[:, ::-1]))


def test_a_version_that_holds_nothing_to_compare_on(tmp_path: Path, gpu: Any) -> None:
    """As those from before edge rows: what has passed on another device serves as it did, and says so."""
    gpu(right)
    served = opened(of_a_pipeline(tmp_path, CPU_PASSED, edges=False))
    assert served.runtime.engine.device == "CUDA"
    assert served.verified == (
        "when it was published, in onnxruntime 1.30.0, CPU; it holds no inputs to compare onnxruntime on CUDA on: "
        "export again"
    )
    with pytest.raises(ArtifactError, match="onnxruntime on CPU: the version holds no inputs to compare it on: export"):
        opened(rewritten(tmp_path / "net" / "1", comparisons=()))


def test_drawn_rows_lie_between_the_edges() -> None:
    x = np.array([[0, 5], [4, 9]], np.uint8)
    rows = drawn_between(x, 100)
    assert rows.dtype == np.float32
    assert (rows == rows.round()).all()
    assert rows.min(0).tolist() == [0, 5]
    assert rows.max(0).tolist() == [4, 9]
    np.testing.assert_array_equal(rows, drawn_between(x, 100))


@pytest.mark.parametrize(
    ("row", "passes"),
    [
        (CUDA_PASSED, True),
        (replace(CUDA_PASSED, runtime="onnxruntime 1.23.2, Tensorrt"), False),
        (CPU_PASSED, False),
        (replace(CUDA_PASSED, outputs=(FELL_SHORT,)), False),
        (replace(CUDA_PASSED, not_covered="does not open"), False),
        (replace(CUDA_PASSED, artifact="savedmodel"), False),
        (replace(CUDA_PASSED, artifact="onnx, first 2", runtime="true float16, CPU"), False),
    ],
)
def test_which_comparisons_count(row: Comparison, passes: bool, tmp_path: Path) -> None:
    manifest: Manifest = manifests.read(of_a_model(tmp_path, 1, row))
    assert bool(passed_before(manifest, "onnx", Engine(ONNXRUNTIME, "CUDA"))) == passes


def test_a_manifest_without_comparisons(tmp_path: Path) -> None:
    assert passed_before(manifests.read(of_a_model(tmp_path)), "onnx", Engine(ONNXRUNTIME, "CPU")) == ""


@pytest.mark.parametrize(
    ("record", "engine"),
    [
        ("TensorFlow 2.21.0, GPU", Engine(TENSORFLOW, "GPU")),
        ("TensorFlow 2.21.0, GPU, XLA", Engine(TENSORFLOW, "GPU", xla=True)),
        ("onnxruntime 1.32.0, Tensorrt", Engine(ONNXRUNTIME, "TensorRT")),
        ("onnxruntime 1.32.0, CPU, weights in model.onnx.data", Engine(ONNXRUNTIME, "CPU")),
        ("true float16, CPU", None),
        ("", None),
    ],
)
def test_engines_as_manifests_record_them(record: str, engine: Engine | None) -> None:
    assert engine_of(record) == engine


# --- in a running server ----------------------------------------------------------------------------------------------


def test_a_server_says_what_it_compared_and_refused(tmp_path: Path, gpu: Any) -> None:
    gpu(wrong)
    of_a_model(tmp_path, 1, CPU_PASSED)

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0)) as c:
            events = {row["event"]: row for row in lines(c)}
            refused = events["engine_refused"]
            assert (refused["model"], refused["version"], refused["engine"]) == ("net", 1, "onnxruntime on CUDA")
            assert refused["reason"].startswith("logits: ")
            assert events["version_loaded"]["verified"] == "when it was published, in onnxruntime 1.30.0, CPU"
            parameters = (await c.get("/v2/models/net")).json()["parameters"]
            assert parameters["verified"] == events["version_loaded"]["verified"]
            assert parameters["refused_engines"] == {"onnxruntime on CUDA": refused["reason"]}
            config = (await c.get("/v2/models/net/config")).json()["parameters"]
            assert config["verified"]["string_value"] == parameters["verified"]
            assert config["refused: onnxruntime on CUDA"]["string_value"] == refused["reason"]
            assert await _answers_right(c)

    run(work)


async def _answers_right(c: httpx.AsyncClient) -> bool:
    x = images(2)
    answer = (await c.post("/v2/models/net/infer", json={"inputs": [tensor(x)]})).json()
    got = next(output for output in answer["outputs"] if output["name"] == "probabilities")["data"]
    return np.allclose(np.reshape(got, (2, len(LABELS))), expected(x), atol=0.01)


def test_a_new_version_is_compared_while_the_old_one_answers(tmp_path: Path, gpu: Any) -> None:
    gate, entered = threading.Event(), threading.Event()

    def late_and_wrong(arrays: Arrays, answers: Arrays) -> Arrays:
        entered.set()
        gate.wait(30)
        return wrong(arrays, answers)

    of_a_pipeline(tmp_path, CPU_PASSED)

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0.02)) as c:
            gpu(late_and_wrong)
            of_a_model(tmp_path / "later", 2, CPU_PASSED).rename(tmp_path / "net" / "2")
            assert await asyncio.to_thread(entered.wait, 10)
            for _ in range(5):  # the comparison hangs, and keeps nobody waiting
                assert await asyncio.wait_for(_answers_right(c), 2)
            assert (await c.get("/v2/models/net")).json()["versions"] == ["1"]
            gate.set()
            for _ in range(500):
                if (await c.get("/v2/models/net")).json()["versions"] == ["2"]:
                    break
                await asyncio.sleep(0.02)
            refused = [row for row in lines(c) if row["event"] == "engine_refused" and row["version"] == 2]
            assert [row["engine"] for row in refused] == ["onnxruntime on CUDA"]
            assert await _answers_right(c)

    try:
        run(work)
    finally:
        gate.set()


def test_a_server_all_of_whose_engines_fall_short_does_not_start(tmp_path: Path) -> None:
    with_answers(of_a_model(tmp_path), lambda y: y[:, ::-1])

    async def work() -> None:
        async with client(Settings((tmp_path,), poll_seconds=0)):
            pass

    with pytest.raises(ShortfallError, match="no engine here may serve it: onnxruntime on CPU: logits: "):
        run(work)


# --- a real one -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version whose manifest holds no comparison of its SavedModel."""
    version = exported(tmp_path_factory.mktemp("net"), IMAGE_NET, "net") / "net" / "1"
    rows = manifests.read(version).comparisons
    return rewritten(version, comparisons=tuple(row for row in rows if row.artifact != "savedmodel"))


def with_tensorflow(version: Path, runtime: str | None = None) -> Opened:
    """Opened by a process in which TensorFlow may have computed before, and then keeps its number of threads."""
    import tensorflow as tf

    return opened(version, runtime, threads=tf.config.threading.get_intra_op_parallelism_threads())


@pytest.mark.slow
def test_a_savedmodel_that_was_not_compared_is_at_load(real: Path, tmp_path: Path) -> None:
    served = with_tensorflow(real, "savedmodel")
    assert served.runtime.engine == Engine(TENSORFLOW, "CPU")
    assert served.verified.startswith("at load, on ")
    assert opened(real).verified.startswith("when it was published, in onnxruntime ")
    version = shutil.copytree(real, tmp_path / "net" / "1")
    with_answers(version, lambda y: y + 1)
    with pytest.raises(ArtifactError, match="no engine here may serve it: TensorFlow on CPU: score: the largest"):
        with_tensorflow(version, "savedmodel")


@pytest.mark.slow
def test_where_onnx_falls_short_the_savedmodel_serves(real: Path, tmp_path: Path) -> None:
    """And the other way round: auto measures what may serve alone."""
    version = shutil.copytree(real, tmp_path / "net" / "1")
    row = Comparison("savedmodel", "TensorFlow 2.21.0, CPU", 10, (), 0.1)
    with_answers(version, lambda y: y + 1)
    for runtime in (None, "auto"):
        served = with_tensorflow(rewritten(version, comparisons=(row,)), runtime)
        assert served.runtime.engine == Engine(TENSORFLOW, "CPU")
        assert served.verified == "when it was published, in TensorFlow 2.21.0, CPU"
        assert list(served.refused) == ["onnxruntime on CPU"]
