"""Muon against the same algorithm in numpy's float64, kernel by kernel, and its iteration against the SVD."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfhalf import config as sections
from tfhalf.config import LossScale, Muon, Optimizer, Schedule, load_pipeline
from tfhalf.errors import ConfigError
from tfhalf.train.optim import muon
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.optim.schedules import EpochSchedule, multiplier

RATE, STEPS = 0.05, 4
Arrays = dict[str, np.ndarray]


def net(depth: int = 1) -> keras.Model:
    """Kernels whose shorter side is 4 (18x4, 4x6 with more filters than inputs, 6x4), 3 and 6; biases and a norm."""
    keras.utils.set_random_seed(3)
    image = keras.Input((5, 5, 2))
    x = layers.Conv2D(4, 3, name="conv", bias_initializer="ones")(image)
    x = layers.BatchNormalization(name="norm")(x)
    for i in range(depth):
        x = layers.Conv2D(6, 1, use_bias=False, name=f"point{i}")(x)
        x = layers.Conv2D(4, 1, use_bias=False, name=f"back{i}")(x)
    x = layers.Dense(6, name="dense")(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(20, name="wide")(x)
    return keras.Model(image, layers.Dense(3, name="head")(x))


def draw(weights: Arrays, steps: int = STEPS) -> list[Arrays]:
    rng = np.random.default_rng(4)
    return [{path: rng.normal(size=w.shape) for path, w in weights.items()} for _ in range(steps)]


# --- in float64 -------------------------------------------------------------------------------------------------------


def iterate(m: np.ndarray, steps: int) -> np.ndarray:
    """Newton-Schulz as the publication states it: a matrix with a row per filter, turned where it is tall."""
    x = m / (np.linalg.norm(m) + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def reference(config: Optimizer, weights: Arrays, grads: list[Arrays], factors: list[float]) -> None:
    """Muon for kernels in ``muon.match``, SGD with Nesterov's momentum for the rest, changing ``weights``; ``factors``
    are the schedule's."""
    m = config.muon
    assert m is not None
    first = {path: np.zeros_like(w) for path, w in weights.items()}
    for step, factor in zip(grads, factors, strict=True):
        norm = math.sqrt(sum(float((g**2).sum()) for g in step.values()))
        for path, w in weights.items():
            g = step[path]
            rate = math.prod(x for pattern, x in config.lr_multipliers.items() if pattern in path)
            decay = 0.0 if any(pattern in path for pattern in config.no_decay) else config.weight_decay
            if config.clip_norm and norm > config.clip_norm:
                g = g * config.clip_norm / norm
            if config.clip_value:
                g = np.clip(g, -config.clip_value, config.clip_value)
            if any(pattern in path for pattern in m.match):
                lr = m.learning_rate * factor
                first[path] = m.momentum * first[path] + g
                u = g + m.momentum * first[path] if m.nesterov else first[path]
                if m.normalize:
                    w *= math.sqrt(w.shape[-1]) / np.linalg.norm(w)
                else:
                    w -= lr * decay * w
                turned = iterate(u.reshape(-1, u.shape[-1]).T, m.steps)
                w -= lr * rate * turned.T.reshape(w.shape)
                continue
            lr = RATE * factor
            if config.coupled_decay:
                g = g + decay / rate * w
            else:
                w -= lr * decay * w
            first[path] = config.momentum * first[path] - lr * rate * g
            w += config.momentum * first[path] - lr * rate * g


def settings(muon: dict[str, Any] | None = None, **changes: Any) -> Optimizer:
    values = {"match": ("kernel",), **(muon or {})}
    return Optimizer(learning_rate=RATE, muon=Muon(**values), **changes)


def start(config: Optimizer, rate: Any = RATE, guarded: bool = False, accumulate: int = 1) -> tuple[Any, list[Any]]:
    variables = trained_variables(net(), config)
    optimizer = make_optimizer(config, rate, accumulate)
    if guarded:
        optimizer = wrap(optimizer, LossScale(initial=8.0, growth_interval=2))
    optimizer.build(variables)
    return optimizer, variables


def applier(optimizer: Any, variables: list[Any], xla: bool = False) -> Any:
    return tf.function(lambda *grads: optimizer.apply(list(grads), variables), autograph=False, jit_compile=xla)


