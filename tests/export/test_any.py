"""Any Keras model exported: what it takes and gives, the inputs it is judged on, and the command from end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import zoo
import zoo_layers
from click.testing import CliRunner
from keras import layers
from pydantic import TypeAdapter

from tfhalf.artifacts import triton
from tfhalf.artifacts.comparison import Comparison, Limits
from tfhalf.artifacts.manifest import open_version
from tfhalf.artifacts.ports import Port, input_names, unique
from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Reference, Samples
from tfhalf.artifacts.version import versions
from tfhalf.cli import main
from tfhalf.errors import ArtifactError, ConfigError, DataError, ExportError, IntegrityError
from tfhalf.export.inputs import draw
from tfhalf.export.interface import Interface, interface_of
from tfhalf.export.islands.inplace_simulator import InplaceSimulator
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.load.model import Source
from tfhalf.export.request import read_options, read_request
from tfhalf.progress import Progress
from tfhalf.runtimes.open import open_predictor
from tfhalf.verify.compare import badness, compare_outputs
from tfhalf.verify.report import notes
from tfhalf.verify.version import compare_version

CUSTOM = str(Path(zoo_layers.__file__))


def interface(model: keras.Model, given: Any = None) -> Interface:
    return interface_of(Source(model, "m", {}), given)


# --- names, dtypes, shapes --------------------------------------------------------------------------------------------


def test_names() -> None:
    assert input_names(["image", "input_layer_12", "a/b c", "input", "a_b_c"]) == [
        ("image", ()),
        ("input_layer_12", ("input_1",)),  # what it was called before is no other's name
        ("a_b_c_1", ("a/b c",)),
        ("input", ()),
        ("a_b_c", ()),
    ]
    assert input_names(["x y", "x.y"]) == [("x_y", ("x y",)), ("x_y_1", ("x.y",))]
    assert unique(["x", "x", "x_1", "1st", "..", "é"], ["x"]) == ["x_2", "x_3", "x_1", "t_1st", "tensor", "tensor_1"]
    assert unique(["last_"], ()) == ["last_"]


def test_names_are_the_models_own() -> None:
    x, y = keras.Input((3,), name="a b"), keras.Input((2,), name="y")
    z = layers.Dense(2)(layers.Concatenate()([x, y]))
    found = interface(keras.Model({"a b": x, "y": y}, {"y": z, "z": z + 1}))
    assert [(p.name, p.aliases) for p in found.inputs] == [("a_b", ("a b",)), ("y", ())]
    assert (found.outputs, found.aliases) == (("y_1", "z"), {"y_1": ("y",), "z": ()})
    assert found.renamed() == ["input 'a b' is called a_b", "output 'y' is called y_1"]
    x, y = keras.Input((3,)), keras.Input((2,), name="my-input")
    found = interface(keras.Model([x, y], layers.Dense(2, name="my.head")(layers.Concatenate()([x, y]))))
    (first, second) = found.inputs
    assert first.name == x._keras_history.operation.name
    assert first.aliases == ("input",)
    assert (second.name, second.aliases, found.outputs) == ("my_input", ("my-input",), ("my_head",))
    assert TypeAdapter(Port).validate_json(json.dumps(second.to_dict())) == second
    taken = draw.checked({"input": np.ones((4, 3)), "my-input": np.ones((4, 2))}, found.inputs, "d")
    assert {name: value.shape for name, value in taken.items()} == {first.name: (4, 3), "my_input": (4, 2)}


def test_ports() -> None:
    port = Port("image", "float32", (None, None, 32, 3))
    assert port.dims() == ["batch", "height", 32, 3]
    assert TypeAdapter(Port).validate_json(json.dumps(port.to_dict())) == port
    assert Port("x", "int32", (None, None)).dims() == ["batch", "x_1"]
    assert Port("x", "int32", (4,)).dims() == [4]


def test_several_inputs_and_outputs() -> None:
    found = interface(zoo.multi())
    assert [(p.name, p.dtype, p.shape) for p in found.inputs] == [
        ("image", "float32", (None, 16, 16, 3)),
        ("numbers", "float32", (None, 5)),
        ("kind", "int32", (None, 1)),
    ]
    assert found.outputs == ("label", "price")
    assert found.classes == ("label",)


def test_dicts() -> None:
    found = interface(zoo.dict_input())
    assert [p.name for p in found.inputs] == ["left", "right"]
    assert set(found.outputs) == {"same", "features"}
    assert found.call(lambda given: given, [1, 2]) == {"left": 1, "right": 2}


def test_half_precision_is_float32_for_callers() -> None:
    x = keras.Input((4,), dtype="float16", name="x")
    (port,) = interface(keras.Model(x, layers.Dense(2)(x))).inputs
    assert port.dtype == "float32"


def test_a_subclass_says_what_it_was_built_with() -> None:
    (port,) = interface(zoo.subclassed()).inputs
    assert (port.name, port.shape) == ("input", (None, 16, 16, 3))
    found = interface(zoo.subclassed_dict())
    assert [(p.name, p.shape) for p in found.inputs] == [("a", (None, 4)), ("b", (None, 6))]
    unbuilt = zoo_layers.Residual(4, 3)
    with pytest.raises(ArtifactError, match=r"does not say what it takes.*--verify-with"):
        interface(unbuilt)
    (port,) = interface(unbuilt, {"photo": np.zeros((5, 9, 9, 3), np.float32)}).inputs
    assert (port.name, port.dtype, port.shape) == ("photo", "float32", (None, 9, 9, 3))


def test_sparse_inputs() -> None:
    x = keras.Input((4,), sparse=True, name="x")
    with pytest.raises(ArtifactError, match="'x' is sparse or ragged"):
        interface(keras.Model(x, layers.Dense(2)(x)))


def test_triton() -> None:
    text = triton.config("m", [Port("x", "int32", (None, None))], [Port("y", "float32", (None,))])
    assert 'name: "x" data_type: TYPE_INT32 dims: [ -1 ]' in text
    assert 'name: "y" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] }' in text
    assert "max_batch_size: 256" in text
    fixed = triton.config("m", [Port("x", "uint8", (4, 3))], [Port("y", "bool", (4,))])
    assert "max_batch_size: 0" in fixed
    assert 'name: "x" data_type: TYPE_UINT8 dims: [ 4, 3 ]' in fixed
    assert 'name: "y" data_type: TYPE_BOOL dims: [ 4 ]' in fixed


# --- inputs to judge on -----------------------------------------------------------------------------------------------


def drawn(model: keras.Model) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return draw.draw(model, interface(model).inputs)


def test_integers_stay_within_the_vocabulary() -> None:
    arrays, words = drawn(zoo.bert())
    assert arrays["words"].dtype == np.int32
    assert 200 < arrays["words"].max() < 300 or words["words"] == "integers below 24"
    assert set(np.unique(arrays["mask"])) == {0, 1}
    assert drawn(zoo.embedding())[1] == {"item": "integers below 500"}


def test_images_have_the_range_of_the_rescaling() -> None:
    arrays, words = drawn(zoo.vit())
    assert words == {"image": "uniform from 0 to 255"}
    assert 250 < arrays["image"].max() <= 255
    arrays, words = drawn(zoo.preprocessing())
    assert arrays["numbers"][:, 0].mean() == pytest.approx(1e5, rel=0.02)
    assert words["kind"] == "integers below 5"


def test_open_sizes_and_seeds() -> None:
    arrays, _ = drawn(zoo.unet())
    assert arrays["image"].shape == (32, 64, 64, 1)
    np.testing.assert_array_equal(arrays["image"], drawn(zoo.unet())[0]["image"])


def test_given_arrays() -> None:
    ports = (Port("x", "float32", (None, 4)), Port("kind", "int32", (None,)))
    arrays = {"x": np.ones((3, 4)), "kind": np.array([1.0, 2, 3]), "other": np.zeros(9)}
    taken = draw.checked(arrays, ports, "d.npz")
    assert (taken["x"].dtype, taken["kind"].dtype) == (np.float32, np.int32)
    (image,) = (Port("image", "float32", (None, 2)),)
    assert draw.checked({"x_test": np.ones((3, 2)), "y_test": np.ones(3)}, (image,), "d")["image"].shape == (3, 2)
    for bad, why in [
        ({"x": np.ones((3, 4))}, "lacks an array for kind; it has x"),
        ({"x": np.ones((3, 5)), "kind": np.ones(3)}, r"x has shape \(3, 5\); \['batch', 4\] is taken"),
        ({"x": np.ones((3, 4)), "kind": np.ones(2)}, "the same number for each"),
        ({"x": np.ones((3, 4)), "kind": np.full(3, 0.5)}, "kind holds fractions"),
        ({"x": np.full((3, 4), np.nan), "kind": np.ones(3)}, "x holds values that are not finite"),
        ({"x": np.full((3, 4), "a"), "kind": np.ones(3)}, "x is <U1; float32 is taken"),
    ]:
        with pytest.raises(DataError, match=why):
            draw.checked(bad, ports, "d.npz")


def test_files_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    assert draw.read_arrays(tmp_path / "a.npy")["x"].shape == (2, 3)
    np.savez(tmp_path / "o.npz", x=np.array([{}], object))
    (tmp_path / "t.npz").write_text("no")
    for name in ("o.npz", "t.npz", "none.npz"):
        with pytest.raises(DataError, match=f"--verify-with .*{name}"):
            draw.read_arrays(tmp_path / name)


def test_an_output_that_joins_samples() -> None:
    x = keras.Input((4,), name="x")
    model = keras.Model(x, keras.ops.sum(layers.Dense(2)(x), 0))
    found = interface(model)
    inputs, _ = draw.draw(model, found.inputs)
    with pytest.raises(ExportError, match="for 8 samples: it joins samples"):
        simulator_of(model, found, inputs).reference(inputs)


class Twice(keras.Model):
    """A functional model that calls its graph in its own way."""

    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x, training=training) * 2 + 1


def test_a_graph_that_is_called_in_its_own_way() -> None:
    x = keras.Input((4,), name="x")
    model = Twice(x, layers.Dense(3)(x))
    found = interface(model)
    inputs, _ = draw.draw(model, found.inputs)
    simulator = simulator_of(model, found, inputs)
    assert isinstance(simulator, InplaceSimulator)
    expected = np.asarray(model(inputs["x"]))
    np.testing.assert_allclose(next(iter(simulator.reference(inputs).values())), expected, rtol=1e-5)
    shipped = simulator.ship(())
    got = np.asarray(shipped.call(keras.ops.convert_to_tensor(inputs["x"])))
    np.testing.assert_allclose(got, expected, atol=0.02)
    assert {v.dtype for v in shipped.weights} == {"float16"}
    for numbers, closer_than in (("float32", 1e-5), ("bfloat16", 0.1)):
        other = simulator.ship((), numbers)  # type: ignore[arg-type]
        got = np.asarray(other.call(keras.ops.convert_to_tensor(inputs["x"]))).astype(np.float32)
        np.testing.assert_allclose(got, expected, atol=closer_than)
        assert {v.dtype for v in other.weights} == {numbers}


# --- how close is close -----------------------------------------------------------------------------------------------


def test_judging() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(50, 8)).astype(np.float32)
    (same,) = compare_outputs({"y": wide}, {"y": wide}, ["y"], Limits())
    assert (same.max_difference, same.agreement, same.problems) == (0.0, 100.0, ())
    (near,) = compare_outputs({"y": wide}, {"y": wide.astype(np.float16).astype(np.float32)}, ["y"], Limits())
    assert near.problems == ()
    broken = wide.copy()
    broken[3, 2] = np.inf
    (lost,) = compare_outputs({"y": wide}, {"y": broken}, ["y"], Limits())
    assert lost.non_finite == 1
    assert "1 of 400 values are not finite" in lost.problems[0]
    (masked,) = compare_outputs({"y": broken}, {"y": broken}, [], Limits())  # the float32 model gives it too
    assert masked.problems == ()
    (far,) = compare_outputs({"y": wide}, {"y": wide + 0.3 * np.abs(wide).max()}, [], Limits())
    assert len(far.problems) == 2
    swapped = wide[:, ::-1]
    assert "have the same top class" in compare_outputs({"y": wide}, {"y": swapped}, ["y"], Limits())[0].problems[-1]


def test_probabilities_that_are_nearly_equal() -> None:
    """Relative to their size any two nearly uniform answers are the same."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 100)) * 1e-3
    reference = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    uniform = np.full_like(reference, 0.01)
    assert np.abs(uniform - reference).max() < 1e-4
    (found,) = compare_outputs({"y": reference}, {"y": uniform}, ["y"], Limits())
    assert found.max_difference == pytest.approx(1)
    assert found.problems
    (near,) = compare_outputs({"y": reference}, {"y": reference.astype(np.float32)}, ["y"], Limits())
    assert near.problems == ()
    rare = np.array([[1 - 2e-9, 1e-9, 1e-9]])
    (found,) = compare_outputs({"y": rare}, {"y": np.array([[1.0, 0, 3e-8]])}, ["y"], Limits())
    assert found.problems == ()


