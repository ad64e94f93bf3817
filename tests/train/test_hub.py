"""``keras_hub:FOLDER``: a preset's classifier with a head for the data, under every policy."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tfhalf import config
from tfhalf.errors import RefError
from tfhalf.tasks import Classification
from tfhalf.train.build import Builder


def builder(ref: str, base: Path) -> Builder:
    return Builder(config.Model(build=ref), base, input_shape=(16, 16, 1), task=Classification(["a", "b", "c"]))


def test_a_folder_that_is_not_a_preset(tmp_path: Path) -> None:
    with pytest.raises(RefError, match=re.escape(f"{tmp_path / 'none'} is not the folder of a preset")):
        builder("keras_hub:none", tmp_path)


def test_without_kerashub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "keras_hub", None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RefError, match=re.escape("pip install 'tfhalf[hub]'")):
        builder("keras_hub:.", tmp_path)


@pytest.mark.slow
def test_a_preset_is_built_under_each_policy(tmp_path: Path) -> None:
    hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed (the extra hub)")
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(None, None, 1),
    )
    hub.models.ResNetImageClassifier(backbone=backbone, num_classes=4).save_to_preset(str(tmp_path / "preset"))
    build = builder("keras_hub:preset", tmp_path)
    x = np.zeros((2, 16, 16, 1), np.float32)
    for policy in ("float32", "mixed_float16", "float16"):
        model = build(policy)
        assert model.output_shape == (None, 3)
        assert model(x).shape == (2, 3)
        layer = next(layer for layer in model._flatten_layers() if layer.name == "conv1_conv")
        assert layer.compute_dtype == ("float32" if policy == "float32" else "float16")
        np.testing.assert_allclose(layer.kernel, backbone.get_layer("conv1_conv").kernel, rtol=1e-3)
