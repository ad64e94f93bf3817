"""Files of Keras 2 and HDF5 files: what tf_keras saves is read back with its answers; what means harm is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import keras2_nets
import numpy as np
import pytest
import zoo
from click.testing import CliRunner
from keras import layers

from tfhalf.cli import main
from tfhalf.errors import ArtifactError
from tfhalf.export.load import weights
from tfhalf.export.load.model import open_source
from tfhalf.export.request import Request
from tfhalf.inspect.look import inspect

MARK = "TFHALF_TEST_WAS_RUN"


# --- Keras 2 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tf_keras")
    folder = tmp_path_factory.mktemp("keras2")
    made = subprocess.run(
        [sys.executable, keras2_nets.__file__, str(folder)], capture_output=True, text=True, check=False, cwd=folder
    )
    assert made.returncode == 0, made.stderr[-1000:]
    return folder


def answers(model: keras.Model, data: Any) -> list[np.ndarray]:
    given = [data[f"in_{i}"] for i in range(len(model.inputs))]
    told = model(given[0] if isinstance(model, keras.Sequential) else given, training=False)
    told = list(told.values()) if isinstance(told, dict) else told if isinstance(told, list | tuple) else [told]
    return [np.asarray(one) for one in told]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(keras2_nets.NETS))
def test_answers_are_those_of_tf_keras(nets: Path, name: str) -> None:
    with np.load(nets / f"{name}.npz") as data:
        forms = [".h5", ".keras", *(["_saved"] if name in keras2_nets.SAVED else [])]
        for form in forms:
            found = answers(open_source(Request(str(nets / f"{name}{form}"))).model, data)
            assert len(found) == sum(key.startswith("out_") for key in data)
            for number, one in enumerate(found):
                wanted = data[f"out_{number}"]
                np.testing.assert_allclose(one, wanted, atol=2e-6 * np.abs(wanted).max(), rtol=2e-5, err_msg=form)


@pytest.mark.slow
def test_exported(nets: Path, tmp_path: Path) -> None:
    (file,) = inspect(nets / "depthwise.h5")
    assert file.account.kind == "Keras HDF5"
    assert file.account.facts["made by"].startswith("Keras 2.")
    assert file.verdict.line.startswith("not float16")
    done = CliRunner().invoke(
        main, ["export", str(nets / "depthwise.h5"), "-o", str(tmp_path), "--format", "savedmodel"]
    )
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "depthwise" / "1" / "manifest.json").read_text())
    assert manifest["source"]["kind"] == "hdf5"


@pytest.mark.slow
def test_weights_of_keras_2_for_a_builder(nets: Path) -> None:
    def build() -> keras.Model:
        x = first = keras.Input((5,), name="other")
        late = [layers.Dense(6, name="l1"), layers.BatchNormalization(name="l2"), layers.Dense(5, name="l3")]
        shared = layers.Dense(5, name="shared")
        return keras.Model(first, shared(keras.Sequential(late, name="late")(shared(x))))

    with pytest.raises(ArtifactError, match=r"has weights for branches, frozen, dense_\d+, which the model lacks"):
        weights.load(build(), nets / "nested.h5")
    for form in ("nested.keras", "nested_saved"):
        model = build()
        weights.load(model, nets / form)
        same(model.get_layer("late"), open_source(Request(str(nets / form))).model.get_layer("late"))

    kinds = [layers.Conv1D(6, 3), layers.DepthwiseConv1D(2), layers.SeparableConv1D(5, 2), layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 4)), *kinds, layers.Dense(3)])
    weights.load(model, nets / "shallow.h5")  # layers of other names, in the same order
    same(model, open_source(Request(str(nets / "shallow.h5"))).model)


# --- HDF5 of Keras 3 --------------------------------------------------------------------------------------------------


def small(width: int = 4) -> keras.Model:
    x = image = keras.Input((6, 6, 2), name="image")
    x = layers.BatchNormalization(name="norm")(layers.DepthwiseConv2D(3, name="deep")(x))
    inner = keras.Sequential([layers.Flatten(), layers.Dense(width), layers.BatchNormalization()], name="inner")
    return keras.Model(image, layers.Dense(3, name="head")(inner(x) * 2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, keras.Model]:
    folder = tmp_path_factory.mktemp("hdf5")
    model = small()
    zoo.perturb(model)
    model.save(folder / "whole.h5")
    model.save(folder / "whole.keras")
    model.save_weights(folder / "net.weights.h5")
    return folder, model


def same(one: Any, two: Any) -> None:
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_whole_model_of_keras_3(saved: tuple[Path, keras.Model]) -> None:
    folder, model = saved
    same(open_source(Request(str(folder / "whole.h5"))).model, model)


@pytest.mark.parametrize("name", ["whole.h5", "whole.keras", "net.weights.h5"])
def test_weights_for_a_builder(saved: tuple[Path, keras.Model], name: str) -> None:
    folder, model = saved
    again = small()
    weights.load(again, folder / name)
    same(again, model)
    with pytest.raises(ArtifactError, match=f"--weights {folder / name}: "):
        weights.load(small(width=5), folder / name)


def test_weights_alone_are_told_with_the_remedy(saved: tuple[Path, keras.Model]) -> None:
    path = saved[0] / "net.weights.h5"
    with pytest.raises(ArtifactError, match=r"holds weights alone, and no model; give file.py:build, .* --weights"):
        open_source(Request(str(path)))
    (file,) = inspect(path)
    assert file.account.facts["model"].startswith("weights alone")


# --- files that mean harm ---------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        open_source(Request(str(path)))
    text = str(caught.value)
    assert text.isprintable()
    return text


def changed_h5(saved: Path, path: Path, change: Callable[[Any], None]) -> Path:
    path.write_bytes(saved.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_hdf5_that_leads_elsewhere(saved: tuple[Path, keras.Model], tmp_path: Path) -> None:
    def external(file: Any) -> None:
        file["more"] = h5py.ExternalLink("/etc/passwd", "/")

    def soft(file: Any) -> None:
        file["more"] = h5py.SoftLink("/model_weights")

    def stored(file: Any) -> None:
        file.create_dataset("more", (4,), "f4", external=[("/etc/passwd", 0, 16)])

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
        file.create_virtual_dataset("more", layout)

    def filtered(file: Any) -> None:
        file.create_dataset("more", (4,), "f4", compression=32015, allow_unknown_filter=True)

    def claimed(file: Any) -> None:
        file.create_dataset("more", (1 << 20, 1 << 12), "f4", chunks=(1 << 10, 1 << 10), compression="gzip")

    told = {external: "links to elsewhere", soft: "links to elsewhere", stored: "in another file",
            virtual: "in another file", filtered: "filter 32015", claimed: "claim"}  # fmt: skip
    for change, words in told.items():
        for name in ("whole.h5", "net.weights.h5"):
            path = changed_h5(saved[0] / name, tmp_path / name, change)
            with pytest.raises(ArtifactError, match=words):
                inspect(path)
            with pytest.raises(ArtifactError, match=words):
                weights.load(small(), path)
        assert words in refused(changed_h5(saved[0] / "whole.h5", tmp_path / "x.h5", change))


def of_keras_2(path: Path, layer: dict[str, Any], version: str = "2.9.0") -> Path:
    first = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4], "name": "x"}}
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": [first, layer]}}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = version, json.dumps(config)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"more"]
        group.create_group("more").attrs["weight_names"] = np.zeros(0, "S1")
    return path


@pytest.mark.parametrize("version", ["2.9.0", "3.1.0"])
@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"class_name": "Lambda", "config": {"name": "e", "function": ["4wE=", None, None]}}, "'e' is a Lambda"),
        ({"class_name": "TFSMLayer", "config": {"name": "e", "filepath": "/tmp"}}, "loads another model's graph"),
        (
            {"class_name": "Dense", "config": {"name": "e", "trainable": True, "units": 10**9}},
            r"e/kernel alone 4,000,000,000, and it holds",
        ),
        ({"class_name": "Own\x1b[31mred", "config": {"name": "e"}}, r"needs the code of Ownred;"),
        ({"class_name": "get_file", "config": {"name": "e"}, "module": "keras.utils"}, "not loaded"),
        ({"class_name": "Dense", "config": {"name": "e", "trainable": True, "units": 2}}, "has no weights for e"),
    ],
)
def test_what_an_old_file_may_say(tmp_path: Path, layer: dict[str, Any], words: str, version: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        open_source(Request(str(of_keras_2(tmp_path / "old.h5", layer, version))))
    assert str(caught.value).isprintable()


def test_functions_of_tensorflow_are_listed_ones(tmp_path: Path) -> None:
    def node(function: str) -> dict[str, Any]:
        told = {"class_name": "TFOpLambda", "name": "f", "config": {"name": "f", "function": function}}
        return {**told, "inbound_nodes": [["x", 0, 0, {"name": None}]]}

    first = {"class_name": "InputLayer", "name": "x", "inbound_nodes": [],
             "config": {"batch_input_shape": [None, 4], "name": "x"}}  # fmt: skip
    for function in ("io.write_file", "py_function", "math.tanh"):
        config = {"name": "n", "layers": [first, node(function)], "input_layers": [["x", 0, 0]],
                  "output_layers": [["f", 0, 0]]}  # fmt: skip
        path = of_keras_2(tmp_path / "old.h5", {"class_name": "Flatten", "config": {}})
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        if function == "math.tanh":
            assert open_source(Request(str(path))).model.output_shape == (None, 4)
        else:
            assert f"calls tf.{function}, which is not among the functions" in refused(path)


def test_functions_stand_where_they_belong(saved: tuple[Path, keras.Model], tmp_path: Path) -> None:
    """`keras.models.clone_model` is public, and no activation."""
    with zipfile.ZipFile(saved[0] / "whole.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for place, module, name, words in (
        ("activation", "keras.models", "clone_model", "where an activation stands"),
        ("activation", "keras.ops", "while_loop", "where an activation stands"),
        ("activation", "keras.initializers", "Zeros", "where an activation stands"),
        ("kernel_initializer", "keras.layers", "Dense", "where an initializer stands"),
        ("kernel_regularizer", "keras.optimizers", "Adam", "where a regularizer stands"),
        ("activation", "keras.activations", "relu", ""),
    ):
        config = json.loads(parts["config.json"])
        kind = "class" if name[0].isupper() else "function"
        told = {"module": module, "class_name": name if kind == "class" else kind, "registered_name": None}
        config["config"]["layers"][-1]["config"][place] = {**told, "config": name if kind == "function" else {}}
        path = tmp_path / "changed.keras"
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in parts.items():
                archive.writestr(member, json.dumps(config) if member == "config.json" else data)
        if words:
            assert words in refused(path)
        else:
            open_source(Request(str(path)))


def test_a_small_file_that_claims_much(saved: tuple[Path, keras.Model], tmp_path: Path) -> None:
    with zipfile.ZipFile(saved[0] / "whole.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][-1]["config"]["units"] = 10**9
    parts["config.json"] = json.dumps(config).encode()
    path = tmp_path / "much.keras"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in parts.items():
            archive.writestr(member, data)
    assert "claim 5,000,0" in refused(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", b"\x89HDF\r\n\x1a\n half", b"\x80\x04pickle"])
def test_weights_that_are_none(tmp_path: Path, content: bytes) -> None:
    for name in ("x.weights.h5", "x.keras", "x.h5"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=f"^--weights {tmp_path / name}: ") as caught:
            weights.load(small(), tmp_path / name)
        assert str(caught.value).isprintable()


def test_zip_bombs_as_weights(saved: tuple[Path, keras.Model], tmp_path: Path) -> None:
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(64 << 20))
    with pytest.raises(ArtifactError, match="claims 67,108,864 bytes"):
        weights.load(small(), path)