FACTS = {
    "name": "net",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
    "artifacts": [{"format": "onnx"}],
    "limits": {},
    "reference": {},
}


def test_answers_that_hardly_depend_on_the_input() -> None:
    still = np.full((10, 3), 5.0) + np.random.default_rng(0).normal(size=(10, 3)) * 1e-4
    outputs = compare_outputs({"y": still, "z": np.eye(10)}, {"y": still, "z": np.eye(10)}, [], Limits())
    assert outputs[0].spread < 1e-4 < 0.5 < outputs[1].spread
    (note,) = notes(Manifest.read(FACTS), [Comparison("onnx", "r", 10, outputs, 0.0)])
    assert note.startswith("y hardly changes from sample to sample")


def test_a_tie_is_no_disagreement() -> None:
    tie = np.array([[0.5, 0.5001, 0.1]] * 10, np.float32)
    other = np.array([[0.5001, 0.5, 0.1]] * 10, np.float32)
    (found,) = compare_outputs({"y": tie}, {"y": other}, ["y"], Limits())
    assert (found.agreement, found.problems) == (0.0, ())


def test_whole_numbers_and_shapes() -> None:
    a, b = np.arange(200), np.arange(200)
    b[:4] = 7
    assert compare_outputs({"y": a}, {"y": a}, [], Limits())[0].problems == ()
    assert compare_outputs({"y": a}, {"y": b}, [], Limits())[0].problems == ("98.00 % of the values are the same",)
    with pytest.raises(ArtifactError, match="gives shape"):
        compare_outputs({"y": a}, {"y": a[:3]}, [], Limits())
    with pytest.raises(ArtifactError, match="it gives z; expected y"):
        compare_outputs({"y": a}, {"z": a}, [], Limits())


