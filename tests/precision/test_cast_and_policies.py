"""The float16 cast, the global policy, float32 islands, and heads that give logits."""

from __future__ import annotations

import re
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers

from tfhalf.errors import ConfigError
from tfhalf.precision import cast as float16
from tfhalf.precision.cast import CastCounts, cast
from tfhalf.precision.policy import flat_layers, keep_float32, layer_path, matching, policy
from tfhalf.train.heads import as_logits, ends_in_a_linear_layer, function_of

FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Where float16 has its edges; plain floats hardly ever fall there.
NEAR = st.builds(
    lambda base, ulps: float(np.float64(base) * (1 + ulps * 2.0**-13)),
    st.sampled_from([65504.0, 65520.0, 2.0**-14, 2.0**-24, 2.0**-25, 1.0, -65519.0, -(2.0**-14), -(2.0**-25)]),
    st.integers(-20, 20),
)


def rounded(value: float) -> float:
    """Binary16 of one float by the standard library, which rounds half to even and refuses what overflows."""
    try:
        return struct.unpack("e", struct.pack("e", value))[0]
    except OverflowError:
        return float(np.copysign(65504.0, value))


# --- cast -------------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=6), elements=FINITE | NEAR))
def test_cast_against_the_standard_library(values: np.ndarray) -> None:
    narrow, counts = cast(values)
    expected = np.array([rounded(value) for value in values.ravel()]).reshape(values.shape)
    assert narrow.dtype == np.float16
    assert narrow.shape == values.shape
    np.testing.assert_array_equal(narrow.astype(np.float64), expected)
    np.testing.assert_array_equal(np.signbit(narrow), np.signbit(values))
    clamped = np.abs(values) >= 65520
    size = np.abs(expected)
    assert counts == CastCounts(
        total=values.size,
        clamped=int(clamped.sum()),
        flushed=int(((size == 0) & (values != 0)).sum()),
        subnormal=int(((size > 0) & (size < 2.0**-14)).sum()),
    )


@pytest.mark.parametrize(
    ("value", "result", "what"),
    [
        (65504.0, 65504.0, ""),
        (65519.99, 65504.0, ""),  # rounds to the largest number: lost no more than rounding loses
        (65520.0, 65504.0, "clamped"),
        (1e300, 65504.0, "clamped"),
        (2.0**-14, 2.0**-14, ""),
        (2.0**-14 * (1 - 2.0**-11), 2.0**-14 * (1 - 2.0**-10), "subnormal"),  # half way, to the even one
        (2.0**-14 * (1 - 2.0**-12), 2.0**-14, ""),  # rounds up to a normal number
        (2.0**-24, 2.0**-24, "subnormal"),
        (2.0**-25 * 1.01, 2.0**-24, "subnormal"),
        (2.0**-25, 0.0, "flushed"),  # half way, to the even one, which is 0
        (5e-324, 0.0, "flushed"),
        (0.0, 0.0, ""),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_cast_at_the_limits(value: float, result: float, what: str, sign: int) -> None:
    narrow, counts = cast(np.array([sign * value]))
    if value == 2.0**-14 * (1 - 2.0**-11):
        result = rounded(value)
        what = "subnormal" if result < 2.0**-14 else ""
    assert float(narrow[0]) == sign * result
    found = {name: getattr(counts, name) for name in ("clamped", "flushed", "subnormal")}
    assert found == {name: int(name == what) for name in found}


def test_every_pattern_survives() -> None:
    patterns = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = patterns[np.isfinite(patterns)]
    assert len(finite) == 63488
    for wide in (np.float32, np.float64):
        narrow, counts = cast(finite.astype(wide))
        np.testing.assert_array_equal(narrow.view(np.uint16), finite.view(np.uint16))
        assert counts == CastCounts(63488, clamped=0, flushed=0, subnormal=2 * 1023)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_cast_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="2 of 4 values are not finite"):
        cast(np.array([[1.0, bad], [bad, 0.0]]))


def test_counts_add_up() -> None:
    one, two = cast(np.array([1e6, 1e-9, 1e-6, 1.0]))[1], cast(np.array([-1e6, 3.0]))[1]
    assert one == CastCounts(4, 1, 1, 1)
    assert one + two == CastCounts(6, 2, 1, 1)
    assert cast(np.zeros((0, 3)))[1] == CastCounts()


def test_the_limits_are_those_of_the_format() -> None:
    info = np.finfo(np.float16)
    assert (float(info.max), float(info.smallest_normal)) == (float16.MAX, float16.SMALLEST_NORMAL)
    assert float(info.smallest_subnormal) == float16.SMALLEST_SUBNORMAL


# --- the global policy ------------------------------------------------------------------------------------------------


def test_policy_is_put_back() -> None:
    before = keras.config.dtype_policy()
    with policy("mixed_float16"):
        assert keras.config.dtype_policy().name == "mixed_float16"
        with policy("float16"):
            assert layers.Dense(1).dtype_policy.name == "float16"
        assert keras.config.dtype_policy().name == "mixed_float16"
    assert keras.config.dtype_policy() is before


def test_policy_is_put_back_after_an_exception() -> None:
    def fail() -> None:
        with policy("mixed_float16"), policy("float16"):
            keras.config.set_dtype_policy("mixed_bfloat16")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert keras.config.dtype_policy().name == "float32"


def test_a_policy_that_does_not_exist_changes_nothing() -> None:
    def fail() -> None:
        with policy("float12"):
            pass

    with pytest.raises(ValueError, match="float12"):
        fail()
    assert keras.config.dtype_policy().name == "float32"


# --- float32 islands --------------------------------------------------------------------------------------------------


def nested() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="first"), layers.Dense(4, name="second")], name="inner"
    )
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="head")(inner(layers.Dense(4, name="stem")(x))))


