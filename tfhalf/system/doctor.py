"""What stands in the way of training and exporting on this machine, and what to do about it.

Each probe looks at one thing and answers with findings. A probe that fails is itself a finding: `diagnose` never raises
for what it finds.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfhalf.system import device
from tfhalf.system.finding import Finding, Status

if TYPE_CHECKING:
    from rich.table import Table

DISK_WARN, DISK_BAD = 2 << 30, 200 << 20  # bytes
PACKAGES = ("tensorflow", "keras", "numpy", "protobuf", "onnx", "onnxruntime", "tf2onnx", "tensorflow-datasets")


def diagnose(data_dir: str | None, where: Path) -> list[Finding]:
    """Look at everything, in the order of dependence.

    Imports TensorFlow, Keras and onnxruntime, and runs one small function through XLA.

    Args:
        data_dir: folder of prepared data sets; None for ``TFDS_DATA_DIR`` or TFDS' own default.
        where: folder that exports go to; it need not exist yet.
    """
    findings = [*_run("Python", _python), *_run("packages", _packages), *_run("Keras backend", _keras_backend)]
    started = _run("TensorFlow import", _tensorflow)
    findings += started
    if healthy(started):  # else each of these would tell of the same fault
        findings += [*_run("onnxruntime providers", _providers), *_run("CUDA", _cuda), *_run("GPU", _gpus)]
        findings += [*_run("CPU", _cpu), *_run("XLA", _xla)]
    return [*findings, *_run("exports folder", lambda: _folder(where)), *_run("data sets", lambda: _data(data_dir))]


def healthy(findings: list[Finding]) -> bool:
    """True where nothing is ``bad``."""
    return all(finding.status != "bad" for finding in findings)


def table(findings: list[Finding]) -> Table:
    """The findings for a terminal, advice under what it is for."""
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "bad": "red"}
    grid = Table("", "What", "Found", box=None, pad_edge=False)
    for finding in findings:
        text = Text(finding.value)
        if finding.advice:
            text.append(f"\n{finding.advice}", style="italic")
        grid.add_row(Text(finding.status, style=colours[finding.status]), Text(finding.name), text)
    return grid


def _run(name: str, probe: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 (whatever a broken installation raises is what is to be shown)
        return [
            Finding(name, "bad", _first_line(error), f"this could not be looked at; repair it, then look again: {name}")
        ]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


_ON_THE_CPU = (
    "ONNX files run on the CPU: pip uninstall -y onnxruntime && pip install 'tfhalf[gpu]', with onnxruntime-gpu"
)

# --- Python and its packages ------------------------------------------------------------------------------------------


def _python() -> list[Finding]:
    old = sys.version_info < (3, 10)
    advice = "tfhalf needs Python 3.10 or newer" if old else ""
    return [Finding("Python", "bad" if old else "ok", f"{platform.python_version()} at {sys.executable}", advice)]


def _packages() -> list[Finding]:
    requirements = _requirements()
    findings = []
    for name in PACKAGES:
        accepted = requirements.get(name)
        if name == "onnxruntime":
            findings.append(_onnxruntime())
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, "bad", "not installed", f"pip install '{name}{accepted or ''}'"))
            continue
        if accepted is None or accepted.contains(version, prereleases=True):
            findings.append(Finding(name, "ok", version))
        else:
            findings.append(
                Finding(name, "warn", version, f"tfhalf is made for {accepted}: pip install '{name}{accepted}'")
            )
    return findings


def _onnxruntime() -> Finding:
    """Either of two packages is the module; of both, the files of the one overwrite the other's."""
    versions = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    shown = ", ".join(f"{name} {version}" if name != "onnxruntime" else version for name, version in versions.items())
    if not versions:
        advice = "pip install 'tfhalf[cpu]', or 'tfhalf[gpu]' where there is an NVIDIA GPU"
        return Finding("onnxruntime", "bad", "not installed", advice)
    if len(versions) > 1:
        both = "they overwrite each other: pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'tfhalf[gpu]'"
        return Finding("onnxruntime", "warn", shown, both)
    return Finding("onnxruntime", "ok", shown)


