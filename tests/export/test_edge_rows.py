"""What an export is compared on: drawn as a model's own layers say, with edge rows compared apart, and a sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import zoo
import zoo_layers
from keras import layers, ops

from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.record import ReferenceFacts
from tfhalf.artifacts.reference import Reference, basis_line
from tfhalf.errors import ArtifactError, ExportError
from tfhalf.export.inputs import draw, edge_rows
from tfhalf.export.inputs.draw import OwnSamples, SampleInputs, sample_inputs
from tfhalf.export.inputs.sweep import sweep
from tfhalf.export.interface import Interface, interface_of
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.load.model import Source
from tfhalf.progress import Progress
from tfhalf.verify.compare import EDGE, badness, compare_outputs, true_float16_rows
from tfhalf.verify.report import sweep_line


def interface(model: keras.Model) -> Interface:
    return interface_of(Source(model, "m", {}), None)


def samples_of(model: keras.Model, arrays: Any = None) -> SampleInputs:
    own = OwnSamples(arrays, "in.npz", "in.npz") if arrays is not None else None
    return sample_inputs(model, interface(model), own)


def rows(samples: SampleInputs, kind: str, name: str | None = None) -> np.ndarray:
    chosen = np.array([k == kind for k in samples.kinds])
    return samples.arrays[name or next(iter(samples.arrays))][chosen]


def plain(shape: tuple[int | None, ...], *stack: Any, name: str = "x") -> keras.Model:
    x = given = keras.Input(shape, name=name)
    for layer in stack:
        x = layer(x)
    return keras.Model(given, x)


# --- drawn as the model says ------------------------------------------------------------------------------------------


def trained(norm: Any, mean: Any, variance: Any) -> Any:
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    return norm


@pytest.mark.parametrize("behind", ["nothing", "flatten", "transposed", "joined"])
def test_statistics_of_a_leading_norm(behind: str) -> None:
    """Whatever only moves values before it: what is drawn is what the norm was trained on."""
    norm = layers.BatchNormalization(name="norm")
    mean, variance = np.array([250_000.0, 1.6e9, 3e-6, -4.0]), np.array([8.1e9, 1e14, 1e-12, 1.0])
    x = keras.Input((2, 2) if behind in ("flatten", "transposed") else (4,), name="x")
    given: Any = x
    order = list(range(4))
    if behind == "flatten":
        y = norm(layers.Flatten()(x))
    elif behind == "transposed":
        y = norm(layers.Reshape((4,))(layers.Permute((2, 1))(layers.Dropout(0.5)(x))))
        order = [0, 2, 1, 3]
    elif behind == "joined":
        other = keras.Input((1,), name="other")
        given = [x, other]
        y = norm(layers.Concatenate()([x, other]))
        mean, variance, order = np.append(mean, 7.0), np.append(variance, 0.25), [*order, 4]
    else:
        y = norm(x)
    model = keras.Model(given, layers.Dense(2)(y))
    trained(norm, mean[order], variance[order])
    samples = samples_of(model)
    drawn = rows(samples, "drawn", "x").reshape(-1, 4)
    assert (np.abs(drawn.mean(0) - mean[:4]) < 0.6 * np.sqrt(variance[:4])).all()
    np.testing.assert_allclose(drawn.std(0), np.sqrt(variance[:4]), rtol=0.4)
    assert samples.facts.how["x"] == "normal with the mean and variance of 'norm'"
    if behind == "joined":
        assert rows(samples, "drawn", "other").mean() == pytest.approx(7, abs=0.3)
    # No edge row goes where the statistics never go: that would ask of float16 what nobody sends.
    for kind in samples.facts.edges:
        far = np.abs(rows(samples, kind, "x").reshape(-1, 4)[:, :4] - drawn.mean(0)) / drawn.std(0)
        assert far.max() < 15


def test_a_norm_behind_weights_says_nothing_of_the_inputs() -> None:
    norm = layers.BatchNormalization(name="norm")
    model = plain((4,), layers.Dense(4), norm)
    trained(norm, np.full(4, 1e5), np.ones(4))
    assert samples_of(model).facts.how == {"x": "standard normal"}
    pooled = layers.BatchNormalization(name="pooled")
    model = plain((8, 4), layers.MaxPooling1D(2), pooled)  # it moves some values, but which depends on them
    trained(pooled, np.full(4, 1e5), np.ones(4))
    assert samples_of(model).facts.how == {"x": "standard normal"}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_subclass_has_statistics_too(policy: str) -> None:
    class Table(keras.Model):
        def __init__(self, **rest: Any) -> None:
            super().__init__(**rest)
            self.norm, self.head = layers.BatchNormalization(name="norm"), layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.head(self.norm(x))

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = Table()
        model(np.zeros((1, 3), np.float32))
    finally:
        keras.config.set_dtype_policy(before)
    trained(model.norm, np.full(3, 1e6), np.full(3, 1e8))
    drawn = rows(samples_of(model), "drawn")
    assert drawn.mean() == pytest.approx(1e6, rel=0.01)
    assert model.norm.dtype_policy.name == policy


def images(scale: float, offset: float = 0.0) -> keras.Model:
    """A net whose first BatchNormalization was trained on images of that range."""
    norm = layers.BatchNormalization(name="norm")
    model = plain((16, 16, 3), layers.Conv2D(8, 3, name="conv"), norm, layers.GlobalAveragePooling2D(), name="image")
    x = np.random.default_rng(3).uniform(0, 1, (16, 16, 16, 3)) * scale + offset
    y = np.asarray(model.get_layer("conv")(x.astype(np.float32)))
    trained(norm, y.mean((0, 1, 2)), y.var((0, 1, 2)))
    return model


@pytest.mark.parametrize(("scale", "offset", "top"), [(255, 0, 255), (1, 0, 1), (255, -128, 127)])
def test_the_range_of_images_is_what_the_first_norm_was_trained_on(scale: float, offset: float, top: float) -> None:
    samples = samples_of(images(scale, offset))
    drawn = rows(samples, "drawn")
    assert 0.95 * top < drawn.max() <= top
    assert "as the statistics of 'norm' say" in samples.facts.how["image"]
    assert "0 to 255" not in samples.facts.edges


def test_images_of_which_nothing_says_the_range() -> None:
    model = plain((16, 16, 3), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), name="image")
    samples = samples_of(model)
    assert samples.facts.edges == {"zeros": 1, "constant": 1, "largest": 1, "0 to 1": 2, "0 to 255": 2}
    assert rows(samples, "0 to 255").max() == 255
    assert set(np.unique(rows(samples, "0 to 255")[0] % 1)) == {0}
    rescaled = plain((16, 16, 3), layers.Rescaling(1 / 255), layers.Conv2D(4, 3), name="image")
    assert samples_of(rescaled).facts.edges == {"zeros": 1, "constant": 1, "largest": 1}


# --- edge rows --------------------------------------------------------------------------------------------------------


def test_edges_of_numbers() -> None:
    model = plain((5,), layers.Dense(2))
    samples = samples_of(model)
    assert samples.facts == ReferenceFacts(
        origin="drawn",
        seed=0,
        how={"x": "standard normal"},
        count=35,
        edges={"zeros": 1, "constant": 1, "largest": 1},
    )
    assert samples.kinds == (*["drawn"] * 32, "zeros", "constant", "largest")
    assert (rows(samples, "zeros") == 0).all()
    assert len(np.unique(rows(samples, "constant"))) == 1
    assert 4 < np.abs(rows(samples, "largest")).max() <= 8
    np.testing.assert_array_equal(rows(samples, "drawn"), draw.draw(model, interface(model).inputs)[0]["x"])
    expected = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
    np.testing.assert_array_equal(rows(samples, "drawn"), expected)  # as it was before there were edge rows


def test_padding_of_a_masking_layer() -> None:
    samples = samples_of(plain((12, 5), layers.Masking(mask_value=-1e6), layers.LSTM(4)))
    (tail,), (whole,) = rows(samples, "padded tail"), rows(samples, "all padding")
    assert (tail[8:] == -1e6).all()
    assert (np.abs(tail[:8]) < 10).all()
    assert (whole == -1e6).all()
    moved = samples_of(plain((60,), layers.Reshape((12, 5)), layers.Masking(mask_value=9.0), layers.LSTM(4)))
    (tail,) = rows(moved, "padded tail")
    assert (tail[40:] == 9).all()
    assert not (tail[:40] == 9).any()


def test_ends_of_a_vocabulary_and_padding_tokens() -> None:
    samples = samples_of(zoo.masked_lstm())
    assert samples.facts.edges == {"zeros": 1, "largest": 1, "padded tail": 1}
    assert (rows(samples, "largest") == 49).all()
    (tail,) = rows(samples, "padded tail")
    assert (tail[-10:] == 0).all()
    assert tail[:-10].any()


def test_edges_of_several_inputs_go_together() -> None:
    samples = samples_of(zoo.multi())
    (kind,) = rows(samples, "largest", "kind")
    assert kind.tolist() == [6]
    assert np.abs(rows(samples, "largest", "numbers")).max() > 4
    np.testing.assert_array_equal(rows(samples, "0 to 255", "numbers")[0], samples.arrays["numbers"][0])
    assert len({len(x) for x in samples.arrays.values()} | {len(samples.kinds)}) == 1


def test_edges_of_text_and_of_a_fixed_batch() -> None:
    samples = samples_of(zoo.words())
    assert samples.arrays["text"][np.array(samples.kinds) == "zeros"].tolist() == [[""]]
    x = keras.Input(batch_shape=(4, 3), name="x")
    fixed = samples_of(keras.Model(x, layers.Dense(2)(x)))
    assert len(fixed.kinds) % 4 == 0
    assert set(fixed.kinds) == {"drawn", "zeros", "constant", "largest"}


def test_given_inputs_get_edges_of_their_own_range() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(1.6e9, 1.7e9, 50), rng.uniform(0, 9, 50)], 1)
    samples = samples_of(plain((2,), layers.Dense(2)), {"x": x})
    assert samples.kinds[:50] == ("given",) * 50
    assert basis_line(samples.facts) == (
        "given: 50 of in.npz and 4 edge rows (zeros, constant, largest, smallest), compared apart"
    )
    np.testing.assert_allclose(rows(samples, "largest")[0], x.max(0), rtol=1e-6)
    np.testing.assert_allclose(rows(samples, "smallest")[0], x.min(0), rtol=1e-6)
    assert rows(samples, "zeros")[0, 0] > 1.4e9  # no time stamp is 0
    tokens = samples_of(zoo.embedding(), {"item": np.arange(10, 20)})
    assert set(rows(tokens, "largest")) | set(rows(tokens, "zeros")) == {0, 499}


def test_what_a_comparison_rests_on() -> None:
    assert basis_line(ReferenceFacts(count=35, edges={"zeros": 1, "constant": 2})) == (
        "drawn: 32 samples and 3 edge rows (zeros, constant), compared apart"
    )
    assert basis_line(ReferenceFacts(origin="test set", count=33, edges={"zeros": 3})) == (
        "test set: 30 samples and 3 edge rows (zeros), compared apart"
    )
    assert basis_line(ReferenceFacts(count=32)) == "drawn: 32 samples"  # versions from before
    assert basis_line(ReferenceFacts(origin="given", file="a.npz", count=5)) == "given: 5 of a.npz"


# --- compared apart ---------------------------------------------------------------------------------------------------

KINDS = (*["drawn"] * 10, "zeros", "largest")


def answers(change: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    reference = {"y": np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)}
    reference["y"][11] *= 50
    got = {"y": reference["y"].copy()}
    change(reference["y"], got["y"])
    return reference, got


def lose(reference: np.ndarray, got: np.ndarray) -> None:
    got[10, :2] = np.nan


def nowhere(reference: np.ndarray, got: np.ndarray) -> None:
    reference[10, :2], got[10, :2] = -np.inf, 3.0


def coarse(reference: np.ndarray, got: np.ndarray) -> None:
    got[10] += 0.04 * np.abs(reference[:10]).max() * np.array([1, 0, 0, 0, 0, 0])
    got[11] *= 1.04


def wrong(reference: np.ndarray, got: np.ndarray) -> None:
    got[11] *= 1.6


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lose, "edge row 'zeros': 2 of 6 values are not finite"),
        (nowhere, None),  # float32 gives nothing there either
        (coarse, None),
        (wrong, "edge row 'largest': the largest difference is 0.6 of the scale, 0.4 allowed"),
    ],
)
def test_edge_rows_are_compared_apart(change: Any, problem: str | None) -> None:
    reference, got = answers(change)
    (found,) = compare_outputs(reference, got, (), Limits(), KINDS)
    assert found.problems == ((problem,) if problem else ())
    assert found.max_difference == 0  # of usual rows
    (usual,) = compare_outputs({"y": reference["y"][:10]}, {"y": got["y"][:10]}, (), Limits())
    assert found.scale == usual.scale  # large rows hide no difference of usual ones
    worst = badness(reference, got, KINDS)
    assert np.isinf(worst[10]) == (change is lose)
    assert worst[:10].max() == 0


def test_a_usual_row_is_held_to_the_limits_beside_edges() -> None:
    reference, got = answers(lambda r, g: g.__setitem__(3, g[3] + 0.2 * np.abs(r[:10]).max()))
    (found,) = compare_outputs(reference, got, (), Limits(), KINDS)
    assert "of the scale" in found.problems[0]
    assert "edge" not in found.problems[0]
    assert badness(reference, got, KINDS)[3] * EDGE > badness(reference, got, KINDS)[3] > 0


def test_true_float16_sees_every_edge() -> None:
    kinds = ("drawn", "drawn", "drawn", "zeros", "largest")
    assert true_float16_rows(kinds, Limits(true_float16_samples=2)).tolist() == [0, 1, 3, 4]
    assert true_float16_rows(kinds, Limits(true_float16_samples=1), batch=3).tolist() == [0, 1, 2, 3, 4]


def test_kinds_lie_beside_the_samples(tmp_path: Path) -> None:
    inputs, outputs = {"x": np.arange(6.0).reshape(3, 2)}, {"y": np.arange(3.0)}
    Reference.of_rows(inputs, outputs, ("drawn", "zeros", "drawn")).save(tmp_path)
    found = Reference.load(tmp_path)
    assert found.edge_kinds == ("zeros",)
    assert found.usual.inputs["x"].tolist() == [[0, 1], [4, 5]]
    assert found.edges.outputs["y"].tolist() == [1]
    Reference.of_rows(inputs, outputs, ()).save(tmp_path)
    assert Reference.load(tmp_path).edge_kinds == ()
    assert Reference.load(tmp_path).usual.count == 3
    replace(found, edge_kinds=("zeros", "largest")).save(tmp_path)
    with pytest.raises(ArtifactError, match="edge rows do not go together; it is damaged, export again"):
        Reference.load(tmp_path)


# --- what float16 does there ------------------------------------------------------------------------------------------


def unit_rows() -> keras.Model:
    x = keras.Input((6,), name="x")
    y = layers.Dense(6, use_bias=False)(x)
    return keras.Model(x, y * ops.rsqrt(ops.maximum(ops.sum(ops.square(y), -1, keepdims=True), 1e-12)))


def test_a_vanished_epsilon_is_seen() -> None:
    model = unit_rows()
    samples = samples_of(model)
    simulator = simulator_of(model, interface(model), samples.arrays)
    reference = simulator.reference(samples.arrays)
    (found,) = compare_outputs(reference, simulator.simulate((), samples.arrays), (), Limits(), samples.kinds)
    assert "edge row 'zeros': 6 of 6 values are not finite" in found.problems
    assert found.non_finite == 0  # drawn ones never show it


def test_up_to_which_size_inputs_hold() -> None:
    x = keras.Input((4,), name="x")
    model = keras.Model(x, ops.sqrt(ops.sum(ops.square(layers.Dense(4, kernel_initializer="identity")(x)), -1)))
    samples = samples_of(model)
    simulator = simulator_of(model, interface(model), samples.arrays)
    found = sweep(simulator, (), samples.arrays, samples.floats, Limits(), Progress(quiet=True))
    assert found is not None
    assert 64 < found.up_to < 512  # whose square is 65504, about
    assert "not finite" in found.above
    assert -16 < found.down < -4  # whose squares vanish
    assert sweep_line(found).startswith(f"float16 holds for 2^{found.down} to 2^{found.up} times")
    kept = sweep(simulator, simulator.names, samples.arrays, samples.floats, Limits(), Progress(quiet=True))
    assert kept is not None
    assert (kept.up, kept.above) == (24, "")
    tokens = zoo.embedding()
    samples = samples_of(tokens)
    assert samples.floats == ()
    assert sweep(simulator, (), samples.arrays, samples.floats, Limits(), Progress(quiet=True)) is None


def test_what_raises_on_some_values() -> None:
    """Zeros are left out where float32 itself raises on them; a size at which an operation raises ends the sweep."""
    x = keras.Input((4, 4), name="x")
    model = keras.Model(x, ops.inv(layers.Dense(4, kernel_initializer="identity")(x)))
    samples = samples_of(model)
    simulator = simulator_of(model, interface(model), samples.arrays)
    with pytest.raises(ExportError, match="fails on some of its inputs: InvalidArgumentError: Input is not invertible"):
        simulator.reference({"x": np.zeros((1, 4, 4), np.float32)})
    inputs, reference, kinds = edge_rows.answered(simulator, samples.arrays, samples.kinds)
    assert "zeros" in samples.kinds
    assert "zeros" not in kinds
    assert len(kinds) == len(inputs["x"]) == len(reference["inv"]) == edge_rows.counted(ReferenceFacts(), kinds).count

    y = layers.Dense(4, kernel_initializer="identity")(x)
    model = keras.Model(x, ops.cholesky(ops.matmul(y, ops.swapaxes(y, -1, -2)) + ops.eye(4)))
    simulator = simulator_of(model, interface(model), samples.arrays)
    kept = ["cholesky"]  # of which TensorFlow has no float16
    found = sweep(simulator, kept, samples.arrays, samples.floats, Limits(), Progress(quiet=True))
    assert found is not None
    assert 4 < found.up < 12
    assert "Cholesky decomposition failed" in found.above


def test_the_zoo_is_drawn_as_before() -> None:
    """Statistics that nothing was trained on change no drawn number."""
    model = zoo.subclassed()
    assert isinstance(model, zoo_layers.Residual)
    assert samples_of(model).facts.how["input"].startswith("standard normal; a few from 0 to 1")
