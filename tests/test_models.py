"""The shipped models: each builds under every policy, has the size its paper says, and trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from train_helpers import classes

from tfhalf import config
from tfhalf.config.refs import resolve, sibling
from tfhalf.data import Preprocess
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.precision.policy import flat_layers, policy
from tfhalf.train.feeds.resident import Resident
from tfhalf.train.objective import Objective
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.step import Step

MODELS = Path(__file__).resolve().parent.parent / "models"
SHAPE = (32, 32, 3)
NETS: dict[str, tuple[str, dict[str, Any], float]] = {
    "mlp": ("mlp.py:build", {}, 402_250),
    "resnet20": ("resnet.py:build", {"depth": 20}, 0.27e6),
    "resnet56": ("resnet.py:build", {"depth": 56}, 0.85e6),
    "resnet18": ("resnet.py:build", {"depth": 18}, 11.17e6),
    "resnet50": ("resnet.py:build", {"depth": 50, "stem": "large", "num_classes": 1000}, 25_557_032),  # torchvision's
    "resnet50_recipe": ("resnet50.py:build", {"num_classes": 1000}, 25_557_032),
    "resnet9": ("resnet9.py:build", {}, 6_573_120),  # its docstring has the sum
    "speednet": ("speednet.py:build", {}, 1.97e6),
}


def build(name: str, policy_name: str = "float32", **more: Any) -> keras.Model:
    ref, args, _ = NETS[name]
    with policy(policy_name):
        keras.utils.set_random_seed(0)
        return resolve(ref, MODELS)(**{"input_shape": SHAPE, "num_classes": 10, **args, **more})


@pytest.mark.parametrize("name", ["mlp", "resnet20", "resnet9", "speednet"])
@pytest.mark.parametrize("policy_name", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_policies(name: str, policy_name: str) -> None:
    model = build(name, policy_name)
    assert model.output_shape == (None, 10)
    computes = {layer.compute_dtype for layer in flat_layers(model) if layer.weights}
    assert computes == {policy_name.removeprefix("mixed_")}
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert len({v.path for v in model.weights}) == len(model.weights)


@pytest.mark.parametrize("name", ["mlp", "resnet20", "resnet56", "resnet18", "resnet50", "resnet50_recipe", "resnet9"])
def test_parameters(name: str) -> None:
    expected = NETS[name][2]
    trained = sum(int(np.prod(v.shape)) for v in build(name).trainable_variables)
    assert trained == expected if isinstance(expected, int) else abs(trained / expected - 1) < 0.02


def test_other_shapes() -> None:
    assert build("mlp", input_shape=(8, 8, 1), units=[5]).count_params() == 64 * 5 + 5 + 5 * 10 + 10
    assert build("resnet20", input_shape=(28, 28, 1), num_classes=7).output_shape == (None, 7)
    assert build("speednet", input_shape=(16, 16, 1), widths=[8, 8]).get_layer("whitening").filters == 8
    with pytest.raises(ValueError, match="depth 19: choose 18, 20"):
        build("resnet20", depth=19)


def test_blocks_of_the_recipe_s_resnet50_begin_as_their_shortcuts() -> None:
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    for zero_gamma, equal in ((True, True), (False, False)):
        model = build("resnet50_recipe", width=8, num_classes=10, blocks=[3, 1, 1, 1], zero_gamma=zero_gamma)
        before, after = model.get_layer("stage1_block1_relu3").output, model.get_layer("stage1_block3_relu3").output
        one, other = keras.Model(model.input, [before, after])(x, training=True)
        assert np.array_equal(one, other) == equal


@pytest.mark.parametrize("stem", ["small", "large"])
def test_stems_of_resnet18(stem: str) -> None:
    model = build("resnet18", stem=stem)
    assert model.get_layer("stem_conv").kernel_size == ((3, 3) if stem == "small" else (7, 7))
    before_pool = model.get_layer("pool").input.shape
    assert before_pool == ((None, 4, 4, 512) if stem == "small" else (None, 1, 1, 512))


@pytest.mark.slow
def test_resnet50_halves_images_in_its_3x3_convolutions() -> None:
    """ "v1.5": 56, 28, 14 and 7 pixels from one of 224, and every 1x1 convolution on the way sees all of them."""
    model = build("resnet50", input_shape=(224, 224, 3))
    strides = {layer.name: layer.strides for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    assert len(strides) == 1 + 3 * (3 + 4 + 6 + 3) + 4
    halving = {name for name, stride in strides.items() if stride == (2, 2)}
    stages = [f"stage{stage}_block1_{part}_conv" for stage in (2, 3, 4) for part in ("b", "shortcut")]
    assert halving == {"stem_conv", *stages}
    assert model.get_layer("stage4_block3_add").output.shape == (None, 7, 7, 2048)
    assert build("resnet50", num_classes=10, stem="small").get_layer("pool").input.shape == (None, 4, 4, 2048)


def test_resnet9_is_made_as_described() -> None:
    model = build("resnet9")
    assert [layer.name for layer in model.layers if isinstance(layer, keras.layers.Add)] == ["layer1_add", "layer3_add"]
    assert model.get_layer("pool").input.shape == (None, 4, 4, 512)
    assert build("resnet9", widths=[4, 8, 8, 8], input_shape=(16, 16, 1), num_classes=3).output_shape == (None, 3)
    x = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    unscaled = keras.Model(model.input, model.get_layer("head").output)
    np.testing.assert_allclose(np.asarray(model(x)), np.asarray(unscaled(x)) / 8, rtol=1e-6)


def steps(model: keras.Model, guarded: bool, count: int = 3) -> Any:
    """Loss before each step on one and the same batch."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (16, *SHAPE)).astype(np.uint8)
    y = draw.integers(0, 10, 16).astype(np.int32)
    optimizer: Any = make_optimizer(config.Optimizer(learning_rate=0.01, nesterov=False), 0.01)
    if guarded:
        optimizer = wrap(optimizer, config.LossScale(initial=1024.0))
    step = Step(model, optimizer, model.trainable_variables, preprocess=Preprocess((127.0,), (64.0,)),
                objective=Objective(classes(10)), augmentation=None, seed=0)  # fmt: skip
    feed = Resident(step, x, y, batch_size=16, capacity=count, xla=False, max_skipped=50)
    return feed(np.tile(np.arange(16, dtype=np.int32), (count, 1)), 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mlp", {}),
        pytest.param("resnet20", {}, marks=pytest.mark.slow),
        ("resnet9", {"widths": [8, 8, 8, 8]}),
        ("speednet", {"widths": [16, 16, 16]}),
    ],
    ids=lambda v: str(v),
)
@pytest.mark.parametrize("policy_name", ["float32", "mixed_float16"])
def test_it_trains(name: str, more: dict[str, Any], policy_name: str) -> None:
    model = build(name, policy_name, **more)
    result = steps(model, policy_name == "mixed_float16")
    assert result.finite.all()
    assert np.isfinite(result.loss).all()
    assert result.loss[-1] < result.loss[0]


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("mlp", 0),
        ("resnet20", 19),
        pytest.param("resnet18", 20, marks=pytest.mark.slow),
        pytest.param("resnet50", 53, marks=pytest.mark.slow),
        ("resnet9", 8),
        ("speednet", 6),
    ],
)
def test_float16_copies(name: str, folded: int) -> None:
    """Every norm of the shipped nets folds, so the copies are float16 through and through."""
    model = build(name)
    x = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    made = rebuild(model)
    assert len(made.folded) == folded
    assert {v.dtype for v in made.model.weights} == {"float16"}
    expected = np.asarray(model(x)).astype(np.float64)
    got = np.asarray(made.model(x)).astype(np.float64)
    np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())


