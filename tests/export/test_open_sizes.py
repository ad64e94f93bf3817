"""Open lengths and sides: drawn at a size that the model takes, and tried at others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfhalf.artifacts.comparison import Comparison, Limits, SizeParity
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.reference import Reference, Samples
from tfhalf.errors import ArtifactError, ConfigError, ExportError, ParityError
from tfhalf.export.inputs import open_sizes
from tfhalf.export.inputs.draw import SampleInputs, sample_inputs
from tfhalf.export.interface import Interface, interface_of
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.islands.search import Basis, Effort, widened
from tfhalf.export.load.model import Source
from tfhalf.export.request import read_options
from tfhalf.progress import Progress
from tfhalf.runtimes.open import TRUE_FLOAT16
from tfhalf.verify.other_sizes import run_sizes, sizes_line
from tfhalf.verify.process import _ANSWER


def drawn(model: keras.Model, sizes: Any = None) -> tuple[Interface, SampleInputs]:
    interface = interface_of(Source(model, "m", {}), None)
    return interface, sample_inputs(model, interface, None, sizes)


def audio(kernel: int) -> keras.Model:
    x = keras.Input((None, 1), name="audio")
    y = layers.Conv1D(2, kernel, strides=kernel // 2 or 1)(x)
    return keras.Model(x, layers.GlobalAveragePooling1D()(y))


def square(side: Any) -> keras.Model:
    """Takes images whose sides are known to be ``side`` only when it is called."""
    x = keras.Input((None, None, 3), name="photo")
    return keras.Model(x, layers.Dense(2)(layers.Reshape((side * side * 3,))(x)))


def test_a_length_is_drawn_that_the_model_takes() -> None:
    assert drawn(audio(3))[1].arrays["audio"].shape[1:] == (32, 1)
    assert drawn(audio(400))[1].arrays["audio"].shape[1:] == (512, 1)
    assert drawn(audio(400), {"audio": (1000,)})[1].arrays["audio"].shape[1:] == (1000, 1)


def test_a_model_that_takes_none_says_so_with_a_remedy() -> None:
    with pytest.raises(
        ExportError, match=r"none of the sizes that were tried .photo \[64, 64, 3\] to \[512, 512, 3\]"
    ) as told:
        drawn(square(20))
    assert "--size photo=300x300" in str(told.value)
    assert "--verify-with DATA.npz" in str(told.value)
    assert "\n" not in str(told.value)
    assert drawn(square(20), {"photo": (20, 20)})[1].arrays["photo"].shape[1:] == (20, 20, 3)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"sound": (9,)}, "--size sound=9: no input has that name; the model takes audio"),
        ({"audio": (9, 9)}, r"--size audio=9x9: audio is \['batch', 'length', 1\]; it has 1 open, as audio=64"),
    ],
)
def test_sizes_that_fit_no_input(sizes: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        drawn(audio(3), sizes)
    x = keras.Input((4,), name="x")
    with pytest.raises(ConfigError, match="none of its sizes is open"):
        drawn(keras.Model(x, layers.Dense(2)(x)), {"x": (4,)})


def test_the_option() -> None:
    plain = {"name": None, "formats": None, "verify_with": None, "keep_float32": (), "opset": 18, "bisect_seconds": 1.0}
    plain |= {"max_difference": None, "mean_difference": None}
    assert read_options(Path("e"), sizes=("a=16000", "b=3x4"), **plain).sizes == {"a": (16000,), "b": (3, 4)}
    for text in ("a", "a=", "=4", "a=0", "a=3x", "a=-1", "a=1e9", "a=99999999"):
        with pytest.raises(ConfigError, match=r"NAME=SIZE is accepted"):
            read_options(Path("e"), sizes=(text,), **plain)


def tried(model: keras.Model, kept: Any = ()) -> tuple[Any, str]:
    interface, samples = drawn(model)
    simulator = simulator_of(model, interface, samples.arrays)
    told = io.StringIO()
    basis = Basis(simulator, samples.arrays, simulator.reference(samples.arrays), samples.kinds, simulator)
    rows, sized = open_sizes.hold(simulator, kept, samples.other_sizes, basis.typical, Limits(), Progress(told))
    assert list(sized) == [row.size for row in rows if row.taken]
    return rows, told.getvalue()


def test_other_sizes_are_tried() -> None:
    rows, told = tried(audio(2))
    assert [(row.size, row.shapes["audio"][0], row.taken) for row in rows] == [
        ("1", 1, False),
        ("2", 2, True),
        ("odd", 17, True),
        ("longer", 48, True),
    ]
    assert "float16 holds where audio is [2, 1], or audio is [17, 1], or audio is [48, 1]" in told
    assert "float32 itself fails where audio is [1, 1]" in told
    x = keras.Input((5,), name="x")
    assert tried(keras.Model(x, layers.Dense(2)(x))) == ((), "")


def test_what_breaks_at_another_size_is_not_published() -> None:
    x = keras.Input((None, 1), name="audio")
    y = layers.Dense(1, kernel_initializer=keras.initializers.Constant(1.0))(ops.ones_like(x)) * 1500.0
    model = keras.Model(x, ops.sum(y, axis=1) * 1e-3)  # 32 times 1500 is in range, 48 times is not
    with pytest.raises(
        ParityError, match=r"where audio is \[48, 1\]: .*not finite.*--size audio=48 looks for the layers"
    ):
        tried(model)
    assert all(row.taken for row in tried(model, [op.name for op in model.operations[1:]])[0])


def test_samples_of_other_sizes_are_in_range() -> None:
    x = keras.Input((None,), dtype="int32", name="words")
    _, samples = drawn(keras.Model(x, layers.Embedding(7, 3, mask_zero=True)(x)))
    for inputs in samples.other_sizes.values():
        assert inputs["words"].dtype == np.int32
        assert 0 <= inputs["words"].min() <= inputs["words"].max() < 7


class Runs:
    """An artifact that answers as the float32 model, but loses what is 48 long, and cannot be run at 1."""

    runtime = "a runtime"

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        x = inputs["audio"]
        if x.shape[1] == 1:
            raise ArtifactError("no output\nis left")
        return {"y": x.sum(1) + (np.inf if x.shape[1] == 48 else 1e-4)}


def sized(length: int) -> Samples:
    x = np.ones((2, length, 1), np.float32)
    return Samples({"audio": x}, {"y": x.sum(1)})


def test_artifacts_are_run_at_other_sizes() -> None:
    groups = {"1": sized(1), "2": sized(2), "longer": sized(48)}
    reference = Reference(sized(2), other_sizes=groups)
    rows = run_sizes(Runs(), FORMATS["onnx"], "onnx", reference, Limits())
    assert [(row.size, row.taken, row.non_finite, len(row.problems)) for row in rows] == [
        ("1", False, 0, 1),
        ("2", True, 0, 0),
        ("longer", True, 2, 1),
    ]
    # LiteRT's files may be of one size, which is no fault.
    rows_of_litert = run_sizes(Runs(), FORMATS["litert"], "litert", reference, Limits())
    assert [row.problems == () for row in rows_of_litert] == [True, True, False]
    found = Comparison("onnx", "r", 4, (), 0.0, other_sizes=rows)
    assert found.problems == (
        "size '1': does not run: no output is left",
        "size 'longer': y: 1 of 1 values are not finite",
    )
    assert _ANSWER.validate_json(_ANSWER.dump_json((found,))) == (found,)
    shapes = {size: {"audio": list(one.inputs["audio"].shape[1:])} for size, one in groups.items()}
    assert sizes_line(shapes, [found]) == [
        "other sizes (audio [1, 1], audio [2, 1], audio [48, 1]), compared apart, largest differences: "
        "onnx 5.0e-05 at 2 of 3, 2 values lost"
    ]
    assert sizes_line(shapes, [Comparison("onnx", "r", 4, (), 0.0)]) == []


def score(x: np.ndarray) -> np.ndarray:
    """Of [N, length, 1] one number each [N, 1], near 0 where those that it is the sum of cancel."""
    return x.sum(1)


def test_a_score_near_0_is_not_held_to_its_own_magnitude() -> None:
    usual = np.linspace(-1, 1, 16 * 32, dtype=np.float32).reshape(16, 32, 1)
    cancels = np.array([[[0.5], [-0.5004]]], np.float32)
    two = Samples({"audio": cancels}, {"y": score(cancels)})
    reference = Reference(Samples({"audio": usual}, {"y": score(usual)}), other_sizes={"2": two})

    def artifact(inputs: Any) -> dict[str, np.ndarray]:
        return {"y": score(inputs["audio"]) + 3e-4}

    (row,) = run_sizes(artifact, FORMATS["onnx"], "onnx", reference, Limits())
    assert row.problems == ()
    assert 0 < row.max_difference < 1e-4
    (row,) = run_sizes(lambda x: {"y": score(x["audio"]) + 20}, FORMATS["onnx"], "onnx", reference, Limits())
    assert "the largest difference is 0.6" in row.problems[0]


def test_a_float16_model_with_a_score_near_0_is_published() -> None:
    """The weights cancel at the other sizes: what is left of the float32 score is less than float16 rounds."""
    x = keras.Input((None, 1), name="audio")
    model = keras.Model(x, layers.Dense(1)(layers.GlobalAveragePooling1D()(x)))
    interface, samples = drawn(model)
    two = samples.other_sizes["2"]["audio"]
    model.layers[-1].set_weights([np.ones((1, 1)), np.array([-float(two[0].mean()) * (1 + 1e-4)])])
    simulator = simulator_of(model, interface, samples.arrays)
    few = {"2": {"audio": two[:1]}}
    typical = simulator.reference(samples.arrays)
    rows, _ = open_sizes.hold(simulator, (), few, typical, Limits(), Progress(quiet=True))
    assert [row.taken for row in rows] == [True]


def test_probabilities_of_another_length_are_compared_by_their_logarithms() -> None:
    def softmax(x: np.ndarray) -> np.ndarray:
        parts: np.ndarray = np.exp(x[..., 0]) / np.exp(x[..., 0]).sum(-1, keepdims=True)
        return parts

    rng = np.random.default_rng(0)
    usual, longer, one = (rng.normal(0, 4, (4, length, 1)) for length in (8, 12, 1))
    sizes = {"longer": longer, "1": one}
    reference = Reference(
        Samples({"x": usual}, {"y": softmax(usual)}),
        other_sizes={size: Samples({"x": x}, {"y": softmax(x)}) for size, x in sizes.items()},
    )
    rows = run_sizes(lambda inputs: {"y": softmax(inputs["x"] + 0.01)}, FORMATS["onnx"], "onnx", reference, Limits())
    assert [row.problems for row in rows] == [(), ()]
    rows = run_sizes(lambda inputs: {"y": softmax(inputs["x"] * 0.2)}, FORMATS["onnx"], "onnx", reference, Limits())
    assert "of the scale" in rows[0].problems[0]


def test_samples_of_other_sizes_lie_in_the_version(tmp_path: Path) -> None:
    one = sized(3)
    Reference(one, other_sizes={"2": sized(2)}).save(tmp_path)
    found = Reference.load(tmp_path)
    assert list(found.other_sizes) == ["2"]
    assert found.other_sizes["2"].inputs["audio"].shape == (2, 2, 1)
    Reference(one, other_sizes={"2": Samples({"sound": one.inputs["audio"]}, one.outputs)}).save(tmp_path)
    with pytest.raises(ArtifactError, match=r"samples of size '2' do not go together: .* it is damaged, export again"):
        Reference.load(tmp_path)


def test_what_an_artifact_loses_at_another_size_is_searched_there() -> None:
    x = keras.Input((None, 1), name="audio")
    y = layers.Dense(1, kernel_initializer=keras.initializers.Constant(1.0))(ops.ones_like(x)) * 1500.0
    model = keras.Model(x, ops.sum(y, axis=1) * 1e-3)
    interface, samples = drawn(model)
    simulator = simulator_of(model, interface, samples.arrays)
    basis = Basis(simulator, samples.arrays, simulator.reference(samples.arrays), samples.kinds, simulator)
    inputs = samples.other_sizes["longer"]
    lost = SizeParity("longer", True, 0.0, 2, ("y: 1 of 1 values are not finite",))
    failing = Comparison("onnx, first 2", TRUE_FLOAT16, 2, (), 0.0, other_sizes=(lost,))
    sizes = {"longer": Samples(dict(inputs), simulator.reference(inputs))}
    found = widened(basis, (), [failing], Effort(Limits()), Progress(quiet=True), sizes)
    assert found is not None
    assert any(island.path.startswith("sum") for island in found.islands)