def feed(optimizer: Any, variables: list[Any], grads: list[Arrays], xla: bool = False) -> None:
    apply = applier(optimizer, variables, xla)
    for step in grads:
        scale = float(optimizer.dynamic_scale) if hasattr(optimizer, "dynamic_scale") else 1.0
        apply(*[tf.constant(step[v.path] * scale, tf.float32) for v in variables])


def held(variables: list[Any]) -> Arrays:
    return {v.path: np.asarray(v).astype(np.float64) for v in variables}


def assert_close(variables: list[Any], expected: Arrays) -> None:
    for v in variables:
        np.testing.assert_allclose(np.asarray(v), expected[v.path], rtol=2e-4, atol=1e-5, err_msg=v.path)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "some kernels": ({"match": ("conv/kernel", "point")}, {}),
    "plain momentum": ({"nesterov": False, "momentum": 0.9}, {}),
    "no momentum, five rounds": ({"momentum": 0.0, "steps": 5}, {}),
    "free norms": ({"normalize": False}, {}),
    "normalized, no decay": ({}, {"weight_decay": 0.5}),
    "normalized, no coupled decay": ({}, {"weight_decay": 0.5, "coupled_decay": True}),
    "free norms, decay": ({"normalize": False, "learning_rate": 0.1}, {"weight_decay": 0.5}),
    "free norms, coupled decay": ({"normalize": False}, {"weight_decay": 0.5, "coupled_decay": True}),
    "free norms, decay of some": ({"normalize": False}, {"weight_decay": 0.5, "no_decay": ("bias", "conv/kernel")}),
    "multipliers": ({"normalize": False}, {"lr_multipliers": {"conv/kernel": 4.0, "bias": 0.5}, "weight_decay": 0.3}),
    "clipped by norm": ({"steps": 1}, {"clip_norm": 0.5}),
    "clipped by value": ({}, {"clip_value": 0.2}),
}


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_muon_against_numpy(case: str, guarded: bool) -> None:
    own, others = CASES[case]
    config = settings(own, **others)
    optimizer, variables = start(config, guarded=guarded)
    weights = held(variables)
    grads = draw(weights)
    given = [*grads]
    if guarded:  # a step that is skipped leaves no trace in what follows
        given.insert(2, {path: np.full_like(g, np.inf if path == "conv/bias" else 1e3) for path, g in grads[0].items()})
    feed(optimizer, variables, given)
    reference(config, weights, grads, [1.0] * STEPS)
    assert_close(variables, weights)
    if guarded:
        assert int(optimizer.skipped) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_schedule_moves_both_learning_rates(accumulate: int) -> None:
    config, schedule = settings({"normalize": False}), Schedule(name="cosine", warmup_epochs=1.0)
    rate = EpochSchedule(schedule, RATE, steps_per_epoch=4, epochs=2)
    optimizer, variables = start(config, rate, accumulate=accumulate)
    weights = held(variables)
    grads = draw(weights, 8)
    feed(optimizer, variables, grads)
    applied = range(accumulate - 1, 8, accumulate)
    averages = [
        {path: sum(grads[i - k][path] for k in range(accumulate)) / accumulate for path in weights} for i in applied
    ]
    reference(config, weights, averages, [multiplier(schedule, (i + 0.5) / 4, 2) for i in applied])
    assert_close(variables, weights)


def test_a_learning_rate_that_is_set_moves_muon_too() -> None:
    config = settings({"normalize": False})
    optimizer, variables = start(config)
    weights = held(variables)
    grads = draw(weights, 2)
    apply = applier(optimizer, variables)
    for step, factor in zip(grads, (1.0, 0.25), strict=True):
        optimizer.learning_rate = RATE * factor
        apply(*[tf.constant(step[v.path], tf.float32) for v in variables])
    reference(config, weights, grads, [1.0, 0.25])
    assert_close(variables, weights)


def test_moving_averages_hold_muons_kernels_too() -> None:
    optimizer, variables = start(settings(ema_momentum=0.75))
    kernel = next(v for v in variables if v.path == "conv/kernel")
    apply, average = applier(optimizer, variables), None
    for step in draw(held(variables), 3):
        apply(*[tf.constant(step[v.path], tf.float32) for v in variables])
        now = np.asarray(kernel).astype(np.float64)
        average = now if average is None else 0.75 * average + 0.25 * now
    optimizer.finalize_variable_values(variables)
    np.testing.assert_allclose(np.asarray(kernel), average, rtol=1e-5, atol=1e-6)
    assert not np.allclose(average, now, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [False, True])
