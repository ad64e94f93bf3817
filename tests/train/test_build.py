"""Building a pipeline's model: under each policy, and every way in which a builder can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from train_helpers import classes

from tfhalf import config
from tfhalf.errors import ConfigError, RefError
from tfhalf.precision.policy import policy
from tfhalf.train.build import Builder

NET = """
import keras
from keras import layers


def build(*, input_shape, num_classes, width=4, last=None):
    x = image = keras.Input(input_shape)
    x = layers.Dense(width, name="hidden")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(num_classes, activation=last, name="head")(x))


def anything(**arguments):
    return build(**{k: v for k, v in arguments.items() if k != "extra"})


def fails(*, input_shape, num_classes):
    raise ZeroDivisionError("a fault\\nof two lines")


def leaves(*, input_shape, num_classes):
    raise SystemExit(0)


def gives_layers(*, input_shape, num_classes):
    return [layers.Dense(num_classes)]


def one_more(*, input_shape, num_classes):
    return build(input_shape=input_shape, num_classes=num_classes + 1)


def not_flat(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Conv2D(num_classes, 1)(image))


def two_outputs(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = layers.Flatten()(image)
    return keras.Model(image, [layers.Dense(num_classes)(x), layers.Dense(num_classes)(x)])


def sets_policy(*, input_shape, num_classes):
    keras.config.set_dtype_policy("mixed_bfloat16")
    return build(input_shape=input_shape, num_classes=num_classes)


def sets_policy_and_fails(*, input_shape, num_classes):
    keras.config.set_dtype_policy("mixed_bfloat16")
    raise RuntimeError("late")


def unbuilt(*, input_shape, num_classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(num_classes)])


class Subclass(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.head = layers.Dense(units)

    def call(self, x):
        return self.head(layers.Flatten()(x))


def subclass(*, input_shape, num_classes):
    return Subclass(num_classes)


def uncallable(*, input_shape, num_classes):
    model = Subclass(num_classes)
    model.head.input_spec = keras.layers.InputSpec(ndim=3)
    return model


def no_shape(*, num_classes):
    return build(input_shape=(4, 4, 1), num_classes=num_classes)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def builder(folder: Path, name: str = "net.py:build", **args: Any) -> Builder:
    return Builder(config.Model(build=name, args=args), folder, input_shape=(4, 4, 1), task=classes(3))


@pytest.mark.parametrize(
    ("policy_name", "computes"),
    [("mixed_float16", "float16"), ("mixed_bfloat16", "bfloat16"), ("float32", "float32"), ("float16", "float16")],
)
def test_policies(folder: Path, policy_name: str, computes: str) -> None:
    model = builder(folder, width=7)(policy_name)
    hidden = model.get_layer("hidden")
    assert (hidden.compute_dtype, hidden.units) == (computes, 7)
    assert {v.dtype for v in model.weights} == {"float16" if policy_name == "float16" else "float32"}
    assert model.output_shape == (None, 3)


def test_a_subclass_becomes_the_layer_of_a_graph(folder: Path) -> None:
    build = builder(folder, "net.py:subclass")
    mixed, wide = build("mixed_float16"), build("float32")
    assert (mixed.output_shape, mixed.layers[-1].compute_dtype) == ((None, 3), "float16")
    wide.set_weights(mixed.get_weights())
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    assert np.allclose(np.asarray(mixed(x)), np.asarray(wide(x)), atol=1e-2)


def test_the_nets_are_made_anew(folder: Path) -> None:
    build = builder(folder)
    one, two = build("mixed_float16"), build("float32")
    assert not {id(v) for v in one.variables} & {id(v) for v in two.variables}
    two.set_weights(one.get_weights())
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(one(x)), np.asarray(two(x)), atol=2e-2)


@pytest.mark.parametrize("policy_name", ["mixed_float16", "float32"])
def test_a_softmax_comes_off(folder: Path, policy_name: str) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    logits = np.asarray(builder(folder, last="softmax")(policy_name)(x)).astype(np.float64)
    assert not np.allclose(logits.sum(-1), 1, atol=1e-2)


def test_what_is_told_of_a_head(folder: Path) -> None:
    for last, words in ((None, []), ("softmax", ["the closing softmax"]), ("relu", ["the last layer ends in relu"])):
        build = builder(folder, last=last)
        build("mixed_float16")
        assert [remark[: len(word)] for remark, word in zip(build.remarks, words, strict=True)] == words


