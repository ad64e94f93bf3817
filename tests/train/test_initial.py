"""Weights to start from: every kind of file, what fits and what is told of the rest, files that mean harm."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from train_helpers import quiet
from train_loops import pipeline, run_folder, trainer, values

from tfhalf.errors import ConfigError
from tfhalf.train.initial.match import targets
from tfhalf.train.initial.weights import Initial, load
from tfhalf.train.job import with_weights
from tfhalf.train.loop import run_training
from tfhalf.train.record import checkpoint
from tfhalf.train.record.run_folder import Origin
from tfhalf.train.trainer import Trainer

FILES = ("net.weights.h5", "net.keras", "net.h5")


def net(classes: int = 3, names: str = "{}", seed: int = 0) -> keras.Model:
    """Convolutions, a norm, a nested model, a drawing layer, a head; of other values for each ``seed``."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, name=names.format("conv"))(image)
    x = layers.BatchNormalization(name=names.format("norm"))(x)
    inner = [keras.Input((6, 6, 4)), layers.Conv2D(2, 3, name=names.format("c2")), layers.Dropout(0.1)]
    x = keras.Sequential(inner, name=names.format("inner"))(x)
    x = layers.SeparableConv2D(3, 2, name=names.format("sep"))(x)
    x = layers.Dense(classes, name=names.format("head"))(layers.Flatten()(x))
    model = keras.Model(image, x, name=names.format("net"))
    draw = np.random.default_rng(seed)
    for variable in weights(model):
        variable.assign(draw.normal(size=variable.shape))
    return model


def weights(model: keras.Model) -> list[Any]:
    return [variable for variable in model.variables if "seed" not in variable.path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    model = net(seed=1)
    model.compile("adam", "mse")
    model.save_weights(folder / FILES[0])
    model.save(folder / FILES[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("absl.logging.warning", lambda *_: None)  # that the format is legacy
        model.save(folder / FILES[2])
    return folder


def taken(initial: Initial, model: keras.Model) -> None:
    """Every value that was taken is that of the file, where it belongs; all others are as they were."""
    before = {id(variable): variable.numpy() for variable in model.variables}
    chosen = {id(model.variables[number]) for number in initial.values}
    initial.fill(model)
    assert len(initial.values) + len(initial.new) == initial.of == len(weights(model))
    for variable, saved in zip(weights(model), weights(net(seed=1)), strict=True):
        expected = saved.numpy() if id(variable) in chosen else before[id(variable)]
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=variable.path)


@pytest.mark.parametrize("file", FILES)
def test_the_same_net_takes_all(files: Path, file: str) -> None:
    model = net()
    initial = load(file, files, model)
    assert (initial.new, initial.unused) == ((), ())
    assert initial.line() == f"{initial.of} of {initial.of} taken from {file}"
    assert len(initial.sha256) == 64
    taken(initial, model)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("names", ["{}", "new_{}"])
def test_a_head_for_other_classes_is_new(files: Path, file: str, names: str) -> None:
    """By the layers' names, and where those are others by their order."""
    model = net(5, names)
    initial = load(file, files, model)
    head = names.format("head")
    assert initial.new == (f"{head}/kernel (27, 5) beside (27, 3)", f"{head}/bias (5,) beside (3,)")
    taken(initial, model)


@pytest.mark.parametrize("file", FILES)
def test_numbers_in_names_are_not_taken_for_names(tmp_path: Path, file: str) -> None:
    """Keras numbers layers as they are made: ``dense_1`` of one net is ``dense`` of another."""

    def numbered(first: int, seed: int, classes: int = 4) -> keras.Model:
        names = [f"dense_{first + number}" for number in range(3)]
        model = keras.Sequential([keras.Input((4,)), *(layers.Dense(4, name=name) for name in names[:2]),
                                  layers.Dense(classes, name=names[2])])  # fmt: skip
        for variable in model.variables:
            variable.assign(np.random.default_rng(seed).normal(size=variable.shape) + len(variable.path))
        return model

    saved, model = numbered(1, 1), numbered(2, 2, classes=3)
    for number, variable in enumerate(saved.variables):
        variable.assign(np.full(variable.shape, number))
    saved.save_weights(tmp_path / file) if file.endswith("weights.h5") else saved.save(tmp_path / file)
    load(file, tmp_path, model).fill(model)
    assert [float(v.numpy().flat[0]) for v in model.variables[:4]] == [0, 1, 2, 3]


def test_another_name_of_the_head_leaves_it_new(files: Path, tmp_path: Path) -> None:
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, name="conv")(image)
    model = keras.Model(image, layers.Dense(2, name="other")(layers.Flatten()(x)))
    initial = load(FILES[0], files, model)
    assert initial.new == ("other/kernel (144, 2)", "other/bias (2,)")
    assert "c2#0" in " ".join(initial.unused)
    assert re.fullmatch(r"2 of 4 taken from .*; new: other/kernel .*; not used: .* and \d+ more", initial.line())


def test_a_net_within_a_net_takes_those_of_its_own(files: Path) -> None:
    """A subclass of keras.Model becomes the one layer of the model that trains."""
    image = keras.Input((8, 8, 1))
    outer = keras.Model(image, net()(image))
    assert load(FILES[0], files, outer).new == ()


@pytest.mark.parametrize("file", FILES)
def test_nothing_that_fits_is_refused(files: Path, file: str) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="alone")])
    with pytest.raises(
        ConfigError, match=r"none of its 13 weights fits the model; it holds .*; the model has \w+/alone/"
    ):
        load(file, files, model)


