"""Constants that float16 makes 0 or infinite: found in the graph, and their layers kept in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from keras import layers, ops
from zoo_helpers import export_here

from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.record import Parameters
from tfhalf.artifacts.share import check_some_float16, float32_share, share_lines
from tfhalf.cli import main
from tfhalf.errors import ExportError
from tfhalf.export import model as job
from tfhalf.export.inputs import draw
from tfhalf.export.interface import interface_of
from tfhalf.export.islands.constants import constant_islands
from tfhalf.export.islands.find import without_kernel
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.load.model import Source
from tfhalf.export.request import Options, Request
from tfhalf.inspect.keras_file import inspect_keras
from tfhalf.precision.constants import classify
from tfhalf.precision.policy import near_names
from tfhalf.verify.compare import compare_outputs


class Case:
    """A model as a simulator, on drawn inputs of which the first row is zeros, and the float32 answers."""

    def __init__(self, model: keras.Model, first: float = 0.0) -> None:
        interface = interface_of(Source(model, "case", {}), None)
        inputs, _ = draw.draw(model, interface.inputs)
        self.inputs = {name: x[:4].copy() for name, x in inputs.items()}
        for x in self.inputs.values():
            x[0] = first
        self.simulator = simulator_of(model, interface, self.inputs)
        self.reference = self.simulator.reference(self.inputs)

    def islands(self, kept: tuple[str, ...] = ()) -> dict[str, str]:
        return {island.path: island.reason for island in constant_islands(self.simulator, self.inputs, kept)}

    def problems(self, kept: Any = ()) -> list[str]:
        return self._problems(self.simulator.simulate(kept, self.inputs))

    def shipped(self, kept: Any) -> list[str]:
        """What is wrong with what ships."""
        interface = self.simulator.interface
        tensors = [tf.constant(self.inputs[port.name]) for port in interface.inputs]
        answers = interface.answer(self.simulator.ship(kept).call, tensors)
        return self._problems({name: np.asarray(y).astype(np.float32) for name, y in answers.items()})

    def _problems(self, got: dict[str, np.ndarray]) -> list[str]:
        return [p for output in compare_outputs(self.reference, got, (), Limits()) for p in output.problems]


def functional(head: Any, *, scale: float = 1.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = numbers = keras.Input((8,), name="numbers")
    x = layers.Dense(16, name="dense", use_bias=False)(x) * scale
    return keras.Model(numbers, layers.Dense(3, name="head")(head(x)))


def l2(x: Any) -> Any:
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), -1, keepdims=True), 1e-12))


# By name: the model's middle, and the islands that its constants need.
GRAPHS: dict[str, tuple[Any, list[str]]] = {
    "an epsilon between a sum of squares and a root": (
        l2,
        ["multiply", "square", "sum", "maximum", "rsqrt", "multiply_1"],
    ),
    "an epsilon that is divided by": (
        lambda x: x / (ops.norm(x, axis=-1, keepdims=True) + 1e-12),
        ["multiply", "norm", "add", "true_divide"],
    ),
    "an epsilon within a logarithm": (
        lambda x: ops.log(ops.softmax(x * 9.0) + 1e-10) * 0.1,
        ["multiply", "multiply_1", "softmax", "add", "log"],
    ),
    "an epsilon under a root before a layer, which takes it well": (
        lambda x: ops.sqrt(ops.sum(ops.square(x), -1, keepdims=True) + 1e-9),
        ["multiply", "square", "sum", "add", "sqrt"],
    ),
    "a mask that is multiplied away": (
        lambda x: ops.where(x > 0, x, -1e9) * ops.cast(x > 0, x.dtype),
        ["where", "multiply_1"],
    ),
    "a layer with an epsilon of its own": (layers.UnitNormalization(name="unit"), ["unit"]),
}


@pytest.mark.slow  # each is traced, simulated and rebuilt
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph(name: str) -> None:
    head, expected = GRAPHS[name]
    keras.backend.clear_session()
    case = Case(functional(head))
    islands = case.islands()
    names = [path.rpartition("/")[2] for path in islands]
    assert names == expected
    if "takes it well" not in name:
        assert any("values are not finite" in problem for problem in case.problems())
    assert case.problems(islands) == []
    assert case.shipped(islands) == []
    assert case.islands(tuple(islands)) == {}


def test_why_is_said() -> None:
    keras.backend.clear_session()
    reasons = Case(functional(l2)).islands()
    assert reasons["maximum"] == "the constant 1e-12 is 0 in float16"
    assert reasons["rsqrt"] == "goes with maximum: the constant 1e-12 is 0 in float16"
    (reason,) = (
        Case(keras.Sequential([layers.Input((3, 2)), layers.Masking(-1e6), layers.GlobalAveragePooling1D()]))
        .islands()
        .values()
    )
    assert reason == "the constant -1e+06 is infinite in float16"


# Float32 constants beyond float16 that need nothing: norms compute in float32, and Keras masks by the dtype.
HARMLESS: dict[str, Any] = {
    "a norm": lambda: layers.LayerNormalization(epsilon=1e-12),
    "batch statistics": lambda: layers.BatchNormalization(epsilon=1e-14),
    "raw values": lambda: layers.Rescaling(1e-9, 1e5),
    "plain": lambda: layers.Dense(4, activation="gelu"),
    "zeros": lambda: layers.LeakyReLU(0.0),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_needs_nothing(name: str) -> None:
    assert Case(keras.Sequential([layers.Input((8,)), HARMLESS[name](), layers.Dense(2)])).islands() == {}


def test_a_masked_attention_needs_nothing() -> None:
    x = series = keras.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    assert Case(keras.Model(series, x)).islands() == {}


class Nearest(keras.Model):
    """Computes between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = layers.Dense(16, name="first", use_bias=False), layers.Dense(3, name="last")

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.last.build((None, 16))

    def call(self, x: Any) -> Any:
        return self.last(l2(self.first(x)))


