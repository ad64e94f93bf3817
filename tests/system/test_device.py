"""GPU memory: taken as it is needed, unless it is too late for that."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tfhalf.system.device import grow_memory


@pytest.mark.parametrize(
    ("fault", "grows"),
    [
        (None, True),
        (RuntimeError("Physical devices cannot be modified after being initialized"), False),
        (ValueError("Cannot set memory growth on device when virtual devices configured"), True),
    ],
)
def test_memory_grows_unless_a_gpu_was_started(
    fault: Exception | None, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def grow(device: str, enable: bool) -> None:
        asked.append((device, enable))
        if fault is not None:
            raise fault

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    assert grow_memory() is grows
    assert asked == [("GPU:0", True), ("GPU:1", True)]