def test_a_key_for_every_variable() -> None:
    made = {target.path: target for target in targets(net())}
    assert made["inner/c2/kernel"][3:] == ("inner/c2#0", "layers/sequential/layers/conv2d/vars/0")
    assert all(target.key and target.label for target in made.values())


# --- files that mean harm, or are damaged -----------------------------------------------------------------------------


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 1))
    marker = tmp_path / "ran"
    x = layers.Lambda(lambda x, path=str(marker): (open(path, "w").close(), x)[1], output_shape=(8, 8, 1))(image)
    x = layers.Conv2D(4, 3, name="conv")(x)
    keras.Model(image, x).save(tmp_path / "lambda.keras")
    marker.unlink(missing_ok=True)
    initial = load("lambda.keras", tmp_path, net())
    assert len(initial.values) == 2
    assert not marker.exists()


def changed(path: Path, change: Any) -> Path:
    """The .weights.h5 ``path`` after ``change``."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _link(file: h5py.File) -> None:
    file["layers/dense/vars/9"] = h5py.ExternalLink("/etc/hostname", "/x")


def _not_finite(file: h5py.File) -> None:
    file["layers/dense/vars/1"][0] = np.nan


def _text(file: h5py.File) -> None:
    del file["layers/dense/vars/1"]
    file["layers/dense/vars/1"] = np.array([b"a", b"b", b"c"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_link, "links to elsewhere"),
        (_not_finite, "head#1 holds numbers that are not finite"),
        (_text, "holds |S1, not numbers"),
    ],
)
def test_files_that_mean_harm(tmp_path: Path, change: Any, message: str) -> None:
    model = net()
    model.save_weights(tmp_path / "bad.weights.h5")
    changed(tmp_path / "bad.weights.h5", change)
    with pytest.raises(ConfigError, match=rf"^model\.weights: .*{re.escape(message)}"):
        load("bad.weights.h5", tmp_path, model)


@pytest.mark.parametrize("file", FILES)
def test_files_that_are_cut_short(files: Path, tmp_path: Path, file: str) -> None:
    data = (files / file).read_bytes()
    for size in (0, 3, 100, len(data) // 2, len(data) - 7):
        (tmp_path / file).write_bytes(data[:size])
        with pytest.raises(ConfigError, match=r"^model\.weights: "):
            load(file, tmp_path, net())


def test_an_archive_that_claims_too_much(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\0" * (64 << 20))
    with pytest.raises(ConfigError, match=r"claims 67,108,864 bytes out of"):
        load("bomb.keras", tmp_path, net())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.h5", r"none\.h5 does not exist; the path starts from the pipeline file's folder"),
        (".", r"is a folder that holds no weights of these kinds; give a \.weights\.h5"),
        ("text.h5", r"is neither HDF5 nor a \.keras file"),
    ],
)
def test_what_is_not_a_file_of_weights(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.h5").write_text("not")
    with pytest.raises(ConfigError, match=rf"^model\.weights: .*{message}"):
        load(name, tmp_path, net())


# --- runs -------------------------------------------------------------------------------------------------------------

STEADY = {"train__schedule": {"name": "constant"}, "train__optimizer": {"learning_rate": 0.05, "momentum": 0.9}}


def ended(folder: Path, name: str, **changes: Any) -> tuple[Trainer, Path]:
    one, run = trainer(folder, **changes), run_folder(folder, name)
    run_training(one, run, quiet())
    (run / "run.json").write_text(f'{{"pipeline_file": "{folder}/p.yaml", "id": "{name}"}}')
    return one, run


def begun(folder: Path, origin: Origin | None = None, **changes: Any) -> Trainer:
    """A trainer of a job with the weights that it starts from."""
    plain = trainer(folder, **changes)
    return Trainer(with_weights(plain.job, origin), plain.device)


@pytest.mark.slow
def test_a_run_that_did_not_end_gives_its_newest_checkpoint(folder: Path) -> None:
    one, run = ended(folder, "one", **STEADY, train__epochs=2)
    (newest,) = sorted((run / "checkpoints").iterdir())[-1:]
    for ref in ("one", str(newest)):
        two = begun(folder, **STEADY, model__weights=ref, train__epochs=1)
        for variable, other in zip(weights(two.state.model), weights(one.state.model), strict=True):
            np.testing.assert_array_equal(variable.numpy(), other.numpy())
        assert two.state.inner.iterations.numpy() == 0


@pytest.mark.slow
def test_a_run_that_ended_gives_its_model(folder: Path) -> None:
    _, run = ended(folder, "one", **STEADY, train__epochs=1)
    (model := begun(folder, **STEADY).state.model).save(run / "model.keras")
    two = begun(folder, **STEADY, model__weights="one", seed=9)
    for variable, other in zip(weights(two.state.model), weights(model), strict=True):
        np.testing.assert_array_equal(variable.numpy(), other.numpy())


@pytest.mark.slow
def test_a_run_without_names_of_its_weights(folder: Path) -> None:
    one, run = ended(folder, "one", **STEADY, train__epochs=1)
    held = checkpoint.load(run)
    assert held is not None
    record = {key: value for key, value in held.record.items() if key != "names"}
    checkpoint.save(run, 999, held.arrays, record)
    two = begun(folder, **STEADY, model__weights="one")
    np.testing.assert_array_equal(two.state.model.get_weights()[0], one.state.model.get_weights()[0])
    with pytest.raises(ConfigError, match="does not name its weights, and is of another model"):
        begun(folder, **STEADY, model__weights="one", model__args={"width": 5})


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_run_taken_further_has_the_slots_and_the_loss_scale(folder: Path, policy: str) -> None:
    one, run = ended(folder, "one", **STEADY, train__epochs=3, precision__policy=policy)
    two = begun(folder, Origin(run), **STEADY, train__epochs=1, precision__policy=policy)
    assert two.state.loss_scale() == one.state.loss_scale()
    assert policy == "float32" or one.state.loss_scale() != pipeline().precision.loss_scale.initial
    pairs = zip(two.state.inner.variables, one.state.inner.variables, strict=True)
    slots = [(mine, theirs) for mine, theirs in pairs if mine.path.endswith("momentum")]
    assert slots
    for mine, theirs in slots:
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert two.state.inner._iterations.numpy() == 0
    result = run_training(two, run_folder(folder, "two"), quiet())
    assert len(result.epochs) == 1


@pytest.mark.slow
def test_weights_are_not_read_again_when_a_run_goes_on(folder: Path) -> None:
    """The whole state is in the checkpoint; the file may be gone by then."""
    net_of = trainer(folder, **STEADY).state.model
    net_of.save_weights(folder / "start.weights.h5")
    changes = {**STEADY, "model__weights": "start.weights.h5", "train__epochs": 2}
    whole = begun(folder, **changes, seed=3)
    run_training(whole, run_folder(folder, "whole"), quiet())
    part = begun(folder, **{**changes, "train__epochs": 1}, seed=3)
    run_training(part, run := run_folder(folder, "part"), quiet())
    (folder / "start.weights.h5").unlink()
    on = trainer(folder, **changes, seed=3)
    run_training(on, run, quiet(), resume=True)
    for one, other in zip(values(whole), values(on), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [{"name": "constant"}, {"name": "step", "milestones": [1, 3]}])
def test_a_lengthened_run_is_one_that_was_as_long_from_the_start(folder: Path, schedule: dict[str, Any]) -> None:
    changes = {**STEADY, "train__schedule": schedule}
    whole, _ = ended(folder, "whole", **changes, train__epochs=4)
    _, run = ended(folder, "part", **changes, train__epochs=2)
    longer = trainer(folder, **changes, train__epochs=4)
    result = run_training(longer, run, quiet(), resume=True)
    assert [row.epoch for row in result.epochs] == [1, 2, 3, 4]
    for one, other in zip(values(whole), values(longer), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__schedule": {"name": "cosine"}}, "schedule 'cosine' spans all epochs"),
        ({"train__schedule": {"name": "constant"}}, "its training has ended, and averaged weights"),
        ({**STEADY, "train__sizes": (4, 6)}, "train.sizes divides the epochs"),
        ({**STEADY, "train__epochs": 1}, "2 epochs are done; 2 or more are accepted"),
    ],
)
def test_runs_that_cannot_be_lengthened(folder: Path, changes: dict[str, Any], message: str) -> None:
    _, run = ended(folder, "part", **{**changes, "train__epochs": 2})
    one = trainer(folder, **{"train__epochs": 4, **changes})
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_training(one, run, quiet(), resume=True)
