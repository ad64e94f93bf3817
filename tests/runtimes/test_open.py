"""The one door: what every runtime says of itself and answers, and what is not to be had here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pipeline_version import X, export

from tfhalf.artifacts import manifest as manifests
from tfhalf.errors import ArtifactError, IntegrityError, UnavailableError
from tfhalf.runtimes.base import ONNXRUNTIME, TENSORFLOW, TRUE_FLOAT16, RuntimeSpec, Tuning, engine_of
from tfhalf.runtimes.open import BY_NAME, open_predictor, open_runtime

ROWS = X[:6].astype(np.float32)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version")
    export(folder)
    return folder


def here(name: str) -> RuntimeSpec:
    return replace(BY_NAME[name], apart=False)


@pytest.mark.parametrize("apart", [False, True])
def test_openvino_in_this_process_and_in_its_own(version: Path, apart: bool) -> None:
    pytest.importorskip("openvino")
    check_alike(version, replace(here("onnx-openvino"), apart=apart))


@pytest.mark.parametrize("name", ["savedmodel", "savedmodel-xla", "onnx", "onnx-cpu", "onnx-float16"])
def test_every_runtime_says_the_same_of_itself_and_answers_alike(version: Path, name: str) -> None:
    check_alike(version, here(name))


def check_alike(version: Path, spec: RuntimeSpec) -> None:
    runtime = open_runtime(version, spec)
    assert (runtime.inputs, sorted(runtime.outputs)) == (("image",), ["logits", "probabilities"])
    if runtime.about != TRUE_FLOAT16:
        assert engine_of(runtime.about) == runtime.engine
    assert runtime.engine.library == spec.library
    assert runtime.engine.xla == bool(spec.xla)
    expected = open_runtime(version, here("onnx-cpu"))({"image": ROWS})
    for rows in (6, 1, 3):  # XLA compiles for each
        answers = runtime({"image": ROWS[:rows]})
        assert set(answers) == set(runtime.outputs)
        for output, y in answers.items():
            np.testing.assert_allclose(y, expected[output][:rows], atol=5e-3)
    runtime.close()


@pytest.mark.parametrize("stoppable", [False, True])
def test_a_stop_when_nothing_runs_spoils_no_later_call(version: Path, stoppable: bool) -> None:
    runtime = open_runtime(version, here("onnx-cpu"), Tuning(stoppable=stoppable))
    expected = runtime({"image": ROWS})["logits"]
    runtime.stop()
    np.testing.assert_array_equal(runtime({"image": ROWS})["logits"], expected)
    runtime.close()


def test_half_precision_brought_to_float32_answers_nearly_the_same(version: Path) -> None:
    declared, wide = (
        open_runtime(version, RuntimeSpec(ONNXRUNTIME, "onnx", "CPU", precision=precision), Tuning(1, spin=False))
        for precision in ("declared", "float32")
    )
    assert "brought to float32" in wide.about
    assert wide.engine == declared.engine
    one, other = (runtime({"image": ROWS})["logits"] for runtime in (declared, wide))
    np.testing.assert_allclose(one, other, atol=5e-3)
    assert (one != other).any()


def test_devices_that_are_not_here(version: Path) -> None:
    import onnxruntime
    import tensorflow as tf

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        for device in ("CUDA", "TensorRT"):
            with pytest.raises(UnavailableError, match="onnxruntime-gpu brings CUDA"):
                open_runtime(version, RuntimeSpec(ONNXRUNTIME, "onnx", device))
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(UnavailableError, match="computes on the CPU here, not on GPU"):
            open_runtime(version, RuntimeSpec(TENSORFLOW, "savedmodel", "GPU"))


def test_a_file_that_changed_since_it_was_checked(version: Path, tmp_path: Path) -> None:
    """What is hashed is what is opened, in whichever runtime."""
    digests = {name: file.sha256 for name, file in manifests.read(version).files.items()}
    (tmp_path / "model.onnx").write_bytes((version / "model.onnx").read_bytes() + b"\0")
    for name in ("onnx-cpu", "onnx-float16"):
        with pytest.raises(IntegrityError, match=r"model\.onnx: changed while it was opened"):
            open_runtime(tmp_path, here(name), digests=digests)


def test_a_format_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ArtifactError, match=r"holds no saved_model\.pb; it has onnx"):
        open_runtime(tmp_path, here("savedmodel"))


def test_a_predictor_takes_one_array_and_refuses_other_names(version: Path) -> None:
    predictor = open_predictor(version, "onnx")
    np.testing.assert_array_equal(predictor(ROWS)["logits"], predictor({"image": ROWS})["logits"])
    with pytest.raises(ArtifactError, match="takes image; received: picture"):
        predictor({"picture": ROWS})