def test_matching_searches_paths() -> None:
    model = nested()
    assert [layer.name for layer in matching(model, ["stem|second"])] == ["stem", "second"]
    assert [layer.name for layer in matching(model, ["^head$", "head", "stem"])] == ["head", "stem"]
    assert [layer_path(layer) for layer in matching(model, ["first$"])] == ["inner/first"]
    assert matching(model, []) == []


@pytest.mark.parametrize(
    ("pattern", "near"), [("steam", "stem"), ("^first", "inner/first"), ("HEAD", "head"), ("xyz", "")]
)
def test_a_pattern_without_a_match_is_refused(pattern: str, near: str) -> None:
    message = f"precision.keep_float32: {pattern!r} matches no layer; the model has {near}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        matching(nested(), ["stem", pattern])


def test_keep_float32_changes_what_computes_and_nothing_else() -> None:
    with policy("mixed_float16"):
        model = nested()
    before = [w.copy() for w in model.get_weights()]
    assert sorted(keep_float32(model, ["inner/", "head"])) == ["head", "inner/first", "inner/second"]
    computes = {layer.name: layer.compute_dtype for layer in flat_layers(model) if layer.weights}
    assert computes == {
        "stem": "float16",
        "inner": "float16",
        "first": "float32",
        "second": "float32",
        "head": "float32",
    }
    assert model(np.ones((3, 4), np.float32)).dtype == "float32"
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_keep_float32_takes_along_what_a_layer_holds() -> None:
    with policy("mixed_float16"):
        model = nested()
    assert keep_float32(model, ["^inner$"]) == ["inner"]
    computes = {layer.name: layer.compute_dtype for layer in flat_layers(model) if layer.weights}
    assert computes == {
        "stem": "float16",
        "inner": "float32",
        "first": "float32",
        "second": "float32",
        "head": "float16",
    }


# --- heads ------------------------------------------------------------------------------------------------------------


def softmax_in_the_layer(x):
    return layers.Dense(3, activation="softmax", name="head")(x)


def softmax_as_activation(x):
    return layers.Activation("softmax")(layers.Dense(3)(x))


def softmax_as_layer(x):
    return layers.Softmax()(layers.Dense(3)(x))


def softmax_as_operation(x):
    return keras.ops.softmax(layers.Dense(3)(x))


def softmax_before_a_cast(x):
    return keras.ops.cast(layers.Activation(keras.ops.softmax, dtype="float32")(layers.Dense(3)(x)), "float32")


def softmax_before_nothing(x):
    return layers.Activation("linear", dtype="float32")(layers.Dense(3, activation=lambda x: keras.ops.softmax(x))(x))


