"""What happens before TensorFlow is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfhalf import start
from tfhalf.errors import ConfigError


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(start, "nvidia_device", lambda: "/dev/nvidia0")
    monkeypatch.setattr(start, "nvidia_driver", lambda: "580.1")
    monkeypatch.setattr(start, "gpu_models", lambda: ["NVIDIA H200"])
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
        with_gpu.setattr(start, name, value)
        with_gpu.setenv("TF_XLA_FLAGS", "")
        start._keep_programs(tmp_path)
        places.append(place())
    with_gpu.setenv("TF_XLA_FLAGS", "")
    with_gpu.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    start._keep_programs(tmp_path)
    places.append(place())
    assert len(set(places)) == 4
    assert all(Path(p).parent == tmp_path / start.PROGRAMS for p in places)


def test_the_same_machine_finds_its_programs_again(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = set()
    for _ in range(2):
        with_gpu.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
        start._keep_programs(tmp_path)
        assert os.environ["TF_XLA_FLAGS"].startswith("--tf_xla_clustering_debug ")
        found.add(os.environ["TF_XLA_FLAGS"])
    assert len(found) == 1


def test_the_users_own_cache_stands(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = "--tf_xla_persistent_cache_directory=/mine"
    with_gpu.setenv("TF_XLA_FLAGS", own)
    start._keep_programs(tmp_path)
    assert os.environ["TF_XLA_FLAGS"] == own


def test_nothing_is_kept_without_a_gpu(with_gpu: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_gpu.setattr(start, "nvidia_device", lambda: None)
    start._keep_programs(tmp_path)
    assert os.environ["TF_XLA_FLAGS"] == ""


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ConfigError, match="KERAS_BACKEND is 'jax'"):
        start.import_tensorflow()
