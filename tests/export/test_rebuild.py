"""The float16 copy of a model: each kind of model, its dtypes, and BatchNormalization folded in."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfhalf.errors import ConfigError, ExportError
from tfhalf.export.rebuild import grouped_conv
from tfhalf.export.rebuild.fold_batchnorm import find_folds
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.precision.policy import keep_float32, policy

DRAW = np.random.default_rng(0)
IMAGES = DRAW.normal(size=(6, 8, 8, 3)).astype(np.float32)


def trained(build: Callable[[], keras.Model], policy_name: str = "mixed_float16", seed: int = 0) -> keras.Model:
    """Built under ``policy_name``, with every variable drawn anew: norms are no identity then."""
    with policy(policy_name):
        keras.utils.set_random_seed(seed)
        model = build()
    draw = np.random.default_rng(seed + 1)
    for v in model.weights:
        value = draw.normal(size=v.shape) * 0.3
        if "variance" in v.path or "gamma" in v.path:
            value = draw.uniform(0.5, 2.0, v.shape)
        if v.dtype == "float32":
            v.assign(value)
    return model


def answers(model: keras.Model, x: np.ndarray = IMAGES) -> np.ndarray:
    return np.asarray(model(x, training=False)).astype(np.float64)


def judge(build: Callable[[], keras.Model], model: keras.Model) -> keras.Model:
    """The same net in float32."""
    twin = trained(build, "float32")
    twin.set_weights(model.get_weights())
    return twin


def dtypes(model: keras.Model) -> dict[str, str]:
    return {v.path: v.dtype for v in model.weights}


# --- other numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "weights", "norm", "closer_than"),
    [("float32", {"float32"}, "float32", 1e-5), ("bfloat16", {"bfloat16", "float32"}, "mixed_bfloat16", 0.05)],
)
def test_the_same_model_in_other_numbers(numbers: Any, weights: set[str], norm: str, closer_than: float) -> None:
    def build() -> keras.Model:
        x = image = keras.Input((8, 8, 3))
        x = layers.LayerNormalization(name="norm")(layers.Conv2D(4, 3)(layers.Rescaling(0.5)(x)))
        x = keras.ops.multiply(x, np.full((1,), 1.5, np.float32))  # a constant does not draw it into float32
        return keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))

    model = trained(build, "float32")
    copy = rebuild(model, target=numbers).model
    assert set(dtypes(copy).values()) == weights
    assert copy.get_layer("norm").dtype_policy.name == norm
    assert next(la for la in copy.layers if isinstance(la, layers.Rescaling)).compute_dtype == "float32"
    inner = next(la for la in copy.layers if isinstance(la, layers.Flatten))
    assert inner.compute_dtype == numbers
    assert {tensor.dtype for tensor in keras.tree.flatten(inner.input)} == {numbers}
    expected = answers(judge(build, model))
    assert np.abs(answers(copy) - expected).max() < closer_than * np.abs(expected).max()


class Choosy(layers.Layer):
    """Takes no bfloat16."""

    def call(self, x: Any) -> Any:
        if x.dtype == "bfloat16":
            raise ValueError("none of these")
        return x


def test_what_fails_in_other_numbers_says_in_which() -> None:
    x = keras.Input((4,))
    model = keras.Model(x, Choosy(name="choosy")(layers.Dense(4)(x)))
    with pytest.raises(ExportError, match="'choosy' does not compute in bfloat16: in Choosy, "):
        rebuild(model, target="bfloat16")


# --- kinds of models --------------------------------------------------------------------------------------------------


def functional() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(x)))
    y = layers.Conv2D(4, 1, name="side")(x)
    x = keras.ops.gelu(layers.Add()([x, y]), approximate=True)
    return keras.Model(image, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def sequential() -> keras.Model:
    stack = [layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 3)), *stack])


def sequential_without_input() -> keras.Model:
    model = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)])
    model.build((None, 8, 8, 3))
    return model


def nested() -> keras.Model:
    x = inside = keras.Input((6, 6, 4))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(x))
    inner = keras.Model(inside, layers.ReLU()(x), name="inner")
    image = keras.Input((8, 8, 3))
    x = inner(layers.Conv2D(4, 3, name="stem")(image))
    return keras.Model(image, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))


def nested_sequential() -> keras.Model:
    image = keras.Input((8, 8, 3))
    block = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()], name="block")
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(block(image))))


def shared() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    x = layers.ReLU()(twice(layers.ReLU()(twice(x))))
    return keras.Model(image, layers.Dense(3)(layers.GlobalMaxPooling2D()(x)))


@keras.saving.register_keras_serializable("tfhalf_tests")
class Registered(keras.Model):
    def __init__(self, units: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.units = units
        self.conv, self.norm = layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")
        self.head = layers.Dense(units, name="head")

    def build(self, shape: Any) -> None:
        self.conv.build(shape)
        self.norm.build((None, 6, 6, 4))
        self.head.build((None, 4))

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(keras.ops.mean(self.norm(self.conv(x), training=training), (1, 2)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


class Plain(keras.Model):
    """Unregistered, and without a `build` of its own."""

    def __init__(self, units: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.units = units
        self.flat, self.head = layers.Flatten(), layers.Dense(units, name="head")

    def call(self, x: Any) -> Any:
        return self.head(self.flat(x))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


def subclassed() -> keras.Model:
    model = Registered(3)
    model(np.zeros((1, 8, 8, 3), np.float32))
    return model


def subclassed_without_build() -> keras.Model:
    model = Plain(3)
    model(np.zeros((1, 8, 8, 3), np.float32))
    return model


class Scale(layers.Layer):
    """A user's layer with a layer inside, that nobody registered."""

    def __init__(self, factor: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.factor, self.inner = factor, layers.Dense(4, name="within")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.offset = self.add_weight(shape=(4,), name="offset")

    def call(self, x: Any) -> Any:
        return self.inner(x) * self.factor + self.offset

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


def custom_layer() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = Scale(0.5, name="scale")(layers.GlobalAveragePooling2D()(image))
    return keras.Model(image, layers.Dense(3)(x))


def other_norms() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    x = layers.GroupNormalization(2, name="group")(layers.Conv2D(4, 3)(x))
    x = layers.LayerNormalization(name="layer")(layers.Flatten()(x))
    x = layers.RMSNormalization(name="rms")(layers.Dense(8)(x))
    return keras.Model(image, layers.Dense(3)(x))


def attention() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    x = layers.Reshape((64, 3))(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


class Block(layers.Layer):
    """Makes a norm in its ``__init__``, which its configuration says nothing of."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.conv, self.norm = layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="norm")

    def build(self, shape: Any) -> None:
        self.conv.build(shape)
        self.norm.build(self.conv.compute_output_shape(shape))

    def call(self, x: Any, training: bool = False) -> Any:
        return self.norm(self.conv(x), training=training)


def norm_within_a_layer() -> keras.Model:
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(Block(name="block")(image))))


def with_dropout() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.GaussianNoise(0.1)(layers.Dropout(0.5)(layers.Flatten()(image)))
    return keras.Model(image, layers.Dense(3)(x))


KINDS = [functional, sequential, sequential_without_input, nested, nested_sequential, shared, subclassed,
         subclassed_without_build, custom_layer,
         other_norms, attention, with_dropout, norm_within_a_layer]  # fmt: skip
NORM_PARTS = ("norm", "group", "layer/", "rms", "batch_normalization")


@pytest.mark.parametrize(
    ("kind", "trained_in"),
    [
        *((kind, policy_name) for kind in KINDS for policy_name in ("mixed_float16", "float32")),
        (functional, "mixed_bfloat16"),
        (nested_sequential, "mixed_bfloat16"),
    ],
)
def test_a_float16_copy(kind: Callable[[], keras.Model], trained_in: str) -> None:
    model = trained(kind, trained_in)
    before = [w.copy() for w in model.get_weights()]
    made = rebuild(model)
    copy = made.model
    got = copy(IMAGES, training=False)
    assert tuple(got.shape) == (6, 3)
    assert got.dtype == "float16"
    expected = answers(judge(kind, model))
    np.testing.assert_allclose(
        np.asarray(got).astype(np.float64), expected, rtol=0.02, atol=0.02 * np.abs(expected).max()
    )
    for path, dtype in dtypes(copy).items():
        plain = any(part in path for part in NORM_PARTS) and not re.search(
            r"batch_normalization\w*/(scale|shift)$", path
        )
        assert dtype == ("float32" if plain else "float16"), path
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert made.counts.total == sum(int(np.prod(v.shape)) for v in copy.weights if v.dtype == "float16")
    assert (made.counts.clamped, made.kept_float32) == (0, ())


def test_the_copy_is_no_link() -> None:
    model = trained(functional)
    copy = rebuild(model).model
    before = answers(copy)
    for v in model.weights:
        v.assign(v * 0)
    np.testing.assert_array_equal(answers(copy), before)


def test_weights_are_rounded_to_nearest() -> None:
    model = trained(shared)
    copy = rebuild(model).model
    for mine, theirs in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs).astype(np.float16))


# --- what stays in float32 --------------------------------------------------------------------------------------------


def test_kept_layers_keep_every_bit() -> None:
    model = trained(functional)
    keep_float32(model, ["^head"])
    made = rebuild(model, keep_float32=["^head"])
    assert made.kept_float32 == ("head",)
    assert {path: dtype for path, dtype in dtypes(made.model).items() if dtype == "float32"} == {
        "head/kernel": "float32",
        "head/bias": "float32",
    }
    np.testing.assert_array_equal(
        np.asarray(made.model.get_layer("head").kernel), np.asarray(model.get_layer("head").kernel)
    )
    assert made.model.get_layer("head").compute_dtype == "float32"


def test_a_kept_layer_takes_no_norm_in() -> None:
    model = trained(functional)
    assert rebuild(model).folded == ("norm",)
    for kept in ("conv", "norm"):
        made = rebuild(model, keep_float32=[f"^{kept}$"])
        assert made.folded == ()
        assert made.model.get_layer("conv").compute_dtype == ("float32" if kept == "conv" else "float16")


def test_a_kept_layer_takes_what_it_holds_along() -> None:
    model = trained(nested)
    made = rebuild(model, keep_float32=["^inner$"])
    assert made.folded == ()
    for v in made.model.get_layer("inner").weights:
        assert v.dtype == "float32", v.path
    assert made.model.get_layer("stem").kernel.dtype == "float16"
    wide = rebuild(trained(custom_layer), keep_float32=["^scale$"]).model
    assert {v.dtype for v in wide.get_layer("scale").weights} == {"float32"}


def test_keep_float32_without_a_match_or_a_graph() -> None:
    with pytest.raises(ConfigError, match=r"precision.keep_float32: 'nothing' matches no layer"):
        rebuild(trained(functional), keep_float32=["nothing"])
    with pytest.raises(ExportError, match="keep_float32 needs a functional or sequential model"):
        rebuild(trained(subclassed), keep_float32=["head"])


def test_an_adapted_normalization_keeps_its_statistics() -> None:
    data = (DRAW.normal(size=(100, 4)) * np.array([1e3, 1e-3, 1, 500]) + np.array([1e5, 0, -3, 7])).astype(np.float32)
    layer = layers.Normalization()
    layer.adapt(data)
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3)(layer(x)))
    copy = rebuild(model).model
    np.testing.assert_allclose(answers(copy, data), answers(model, data), atol=0.01)
    (norm,) = [one for one in copy.layers if isinstance(one, layers.Normalization)]
    assert {v.dtype for v in norm.weights} == {"float32", "int64"}  # a count of batches is among them


def test_raw_ranges_are_rescaled_in_float32() -> None:
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3)(layers.Rescaling(1 / 1e5)(x)))
    data = DRAW.uniform(0, 1e5, (20, 4)).astype(np.float32)  # beyond float16
    np.testing.assert_allclose(answers(rebuild(model).model, data), answers(model, data), atol=0.01)


@pytest.mark.parametrize(
    "last",
    [
        lambda: [layers.Dense(3, activation="softmax")],
        lambda: [layers.Dense(3), layers.Softmax()],
        lambda: [layers.Dense(3), layers.Activation("softmax")],
        lambda: [keras.Sequential([layers.Dense(3), layers.Softmax()])],
    ],
)
def test_probabilities_are_computed_in_float32(last: Callable[[], list[Any]]) -> None:
    x = numbers = keras.Input((3,))
    for layer in last():
        x = layer(x)
    model = keras.Model(numbers, x)
    model.set_weights([np.eye(3, dtype=np.float32) * 20, np.zeros(3, np.float32)])
    made = rebuild(model).model
    assert {v.dtype for v in made.weights} == {"float16"}
    got = made(np.array([[1, 0, 0]], np.float32))
    assert got.dtype == "float32"
    np.testing.assert_allclose(np.asarray(got)[0, 1:], np.exp(-20.0), rtol=1e-3)  # 2e-9, which is 0 in float16


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad: float) -> None:
    model = trained(functional)
    kernel = np.asarray(model.get_layer("side").kernel).copy()
    kernel[0, 0, 1, 2] = bad
    model.get_layer("side").kernel.assign(kernel)
    with pytest.raises(ExportError, match=r"weight 'side/kernel' is not finite; the training run lost its numbers"):
        rebuild(model)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["moving_variance", "gamma", "moving_mean"])
def test_norms_that_are_not_finite(where: str, bad: float) -> None:
    model = trained(functional)
    variable = getattr(model.get_layer("norm"), where)
    variable.assign(np.full(4, bad))
    with pytest.raises(ExportError, match="is not finite"):
        rebuild(model)


class Mute(layers.Layer):
    """Does not tell its arguments."""

    def __init__(self, function: Any, **rest: Any) -> None:
        super().__init__(**rest)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


class MuteModel(keras.Model):
    def __init__(self, inner: Any, depth: int) -> None:
        super().__init__()
        self.inner, self.depth = layers.Dense(depth), inner

    def call(self, x: Any) -> Any:
        return self.inner(x)


def test_a_layer_without_get_config() -> None:
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3)(Mute(lambda x: 2 * x, name="mute")(x)))
    with pytest.raises(
        ExportError, match=r"layer 'mute' \(Mute\) cannot be made again .*give it get_config\(\)"
    ) as caught:
        rebuild(model)
    assert "\n" not in str(caught.value)


def test_a_model_without_get_config() -> None:
    model = MuteModel(object(), 3)
    model(np.zeros((1, 4), np.float32))
    with pytest.raises(ExportError, match=r"\(MuteModel\) cannot be made again") as caught:
        rebuild(model)
    assert "\n" not in str(caught.value)


def test_weights_beyond_float16_are_clamped_and_counted() -> None:
    x = keras.Input((2,))
    model = keras.Model(x, layers.Dense(2, use_bias=False)(x))
    model.set_weights([np.array([[1e5, -7e4], [1e-9, 1e-6]], np.float32)])
    made = rebuild(model)
    assert np.asarray(made.model.weights[0]).astype(float).tolist() == [
        [65504, -65504],
        [0, pytest.approx(1e-6, rel=0.1)],
    ]
    counts = made.counts
    assert (counts.total, counts.clamped, counts.flushed, counts.subnormal) == (4, 2, 1, 1)


# --- folding ----------------------------------------------------------------------------------------------------------


def chain(*stack: Any, shape: tuple[int, ...] = (8, 8, 3)) -> Callable[[], keras.Model]:
    """A functional model of the layers that the functions give."""

    def build() -> keras.Model:
        x = image = keras.Input(shape)
        for make in stack:
            x = make()(x)
        return keras.Model(image, x)

    return build


def norm(**rest: Any) -> Callable[[], Any]:
    return lambda: layers.BatchNormalization(name="norm", **rest)


FOLDS: dict[str, tuple[Callable[[], keras.Model], tuple[int, ...]]] = {
    "Conv2D": (chain(lambda: layers.Conv2D(5, 3), norm()), (8, 8, 3)),
    "Conv2D without bias": (chain(lambda: layers.Conv2D(5, 3, 2, use_bias=False), norm(scale=False)), (8, 8, 3)),
    "Conv2D in groups": (chain(lambda: layers.Conv2D(6, 3, groups=3), norm(center=False)), (8, 8, 3)),
    "DepthwiseConv2D": (chain(lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), norm()), (8, 8, 3)),
    "DepthwiseConv2D without bias": (chain(lambda: layers.DepthwiseConv2D(3, use_bias=False), norm()), (8, 8, 3)),
    "DepthwiseConv1D": (chain(lambda: layers.DepthwiseConv1D(3), norm(), shape=(9, 4)), (9, 4)),
    "Dense": (chain(lambda: layers.Dense(5), norm(), shape=(7,)), (7,)),
    "Dense without bias": (chain(lambda: layers.Dense(5, use_bias=False), norm(), shape=(7,)), (7,)),
    "Conv2DTranspose": (chain(lambda: layers.Conv2DTranspose(5, 3, 2), norm()), (8, 8, 3)),
    "Conv1DTranspose": (chain(lambda: layers.Conv1DTranspose(5, 3, 2), norm(), shape=(9, 4)), (9, 4)),
    "Conv1D": (chain(lambda: layers.Conv1D(5, 3), norm(epsilon=0.1), shape=(9, 4)), (9, 4)),
    "Conv3D": (chain(lambda: layers.Conv3D(5, 2), norm(), shape=(4, 4, 4, 2)), (4, 4, 4, 2)),
    "pooling between": (chain(lambda: layers.Conv2D(5, 3), lambda: layers.MaxPooling2D(2), norm()), (8, 8, 3)),
    "two poolings between": (
        chain(
            lambda: layers.Conv2D(5, 3),
            lambda: layers.MaxPooling2D(3, 1, "same"),
            lambda: layers.MaxPooling2D(2),
            norm(),
        ),
        (8, 8, 3),
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_a_fold_is_exact(case: str) -> None:
    """In float64, the folded weights in a net without the norm give what the net gave; in float16, nearly so."""
    build, shape = FOLDS[case]
    model = trained(build, "float32")
    (fold,) = find_folds(model)
    assert fold.norm is model.get_layer("norm")
    x = DRAW.normal(size=(4, *shape)).astype(np.float32)
    expected = answers(model, x)

    with policy("float64"):
        wide = build()
    for layer, source in zip(wide.layers, model.layers, strict=True):
        layer.set_weights(source.get_weights())
    exact = np.asarray(wide(x.astype(np.float64), training=False))
    np.testing.assert_allclose(exact, expected, rtol=1e-3, atol=1e-4)  # the reference itself
    (index,) = [i for i, layer in enumerate(model.layers) if layer is fold.linear]
    config = fold.linear.get_config()
    config.update(use_bias=True, dtype="float64")
    linear = type(fold.linear).from_config(config)
    y = linear(x.astype(np.float64))
    linear.set_weights([fold.kernel, fold.bias])
    y = linear(x.astype(np.float64))
    for layer in wide.layers[index + 1 : -1]:
        y = layer(y)
    np.testing.assert_allclose(np.asarray(y), exact, rtol=1e-12, atol=1e-12)

    made = rebuild(model)
    assert made.folded == ("norm",)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in made.model.layers)
    assert set(dtypes(made.model).values()) == {"float16"}
    np.testing.assert_allclose(answers(made.model, x), expected, atol=0.02 * np.abs(expected).max())


def two_readers() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3)(x)
    return keras.Model(image, layers.Add()([x, layers.BatchNormalization(name="norm")(x)]))


def output_too() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3)(x)
    return keras.Model(image, [x, layers.BatchNormalization(name="norm")(x)])


def shared_conv() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(3, 3, padding="same")
    return keras.Model(image, layers.BatchNormalization(name="norm")(conv(layers.ReLU()(conv(x)))))


def shared_norm() -> keras.Model:
    x = image = keras.Input((8, 8, 3))
    both = layers.BatchNormalization(name="norm")
    x = both(layers.Conv2D(4, 3)(x))
    return keras.Model(image, both(layers.Conv2D(4, 3)(x)))


STAYS: dict[str, Callable[[], keras.Model]] = {
    "two readers": two_readers,
    "shared convolution": shared_conv,
    "shared norm": shared_norm,
    "activation": chain(lambda: layers.Conv2D(5, 3, activation="relu"), norm()),
    "activation layer between": chain(lambda: layers.Conv2D(5, 3), lambda: layers.ReLU(), norm()),
    "average pooling between": chain(lambda: layers.Conv2D(5, 3), lambda: layers.AveragePooling2D(2), norm()),
    "zero padding between": chain(lambda: layers.Conv2D(5, 3), lambda: layers.ZeroPadding2D(1), norm()),
    "norm first": chain(norm(), lambda: layers.Conv2D(5, 3)),
    "norm at the input": chain(norm()),
    "another axis": chain(lambda: layers.Conv2D(5, 3), norm(axis=1)),
    "separable": chain(lambda: layers.SeparableConv2D(5, 3), norm()),
    "another norm": chain(lambda: layers.Conv2D(4, 3), lambda: layers.GroupNormalization(2, name="norm")),
}


@pytest.mark.parametrize("case", STAYS)
def test_a_norm_that_stays(case: str) -> None:
    model = trained(STAYS[case], "float32")
    made = rebuild(model)
    assert made.folded == ()
    expected = answers(model)
    np.testing.assert_allclose(answers(made.model), expected, atol=0.02 * np.abs(expected).max())


def test_a_norm_that_stays_is_a_scale_and_a_shift() -> None:
    model = trained(STAYS["norm first"], "float32")
    made = rebuild(model)
    assert [(v.path, v.dtype) for v in made.model.get_layer("norm").weights] == [
        ("norm/scale", "float16"),
        ("norm/shift", "float16"),
    ]
    expected = answers(model)
    np.testing.assert_allclose(answers(made.model), expected, atol=0.005 * np.abs(expected).max())
    model.get_layer("norm").gamma.assign([1.0, 1e6, 1.0])  # which float16 does not hold
    assert {v.dtype for v in rebuild(model).model.get_layer("norm").weights} == {"float32"}
    kept = rebuild(trained(STAYS["norm first"], "float32"), keep_float32=["^norm$"]).model
    assert {v.dtype for v in kept.get_layer("norm").weights} == {"float32"}


def test_a_tensor_that_is_an_output_keeps_its_norm() -> None:
    assert find_folds(trained(output_too, "float32")) == []


@pytest.mark.parametrize("gamma", [-1.0, 0.0])
def test_pooling_with_a_scale_that_is_not_positive(gamma: float) -> None:
    build, _ = FOLDS["pooling between"]
    model = trained(build, "float32")
    model.get_layer("norm").gamma.assign([1, 1, gamma, 1, 1])
    made = rebuild(model)
    assert made.folded == ()
    expected = answers(model)
    np.testing.assert_allclose(answers(made.model), expected, atol=0.02 * np.abs(expected).max())
    plain = trained(FOLDS["Conv2D"][0], "float32")  # without pooling the sign does not matter
    plain.get_layer("norm").gamma.assign([1, 1, gamma, 1, 1])
    assert rebuild(plain).folded == ("norm",)
    np.testing.assert_allclose(answers(rebuild(plain).model), answers(plain), atol=0.05)


@pytest.mark.parametrize(
    ("what", "value"), [("moving_variance", 1e-12), ("moving_mean", 1e6), ("beta", -1e5), ("gamma", 1e7)]
)
def test_folded_weights_beyond_float16(what: str, value: float) -> None:
    model = trained(chain(lambda: layers.Conv2D(5, 3), norm(epsilon=1e-12)), "float32")
    variable = getattr(model.get_layer("norm"), what)
    now = np.asarray(variable).copy()
    now[1] = value
    variable.assign(now)
    assert rebuild(model).folded == ()


def test_folded_weights_below_float16() -> None:
    model = trained(FOLDS["Conv2D"][0], "float32")
    model.get_layer("norm").gamma.assign(np.full(5, 1e-8))
    assert rebuild(model).folded == ()


def test_no_folding() -> None:
    model = trained(functional)
    made = rebuild(model, fold_batchnorm=False)
    assert made.folded == ()
    assert made.model.get_layer("norm").gamma.dtype == "float32"
    expected = answers(judge(functional, model))
    np.testing.assert_allclose(answers(made.model), expected, atol=0.02 * np.abs(expected).max())


def test_folds_within_a_nested_model() -> None:
    for kind in (nested, nested_sequential, wide_epsilon):
        made = rebuild(trained(kind))
        assert len(made.folded) == 1
        assert set(dtypes(made.model).values()) == {"float16"}
        expected = answers(judge(kind, trained(kind)))
        np.testing.assert_allclose(answers(made.model), expected, atol=0.005 * np.abs(expected).max())


def wide_epsilon() -> keras.Model:
    image = keras.Input((8, 8, 3))
    block = keras.Sequential([layers.Conv2D(4, 3), layers.BatchNormalization(epsilon=0.5), layers.MaxPooling2D(2)])
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(block(image))))


def test_a_nested_model_called_twice() -> None:
    def build() -> keras.Model:
        inside = keras.Input((8, 8, 3))
        x = layers.BatchNormalization(name="norm")(layers.Conv2D(3, 3, padding="same")(inside))
        inner = keras.Model(inside, x, name="inner")
        image = keras.Input((8, 8, 3))
        return keras.Model(image, layers.Flatten()(inner(layers.ReLU()(inner(image)))))

    model = trained(build, "float32")
    made = rebuild(model)
    expected = answers(model)
    np.testing.assert_allclose(answers(made.model), expected, atol=0.02 * np.abs(expected).max())


def test_a_variance_that_float16_cannot_hold() -> None:
    """Under plain float16 a BatchNormalization of variance 1e5 answers 0."""
    model = trained(chain(lambda: layers.ReLU(), norm()), "float32")
    model.get_layer("norm").moving_variance.assign(np.full(3, 1e5))
    x = IMAGES * 300
    expected = answers(model, x)
    np.testing.assert_allclose(answers(rebuild(model).model, x), expected, atol=0.01 * np.abs(expected).max())


# --- convolutions in groups -------------------------------------------------------------------------------------------

GROUPS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "causal": (lambda: layers.Conv1D(12, 3, groups=6, padding="causal", dilation_rate=2, activation="relu"), (10, 6)),
    "in threes": (lambda: layers.Conv1D(12, 3, groups=3, strides=2, padding="same"), (10, 6)),
    "each channel of a row": (lambda: layers.Conv1D(6, 3, groups=6, strides=2, use_bias=False), (10, 6)),
    "each channel": (lambda: layers.Conv2D(12, 3, groups=6, padding="same", strides=2), (9, 9, 6)),
    "strides that differ": (lambda: layers.Conv2D(12, (3, 2), groups=6, strides=(2, 1)), (9, 9, 6)),
    "halves": (lambda: layers.Conv2D(8, 3, groups=2, dilation_rate=2, padding="same"), (9, 9, 6)),
    "volumes": (lambda: layers.Conv3D(8, 2, groups=2), (5, 5, 5, 4)),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_convolution_in_groups_needs_no_xla(case: str) -> None:
    make, shape = GROUPS[case]
    layer, x = make(), DRAW.normal(size=(2, *shape)).astype(np.float32)
    expected = np.asarray(layer(x))
    grouped_conv.replace(layer)
    np.testing.assert_allclose(np.asarray(layer(x)), expected, atol=1e-6)
    function = tf.function(lambda image: layer(image), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec((None, *shape))).graph
    assert not {op.type for op in graph.get_operations()} & {"StatefulPartitionedCall", "PartitionedCall"}
    with grouped_conv.for_onnx():
        left = tf.function(lambda image: layer(image), autograph=False)
        graph = left.get_concrete_function(tf.TensorSpec((None, *shape))).graph
    kinds = [op.type for op in graph.get_operations() if op.type.startswith(("Conv", "Depthwise"))]
    assert kinds == ["Conv3D" if len(shape) == 4 else "Conv2D"]


def test_images_are_resized_in_float32() -> None:
    x = image = keras.Input((8, 8, 3))
    x = layers.UpSampling2D(interpolation="bilinear", name="up")(layers.Resizing(12, 12, name="resize")(x))
    model = keras.Model(image, layers.Conv2D(2, 3, name="conv")(layers.UpSampling2D(name="repeat")(x)))
    made = rebuild(model).model
    kinds = {name: made.get_layer(name).compute_dtype for name in ("resize", "up", "repeat", "conv")}
    assert kinds == {"resize": "float32", "up": "float32", "repeat": "float16", "conv": "float16"}