def _requirements() -> dict[str, Any]:
    """The versions tfhalf asks for; empty where it runs from a checkout that is not installed."""
    from packaging.requirements import Requirement  # TensorFlow and Keras bring it

    try:
        lines = importlib.metadata.requires("tfhalf") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    parsed = [Requirement(line) for line in lines]
    return {one.name: one.specifier for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})}


def _keras_backend() -> list[Finding]:
    name, asked = "Keras backend", os.environ.get("KERAS_BACKEND")
    if asked not in (None, "", "tensorflow"):
        advice = "unset KERAS_BACKEND, or set it to tensorflow: tfhalf trains and exports through TensorFlow"
        return [Finding(name, "bad", f"KERAS_BACKEND={asked}", advice)]
    import keras

    backend = str(keras.config.backend())
    if backend != "tensorflow":
        return [Finding(name, "bad", backend, "set KERAS_BACKEND=tensorflow, or the backend in ~/.keras/keras.json")]
    return [Finding(name, "ok", backend)]


def _tensorflow() -> list[Finding]:
    name = "TensorFlow import"
    try:
        import tensorflow as tf
    except Exception as error:  # noqa: BLE001 (a broken backend of Keras, or a broken library, raises of every kind)
        advice = "repair this first; GPU, CUDA and XLA were not looked at"
        return [Finding(name, "bad", _first_line(error), advice)]
    return [Finding(name, "ok", f"{tf.__version__} starts")]


def _providers() -> list[Finding]:
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    missing = bool(device.gpus()) and "CUDA" not in providers
    advice = _ON_THE_CPU if missing else ""
    return [Finding("onnxruntime providers", "warn" if missing else "ok", ", ".join(providers), advice)]


# --- devices ----------------------------------------------------------------------------------------------------------


def _cuda() -> list[Finding]:
    import tensorflow as tf

    build = tf.sysconfig.get_build_info()
    if not build.get("is_cuda_build"):
        return [Finding("CUDA", "warn", "this TensorFlow is built without CUDA", "pip install 'tfhalf[gpu]' for a GPU")]
    cuda, cudnn = str(build["cuda_version"]), str(build["cudnn_version"])
    files = {
        f"CUDA {cuda}": f"libcudart.so.{cuda.split('.')[0]}",
        f"cuDNN {cudnn}": f"libcudnn.so.{cudnn.split('.')[0]}",
    }
    # Libraries elsewhere serve as well where TensorFlow has a GPU; without a device none is needed.
    needed = device.nvidia_device() is not None and not device.gpus()
    findings = []
    for name, file in files.items():
        path = device.library(file)
        if path or not needed:
            findings.append(Finding(name, "ok", path or f"{file} is not here; only a GPU needs it"))
        else:
            findings.append(Finding(name, "bad", f"{file} is not here", "pip install 'tfhalf[gpu]' brings it"))
    driver = device.nvidia_driver()
    if driver or not needed:
        findings.append(Finding("NVIDIA driver", "ok", driver or "none; only a GPU needs it"))
    else:
        advice = "install NVIDIA's driver; in a container, start it with --gpus all"
        findings.append(Finding("NVIDIA driver", "bad", "none", advice))
    return findings