def test_kept_layers(folder: Path) -> None:
    build = builder(folder)
    mixed = build("mixed_float16", keep_float32=("^head",))
    computes = {layer.name: layer.compute_dtype for layer in mixed.layers if layer.weights}
    assert computes == {"hidden": "float16", "head": "float32"}
    with pytest.raises(ConfigError, match=r"precision.keep_float32: 'nothing' matches no layer"):
        build("mixed_float16", keep_float32=("nothing",))


def test_any_keyword_goes_to_a_builder_that_takes_all(folder: Path) -> None:
    assert builder(folder, "net.py:anything", extra=1)("float32").output_shape == (None, 3)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("fails", RefError, "model.build: net.py:fails fails: ZeroDivisionError: a fault of two lines"),
        ("leaves", RefError, "net.py:leaves fails: SystemExit: 0 (raised at net.py:"),
        ("gives_layers", RefError, "returned a list, accepted: a keras.Model"),
        ("uncallable", RefError, "returned a Subclass that cannot be called on images of shape (4, 4, 1): ValueError"),
        (
            "one_more",
            ConfigError,
            "gives [N, 4]; classification needs [N, 3]: a last layer Dense(3) without activation",
        ),
        ("not_flat", ConfigError, "gives [N, 4, 4, 3]; classification needs [N, 3]: a last layer Dense(3)"),
        ("two_outputs", ConfigError, "has 2 outputs and the pipeline one task; name a task for each under outputs"),
        ("sets_policy", RefError, "changed the global dtype policy; the pipeline sets it"),
        ("sets_policy_and_fails", RefError, "RuntimeError: late"),
    ],
)
def test_a_builder_that_is_wrong(folder: Path, name: str, error: type[Exception], words: str) -> None:
    build = builder(folder, f"net.py:{name}")
    with pytest.raises(error) as caught:
        build("mixed_float16")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert keras.config.dtype_policy().name == "float32"


def test_an_unbuilt_model_is_built(folder: Path) -> None:
    model = builder(folder, "net.py:unbuilt")("mixed_float16")
    assert model.count_params() == 16 * 3 + 3
    assert {layer.compute_dtype for layer in model.layers} == {"float16"}


def test_arguments_that_no_builder_takes(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"net.py:build takes no 'widht' .accepted: input_shape, num_classes, width"):
        builder(folder, widht=3)
    with pytest.raises(RefError, match=r"net.py:no_shape takes no 'input_shape'; a builder is build"):
        builder(folder, "net.py:no_shape")


def test_a_global_policy_of_the_caller_is_left_alone(folder: Path) -> None:
    with policy("mixed_bfloat16"):
        assert builder(folder)("float32").get_layer("hidden").compute_dtype == "float32"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"


# --- adapt ------------------------------------------------------------------------------------------------------------


def test_adapt(folder: Path) -> None:
    x = np.full((2, 4, 4, 1), 0.5, np.float32)
    build = builder(folder)
    assert build.adapt(build("float32"), lambda: x) is False
    (folder / "net.py").write_text(
        NET + "\n\ndef adapt(model, x):\n    model.get_layer('head').bias.assign([x.sum(), 2.0, 3.0])\n"
    )
    build = builder(folder)
    model = build("float32")
    assert build.adapt(model, lambda: x) is True
    assert np.asarray(model.get_layer("head").bias).tolist() == [16.0, 2.0, 3.0]
    (folder / "net.py").write_text(NET + "\n\ndef adapt(model, x):\n    raise KeyError('whitening')\n")
    build = builder(folder)
    with pytest.raises(RefError, match=r"model.build: adapt\(\) beside net.py:build fails: KeyError: 'whitening'"):
        build.adapt(build("float32"), lambda: x)


# --- keras.applications -----------------------------------------------------------------------------------------------


def test_keras_applications() -> None:
    section = config.Model(build="keras.applications:MobileNetV2", args={"alpha": 0.35})
    build = Builder(section, Path("/"), input_shape=(32, 32, 3), task=classes(5))
    model = build("mixed_float16")
    assert model.output_shape == (None, 5)
    assert model.layers[-1].activation is keras.activations.linear
    answers = np.asarray(model(np.zeros((2, 32, 32, 3), np.float32)))
    assert answers.shape == (2, 5)
    assert np.isfinite(answers.astype(np.float64)).all()
    assert build.adapt(model, lambda: None) is False
