"""Models that plain float16 breaks: found, kept in float32 where they must be, and no more than that."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import zoo
import zoo_layers
from keras import layers, ops
from onnx import TensorProto, helper, numpy_helper
from zoo_helpers import export, export_here

from tfhalf.artifacts.comparison import Limits
from tfhalf.errors import ConfigError, ExportError
from tfhalf.export.inputs import draw
from tfhalf.export.interface import interface_of
from tfhalf.export.islands import find
from tfhalf.export.islands.find import Search, matched, unfit, without_kernel
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.load.model import Source
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import named_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.export.request import Options, Request
from tfhalf.progress import Progress
from tfhalf.runtimes.open import open_predictor
from tfhalf.verify.compare import compare_outputs


class Case:
    """A model of the zoo as a simulator, with drawn inputs and the float32 answers."""

    def __init__(self, build: Any) -> None:
        keras.utils.set_random_seed(1)
        self.model = build()
        zoo.perturb(self.model)
        interface = interface_of(Source(self.model, "case", {}), None)
        inputs, _ = draw.draw(self.model, interface.inputs)
        self.inputs = {name: x[:8] for name, x in inputs.items()}
        self.simulator = simulator_of(self.model, interface, self.inputs)
        self.interface = self.simulator.interface
        self.reference = self.simulator.reference(self.inputs)

    def problems(self, kept: tuple[str, ...] = ()) -> list[str]:
        got = self.simulator.simulate(kept, self.inputs)
        return [
            p
            for output in compare_outputs(self.reference, got, self.interface.classes, Limits())
            for p in output.problems
        ]

    def search(self, seconds: float = 60.0, start: tuple[str, ...] = ()) -> Any:
        classes = self.interface.classes
        return Search(
            self.simulator, self.inputs, self.reference, classes, Limits(), seconds, Progress(quiet=True), start
        ).run()

    def onnx(self, kept: tuple[str, ...], folder: Any) -> dict[str, dict[str, np.ndarray]]:
        """The answers of the ONNX file in each runtime."""
        shipped = self.simulator.ship(kept)
        program = named_program(
            partial(self.interface.answer, shipped.call), self.interface.inputs, shipped.weights, shipped.state, ""
        )
        to_onnx.write(program, folder / "model.onnx", opset=18, metadata={})
        return {runtime: open_predictor(folder, runtime)(self.inputs) for runtime in ("onnx", "onnx-float16")}


def test_what_has_float16_but_not_in_a_graph() -> None:
    x = keras.Input((8,), name="x")
    case = Case(lambda: keras.Model(x, ops.sparsemax(layers.Dense(8, name="before")(x))))
    (found,) = without_kernel(case.simulator, case.inputs, ())
    assert found.path == "sparsemax"
    assert "Unsupported dtype" in found.reason


def test_constants_stay_arrays() -> None:
    x = keras.Input((8,), name="x")
    edges = np.array([-1.0, 0.0, 2.0], np.float32)  # over which Keras iterates
    case = Case(lambda: keras.Model(x, ops.digitize(layers.Dense(8)(x), edges)))
    assert without_kernel(case.simulator, case.inputs, ()) == []


@pytest.mark.parametrize("mode", ["multi_hot", "count"])
def test_categories_are_counted(mode: str) -> None:
    x = keras.Input((4,), name="x", dtype="int32")
    encoded = [
        layers.CategoryEncoding(5, output_mode=mode)(x),
        layers.IntegerLookup(vocabulary=[1], output_mode=mode)(x),
    ]
    model = keras.Model(x, layers.Dense(3)(layers.Concatenate()(encoded)))
    counts = rebuild(model).model
    given = np.array([[0, 1, 1, 4]])
    np.testing.assert_allclose(counts(given), model(given), atol=2e-3)
    tf.function(counts).get_concrete_function(tf.TensorSpec((None, 4), tf.int32))


def test_what_a_model_needs_to_know() -> None:
    """Of its number of samples, or of each number: told with the operation, and what to do."""
    x = keras.Input((8,), name="x")
    y = ops.cast(layers.Dense(8)(x), "int32")
    with pytest.raises(ExportError, match=r"no open number of samples: in Gcd, .*keras\.Input\(\.\.\., batch_size=1\)"):
        Case(lambda: keras.Model(x, ops.gcd(y, y)))
    with pytest.raises(ExportError, match="step by step in Python alone, and every format is a graph: in IsIn, "):
        Case(lambda: keras.Model(x, ops.isin(y, [1, 2])))
    once = keras.Input((8,), name="x", batch_size=1)
    y = ops.cast(layers.Dense(8)(once), "int32")
    (answer,) = Case(lambda: keras.Model(once, ops.gcd(y, y))).reference.values()
    assert answer.shape[1:] == (8,)


def test_an_overflow_that_onnxruntime_hides(tmp_path: Any) -> None:
    case = Case(zoo.overflow)
    assert unfit(case.simulator) == []
    hidden = case.onnx((), tmp_path)
    assert compare_outputs(case.reference, hidden["onnx"], case.interface.classes, Limits())[0].problems == ()
    assert compare_outputs(case.reference, hidden["onnx-float16"], case.interface.classes, Limits())[0].problems
    assert case.problems()
    found = case.search()
    assert (found.restored, found.complete) == (True, True)
    # The layer that overflows and the one that takes what overflowed: an island of one would be cast in between.
    assert [island.path for island in found.islands] == ["large", "pool"]
    assert "gives up to" in found.islands[0].reason
    assert case.problems(("large",))
    assert case.problems(("pool",))
    for answers in case.onnx(("large", "pool"), tmp_path).values():
        assert compare_outputs(case.reference, answers, case.interface.classes, Limits())[0].problems == ()


def test_a_layer_norm_whose_square_overflows(tmp_path: Any) -> None:
    case = Case(zoo.square)
    assert case.problems()
    found = case.search()
    assert [island.path for island in found.islands] == ["norm"]  # finite without: only the answers tell
    for answers in case.onnx(("norm",), tmp_path).values():
        assert compare_outputs(case.reference, answers, case.interface.classes, Limits())[0].problems == ()


def test_weights_beyond_float16() -> None:
    case = Case(zoo.beyond)
    (island,) = unfit(case.simulator)
    assert island.path == "heavy"
    assert "beyond 65504" in island.reason
    found = case.search(start=("heavy",))
    assert (found.islands, found.tests) == ((), 1)


def test_a_variance_that_flushes() -> None:
    case = Case(zoo.flushed)
    assert case.problems()
    (island,) = unfit(case.simulator)
    assert island.path == "norm"
    assert "running_variance falls to 1e-09" in island.reason
    assert case.problems(("norm",)) == []


def two_far_apart() -> keras.Model:
    x = series = keras.Input((16,), name="series")
    for part in ("a", "b"):
        x = layers.Dense(
            32, name=f"{part}_loud", kernel_initializer=keras.initializers.RandomNormal(stddev=400), activation="relu"
        )(x)
        x = zoo_layers.NaiveLayerNorm(name=f"{part}_norm")(x)
        for k in range(6):
            x = layers.Dense(32, activation="tanh", name=f"{part}_{k}")(x)
    return keras.Model(series, layers.Dense(3, name="head")(x))


def test_two_islands_far_apart() -> None:
    case = Case(two_far_apart)
    found = case.search()
    assert (found.restored, found.complete) == (True, True)
    assert [island.path for island in found.islands] == ["a_norm", "b_norm"]
    again = case.search()
    assert again.islands == found.islands


def test_time_is_up() -> None:
    found = Case(two_far_apart).search(seconds=0.0)
    assert (found.restored, found.complete) == (True, False)
    assert {"a_norm", "b_norm"} <= {island.path for island in found.islands}


def test_operations_of_keras_ops_as_islands() -> None:
    def build() -> keras.Model:
        x = numbers = keras.Input((8,), name="numbers")
        x = layers.Dense(16, name="loud", kernel_initializer=keras.initializers.RandomNormal(stddev=500))(x)
        x = keras.ops.sqrt(keras.ops.mean(keras.ops.square(x), -1, keepdims=True))
        return keras.Model(numbers, layers.Dense(3, name="head")(x))

    case = Case(build)
    found = case.search()
    assert (found.restored, found.complete) == (True, True)
    assert found.islands[0].path.startswith("square")
    shipped = case.simulator.ship([island.path for island in found.islands])
    got = np.asarray(shipped.call(case.inputs["numbers"])).astype(np.float32)
    assert compare_outputs(case.reference, {next(iter(case.reference)): got}, (), Limits())[0].problems == ()


def test_a_subclassed_model_has_islands_within() -> None:
    class Inner(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.loud = layers.Dense(16, name="loud", kernel_initializer=keras.initializers.RandomNormal(stddev=300))
            self.norm, self.head = zoo_layers.NaiveLayerNorm(name="norm"), layers.Dense(3, name="head")

        def call(self, x: Any) -> Any:
            return self.head(self.norm(self.loud(x)))

    def build() -> keras.Model:
        model = Inner()
        model(np.zeros((1, 8), np.float32))
        return model

    case = Case(build)
    found = case.search()
    (island,) = found.islands
    assert island.path.endswith("norm")
    shipped = case.simulator.ship([island.path])
    kinds = {v.dtype for v in shipped.weights}
    assert kinds == {"float16", "float32"}
    got = np.asarray(shipped.call(keras.ops.convert_to_tensor(case.inputs["input"]))).astype(np.float32)
    assert compare_outputs(case.reference, {"output": got}, (), Limits())[0].problems == ()


def test_patterns() -> None:
    case = Case(zoo.square)
    assert [island.path for island in matched(case.simulator, ["^no", "head"])] == ["norm", "head"]
    with pytest.raises(ConfigError, match="matches no layer; the model has loud, norm, after, head"):
        matched(case.simulator, ["nothing"])
    with pytest.raises(ConfigError, match="is not a regular expression"):
        matched(case.simulator, ["("])


def test_what_tensorflow_has_no_kernel_for() -> None:
    case = Case(zoo.volumes)
    assert [i.path for i in without_kernel(case.simulator, case.inputs, ())] == ["max_pooling3d"]


# --- what only ONNX needs ---------------------------------------------------------------------------------------------


def with_loud_tanh(convert: Any) -> Any:
    """A converter that writes tanh with a detour beyond 65504, as one may that splits an operator up."""

    def converted(program: Any, opset: int, **options: Any) -> Any:
        model = convert(program, opset, **options)
        kinds = {
            v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info
        }
        nodes = list(model.graph.node)
        del model.graph.node[:]
        for node in nodes:
            if node.op_type == "Tanh":
                half = kinds[node.input[0]] == TensorProto.FLOAT16
                (x,) = node.input
                for factor in (60000.0, 1 / 60000.0):
                    value = numpy_helper.from_array(
                        np.array(factor, np.float16 if half else np.float32), f"{node.name}{factor}"
                    )
                    model.graph.initializer.append(value)
                    model.graph.node.append(helper.make_node("Mul", [x, value.name], [f"{value.name}_of"]))
                    x = f"{value.name}_of"
                node.input[0] = x
            model.graph.node.append(node)
        return model

    return converted


def three_waves() -> keras.Model:
    x = numbers = keras.Input((8,), name="numbers")
    for name in ("a", "b", "c"):
        x = layers.Dense(8, name=name, kernel_initializer=keras.initializers.RandomNormal(stddev=0.5))(x)
        x = layers.Activation("tanh" if name == "b" else "relu", name=f"{name}_act")(x)
    return keras.Model(numbers, layers.Dense(3, name="head")(x))


@pytest.mark.slow
def test_islands_that_onnx_alone_needs(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "convert", with_loud_tanh(to_onnx.convert))
    made = export(zoo.Entry("waves", three_waves), tmp_path)
    assert [island.path for island in made.manifest.islands] == ["b_act"]
    assert [(c.runtime.split(",")[0], c.passed) for c in made.comparisons][-1] == ("true float16", True)
    assert [path.name for path in (tmp_path / "exports" / "waves").iterdir() if path.is_dir()] == ["1"]


@pytest.mark.slow
def test_a_runtime_that_rounds_past_the_limits_has_the_search_go_on(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is made to leave less room than runtimes need, where it leaves more."""
    entry = next(entry for entry in zoo.ENTRIES if entry.name == "unet")
    request = Request(str(zoo.make(entry, tmp_path)), custom=zoo.CUSTOM)
    plain = export_here(request, Options(exports=tmp_path / "plain"))
    assert plain.manifest.islands == ()
    mean = max(c.worst("mean_difference") or 0 for c in plain.comparisons)
    limits = Limits(mean_difference=mean / 1.4)
    monkeypatch.setattr(find, "STRICT", 1.8)
    told = io.StringIO()
    made = export_here(request, Options(exports=tmp_path / "mended", limits=limits), Progress(told))
    assert all(c.passed for c in made.comparisons)
    assert made.manifest.islands
    assert "the mean difference is" in told.getvalue()  # what fell short at first
    assert [path.name for path in (tmp_path / "mended/unet").iterdir() if path.is_dir()] == ["1"]