def softmax_within(x):
    inner = keras.Input(x.shape[1:])
    return keras.Sequential([keras.Input(x.shape[1:]), keras.Model(inner, softmax_as_operation(inner))])(x)


HEADS = [
    softmax_in_the_layer,
    softmax_as_activation,
    softmax_as_layer,
    softmax_as_operation,
    softmax_before_a_cast,
    softmax_before_nothing,
    softmax_within,
]
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32) * 3


@pytest.mark.parametrize("head", HEADS)
def test_a_closing_softmax_comes_off(head) -> None:
    x = keras.Input((4,))
    model = keras.Model(x, head(layers.Dense(6, activation="relu")(x)))
    expected = np.asarray(model(X))
    logits_model, had = as_logits(model)
    logits = np.asarray(logits_model(X), np.float64)
    assert had
    assert not np.allclose(logits.sum(-1), 1)
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), expected, atol=1e-6)
    assert len(logits_model.trainable_variables) == len(model.trainable_variables)
    again, had = as_logits(logits_model)
    assert not had
    assert again is logits_model


def test_a_softmax_in_a_sequential_model_comes_off() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Softmax()])
    expected = np.asarray(model(X))
    logits, had = as_logits(model)
    assert had
    np.testing.assert_allclose(np.asarray(keras.ops.softmax(logits(X))), expected, atol=1e-6)


@pytest.mark.parametrize(
    "head",
    [
        lambda x: layers.Dense(3, activation="sigmoid", name="head")(x),
        lambda x: layers.Activation(keras.ops.sigmoid, name="head")(layers.Dense(3)(x)),
        lambda x: layers.Identity()(keras.ops.sigmoid(layers.Dense(3)(x))),
    ],
)
def test_a_sigmoid_is_refused(head) -> None:
    x = keras.Input((4,))
    with pytest.raises(ConfigError, match=r"ends in a sigmoid .*; give one output for each class, without activation"):
        as_logits(keras.Model(x, head(x)))


def test_the_activation_of_a_recurrent_cell_is_none_of_the_answers() -> None:
    x = keras.Input((4, 2))
    model = keras.Model(x, layers.LSTM(3, activation="softmax")(x))
    assert as_logits(model) == (model, False)
    assert model.layers[-1].cell.activation is keras.activations.softmax


def test_which_models_end_in_logits_for_certain() -> None:
    """Of these nothing needs to be computed; speednet's last layer scales its logits."""
    x = keras.Input((4,))
    logits = layers.Dense(3)(x)
    for answers in (logits, layers.Rescaling(1 / 9, 2.0)(logits), layers.Identity()(layers.Rescaling(2.0)(logits))):
        assert ends_in_a_linear_layer(keras.Model(x, answers))
        assert as_logits(keras.Model(x, answers))[1] is False
    for answers in (layers.Dense(3, "relu")(x), keras.ops.softmax(logits), layers.ReLU()(logits), logits * logits):
        assert not ends_in_a_linear_layer(keras.Model(x, answers))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_other_heads_stay(activation: str | None) -> None:
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3, activation=activation)(layers.Dense(4, activation="softmax")(x)))
    expected = np.asarray(model(X))
    same, had = as_logits(model)
    assert (same, had) == (model, False)
    np.testing.assert_array_equal(np.asarray(model(X)), expected)


def test_code_that_may_never_end_is_not_run() -> None:
    """A loop of a user's own, or Python, as a closing layer: it would hang before anything was told."""
    rounds = tf.Variable(0)

    def counted(x):
        rounds.assign_add(1)
        return x

    class Loops(layers.Layer):
        def call(self, x):
            with tf.control_dependencies(tf.while_loop(lambda i: i < 3, lambda i: [i + rounds.assign_add(1)], [0])):
                return tf.nn.softmax(x)

    class RunsPython(layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.numpy_function(counted, [x], x.dtype), x.shape)

    for layer in (Loops(), RunsPython()):
        assert function_of(layer, 3) is None
        assert rounds.numpy() == 0
    assert function_of(lambda x: tf.nn.softmax(x), 3) == "softmax"  # a user's own that ends
