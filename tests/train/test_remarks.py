"""What is told of a training before it starts: what is ignored, unusual, or chance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from train_helpers import changed, splits

from tfhalf.artifacts.record import Manifest
from tfhalf.data import load_splits
from tfhalf.errors import ConfigError
from tfhalf.system.device import cpu, xla_decision
from tfhalf.train.chance import against_majority
from tfhalf.train.remarks import of_model, parameters, remarks
from tfhalf.verify import report
from tfhalf.workflows.publish import relative_to_version

BASE: dict[str, Any] = {
    "name": "job",
    "model": {"build": "net.py:build"},
    "data": {"source": "npz:x.npz"},
    "train": {"epochs": 4, "batch_size": 4},
}


def net(*, norm: bool = False) -> keras.Model:
    image = keras.Input((6, 6, 1))
    x = layers.Dense(4, name="hidden")(layers.Flatten()(image))
    x = layers.BatchNormalization()(x) if norm else x
    return keras.Model(image, layers.Dense(3, name="head")(x))


def said(model: keras.Model | None = None, data: Any = None, **changes: Any) -> str:
    data = replace(splits(), x_test=np.zeros((100, 6, 6, 1), np.uint8)) if data is None else data
    return "\n".join(remarks(changed(BASE, changes), data, model or net()))


def many(**parts: Any) -> Any:
    return replace(
        splits(), x_train=np.zeros((64, 6, 6, 1), np.uint8), x_test=np.zeros((100, 6, 6, 1), np.uint8), **parts
    )


def test_a_usual_training_needs_no_word() -> None:
    assert said(data=many()) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train__batch_size": 64}, "an epoch is one step; --set train.batch_size=6 makes it 10"),
        ({"train__batch_size": 128}, "train.batch_size is 128 and there are 64 training items: a batch holds them all"),
        ({"train__batch_size": 40}, "24 of 64 training items sit each epoch out"),
        ({"train__optimizer": {"name": "adam", "momentum": 0.5}}, "train.optimizer: momentum has no effect: sgd alone"),
        (
            {"train__optimizer": {"beta_1": 0.5, "beta_2": 0.6}},
            "optimizer: beta_1, beta_2 have no effect: sgd has",
        ),
        ({"train__optimizer": {"no_decay": ["bias"]}}, "train.optimizer: no_decay has no effect: weight_decay is 0"),
        (
            {"train__schedule": {"milestones": [2.0]}},
            "milestones has no effect: it belongs to schedule step",
        ),
        ({"train__schedule": {"name": "step", "milestones": [2.0, 9.0]}}, r"milestones [9.0] lie behind the last of 4"),
        (
            {"train__schedule": {"name": "cosine", "warmup_epochs": 5.0}},
            "warmup_epochs is 5 of 4 epochs: all is",
        ),
        (
            {"precision": {"policy": "float32", "loss_scale": {"initial": 2.0}}},
            "precision.loss_scale: initial has no effect: float32 has none",
        ),
        (
            {"precision__loss_scale": {"mode": "static", "cap": 2.0**20}},
            "cap has no effect: its mode is static",
        ),
        ({"precision__loss_scale": {"mode": "none"}}, "loss_scale.mode none: gradients below 2^-25 are 0, and a step"),
        ({"precision__loss_scale": {"mode": "none", "cap": 2.0**20}}, "cap has no effect: its mode is none"),
        (
            {"precision": {"policy": "float32", "loss_scale": {"mode": "none"}}},
            "precision.loss_scale: mode has no effect: float32 has none",
        ),
        ({"precision__policy": "float16"}, "policy float16 loses each change of a weight below half of its last digit"),
        (
            {"precision__policy": "float16", "train__optimizer": {"name": "adam"}},
            "train.optimizer.epsilon: 1e-07 counts as 0.000244",
        ),
        (
            {"precision__policy": "float16", "train__optimizer__ema_momentum": 0.9},
            "train.optimizer.ema_momentum: what it keeps beside the weights is float16",
        ),
        ({"export__formats": ["savedmodel"], "export__opset": 17}, "export: opset has no effect: onnx is not among"),
        ({"train__freeze_after": {"hidden": 4}}, "freeze_after: hidden would stand still after the last of 4 epochs"),
        ({"train__blowup": {"retries": 5}}, "train.blowup: retries has no effect: train.blowup.action is stop"),
    ],
)
def test_what_is_unusual_or_without_effect(changes: dict[str, Any], words: str) -> None:
    assert words in said(data=many(), **changes)


def test_small_things() -> None:
    assert "40 training items for 3 classes are few" in said()
    assert "one of 12 test items is 8.3 points of accuracy" in said(data=splits())
    masks = replace(splits(), y_test=np.zeros((12, 6, 6), np.int32))
    assert "12 test images are few: metrics on them go by chance too" in said(data=masks)
    assert "points of accuracy" not in said(data=masks)
    assert "for 3 classes are few" in said(data=splits().head(16, 12))
    assert "for 3 classes are few" not in said(data=masks.head(16, 12))
    assert "BatchNormalization has batches of a single item" in said(net(norm=True), many(), train__batch_size=1)
    assert "BatchNormalization" not in said(net(norm=True), many())


def test_augmentation_of_what_is_no_image() -> None:
    table = many(y_val=np.zeros(0))
    table = replace(table, x_train=np.zeros((64, 5), np.float32))
    text = said(data=table, data__augment={"crop": 2, "flip": "random"}, train__test_views="mirror")
    assert "data.augment: flip, crop have no effect: for images alone" in text
    assert "train: test_views has no effect: for images alone" in text


def test_shares_of_a_source_that_has_such_parts(tmp_path: Path) -> None:
    x, y = np.zeros((20, 3), np.float32), np.arange(20) % 2
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    data = changed(BASE, {"data__test": 0.4, "data__validation": 0.3}).data
    table = load_splits(data, base=tmp_path, seed=0)
    assert table.unread == ("data.test",)
    assert "data.test has no effect: npz:x.npz has such a part of its own" in said(data=table)


def test_values_that_float32_does_not_tell_apart() -> None:
    """Seconds since 1970 of one hour, beside a column that is as it should be."""
    x = np.random.default_rng(0).normal(size=(64, 2))
    x[:, 1] = 1.7e9 + np.linspace(0, 3600, 64)
    assert "column 1 holds values about 1.7e+09 that differ by 1.1e+03" in said(data=replace(many(), x_train=x))
    x[:, 1] -= 1.7e9
    assert "column" not in said(data=replace(many(), x_train=x))


def test_parameters_that_train() -> None:
    model, optimizer = net(), changed(BASE, {}).train.optimizer
    assert parameters(model, optimizer) == "163 parameters"
    model.get_layer("hidden").trainable = False
    assert parameters(model, optimizer) == "163 parameters, 15 of them trained"
    model.trainable = False
    with pytest.raises(ConfigError, match="none of the 163 parameters is trained; leave a layer trainable, or export"):
        parameters(model, optimizer)


class OwnStep(keras.Model):
    """Trains, it thinks, in a way of its own."""

    def train_step(self, data):
        raise AssertionError

    def compute_loss(self, *given):
        raise AssertionError


def test_what_a_builder_says_of_training() -> None:
    model = net()
    assert of_model(model) == []
    model.compile("adam", keras.losses.CategoricalFocalCrossentropy(), metrics=["auc"])
    (line,) = of_model(model)
    assert "is ignored (optimizer Adam, loss CategoricalFocalCrossentropy, metrics auc): train.optimizer says" in line
    assert of_model(OwnStep()) == ["OwnStep overrides train_step, compute_loss, which training never calls"]


# --- chance -----------------------------------------------------------------------------------------------------------


def test_chance_level() -> None:
    """The case that was published without a word: 33.33 % of three classes."""
    y = np.arange(30) % 3
    chance = against_majority(10 / 30, y, ("a", "b", "c"))
    assert (chance.label, chance.share, chance.better) == ("a", 10 / 30, False)
    assert chance.words().startswith(
        "no better than always answering 'a', which is right for 33.33 % of the test items"
    )
    assert against_majority(20 / 30, y, ("a", "b", "c")).better
    assert not against_majority(0.9, np.array([0] * 90 + [1] * 10), ("no", "yes")).better  # 90 % is no merit there
    assert against_majority(0.0, y, ("a", "b", "c")).p_value == 1


def test_what_is_published_says_smoke_and_chance() -> None:
    chance = against_majority(10 / 30, np.arange(30) % 3, ("a", "b", "c")).to_dict()
    facts = {
        "name": "net",
        "smoke": True,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
        "artifacts": [{"format": "onnx"}],
        "limits": {},
        "reference": {},
        "training": {"test_accuracy": 10 / 30, "chance": chance},
    }
    said = " ".join(report._warnings(Manifest.read(facts)))
    assert "**Smoke run**" in said
    assert "**Chance level**: 33.33 % is no better than always answering 'a' (33.33 % of the test set" in said
    better = {**facts, "smoke": False, "training": {"chance": {**chance, "better": True}}}
    assert report._warnings(Manifest.read(better)) == []


@given(st.integers(1, 60), st.data())
def test_the_test_is_exact(n: int, data: st.DataObject) -> None:
    """Against the sum of the binomial distribution, term by term."""
    from math import comb

    y = np.sort(np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))))
    right = data.draw(st.integers(0, n))
    chance = against_majority(right / n, y, ("a", "b"))
    p = chance.share
    assert chance.p_value == pytest.approx(
        sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(right, n + 1)), abs=1e-12
    )


# --- the pipeline file in a manifest ----------------------------------------------------------------------------------


def test_a_manifest_names_no_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home" / "ada"
    monkeypatch.setenv("HOME", str(home))
    pipeline = home / "work" / "pipelines" / "p.yaml"
    inside = relative_to_version(home / "work" / "exports" / "job" / "1", pipeline)
    assert inside == "../../../pipelines/p.yaml"
    assert relative_to_version(tmp_path / "data" / "exports" / "job" / "1", pipeline) == "p.yaml"
    assert relative_to_version(Path("/srv/exports/job/1"), Path("/opt/p.yaml")) == "p.yaml"


def test_float32_says_nothing_of_half_precision() -> None:
    for device in (cpu(), replace(cpu(), kind="GPU", tensor_cores=True)):
        said = device.describe(half=False) + "".join(
            xla_decision(mode, device, half=False)[1] for mode in ("auto", "on")
        )
        assert "half" not in said
        assert "float16" not in said
        assert "float16" in device.describe()
    assert "half precision" in xla_decision("auto", cpu())[1]
