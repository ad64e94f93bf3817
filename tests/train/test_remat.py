"""``train.remat``: the same training in less memory, by layers that are named and to a budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from train_loops import pipeline, trainer

from tfhalf.config import Train
from tfhalf.errors import ConfigError
from tfhalf.train.remat.choose import least
from tfhalf.train.remat.graph import Graph, functional_of
from tfhalf.train.remat.recompute import Compiler
from tfhalf.train.remat.units import Unit, again, by_patterns, candidates
from tfhalf.train.trainer import Trainer

NETS = '''
import keras
from keras import layers, ops


def conv(*, input_shape, num_classes, depth=4):
    image = x = keras.Input(input_shape)
    for i in range(depth):
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, activity_regularizer="l2", name=f"b{i}_conv")(x)
        y = layers.ReLU(name=f"b{i}_relu")(layers.BatchNormalization(name=f"b{i}_norm")(y))
        y = layers.Dropout(0.3, name=f"b{i}_drop")(y)
        x = x + y if i else y
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(num_classes, name="head")(x))


class Block(layers.Layer):
    """Its layers learn from the call around them that this is training."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.norm, self.drop = layers.LayerNormalization(), layers.Dropout(0.3)
        self.up = layers.Dense(8 * width, "gelu", activity_regularizer=keras.regularizers.L2(0.1), name="up")
        self.down = keras.Sequential([layers.Dense(width), layers.GaussianNoise(0.1)], name="down")

    def call(self, x):
        return x + self.drop(self.down(self.up(self.norm(x))))


class Net(keras.Model):
    def __init__(self, count, width, depth):
        super().__init__()
        self.first = layers.Dense(width)
        self.blocks = [Block(width, name=f"block{i}") for i in range(depth)]
        self.head = layers.Dense(count, name="head")

    def call(self, image):
        x = self.first(ops.reshape(image, (-1, image.shape[1] * image.shape[2], image.shape[3])))
        for block in self.blocks:
            x = block(x)
        return self.head(ops.mean(x, 1))


def subclass(*, input_shape, num_classes, width=8, depth=4):
    return Net(num_classes, width, depth)


def sequential(*, input_shape, num_classes):
    body = keras.Sequential(name="body")
    for i in range(4):
        body.add(layers.Conv2D(8, 3, padding="same", name=f"conv{i}"))
        body.add(layers.BatchNormalization(name=f"norm{i}"))
        body.add(layers.Dropout(0.3, name=f"drop{i}"))
    top = [layers.GlobalAveragePooling2D(), layers.Dense(num_classes, name="head")]
    return keras.Sequential([keras.Input(input_shape), body, *top])