def test_compiled_by_xla_it_is_the_same(guarded: bool) -> None:
    config = settings(clip_norm=2.0, weight_decay=0.01)
    results = []
    for xla in (False, True):
        optimizer, variables = start(config, guarded=guarded, accumulate=2)
        feed(optimizer, variables, draw(held(variables)), xla)
        results.append([np.asarray(v) for v in [*variables, *optimizer.variables]])
    for plain, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_slots() -> None:
    """Muon's momentum for its kernels, Adam's two for the rest; all of it in what a checkpoint saves."""
    config = settings({"match": ("conv/kernel", "head/kernel")}, name="adam")
    optimizer, variables = start(config)
    names = [v.name for v in optimizer.variables]
    assert sorted(n for n in names if n.endswith("muon_momentum")) == [
        "conv_kernel_muon_momentum",
        "head_kernel_muon_momentum",
    ]
    assert sum("velocity" in n for n in names) == len(variables) - 2
    assert not [n for n in names if n in ("conv_kernel_velocity", "conv_kernel_momentum")]
    assert {v.dtype for v in optimizer.variables} == {"float32", "int64"}

    grads = draw(held(variables))
    feed(optimizer, variables, grads[:2])
    saved = [np.asarray(v).copy() for v in [*variables, *optimizer.variables]]
    feed(optimizer, variables, grads[2:])
    expected = held(variables)
    again, others = start(config)
    for variable, value in zip([*others, *again.variables], saved, strict=True):
        variable.assign(value)
    feed(again, others, grads[2:])
    for path, value in held(others).items():
        np.testing.assert_array_equal(value, expected[path])


def test_norms_are_set() -> None:
    optimizer, variables = start(settings({"learning_rate": 1e-9}))
    feed(optimizer, variables, draw(held(variables), 1))
    for v in variables:
        if "kernel" in v.path:
            assert np.linalg.norm(np.asarray(v)) == pytest.approx(math.sqrt(v.shape[-1]), rel=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_zeros_stay_finite(normalize: bool) -> None:
    optimizer, variables = start(settings({"normalize": normalize}))
    for v in variables:
        v.assign(np.zeros(v.shape))
    feed(optimizer, variables, [{v.path: np.zeros(v.shape) for v in variables}])
    assert all((np.asarray(v) == 0).all() for v in variables)


# --- groups -----------------------------------------------------------------------------------------------------------

SHAPES = [(3, 3, 2, 4), (1, 1, 4, 6), (6, 4), (6, 20), (20, 3), (4, 4), (3, 7)]


def test_groups() -> None:
    assert muon.grouped(SHAPES) == [((4, 6), 20), ((0, 1, 2, 5), 18), ((3,), 20)]


def test_a_group_is_what_its_kernels_are_one_by_one() -> None:
    rng = np.random.default_rng(0)
    weights, grads, momenta = ([rng.normal(size=s).astype(np.float32) for s in SHAPES] for _ in range(3))
    more = {"learning_rate": np.float32(0.3), "config": Muon(match=("k",), steps=4)}
    rates, decays = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 1.0], [0.0] * 7
    together = muon.update(weights, grads, momenta, rates=rates, decays=decays, **more)
    for i in range(len(SHAPES)):
        alone = muon.update([weights[i]], [grads[i]], [momenta[i]], rates=[rates[i]], decays=[0.0], **more)
        for one, all_ in zip(alone, together, strict=True):
            assert all_[i].shape == SHAPES[i]
            np.testing.assert_allclose(all_[i], one[0], rtol=1e-4, atol=1e-5)


def products(depth: int) -> int:
    """Matrix products in the graph of a step."""
    variables = net(depth).trainable_variables
    optimizer = make_optimizer(settings(), RATE)
    optimizer.build(variables)
    shapes = [tf.TensorSpec(v.shape) for v in variables]
    graph = applier(optimizer, variables).get_concrete_function(*shapes).graph
    return sum("MatMul" in node.type for node in graph.get_operations())


def test_deeper_nets_need_no_more_products() -> None:
    groups, rounds = 3, 3
    assert products(1) == products(4) == groups * rounds * 3