# --- the command ------------------------------------------------------------------------------------------------------


def options(**changes: Any) -> dict[str, Any]:
    plain = {"name": None, "formats": None, "verify_with": None, "keep_float32": (), "opset": 18}
    return {**plain, "bisect_seconds": 1.0, "max_difference": None, "mean_difference": None, **changes}


def test_options(tmp_path: Path) -> None:
    assert read_options(Path("e"), **options(formats="onnx, savedmodel")).formats == ("onnx", "savedmodel")
    for change, why in [
        ({"formats": "onnx,tflight"}, "savedmodel, onnx, litert, litert-int8 are accepted"),
        ({"formats": ","}, "are accepted"),
        ({"name": "../x"}, "--name '../x': letters"),
        ({"max_difference": 0.0}, "--max-difference 0"),
        ({"mean_difference": float("nan")}, "--mean-difference nan"),
    ]:
        with pytest.raises(ConfigError, match=why):
            read_options(Path("e"), **options(**change))
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"is not a folder that can be written to \(not a directory\); choose another --exports"
    ):
        read_options(tmp_path / "file" / "exports", **options())
    request = read_request("m.py:build", custom=None, weights=None, arguments=("shape=[8, 8]", "name=x"))
    assert request.arguments == {"shape": [8, 8], "name": "x"}
    for arguments in (("a",), ("1=2",), ("a=[",)):
        with pytest.raises(ConfigError, match="--arg"):
            read_request("m.py:build", custom=None, weights=None, arguments=arguments)
    with pytest.raises(ConfigError, match="has its own weights"):
        read_request("m.keras", custom=None, weights=Path("w"), arguments=())


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.output


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    tf.saved_model.save(tf.Module(), str(saved))
    (tmp_path / "text.keras").write_text("no")
    (tmp_path / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(20))
    (tmp_path / "folder").mkdir()
    for given, why in [
        (tmp_path / "none.keras", "does not exist; give a run folder, a .keras or .h5 file"),
        (tmp_path / "text.keras", "is not a .keras or .h5 file"),
        (tmp_path / "net.tflite", "holds operations whose dtypes are fixed, and no layers"),
        (tmp_path / "folder", "is a folder without run.json or saved_model.pb"),
        (saved, "it holds traced functions"),
        (f"{CUSTOM}:nothing", "has no 'nothing'"),
        (f"{CUSTOM}:Residual", "fails with the arguments"),
    ]:
        output = run("export", given, "-o", tmp_path / "exports", code=2)
        assert why in output
        assert len([line for line in output.splitlines() if line.startswith("error")]) == 1
    assert not (tmp_path / "exports").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two outputs and one custom layer, exported by the command."""
    folder = tmp_path_factory.mktemp("exported")
    keras.utils.set_random_seed(0)
    x = image = keras.Input((12, 12, 3), name="photo")
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = zoo_layers.NaiveLayerNorm(name="own")(layers.GlobalAveragePooling2D()(x))
    outputs = [layers.Dense(5, activation="softmax", name="kind")(x), layers.Dense(1, name="age")(x)]
    model = keras.Model(image, outputs)
    zoo.perturb(model)
    model.save(folder / "two.keras")
    output = run("export", folder / "two.keras", "-o", folder / "exports", "--custom", CUSTOM)
    assert "published" in output
    return folder / "exports" / "two" / "1"


@pytest.mark.slow
def test_the_command(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["schema"] == 2
    assert manifest["inputs"] == [{"name": "photo", "dtype": "float32", "shape": ["batch", 12, 12, 3]}]
    assert [(o["name"], o["shape"], o.get("classes", False)) for o in manifest["outputs"]] == [
        ("kind", ["batch", 5], True),
        ("age", ["batch", 1], False),
    ]
    assert manifest["folded_batchnorm"] == ["norm"]
    assert manifest["reference"]["origin"] == "drawn"
    assert set(manifest["parameters"]) == {"float16"}
    assert [row["passed"] for row in manifest["comparisons"]] == [True] * 4
    graph = onnx.load(str(exported / "model.onnx")).graph
    assert [v.name for v in graph.input] == ["photo"]
    assert [v.name for v in graph.output] == ["kind", "age"]
    text = (exported.parent / "config.pbtxt").read_text()
    assert 'name: "photo" data_type: TYPE_FP32 dims: [ 12, 12, 3 ]' in text
    assert "# two" in (exported / "report.md").read_text()
    assert "every artifact holds" in run("verify", exported)
    said = run("verify", exported.parent, "--json")
    facts = json.loads(said[said.index("{") :])
    assert facts["passed"] is True
    assert len(facts["comparisons"]) == 4
    inspected = json.loads(run("inspect", exported, "--json"))
    assert len(inspected) == 2


@pytest.mark.slow
def test_exporting_again_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    source = exported.parent.parent.parent / "two.keras"
    run("export", source, "-o", exported.parent.parent, "--custom", CUSTOM, "--quiet")
    assert versions(exported.parent) == [1, 2]
    again = exported.parent / "2"
    for name in ("model.onnx", "variables/variables.data-00000-of-00001"):
        assert (again / name).read_bytes() == (exported / name).read_bytes()
    shutil.rmtree(again)


@pytest.mark.slow
def test_verify_with_ones_own_data(exported: Path, tmp_path: Path) -> None:
    source = exported.parent.parent.parent / "two.keras"
    np.savez(tmp_path / "d.npz", x_test=np.random.default_rng(0).uniform(0, 1, (40, 12, 12, 3)), y_test=np.zeros(40))
    given = ("-o", tmp_path, "--custom", CUSTOM, "--name", "mine", "--format", "onnx")
    out = run(
        "export", source, *given, "--verify-with", tmp_path / "d.npz", "--keep-float32", "^kind$", "--json", "--quiet"
    )
    made = json.loads(out[out.index("{") :])
    samples = made["reference"]
    assert (samples["origin"], samples["file"], samples["count"]) == ("given", "d.npz", 44)
    assert samples["edges"] == {"zeros": 1, "constant": 1, "largest": 1, "smallest": 1}
    assert samples["sweep"]["inputs"] == ["photo"]
    assert {row["edges"] for row in made["comparisons"]} == {4}
    assert made["islands"] == [{"path": "kind", "reason": "asked for by '^kind$'"}]
    assert made["parameters"]["float32"]["count"] == 8 * 5 + 5
    assert not (tmp_path / "mine" / "1" / "saved_model.pb").exists()
    assert "lacks an array" in run(
        "export", zoo_file(tmp_path, "multi"), "-o", tmp_path, "--verify-with", tmp_path / "d.npz", code=2
    )


@pytest.mark.slow
def test_layers_near_the_end_of_the_range(tmp_path: Path) -> None:
    x = numbers = keras.Input((8,), name="numbers")
    x = layers.Dense(8, name="loud", kernel_initializer=keras.initializers.RandomNormal(stddev=4e3))(x)
    x = layers.LayerNormalization(name="norm")(x)
    keras.Model(numbers, layers.Dense(3, name="head")(x)).save(tmp_path / "loud.keras")
    for pattern, kept in (((), ["loud"]), (("--keep-float32", "auto"), ["loud", "norm"])):
        out = run("export", tmp_path / "loud.keras", "-o", tmp_path / "exports", *pattern, "--json", "--quiet")
        assert json.loads(out[out.index("{") :])["kept_float32"] == kept


def zoo_file(folder: Path, name: str) -> Path:
    return zoo.make(next(entry for entry in zoo.ENTRIES if entry.name == name), folder)


@pytest.mark.slow
def test_a_builder_with_weights(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import keras\n"
        "def build(units=3):\n"
        "    x = keras.Input((6,), name='numbers')\n"
        "    return keras.Model(x, keras.layers.Dense(units, name='head')(x))\n"
    )
    x = keras.Input((6,), name="numbers")
    model = keras.Model(x, layers.Dense(4, name="head")(x))
    model.save_weights(tmp_path / "net.weights.h5")
    given = ("--weights", tmp_path / "net.weights.h5", "-o", tmp_path)
    run("export", f"{tmp_path}/net.py:build", *given, "--arg", "units=4")
    numbers = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    got = open_predictor(tmp_path / "net" / "1", "savedmodel")(numbers)["head"]
    np.testing.assert_allclose(got, np.asarray(model(numbers)), atol=5e-3)
    assert "do not fit the model" in run("export", f"{tmp_path}/net.py:build", *given, code=2)


# --- later ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_damaged_exports(exported: Path, tmp_path: Path) -> None:
    """Sixty damaged files: none is opened, and each is named."""
    rng = np.random.default_rng(5)
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    files = [path for path in copy.rglob("*") if path.is_file() and path.name != "report.md"]
    for _ in range(60):
        path = files[int(rng.integers(len(files)))]
        before = path.read_bytes()
        raw = bytearray(before)
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(raw[: int(rng.integers(1, len(raw) + 1))] if rng.random() < 0.3 else raw))
        if path.name == "manifest.json":
            with suppress(ArtifactError, IntegrityError):  # what turned may be a word that nothing depends on
                compare_version(open_version(copy), Progress(quiet=True))
        else:
            with pytest.raises(IntegrityError, match=path.name):
                compare_version(open_version(copy), Progress(quiet=True))
        path.write_bytes(before)
    assert all(c.passed for c in compare_version(open_version(copy), Progress(quiet=True)).comparisons)


def test_samples(tmp_path: Path) -> None:
    samples = Samples({"x": np.ones((3, 2)), "text": np.array(["a", "bc", "d"])}, {"y": np.zeros(3)})
    Reference(samples).save(tmp_path)
    read = Reference.load(tmp_path).usual
    assert read.count == 3
    assert read.inputs["text"].tolist() == ["a", "bc", "d"]
    (tmp_path / "reference.npz").write_bytes((tmp_path / "reference.npz").read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot be read"):
        Reference.load(tmp_path)


_KERAS2 = """
import sys
import numpy as np
import tf_keras as k
L = k.layers
photo = k.Input((12, 12, 3), name="photo")
x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(photo)))
x = L.SeparableConv2D(8, 3, activation="relu")(x)
x = k.Sequential([L.GlobalAveragePooling2D(), L.Dense(12, activation="tanh")], name="inner")(x)
words = k.Input((7,), dtype="int32", name="words")
y = L.Bidirectional(L.LSTM(5))(L.Embedding(20, 6)(words))
z = L.LayerNormalization()(L.Concatenate()([x, y]))
model = k.Model([photo, words], [L.Dense(4, activation="softmax", name="kind")(z), L.Dense(1, name="age")(z)])
rng = np.random.default_rng(0)
for v in model.weights:
    v.assign(rng.uniform(0.5, 1.5, v.shape) if "variance" in v.name else rng.normal(size=v.shape) * 0.3)
