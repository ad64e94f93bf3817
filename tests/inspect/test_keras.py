"""``.keras`` files: policies, weights, optimizer state, foreign code named and not run, hostile archives."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from inspect_models import PARAMETERS, facts, flat, keras_model, one, refused, said

from tfhalf.inspect import show

BOMB = 50 << 20


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    for policy in ("mixed_float16", "float32", "float16", "mixed_bfloat16"):
        model = keras_model(policy)
        if policy == "mixed_float16":
            model.compile("adam", "sparse_categorical_crossentropy")
            model.optimizer.build(model.trainable_variables)
        model.save(folder / f"{policy}.keras")
    return folder


def test_mixed(saved: Path) -> None:
    path = saved / "mixed_float16.keras"
    told = facts(path)
    assert told["keras_version"] == keras.__version__
    assert told["policies"] == {"float32": 1, "mixed_float16": 6}
    assert told["layers"] == {
        **dict.fromkeys(("BatchNormalization", "Conv2D", "Flatten", "MaxPooling2D", "ReLU"), 1),
        "Dense": 2,
    }
    assert told["parameters"] == {"float32": {"tensors": 10, "count": PARAMETERS, "bytes": 4 * PARAMETERS}}
    assert told["beside"]["optimizer"]["float32"]["count"] > 2 * (PARAMETERS - 16)
    assert told["custom"] == []
    assert told["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 8, 8, 3]}]
    assert told["verdict"]["answer"] == "not float16"
    assert told["verdict"]["line"] == (
        "not float16: the weights are stored in float32; layers under mixed_float16 cast them at run time: "
        "twice the bytes of float16"
    )
    text = flat(said(path))
    assert f"made by Keras {keras.__version__}, saved " in text
    assert "policies 1 of float32, 6 of mixed_float16" in text
    assert "float32, optimizer" in text


@pytest.mark.parametrize(
    ("policy", "answer", "line"),
    [
        ("float32", "not float16", "not float16: weights and layers are float32, twice the bytes of float16"),
        ("float16", "mixed", "of the weights are float16; its layers follow float16, float32"),
        ("mixed_bfloat16", "not float16", "not float16: weights and layers are float32"),
    ],
)
def test_other_policies(saved: Path, policy: str, answer: str, line: str) -> None:
    verdict = one(saved / f"{policy}.keras").verdict
    assert verdict.answer == answer
    assert line in verdict.line


@keras.saving.register_keras_serializable("elsewhere")
class Doubled(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2


def test_foreign_layers_and_code_are_named_and_not_run(tmp_path: Path) -> None:
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(Doubled()(keras.layers.Dense(2)(image))))
    model.save(tmp_path / "m.keras")
    told = facts(tmp_path / "m.keras")
    assert told["custom"] == ["elsewhere>Doubled"]
    assert told["stored_code"] >= 1
    text = flat(said(tmp_path / "m.keras"))
    assert "custom elsewhere>Doubled: their code is needed to load it" in text
    assert "Python bytecode: loading it runs code; it was not run here" in text


def test_bfloat16_weights(tmp_path: Path) -> None:
    image = keras.Input((4,))
    keras.Model(image, keras.layers.Dense(2, dtype="bfloat16")(image)).save(tmp_path / "m.keras")
    assert facts(tmp_path / "m.keras")["parameters"] == {"bfloat16": {"tensors": 2, "count": 10, "bytes": 20}}


def test_seeds_are_no_weights(tmp_path: Path) -> None:
    def seeds(file: Any) -> None:
        plain(file)
        file.create_dataset("layers/dropout/seed_generator/vars/0", data=np.zeros(2, np.uint32))

    told = facts(archive(tmp_path / "m.keras", weights=hdf5(seeds)))
    assert set(told["parameters"]) == {"float16"}
    assert told["beside"]["state"]["uint32"]["count"] == 2


# --- hostile files ----------------------------------------------------------------------------------------------------


def archive(
    path: Path, *, config: Any = None, weights: bytes | None = None, compress: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compress) as file:
        file.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        model = {"class_name": "Functional", "config": {"name": "m", "layers": []}}
        file.writestr("config.json", config if isinstance(config, str | bytes) else json.dumps(config or model))
        if weights is not None:
            file.writestr("model.weights.h5", weights)
    return path


def hdf5(fill: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def plain(file: Any) -> None:
    file.create_dataset("layers/dense/vars/0", data=np.ones((4, 4), np.float16))


def test_a_hand_made_file(tmp_path: Path) -> None:
    for compress in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        told = facts(archive(tmp_path / "m.keras", weights=hdf5(plain), compress=compress))
        assert told["parameters"] == {"float16": {"tensors": 1, "count": 16, "bytes": 32}}


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file.create_dataset("secret", data=np.ones(4))

    def external(file: Any) -> None:
        file["layers"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/secret")

    def soft(file: Any) -> None:
        file["a"] = h5py.SoftLink("/b")

    def stored(file: Any) -> None:
        file.create_dataset("v", (4,), "f4", external=[(str(tmp_path / "secret.h5"), 0, 16)])

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "secret", (4,))
        file.create_virtual_dataset("v", layout)

    path = tmp_path / "m.keras"
    refused(archive(path, weights=hdf5(external)), "'layers' links to elsewhere")
    refused(archive(path, weights=hdf5(soft)), "'a' links to elsewhere")
    refused(archive(path, weights=hdf5(stored)), "'v' has its values in another file")
    refused(archive(path, weights=hdf5(virtual)), "'v' has its values in another file")


def test_groups_that_hold_themselves(tmp_path: Path) -> None:
    def loop(file: Any) -> None:
        plain(file)
        file["layers/again"] = file["layers"]
        file["layers/root"] = file["/"]

    assert facts(archive(tmp_path / "m.keras", weights=hdf5(loop)))["parameters"]["float16"]["tensors"] == 1


def test_claimed_sizes(tmp_path: Path) -> None:
    def huge(file: Any) -> None:
        file.create_dataset("v", (1 << 30, 1 << 29), "f4", chunks=(1024, 1024))  # nothing of it is written

    def more(file: Any) -> None:
        file.create_dataset("v", (1 << 31, 1 << 31), "f4", chunks=(1024, 1024))

    def unwritten(file: Any) -> None:
        file.create_dataset("v", (1 << 20, 1 << 10), "f4")

    path = tmp_path / "m.keras"
    refused(archive(path, weights=hdf5(huge)), "'v' claims 2,305,843,009,213,693,952 bytes and has 0")
    refused(archive(path, weights=hdf5(more)), "claims the shape 2147483648x2147483648")
    refused(archive(path, weights=hdf5(unwritten)), "'v' claims 4,294,967,296 bytes and has 0")


def test_bombs(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    refused(archive(path, weights=bytes(BOMB), compress=zipfile.ZIP_DEFLATED), "claims 52,428,800 bytes out of")
    refused(
        archive(path, config=b" " * (65 << 20), weights=hdf5(plain), compress=zipfile.ZIP_DEFLATED), "more than 67,"
    )
    archive(path, weights=hdf5(plain), compress=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as file:  # a small claim, and more behind it
        size = file.getinfo("model.weights.h5").file_size
    data = path.read_bytes()
    assert data.count(size.to_bytes(4, "little")) == 2
    path.write_bytes(data.replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    refused(path, "cannot be read as")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("[]", "config.json holds no object"),
        ("{", "cannot be read as a Keras file"),
        ("[" * 100_000, "cannot be read as a Keras file"),
        (b"\xff\xfe\x00", "cannot be read as a Keras file"),
    ],
)
def test_configs_that_are_none(tmp_path: Path, config: Any, told: str) -> None:
    refused(archive(tmp_path / "m.keras", config=config, weights=hdf5(plain)), told)


def test_odd_values_in_a_config(tmp_path: Path) -> None:
    layer = {"class_name": "Dense", "config": {"name": 3, "dtype": ["?"]}, "module": 5, "registered_name": {"a": 1}}
    odd = {"class_name": "InputLayer", "config": {"batch_shape": ["x", None, 4.5, {}], "dtype": {"config": 7}}}
    config = {"class_name": 5, "config": [layer, odd, {"class_name": "\x1b[31mRed\n", "config": None}]}
    text = show.text([one(archive(tmp_path / "m.keras", config=config, weights=hdf5(plain)))])
    assert "\x1b" not in text


def test_archives_that_are_none(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    whole = (saved / "float32.keras").read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        refused(path, "")
    for place in range(40, len(whole) - 300, len(whole) // 40):
        path.write_bytes(whole[:place] + b"\xff" * 64 + whole[place + 64 :])
        try:
            said(path)
        except AssertionError:
            refused(path, "")
    refused(archive(path), "lacks model.weights.h5")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../escaped", "x")
        file.writestr("model.weights.h5", hdf5(plain))
    refused(path, "it lacks config.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.keras"]
    refused(archive(path, weights=pickle.dumps({"a": 1})), "cannot be read as an HDF5 file")