# --- the iteration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (8, 30), (30, 8), (3, 6, 20), (1, 5), (5, 1)])
def test_newton_schulz_against_the_svd(shape: tuple[int, ...]) -> None:
    """Singular values from 0.1 to 1 of the largest end near 1; both sides' vectors are kept."""
    rng = np.random.default_rng(1)
    u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values = np.linspace(1, 0.1, min(shape[-2:]))
    m = (u * values) @ vt
    got = np.asarray(muon.newton_schulz((5 * m).astype(np.float32), 5))
    assert got.shape == shape
    inner = np.swapaxes(u, -1, -2) @ got @ np.swapaxes(vt, -1, -2)
    diagonal = np.diagonal(inner, axis1=-2, axis2=-1)
    assert diagonal.min() > 0.65
    assert diagonal.max() < 1.25
    np.testing.assert_allclose(inner, diagonal[..., None] * np.eye(diagonal.shape[-1]), atol=2e-5)
    np.testing.assert_allclose(got, (u * diagonal[..., None, :]) @ vt, atol=5e-5)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_newton_schulz_against_float64(steps: int) -> None:
    m = np.random.default_rng(2).normal(size=(6, 11))
    for matrix in (m, m.T):
        got = muon.newton_schulz(matrix.astype(np.float32), steps)
        np.testing.assert_allclose(got, iterate(matrix, steps), atol=1e-4)


@pytest.mark.parametrize("shape", [(50, 4), (4, 50)])
def test_products_are_of_the_smaller_side(shape: tuple[int, int]) -> None:
    graph = tf.function(lambda m: muon.newton_schulz(m, 2)).get_concrete_function(tf.TensorSpec(shape)).graph
    made = [tuple(node.outputs[0].shape) for node in graph.get_operations() if "MatMul" in node.type]
    assert made == [(4, 4), (4, 4), shape] * 2


def test_padding_changes_nothing() -> None:
    m = np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32)
    padded = np.concatenate([m, np.zeros((5, 4), np.float32)])
    got = np.asarray(muon.newton_schulz(padded, 5))
    np.testing.assert_allclose(got[:9], muon.newton_schulz(m, 5), atol=1e-5)
    assert (got[9:] == 0).all()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_vector_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        trained_variables(net(), settings({"match": ("conv/",)}))
    assert str(caught.value) == (
        "train.optimizer.muon.match: matches conv/bias of shape (4,); Muon moves kernels, which have two dimensions or "
        "more: narrow the pattern, for example to 'kernel'"
    )


def test_a_frozen_vector_is_not_in_the_way() -> None:
    config = settings({"match": ("conv/",)}, lr_multipliers={"conv/bias": 0.0})
    assert "conv/kernel" in [v.path for v in trained_variables(net(), config)]


def test_a_pattern_without_a_match_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.muon\.match: 'cnov' matches no variable; the model has conv/"):
        trained_variables(net(), settings({"match": ("kernel", "cnov")}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "muon.match: is needed and missing; it is a list of at least 1, each text"),
        ("{match: []}", "muon.match: received [], accepted: a list of at least 1, each text"),
        ("{match: ['(']}", "muon.match: '(' is not a regular expression"),
        ("{match: [k], steps: 11}", "muon.steps: received 11, accepted: a whole number from 1 to 10"),
        ("{match: [k], momentum: 1}", "muon.momentum: received 1, accepted: a number in [0, 1)"),
        ("{match: [k], learning_rate: 0}", "muon.learning_rate: received 0, accepted: a number > 0"),
        ("{match: [k], rate: 1}", "unknown key 'rate'"),
    ],
)
def test_sections_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.yaml"
    head = "name: a\nmodel: {build: m.py:b}\ndata: {source: 's.py:l'}\n"
    file.write_text(f"{head}train: {{optimizer: {{muon: {text}}}}}")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(file)
    assert message in str(caught.value)


def test_a_section_is_written_and_read_back(tmp_path: Path) -> None:
    optimizer = settings({"match": ("kernel", r"block\d")}, lookahead=sections.Lookahead(power=3.0))
    pipeline = sections.Pipeline(
        name="a",
        model=sections.Model(build="m.py:b"),
        data=sections.Data(source="s.py:l"),
        train=sections.Train(optimizer=optimizer, callbacks=(sections.Callback(build="c.py:make", args={"a": 1}),)),
    )
    (tmp_path / "p.yaml").write_text(pipeline.to_yaml())
    assert load_pipeline(tmp_path / "p.yaml") == pipeline
