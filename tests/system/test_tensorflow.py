"""What happens before TensorFlow is imported."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfhalf.errors import ConfigError
from tfhalf.system import tensorflow


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(tensorflow, "nvidia_device", lambda: "/dev/nvidia0")
    monkeypatch.setattr(tensorflow, "nvidia_driver", lambda: "580.1")
    monkeypatch.setattr(tensorflow, "gpu_models", lambda: ["NVIDIA H200"])
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    return monkeypatch


def place() -> str:
    flags = dict(flag.split("=") for flag in os.environ["TF_XLA_FLAGS"].split())
    assert set(flags["--tf_xla_persistent_cache_device_types"].split(",")) == {"GPU", "XLA_GPU_JIT"}
    return flags["--tf_xla_persistent_cache_directory"]


def test_programs_are_kept_by_versions_gpu_driver_and_flags(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = []
    for name, value in (
        ("gpu_models", lambda: ["NVIDIA H200"]),
        ("gpu_models", lambda: ["NVIDIA A100"]),
        ("nvidia_driver", lambda: "590.1"),
    ):
        with_gpu.setattr(tensorflow, name, value)
        with_gpu.setenv("TF_XLA_FLAGS", "")
        tensorflow.keep_compiled_programs(tmp_path)
        places.append(place())
    with_gpu.setenv("TF_XLA_FLAGS", "")
    with_gpu.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    tensorflow.keep_compiled_programs(tmp_path)
    places.append(place())
    assert len(set(places)) == 4
    assert all(Path(p).parent == tmp_path / tensorflow.PROGRAMS for p in places)


def test_the_same_machine_finds_its_programs_again(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = set()
    for _ in range(2):
        with_gpu.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
        tensorflow.keep_compiled_programs(tmp_path)
        assert os.environ["TF_XLA_FLAGS"].startswith("--tf_xla_clustering_debug ")
        found.add(os.environ["TF_XLA_FLAGS"])
    assert len(found) == 1


def test_the_fastest_kernels_are_kept_beside_the_programs(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_gpu.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    tensorflow.keep_compiled_programs(tmp_path)
    kernels = Path(place()) / "kernels"
    assert kernels.is_dir()
    flags = f"--xla_gpu_autotune_level=0 {tensorflow._KERNELS}={kernels}"
    assert os.environ["XLA_FLAGS"] == flags
    with_gpu.setenv("TF_XLA_FLAGS", "")
    tensorflow.keep_compiled_programs(tmp_path)  # again, as a process that inherits them does
    assert os.environ["XLA_FLAGS"] == flags
    assert Path(place()) / "kernels" == kernels


def test_the_users_own_cache_stands(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = "--tf_xla_persistent_cache_directory=/mine"
    with_gpu.setenv("TF_XLA_FLAGS", own)
    tensorflow.keep_compiled_programs(tmp_path)
    assert os.environ["TF_XLA_FLAGS"] == own


def test_nothing_is_kept_without_a_gpu(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_gpu.setattr(tensorflow, "nvidia_device", lambda: None)
    tensorflow.keep_compiled_programs(tmp_path)
    assert os.environ["TF_XLA_FLAGS"] == ""


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ConfigError, match="KERAS_BACKEND is 'jax'"):
        tensorflow.import_tensorflow()


def python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_is_hidden_is_found_again() -> None:
    python(
        "import gc, os, sys; os.environ['KERAS_BACKEND'] = 'tensorflow'\n"
        "import PIL.Image as there\n"
        "from tfhalf.system.tensorflow import import_tensorflow\n"
        "import_tensorflow(without=('PIL',))\n"
        "assert sys.modules['PIL.Image'] is there\n"
        "assert 'keras' in sys.modules\n"
        "assert not {'sklearn', 'matplotlib', 'pandas', 'jax'} & set(sys.modules)\n"
        "import sklearn.datasets, matplotlib\n"
        "assert gc.isenabled() and gc.get_freeze_count()\n"
        "kept = gc.get_freeze_count(); import_tensorflow(); assert gc.get_freeze_count() <= kept"
    )


def test_what_is_hidden_is_found_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with pytest.raises(ModuleNotFoundError), tensorflow._hidden(("wave",)):
        importlib.import_module("wave")
    assert importlib.import_module("wave").__name__ == "wave"


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_put_back(collects: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        with tensorflow._all_kept():
            assert not gc.isenabled()
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