# --- speednet ---------------------------------------------------------------------------------------------------------


def adapt() -> Callable[..., None]:
    found = sibling(resolve(NETS["speednet"][0], MODELS), "adapt")
    assert found is not None
    return found


def test_adapt_whitens() -> None:
    """The positive filters' answers to the patches have the identity as second moments, up to the ridge of 5e-4."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(64, 12, 12, 3))
    x = (x + np.roll(x, 1, 1) + np.roll(x, 1, 2)) @ draw.normal(size=(3, 3)) + 0.3  # neighbours and channels alike
    x = x.astype(np.float32)
    model = build("speednet", input_shape=(12, 12, 3), widths=[16, 16])
    adapt()(model, x)
    layer = model.get_layer("whitening")
    answers = np.asarray(layer(x)).astype(np.float64).reshape(-1, 24)
    np.testing.assert_allclose(answers[:, 12:], -answers[:, :12], atol=1e-5)
    moments = answers[:, :12].T @ answers[:, :12] / len(answers)
    patches = (
        np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    )
    values = np.linalg.eigvalsh(patches.T.astype(np.float64) @ patches / len(patches))[::-1]
    np.testing.assert_allclose(moments, np.diag(values / (values + 5e-4)), atol=2e-3)
    assert (np.diag(moments) > 0.9).all()
    assert np.asarray(layer.bias).tolist() == [0] * 24


def test_convolutions_start_as_the_identity() -> None:
    model = build("speednet", widths=[32, 16, 16])
    x = np.random.default_rng(0).normal(size=(2, 31, 31, 24)).astype(np.float32)
    got = np.asarray(model.get_layer("block1_conv1")(x))
    np.testing.assert_allclose(got[..., :24], x, rtol=1e-6)
    assert np.abs(got[..., 24:]).max() > 0.01
    narrow = np.asarray(model.get_layer("block2_conv1").kernel)  # fewer filters than channels: 16 of 32
    assert narrow.shape == (3, 3, 32, 16)
    assert (narrow[1, 1, :16] == np.eye(16)).all()
    assert np.count_nonzero(narrow) == 16
    kernels = [np.asarray(model.get_layer(f"block{i}_conv2").kernel) for i in (2, 3)]
    assert kernels[0].shape == kernels[1].shape


def test_random_filters_differ() -> None:
    model = build("speednet", widths=[64, 64, 64])
    one, two = (np.asarray(model.get_layer(f"block1_conv{i}").kernel)[..., 24:] for i in (1, 2))
    assert not np.array_equal(one[:, :, :24], two[:, :, :24])


def text_net(name: str, policy_name: str = "float32", length: int = 6) -> keras.Model:
    with policy(policy_name):
        keras.utils.set_random_seed(0)
        function = resolve(f"text_{name}.py:build", MODELS)
        return function(input_shape=(length,), num_classes=2, categories={"note": 50})


@pytest.mark.parametrize("name", ["transformer", "gru"])
@pytest.mark.parametrize("policy_name", ["float32", "mixed_float16"])
def test_nets_for_texts(name: str, policy_name: str) -> None:
    model = text_net(name, policy_name)
    assert model.output_shape == (None, 2)
    assert (model.inputs[0].dtype, model.inputs[0].name) == ("int32", "note")
    computes = {layer.compute_dtype for layer in flat_layers(model) if layer.weights}
    assert computes == {policy_name.removeprefix("mixed_")}
    rows = np.array([[0] * 6, [1] * 6, [7, 8, 9, 0, 0, 0]], np.int32)
    assert np.isfinite(keras.ops.convert_to_numpy(model(rows))).all()


@pytest.mark.parametrize("name", ["transformer", "gru"])
def test_what_lies_at_padding_does_not_count(name: str) -> None:
    model = text_net(name)
    words = next(layer for layer in model.layers if layer.name == "words")
    rows = np.array([[7, 8, 9, 0, 0, 0]], np.int32)
    before = keras.ops.convert_to_numpy(model(rows))
    if name == "transformer":  # the units of a recurrent net go over padding, too, and one direction begins there
        table = keras.ops.convert_to_numpy(words.embeddings)
        table[0] += 5
        words.embeddings.assign(table)
        assert np.allclose(before, keras.ops.convert_to_numpy(model(rows)), atol=1e-6)
    assert not np.allclose(before, keras.ops.convert_to_numpy(model(np.array([[9, 8, 7, 0, 0, 0]], np.int32))))