model.save(sys.argv[1] + "/old")
data = {"photo": rng.normal(size=(6, 12, 12, 3)).astype("f"), "words": rng.integers(0, 20, (6, 7)).astype("i")}
kind, age = model.predict([data["photo"], data["words"]], verbose=0)
np.savez(sys.argv[1] + "/data.npz", **data)
np.savez(sys.argv[1] + "/answers.npz", kind=kind, age=age)
k.Sequential([k.Input((3,)), L.Lambda(lambda x: x + 1), L.Dense(2)]).save(sys.argv[1] + "/lambda")
"""


@pytest.mark.slow
def test_a_saved_model_of_keras_2(tmp_path: Path) -> None:
    pytest.importorskip("tf_keras")
    made = subprocess.run(
        [sys.executable, "-c", _KERAS2, str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr[-1000:]
    run("export", tmp_path / "old", "-o", tmp_path / "exports", "--verify-with", tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz") as data, np.load(tmp_path / "answers.npz") as answers:
        for runtime in ("savedmodel", "onnx"):
            got = open_predictor(tmp_path / "exports/old/1", runtime)(dict(data))
            for name in ("kind", "age"):
                np.testing.assert_allclose(got[name], answers[name], atol=5e-3)
    assert "lambda" in run("export", tmp_path / "lambda", "-o", tmp_path, code=2)
    metadata = tmp_path / "old" / "keras_metadata.pb"
    whole = metadata.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(20):
        raw = bytearray(whole)
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        metadata.write_bytes(bytes(raw[: int(rng.integers(1, len(raw)))]))
        output = run("export", tmp_path / "old", "-o", tmp_path, code=2)
        assert len([line for line in output.splitlines() if line.strip()]) == 1


def test_the_worst_samples_are_known() -> None:
    wide = {"y": np.arange(12.0).reshape(4, 3), "z": np.ones((4, 2))}
    got = {"y": wide["y"].copy(), "z": wide["z"].copy()}
    got["y"][1, 0] += 1.1
    got["z"][2, 1] = 0.5
    got["z"][3, 0] = np.nan
    np.testing.assert_allclose(badness(wide, got), [0, 0.1, 0.5, np.inf])


def test_one_row_may_differ() -> None:
    wide = np.eye(10, dtype=np.float32) * 5
    for count, fine in ((1, True), (2, False)):
        other = wide.copy()
        other[:count] = np.roll(wide[:count], 1, axis=1)
        (found,) = compare_outputs({"y": wide}, {"y": other}, ["y"], Limits(max_difference=2, mean_difference=2))
        assert found.agreement == 100 - 10 * count
        assert (found.problems == ()) is fine