def _gpus() -> list[Finding]:
    findings = []
    for index, gpu in enumerate(device.gpus()):
        advice = "" if gpu.tensor_cores else "no float16 Tensor Cores: half precision saves memory here, not time"
        findings.append(Finding(f"GPU {index}", "warn" if advice else "ok", gpu.describe(), advice))
    if findings:
        return findings
    path = device.nvidia_device()
    if path is None:
        advice = "training works, but mixed_float16 is emulated and slow on a CPU: use precision.policy=float32"
        return [Finding("GPU", "warn", "none", advice)]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        return [Finding("GPU", "warn", f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", "unset it to train on the GPU")]
    advice = "TensorFlow cannot use it: look at CUDA, cuDNN and the driver above; pip install 'tfhalf[gpu]'"
    return [Finding("GPU", "bad", f"an NVIDIA device at {path}", advice)]


def _cpu() -> list[Finding]:
    cpu = device.cpu()
    if cpu.native_float16 or device.gpus():
        return [Finding("CPU", "ok", cpu.describe())]
    return [Finding("CPU", "warn", cpu.describe(), "no float16 arithmetic: train with precision.policy=float32 here")]


def _xla() -> list[Finding]:
    on_gpu = bool(device.gpus())
    try:
        difference = _xla_difference()
    except Exception as error:  # noqa: BLE001 (compilers raise of every kind)
        # Only training on a GPU goes through XLA by default.
        advice = "train with --set train.xla=off" if on_gpu else "only train.xla=on needs it; leave that at auto"
        return [Finding("XLA", "bad" if on_gpu else "warn", _first_line(error), advice)]
    if not difference <= 0.01:  # NaN is not
        advice = "its numbers are wrong: train with --set train.xla=off"
        return [Finding("XLA", "bad", f"float16 differs from float32 by {difference:.3g}", advice)]
    return [Finding("XLA", "ok", "compiles and runs float16")]


def _xla_difference() -> float:
    """Largest difference between a small float16 function through XLA and the same in float64."""
    import numpy as np
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # a GPU that is started already has taken its memory
        device.grow_memory()

    x = np.linspace(-1, 1, 64).reshape(8, 8).astype(np.float16)

    @tf.function(jit_compile=True, autograph=False)
    def compiled(x_NC: Any) -> Any:
        return tf.nn.relu(tf.matmul(x_NC, x_NC)) + tf.constant(0.5, tf.float16)

    exact = np.maximum(x.astype(np.float64) @ x.astype(np.float64), 0) + 0.5
    return float(np.max(np.abs(compiled(tf.constant(x)).numpy().astype(np.float64) - exact)))


# --- folders ----------------------------------------------------------------------------------------------------------


def _folder(where: Path) -> list[Finding]:
    """Whether ``where``, or the nearest folder above it that exists, has room and can be written to."""
    where = where.absolute()
    existing = next(folder for folder in (where, *where.parents) if folder.exists())
    if not existing.is_dir():
        return [Finding("exports folder", "bad", f"{existing} is a file", "name a folder for the exports")]
    free = shutil.disk_usage(existing).free
    status: Status = "bad" if free < DISK_BAD else "warn" if free < DISK_WARN else "ok"
    advice = "" if status == "ok" else "exports and checkpoints need room: free some, or name a folder elsewhere"
    space = Finding("disk", status, f"{free / 2**30:.1f} GiB free at {existing}", advice)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return [space, Finding("exports folder", "ok", str(where))]
    except OSError as error:
        advice = "make it writable, or name another folder for the exports"
        return [space, Finding("exports folder", "bad", f"{existing} cannot be written: {error.strerror}", advice)]


def _data(data_dir: str | None) -> list[Finding]:
    name, named = "data sets", data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = Path(named or "~/tensorflow_datasets").expanduser()
    if not folder.exists():
        advice = "it is made when the first data set is downloaded; folder:, npz: and sklearn: sources need none"
        if named:
            advice = "check --data-dir or TFDS_DATA_DIR: data sets would be downloaded there anew"
        return [Finding(name, "warn", f"{folder} does not exist", advice)]
    if not folder.is_dir():
        return [Finding(name, "bad", f"{folder} is a file", "set --data-dir or TFDS_DATA_DIR to a folder")]
    # NAME/VERSION/ or NAME/CONFIG/VERSION/
    infos = [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    prepared = sorted({"/".join(info.relative_to(folder).parts[:-2]) for info in infos})
    return [Finding(name, "ok", f"{folder}: {', '.join(prepared) or 'none prepared yet'}")]