'''


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def made(folder: Path, builder: str, **changes: Any) -> Trainer:
    return trainer(folder, **{"model__build": f"nets.py:{builder}", "train__batch_size": 8, **changes})


def trained(folder: Path, builder: str, steps: int = 3, **changes: Any) -> tuple[Trainer, list[np.ndarray], np.ndarray]:
    """A trainer after ``steps`` steps of one program: its state, and the losses."""
    one = made(folder, builder, **changes)
    one.program.compile()
    losses = one.program.feed(one.program.order(0)[:steps], 0, 0).loss
    return one, one.state.values(), losses


def chain(count: int = 9) -> keras.Model:
    image = x = keras.Input((8, 8, 4))
    for i in range(count):
        x = layers.Conv2D(4, 3, padding="same", name=f"conv{i}")(x)
    return keras.Model(image, x)


# --- which layers -----------------------------------------------------------------------------------------------------


def test_a_run_of_layers_is_cut_where_least_is_kept() -> None:
    """Nine equal layers: three pieces of three, two of whose outputs are kept."""
    units = by_patterns(chain(), ["conv"])
    assert [unit.layers for unit in units] == [[f"conv{i}" for i in range(a, a + 3)] for a in (0, 3, 6)]
    assert {unit.saved for unit in units} == {2 * 8 * 8 * 4 * 4}
    assert [unit.layers[0] for unit in candidates(chain())] == ["conv0", "conv3"]  # the last one would save nothing


def test_cuts_lie_where_little_crosses() -> None:
    image = x = keras.Input((8, 8, 4))
    for i in range(3):
        x = layers.Conv2D(16, 3, padding="same", name=f"wide{i}")(layers.Conv2D(16, 1, name=f"up{i}")(x))
        x = layers.Conv2D(1, 1, name=f"narrow{i}")(x)
    units = by_patterns(keras.Model(image, x), ["."])
    assert [unit.layers[-1] for unit in units] == ["narrow0", "narrow1", "narrow2"]


def test_chosen_calls_follow_one_another_past_a_branch() -> None:
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 1, name="in_a")(image)
    other = layers.Conv2D(4, 1, name="side")(image)
    x = layers.Conv2D(4, 1, name="in_b")(x) * 2.0
    model = keras.Model(image, layers.Conv2D(4, 1, name="in_c")(x) + other)
    functional = functional_of(model)
    assert functional is not None
    graph = Graph(functional, lambda operation: operation.name.startswith("in_"))
    names = [node.operation.name for node in graph.nodes]
    assert names[0] == "side"
    assert graph.chosen == [False, *[True] * (len(names) - 1)]
    assert [name for name in names if name.startswith("in_")] == ["in_a", "in_b", "in_c"]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["conv1", "cvon"], "train.remat: 'cvon' matches no layer; the model has conv0, conv1,"),
        (["conv4"], "train.remat: what ['conv4'] match leaves nothing to compute twice; accepted: layers that follow"),
    ],
)
def test_patterns_that_do_nothing(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        by_patterns(chain(), patterns)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"remat": ["("]}, "is not a regular expression"),
        ({"remat": "all"}, "remat"),
        ({"remat": ["conv"], "remat_gib": 2.0}, "remat_gib is a budget for remat: auto"),
        ({"remat": "auto", "remat_gib": 0.0}, "greater than 0"),
    ],
)
def test_keys_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Train.model_validate(values)


@pytest.mark.parametrize("count", [0, 1, 5, 40])
@pytest.mark.parametrize("budget", [5, 60, 95, 100])
def test_the_least_number_that_fits(count: int, budget: int) -> None:
    calls: list[int] = []

    def measure(number: int) -> int:
        calls.append(number)
        return 100 - 2 * number

    number, fits = least(count, measure, budget), 100 - 2 * count <= budget
    assert (number is not None) == fits
    if number is not None:
        assert 100 - 2 * number <= budget
        assert number == max(0, -(-(100 - budget) // 2))  # where each unit saves as much, the first guess is right
    assert len(set(calls)) <= 6


# --- the same training ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("xla", ["off", "on"])
@pytest.mark.parametrize(
    ("builder", "patterns"),
    [("conv", ["^b"]), ("subclass", ["block"]), ("subclass", ["up$", "down$"]), ("sequential", ["conv|norm|drop"])],
)
def test_it_trains_the_same(nets: Path, builder: str, patterns: list[str], xla: str) -> None:
    """Seeds of dropout and noise to the bit, statistics, weights, loss scale and losses to float32's last digits, which
    XLA rounds otherwise where it joins other operations."""
    settings = {"train__xla": xla, "precision__policy": "float32"}
    plain, before, losses = trained(nets, builder, **settings)
    one, after, same = trained(nets, builder, **settings, train__remat=patterns)
    assert one.program.remat.facts is not None
    names = [*plain.state.names()["model"], *plain.state.names()["other"]]
    np.testing.assert_allclose(same, losses, rtol=2e-6)
    for name, a, b in zip(names, before, after, strict=True):
        if a.dtype.kind != "f":
            np.testing.assert_array_equal(b, a, err_msg=name)
        else:
            np.testing.assert_allclose(b, a, atol=2e-6 * max(1.0, np.abs(a).max()), rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_it_trains_the_same_in_half_precision(nets: Path) -> None:
    """Without XLA each operation rounds as it did: to the bit, where one gradient comes to each tensor."""
    _, before, losses = trained(nets, "sequential", train__xla="off")
    _, after, same = trained(nets, "sequential", train__xla="off", train__remat=["body"])
    np.testing.assert_array_equal(same, losses)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(b, a)


def gradients(model: keras.Model, x: Any, units: Sequence[Unit], compiler: Compiler) -> list[np.ndarray]:
    def run(x: Any) -> Any:
        weights = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x, training=True))) + tf.add_n([*model.losses, tf.constant(0.0)])
        return [loss, *tape.gradient(loss, weights)]

    with again(units, compiler):
        traced = tf.function(run, jit_compile=compiler != "none", autograph=False)(x)
    return [np.asarray(tf.convert_to_tensor(one)) for one in traced]


@pytest.mark.parametrize("compiler", ["none", pytest.param("xla-cpu", marks=pytest.mark.slow)])
def test_masks_numbers_of_words_and_loops(compiler: Compiler) -> None:
    """Padding masks go from layer to layer within a part and out of it, int32 goes in, and a recurrent layer whose cell
    is matched is computed again as a whole."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(9, 4, mask_zero=True, name="words"),
            layers.Dense(4, activation="tanh", name="dense"),
            layers.GRU(3, return_sequences=True, use_cudnn=False, name="gru"),
            layers.LSTM(3, use_cudnn=False, name="lstm"),
        ]
    )
    x = tf.constant([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0], [7, 8, 1, 1, 1]])
    plain = gradients(model, x, [], compiler)
    for patterns in (["words", "dense"], ["gru_cell"], ["."]):
        units = by_patterns(model, patterns)
        assert {path.rpartition("/")[2] for unit in units for path in unit.layers} & {"words", "gru"}
        for one, other in zip(plain, gradients(model, x, units, compiler), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


# --- less memory ------------------------------------------------------------------------------------------------------

WIDE = {"train__xla": "on", "precision__policy": "float32", "train__batch_size": 40, "model__args": {"width": 32}}


@pytest.mark.slow
def test_the_program_takes_less_memory(nets: Path) -> None:
    """By XLA's own account, with the seven eighths of a block's activations that lie within it."""
    plain, one = made(nets, "subclass", **WIDE), made(nets, "subclass", **WIDE, train__remat=["block"])
    kept, less = (each.program._bytes_with(each.program.remat) for each in (plain, one))
    assert less < 0.6 * kept


@pytest.mark.slow
def test_to_a_budget(nets: Path) -> None:
    kept = made(nets, "subclass", **WIDE)
    most = kept.program._bytes_with(kept.program.remat)
    some = made(nets, "subclass", **WIDE, train__remat="auto", train__remat_gib=0.8 * most / 2**30)
    some.program.choose_remat()
    facts = some.program.remat.facts
    assert facts is not None
    assert facts["bytes"] <= facts["budget"] < facts["bytes_kept"] == most
    assert 1 <= facts["parts"] < 4
    assert all(path.rpartition("/")[2].startswith("block") for path in facts["layers"])
    assert re.search(rf"^{facts['parts']} part.*\(XLA's figures\)$", some.program.remat.message)
    enough = made(nets, "subclass", **WIDE, train__remat="auto")
    enough.program.choose_remat()
    assert enough.program.remat.message.startswith("none: a step takes ")
    never = made(nets, "subclass", **WIDE, train__remat="auto", train__remat_gib=1e-4)
    with pytest.raises(
        ConfigError,
        match=r"train.remat: a step takes .* with all 3 parts .*; take smaller batches",
    ):
        never.program.choose_remat()


def test_a_budget_needs_xla(nets: Path) -> None:
    one = made(nets, "conv", train__remat="auto", train__xla="off")
    with pytest.raises(ConfigError, match=r"layer patterns; --set train\.xla=on, or give those"):
        one.program.choose_remat()


def test_the_pipeline_file_keeps_it() -> None:
    assert pipeline(train__remat=["^b"]).train.remat == ("^b",)
    assert pipeline(train__remat="auto", train__remat_gib=7.5).train.remat_gib == 7.5


def test_a_layer_that_assigns_what_is_trained_is_refused(nets: Path) -> None:
    """Its gradient would be another: within a step, what is assigned has none."""
    with (nets / "nets.py").open("a") as file:
        file.write(
            "\n\ndef spectral(*, input_shape, num_classes):\n"
            "    dense = lambda i: layers.SpectralNormalization(layers.Dense(16, name=f'd{i}'), name=f's{i}')\n"
            "    parts = [layers.Flatten(), *map(dense, range(4)), layers.Dense(num_classes)]\n"
            "    return keras.Sequential([keras.Input(input_shape), *parts])\n"
        )
    with pytest.raises(ConfigError, match=r"^train\.remat: .*kernel is trained, and assigned in the call of its layer"):
        trained(nets, "spectral", train__remat=["^s"], precision__policy="float32")


def test_the_stage_that_takes_the_most_counts(nets: Path) -> None:
    """Not the one with the largest batch, in which little is trained."""
    stages = [{"epochs": 2, "batch_size": 10, "freeze": ["b0_", "b1_", "b2_", "b3_"]}, {"epochs": 2}]
    one = made(nets, "conv", train__xla="on", train__stages=stages, train__remat="auto")
    head, whole = one.program.stages.all
    feed = one.program.feed
    alone = [feed.program_bytes(one.program._items(stage), stage) for stage in (head, whole)]
    assert alone[0] < alone[1]
    assert one.program._bytes_with(one.program.remat) >= 0.9 * alone[1]
