"""What serve does on a GPU, as far as it can be seen without one: sessions and programs by batch size."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from serve_helpers import IMAGE_NET, exported

from tfhalf.artifacts import manifest as manifests
from tfhalf.runtimes import onnx_providers
from tfhalf.runtimes import onnxruntime as engines
from tfhalf.runtimes.base import Runtime
from tfhalf.serve.models.open import Source, open_version
from tfhalf.serve.settings import Batching, Settings
from tfhalf.serve.signature import from_manifest

pytestmark = pytest.mark.slow  # it exports in a process

SIZES = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    version = exported(tmp_path_factory.mktemp("net"), IMAGE_NET, "net") / "net" / "1"
    manifest = manifests.read(version)
    return Source(version, manifest, from_manifest(manifest, 64))


def settings(runtime: str) -> Settings:
    threads = tf.config.threading.get_intra_op_parallelism_threads()  # which cannot change once TensorFlow computes
    return Settings(exports=(Path("exports"),), runtime=runtime, batching=Batching(max_batch=4), threads=threads)


def open_runtime(source: Source, settings: Settings) -> Runtime:
    return open_version(source, settings).runtime


def images(source: Source, rows: int) -> np.ndarray:
    shape = (rows, *source.signature.inputs["image"].shape[1:])
    return np.random.default_rng(rows).uniform(0, 16, shape).astype(np.float32)


def with_gpu(monkeypatch: pytest.MonkeyPatch, starts: bool) -> list[Any]:
    """An onnxruntime that has CUDA, which computes on the CPU or, unless it ``starts``, is passed over; the sessions
    that were opened."""
    opened: list[Any] = []
    real = onnxruntime.InferenceSession

    class Session:
        def __init__(self, blob: bytes, options: Any, providers: list[str]) -> None:
            self.asked, self.real = providers, real(blob, options, providers=["CPUExecutionProvider"])
            self.rows = set[int]()
            opened.append(self)

        def get_providers(self) -> list[str]:
            return self.asked if starts else ["CPUExecutionProvider"]

        def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
            self.real.run_with_iobinding(binding)
            self.rows.add(len(binding.copy_outputs_to_cpu()[0]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    def providers(*devices: str) -> list[str]:
        return [f"{device}ExecutionProvider" for device in devices if device != "Tensorrt"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    for module in (engines, onnx_providers):
        monkeypatch.setattr(module, "onnx_providers", providers)
    return opened


def test_each_size_has_a_session_of_its_own_on_a_gpu(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_runtime(source, settings("onnx"))  # in float32; the other computes in float16
    opened = with_gpu(monkeypatch, starts=True)
    runtime = open_runtime(source, settings("onnx"))
    assert runtime.batch_sizes == SIZES
    assert "CUDA, 4 batch sizes" in runtime.about
    for rows in (4, 1, 3, 2, 1, 4):
        x = images(source, rows)
        for name, want in plain({"image": x}).items():
            np.testing.assert_allclose(runtime({"image": x})[name], want, rtol=5e-3, atol=5e-2)
    assert sorted(len(session.rows) for session in opened) == [1, 1, 1, 1]


def test_a_gpu_that_does_not_start_leaves_the_cpu_with_float32_weights(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu(monkeypatch, starts=False)
    opened = open_version(source, settings("onnx"))
    assert opened.runtime.about.endswith("CPU, float16 weights brought to float32 at load")
    assert opened.runtime.batch_sizes is None
    (reason,) = opened.refused.values()
    assert reason.endswith("could not start CUDAExecutionProvider")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (1, (1, 2, 3, 4, 6, 8, 12, 16)),
        (engines.COPIES_BYTES // 3, (1, 6, 16)),
        (engines.COPIES_BYTES, (1, 16)),
        (9 * engines.COPIES_BYTES, (1, 16)),
    ],
)
def test_large_weights_get_fewer_sizes(weights: int, expected: tuple[int, ...]) -> None:
    assert engines.affordable(Batching(max_batch=16).ladder, weights) == expected
    assert engines.affordable((1,), weights) == (1,)


def call_the_cpu_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tf.config.list_physical_devices
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: real("CPU" if kind == "GPU" else kind))
    monkeypatch.setattr("tfhalf.runtimes.tensorflow.grow_memory", lambda: None)


def test_a_program_for_each_size_on_a_gpu(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = open_runtime(source, settings("savedmodel"))
    assert plain.batch_sizes is None
    call_the_cpu_gpu(monkeypatch)
    runtime = open_runtime(source, settings("savedmodel"))
    assert runtime.batch_sizes == SIZES
    assert runtime.about.endswith("GPU, XLA")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (*SIZES, *SIZES):
            x = images(source, rows)
            for name, want in plain({"image": x}).items():
                np.testing.assert_allclose(runtime({"image": x})[name], want, atol=1e-3)
    assert "retracing" not in caplog.text


def test_open_sizes_are_not_compiled(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each size that a client thinks of would be a compilation."""
    call_the_cpu_gpu(monkeypatch)
    image = source.signature.inputs["image"]
    open_height = replace(image, shape=(None, None, *image.shape[2:]))
    signature = replace(source.signature, inputs={"image": open_height})
    runtime = open_runtime(replace(source, signature=signature), settings("savedmodel"))
    assert runtime.batch_sizes is None
    assert runtime.about.endswith("GPU")
