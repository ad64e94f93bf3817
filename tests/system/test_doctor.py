"""What `tfhalf doctor` finds, here and on machines that are broken in one way each."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import shutil
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tfhalf.system import device, doctor
from tfhalf.system.device import Device
from tfhalf.system.doctor import diagnose, healthy
from tfhalf.system.finding import Finding

H200 = Device("GPU", "NVIDIA H200", (9, 0), 139 * 2**30, True, True, 16)
P100 = Device("GPU", "Tesla P100", (6, 0), 16 * 2**30, True, False, 1)
M60 = Device("GPU", "Tesla M60", (5, 2), None, False, False, 4)
CPU = Device("CPU", "AMD EPYC", None, 2**33, False, False, 2)


def named(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def no_gpu(monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
    monkeypatch.setattr(device, "gpus", list)
    monkeypatch.setattr(device, "nvidia_device", lambda: place)


def fail(error: BaseException) -> Any:
    def failing(*_: Any, **__: Any) -> Any:
        raise error

    return failing


def test_this_machine(tmp_path: Path) -> None:
    findings = diagnose(None, tmp_path / "exports")
    assert len(named(findings)) == len(findings)
    assert {"Python", "tensorflow", "keras", "onnx", "CPU", "XLA", "disk", "exports folder", "data sets"} <= set(
        named(findings)
    )
    assert named(findings)["Keras backend"] == Finding("Keras backend", "ok", "tensorflow")
    assert named(findings)["XLA"] == Finding("XLA", "ok", "compiles and runs float16")
    assert "CPU" in named(findings)["onnxruntime providers"].value
    for finding in findings:
        assert bool(finding.advice) == (finding.status != "ok")
        assert len(finding.value.splitlines()) == len((finding.advice or "-").splitlines()) == 1
        assert Finding(**json.loads(json.dumps(finding.to_dict()))) == finding
    assert not (tmp_path / "exports").exists()


def test_health_is_the_absence_of_bad() -> None:
    ok, warn, bad = (Finding("x", status, "y") for status in ("ok", "warn", "bad"))
    assert healthy([])
    assert healthy([ok, warn])
    assert not healthy([ok, bad])


def test_the_table_shows_text_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(doctor.table([Finding("a", "bad", "[/x] found", "pip install 'tfhalf[gpu]'")]))
    assert "[/x] found" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "tfhalf[gpu]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_probe_that_fails_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu", fail(OSError("no\nprocessor")))
    monkeypatch.setattr(doctor, "_xla_difference", lambda: 0.0)
    findings = named(diagnose(None, tmp_path))
    assert (findings["CPU"].status, findings["CPU"].value) == ("bad", "OSError: no")
    assert findings["disk"].value


# --- packages


@pytest.mark.parametrize("backend", ["torch", "jax", "banana"])
def test_another_keras_backend(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    [finding] = doctor._keras_backend()
    assert finding.status == "bad"
    assert finding.value == f"KERAS_BACKEND={backend}"
    assert "tensorflow" in finding.advice


def test_a_tensorflow_that_does_not_start_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import then raises
    monkeypatch.setenv("KERAS_BACKEND", "banana")
    findings = diagnose(None, tmp_path)
    assert [finding.name for finding in findings if finding.status == "bad"] == ["Keras backend", "TensorFlow import"]
    assert "ModuleNotFoundError" in named(findings)["TensorFlow import"].value
    assert not {"GPU", "CUDA", "XLA"} & set(named(findings))
    assert not healthy(findings)


def test_a_keras_backend_of_the_settings_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    [finding] = doctor._keras_backend()
    assert (finding.status, finding.value) == ("bad", "jax")


def test_packages_missing_or_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "tf2onnx":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.20.0"

    asked = ["tensorflow>=2.21,<2.22", "tf2onnx>=1.17,<2", "tensorflow[and-cuda]>=9; extra == 'gpu'"]
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: asked)
    findings = named(doctor._packages())
    assert findings["tf2onnx"] == Finding("tf2onnx", "bad", "not installed", "pip install 'tf2onnx<2,>=1.17'")
    assert findings["tensorflow"].status == "warn"
    assert "pip install 'tensorflow<2.22,>=2.21'" in findings["tensorflow"].advice
    assert findings["numpy"] == Finding("numpy", "ok", "2.20.0")


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", fail(importlib.metadata.PackageNotFoundError("tfhalf")))
    assert {finding.status for finding in doctor._packages()} == {"ok"}


@pytest.mark.parametrize(
    ("installed", "status", "words"),
    [
        ({"onnxruntime": "1.32.0"}, "ok", "1.32.0"),
        ({"onnxruntime-gpu": "1.26.0"}, "ok", "onnxruntime-gpu 1.26.0"),
        ({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.26.0"}, "warn", "overwrite each other"),
        ({}, "bad", "'tfhalf[gpu]' where there is an NVIDIA GPU"),
    ],
)
def test_the_two_packages_of_onnxruntime(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], status: str, words: str
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = doctor._onnxruntime()
    assert finding.status == status
    assert words in f"{finding.value} {finding.advice}"


def test_a_gpu_that_onnxruntime_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpus", lambda: [H200])
    [finding] = doctor._providers()
    assert finding.status == "warn"
    assert "onnxruntime-gpu" in finding.advice


# --- devices


def test_a_gpu_with_tensor_cores_and_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpus", lambda: [H200, P100])
    first, second = doctor._gpus()
    assert (first.name, first.status) == ("GPU 0", "ok")
    assert "compute capability 9.0, 139.0 GiB, float16 Tensor Cores" in first.value
    assert (second.name, second.status) == ("GPU 1", "warn")
    assert "no float16 Tensor Cores" in second.advice


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch, None)
    [finding] = doctor._gpus()
    assert finding.status == "warn"
    assert "float32" in finding.advice


def test_a_gpu_that_tensorflow_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch, "/dev/nvidia0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert doctor._gpus()[0].status == "bad"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert doctor._gpus()[0].status == "warn"


@pytest.mark.parametrize(("place", "status"), [(None, "ok"), ("/dev/nvidia0", "bad")])
def test_cuda_libraries_are_needed_by_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, place: str | None, status: str
) -> None:
    no_gpu(monkeypatch, place)
    monkeypatch.setattr(device, "library", lambda _: None)
    monkeypatch.setattr(device, "nvidia_driver", lambda: None)
    findings = doctor._cuda()
    assert len(findings) == 3
    assert {finding.status for finding in findings} == {status}


def test_a_tensorflow_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"is_cuda_build": False})
    assert doctor._cuda()[0].status == "warn"


@pytest.mark.parametrize(("gpus", "status"), [([], "warn"), ([H200], "bad")])
def test_xla_that_fails(monkeypatch: pytest.MonkeyPatch, gpus: list[Device], status: str) -> None:
    import tensorflow as tf

    monkeypatch.setattr(device, "gpus", lambda: gpus)
    monkeypatch.setattr(tf, "function", fail(RuntimeError("libdevice not found\nat ./libdevice.10.bc")))
    [finding] = doctor._xla()
    assert (finding.status, finding.value) == (status, "RuntimeError: libdevice not found")
    assert "train.xla" in finding.advice


@pytest.mark.parametrize("difference", [0.5, float("nan")])
def test_xla_that_is_wrong(monkeypatch: pytest.MonkeyPatch, difference: float) -> None:
    monkeypatch.setattr(doctor, "_xla_difference", lambda: difference)
    assert doctor._xla()[0].status == "bad"


# --- folders

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "status"), [(3 << 30, "ok"), (1 << 30, "warn"), (100 << 20, "bad"), (0, "bad")])
def test_room_for_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, free))
    finding = named(doctor._folder(tmp_path / "a" / "b"))["disk"]
    assert finding.status == status
    assert bool(finding.advice) == (status != "ok")
    assert str(tmp_path) in finding.value


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", fail(PermissionError(13, "Permission denied")))
    finding = named(doctor._folder(tmp_path))["exports folder"]
    assert finding.status == "bad"
    assert "Permission denied" in finding.value


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "exports").write_text("")
    assert doctor._folder(tmp_path / "exports")[0].status == "bad"
    assert doctor._data(str(tmp_path / "exports"))[0].status == "bad"


def test_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = doctor._data(str(tmp_path / "none"))[0]
    assert missing.status == "warn"
    assert "--data-dir" in missing.advice
    for folder in ("cifar10/3.0.2", "glue/cola/2.0.0", "downloads/extracted"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("cifar10/3.0.2", "glue/cola/2.0.0"):
        (tmp_path / folder / "dataset_info.json").write_text("{}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert doctor._data(None) == [Finding("data sets", "ok", f"{tmp_path}: cifar10, glue/cola")]
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert "is made when the first data set is downloaded" in doctor._data(None)[0].advice


# --- tfhalf.system.device


def test_the_device_here() -> None:
    found = device.detect()
    assert found.cpu_cores >= 1
    assert found.memory_bytes
    assert found.name in found.describe()
    assert len(found.describe().splitlines()) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.kind = "GPU"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("capability", "native", "cores"),
    [((9, 0), True, True), ((6, 1), True, False), ((5, 2), False, False), (None, False, False)],
)
def test_a_gpu_is_judged_by_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None, native: bool, cores: bool
) -> None:
    import tensorflow as tf

    physical = namedtuple("Physical", "name")("/physical_device:GPU:0")
    details = {"device_name": "NVIDIA X", "compute_capability": capability} if capability else {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [physical] if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    monkeypatch.setattr(device, "_gpu_memory", lambda _: 2**34)
    found = device.detect()
    assert (found.kind, found.native_float16, found.tensor_cores) == ("GPU", native, cores)
    assert found.compute_capability == capability
    assert found.name == ("NVIDIA X" if capability else "/physical_device:GPU:0")


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("model name\t: Xeon 6\nflags\t\t: fpu avx512_fp16 amx_tile\n\nmodel name\t: other\nflags\t: none\n", True),
        ("model name\t: EPYC\nflags\t\t: fpu avx512f avx512_bf16 f16c\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd fphp asimdhp\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
    ],
)
def test_a_cpu_is_judged_by_its_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, native: bool) -> None:
    assert device._cpu_facts(tmp_path / "none") == {}
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    facts = device._cpu_facts(path)
    monkeypatch.setattr(device, "_cpu_facts", lambda: facts)
    found = device.cpu()
    assert found.native_float16 is native
    assert found.name


def test_descriptions() -> None:
    assert H200.describe() == "NVIDIA H200, compute capability 9.0, 139.0 GiB, float16 Tensor Cores, 16 CPU cores"
    assert P100.describe() == "Tesla P100, compute capability 6.0, 16.0 GiB, float16 arithmetic, 1 CPU core"
    assert M60.describe() == "Tesla M60, compute capability 5.2, float16 emulated in float32, 4 CPU cores"
    assert CPU.describe() == "AMD EPYC, 8.0 GiB, float16 emulated in float32, 2 CPU cores"


def test_xla_is_for_gpus_unless_asked_for() -> None:
    assert device.xla_decision("auto", H200)[0]
    off, why = device.xla_decision("auto", H200, recurrent=True)  # XLA has no kernel for them, and the step would fail
    assert not off
    assert why.startswith("XLA is off: cuDNN computes the recurrent layers")
    assert device.xla_decision("on", H200, recurrent=True)[0]
    assert device.xla_decision("auto", CPU) == (False, "XLA is off: XLA on a CPU makes half precision slower")
    assert device.xla_decision("off", H200) == (False, "XLA is off: train.xla is off")
    assert device.xla_decision("on", H200) == (True, "XLA is on: train.xla is on")
    on, why = device.xla_decision("on", CPU)
    assert on
    assert "slower" in why