def test_a_constant_of_a_subclassed_model_s_own_call() -> None:
    """Its own arithmetic becomes float32; the layers that it calls stay float16."""
    model = Nearest()
    model(np.zeros((1, 8), np.float32))
    case = Case(model)
    assert case.problems()
    assert list(case.islands()) == ["nearest"]
    assert case.problems(["nearest"]) == []
    assert case.shipped(["nearest"]) == []
    assert {v.dtype for v in case.simulator.ship(["nearest"]).weights} == {"float16"}


# --- float32 and float16 in one operation -----------------------------------------------------------------------------


def both_sizes(x: Any, y: Any) -> Any:
    """TensorFlow's own functions: interpolation gives float32 whatever it takes, and concat wants one dtype."""
    return tf.concat([tf.image.resize(x, [6, 6]), tf.image.resize(y, [6, 6], "nearest")], -1)


class Sizes(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (layers.Conv2D(4, 3, padding="same", name=name) for name in ("one", "two"))

    def build(self, shape: Any) -> None:
        self.one.build(shape)
        self.two.build(shape)

    def call(self, x: Any) -> Any:
        return both_sizes(self.one(x), self.two(x))


class Upsampled(layers.Layer):
    def call(self, x: Any) -> Any:
        return both_sizes(x, x)

    def compute_output_shape(self, shape: Any) -> Any:
        return (shape[0], 6, 6, 2 * shape[-1])


def test_a_clash_of_dtypes_in_a_subclassed_model() -> None:
    model = Sizes()
    model(np.zeros((1, 3, 3, 2), np.float32))
    case = Case(model)
    (island,) = without_kernel(case.simulator, case.inputs, ())
    assert island.path == "sizes"
    assert "float tensor" in island.reason
    assert case.problems(["sizes"]) == []
    assert case.shipped(["sizes"]) == []
    assert {v.dtype for v in case.simulator.ship(["sizes"]).weights} == {"float16"}


def test_a_clash_of_dtypes_in_a_layer() -> None:
    image = keras.Input((3, 3, 2))
    case = Case(keras.Model(image, layers.Conv2D(2, 1)(Upsampled(name="up")(layers.Conv2D(4, 1)(image)))))
    (island,) = without_kernel(case.simulator, case.inputs, ())
    assert island.path == "up"
    assert case.shipped(["up"]) == []


def test_classify() -> None:
    kinds = {0.0: "zero", 2.0**-25: "small", 2.0**-24: "held", 65519.0: "held", -65520.0: "large", np.inf: "infinite"}
    assert {value: classify(np.array(value)) for value in kinds} == kinds
    assert classify(np.array([1e-12, 1.0])) == "held"  # a table of weights: what flushes there is counted elsewhere
    assert classify(np.array([1e5, 1.0])) == "large"


# --- through a runtime ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_loss_that_a_runtime_alone_shows_has_the_search_go_on_through_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow leaves masked steps out, onnxruntime multiplies them by 0: infinity becomes NaN. Without what the
    constants tell, the runtime's answers alone find the layer."""
    monkeypatch.setattr(job, "constant_islands", lambda *given: [])
    keras.utils.set_random_seed(30)
    model = keras.Sequential(
        [layers.Input((6, 3), name="steps"), layers.Masking(-1e6, name="mask"), layers.SimpleRNN(4), layers.Dense(2)]
    )
    model.save(tmp_path / "masked.keras")
    steps = np.random.default_rng(0).normal(size=(8, 6, 3)).astype(np.float32)
    for row in range(8):
        steps[row, 6 - row % 5 :] = -1e6
    np.savez(tmp_path / "steps.npz", steps=steps)
    options = Options(exports=tmp_path / "exports", tried=("onnx",), verify_with=tmp_path / "steps.npz")
    made = export_here(Request(str(tmp_path / "masked.keras")), options)
    assert [island.path for island in made.manifest.islands] == ["mask"]
    assert all(comparison.passed for comparison in made.comparisons)
    assert [path.name for path in (tmp_path / "exports" / "masked").iterdir() if path.is_dir()] == ["1"]


# --- how much is float32 ----------------------------------------------------------------------------------------------


def rows(**counts: int) -> dict[str, Parameters]:
    return {dtype: Parameters(count=count) for dtype, count in counts.items()}


def test_the_share_that_is_float32_is_said() -> None:
    assert share_lines(rows(float16=50, float32=50, int64=900)) == []
    (line,) = share_lines(rows(float16=1000, float32=3000))
    assert line == "mostly float32: 75.0% of the parameters (3,000 of 4,000) are not float16"
    assert float32_share({}) == 0
    check_some_float16(rows(int64=5))
    with pytest.raises(ExportError, match=r"none of the 3,000 parameters would be float16.*--allow-float32"):
        check_some_float16(rows(float32=3000))


@pytest.mark.slow
def test_an_export_without_float16_is_refused_unless_allowed(tmp_path: Any) -> None:
    keras.Sequential([layers.Input((4,)), layers.Dense(3, name="only")]).save(tmp_path / "small.keras")
    request = Request(str(tmp_path / "small.keras"))
    options = Options(exports=tmp_path / "exports", tried=("savedmodel",), keep_float32=("only",))
    with pytest.raises(ExportError, match="none of the 15 parameters would be float16"):
        export_here(request, options)
    assert not list((tmp_path / "exports").rglob("*.pb"))
    made = export_here(request, replace(options, allow_float32=True))
    assert made.manifest.float32_share == 1
    assert "Mostly float32: 100.0% of the parameters (15 of 15)" in (made.version / "report.md").read_text()


# --- the names of layers ----------------------------------------------------------------------------------------------


def test_names_that_are_near() -> None:
    names = ["stem/conv", "stem/norm", "block1/conv1", "head"]
    assert near_names("^conv$", names) == "stem/conv, block1/conv1, ..."
    assert near_names("haed", names) == "head, ..."
    assert near_names("xyz", names) == "stem/conv, stem/norm, block1/conv1, head"


def test_the_names_can_be_asked_for(tmp_path: Any) -> None:
    """They are printed, one a line, and taken as they are."""
    keras.backend.clear_session()
    functional(l2).save(tmp_path / "l2.keras")
    arguments = ["export", str(tmp_path / "l2.keras"), "-o", str(tmp_path / "exports"), "--keep-float32", "list"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    names = result.stdout.split()
    assert names == ["dense", "multiply", "square", "sum", "maximum", "rsqrt", "multiply_1", "head"]
    assert not (tmp_path / "exports").exists()


# --- what inspect says ------------------------------------------------------------------------------------------------


def test_a_file_s_constants_are_shown(tmp_path: Any) -> None:
    keras.backend.clear_session()
    x = steps = keras.Input((4, 3), name="steps")
    x = layers.LayerNormalization(epsilon=1e-12)(layers.Masking(-1_000_000, name="padding")(x))
    x = layers.LSTM(100_000 // 50_000, name="lstm")(x)
    keras.Model(steps, ops.log(ops.softmax(x) + 1e-10) * 2.0).save(tmp_path / "m.keras")
    account = inspect_keras(tmp_path / "m.keras")
    found = {c["layer"]: (c["key"], c["value"], c["becomes"]) for c in account.details["constants"]}
    assert found == {
        "padding": ("mask_value", -1e6, "infinite"),
        "not_equal": ("argument", -1e6, "infinite"),  # the mask that Keras computes beside the layer
        "add": ("argument", 1e-10, "0"),
    }
    assert "padding (Masking): mask_value -1e+06 is infinite in float16" in account.notes
