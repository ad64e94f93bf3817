"""`tfhalf.export_model` of models in memory, `open_artifact` and `verify_export` of what it publishes."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfhalf
from tfhalf.system import child, device

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[2]
X = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 4, 64)


class Own(keras.Model):
    """As a notebook defines one: registered nowhere, without get_config."""

    def __init__(self, width: int = 8, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.conv, self.norm = layers.Conv2D(width, 3), layers.BatchNormalization()
        self.flat, self.head = layers.Flatten(), layers.Dense(4, dtype="float32")

    def call(self, x: Any, training: bool | None = None) -> Any:
        return self.head(self.flat(ops.relu(self.norm(self.conv(x), training=training))))


def functional() -> keras.Model:
    image, size = keras.Input((8, 8, 1), name="image"), keras.Input((2,), name="size")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3)(image)))
    x = layers.Concatenate()([layers.Flatten()(x), size])
    return keras.Model({"image": image, "size": size}, {"logits": layers.Dense(4)(x), "norm": layers.Dense(1)(x)})


def sequential() -> keras.Model:
    """With a layer, a function and a Lambda that live in this process alone."""

    def gate(x: Any) -> Any:
        return x * ops.sigmoid(x)

    class Twice(layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            *(Twice(), layers.Lambda(lambda x: x + 1), layers.Flatten(), layers.Dense(8, activation=gate)),
            *(layers.Dropout(0.3), layers.Dense(4, "softmax")),
        ]
    )


def subclass() -> keras.Model:
    return Own(name="own")


def fitted(build: Any, policy: str) -> tuple[keras.Model, Any]:
    keras.utils.set_random_seed(1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy(before)
    inputs: Any = {"image": X, "size": X[:, 0, :2, 0]} if build is functional else X
    targets: Any = {"logits": Y, "norm": X[:, 0, 0]} if build is functional else Y
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=build is not sequential)
    model.compile("adam", {"logits": loss, "norm": "mse"} if build is functional else loss)
    model.fit(inputs, targets, batch_size=16, verbose=0)
    return model, inputs


def state(model: keras.Model) -> list[Any]:
    """Everything of it that an export could have changed."""
    layers = [model, *model._flatten_layers(include_self=False)]
    return [
        *(np.array(keras.ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)),
        *((layer.name, layer.dtype_policy.name, "call" in vars(layer), layer._convert_input_args) for layer in layers),
        *(keras.backend.standardize_dtype(v.dtype) for v in model.variables),
        model.get_config() if not isinstance(model, Own) else None,
    ]


def drawn() -> list[Any]:
    """The next numbers and names of everything that draws, as a notebook would."""
    own = [random.random(), float(np.random.rand()), float(tf.random.uniform(()))]
    return [*own, float(keras.random.uniform(())), layers.Dense(1).name, keras.Sequential([layers.Dropout(0.5)]).name]


def equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("build", "policy"), [(functional, "mixed_float16"), (sequential, "float32"), (subclass, "mixed_bfloat16")]
)
def test_a_fitted_model_is_exported_and_stays_as_it_is(build: Any, policy: str, tmp_path: Path) -> None:
    model, inputs = fitted(build, policy)
    before, answers = state(model), model.predict(inputs, verbose=0)
    keras.utils.set_random_seed(7)
    keras.backend.clear_session(free_memory=False)
    expected = drawn()
    keras.utils.set_random_seed(7)
    keras.backend.clear_session(free_memory=False)
    tensor_float_32 = tf.config.experimental.tensor_float_32_execution_enabled()

    made = tfhalf.export_model(model, tmp_path / "exports" / "mine", samples=inputs)

    assert drawn() == expected
    assert equal(state(model), before)
    assert tf.config.experimental.tensor_float_32_execution_enabled() == tensor_float_32
    assert made.version == tmp_path / "exports" / "mine" / "1"
    assert {comparison.artifact for comparison in made.comparisons} >= {"savedmodel", "onnx"}
    assert all(comparison.passed for comparison in made.comparisons)
    assert made.manifest.reference.origin == "given"
    for runtime in ("onnx", "savedmodel"):
        with tfhalf.open_artifact(made.version, runtime) as artifact:
            limits = {"max_difference": 0.1, "mean_difference": 0.05} if policy == "mixed_bfloat16" else {}
            assert tfhalf.compare_outputs(answers, artifact, inputs, **limits).passed  # type: ignore[arg-type]
    model.fit(inputs, {"logits": Y, "norm": X[:, 0, 0]} if build is functional else Y, verbose=0)


def overflowing() -> keras.Model:
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1e4, name="large")(layers.Flatten()(image))
    x = layers.Dense(8, name="wide", kernel_initializer="ones")(x)
    return keras.Model(image, layers.Dense(4, name="head")(layers.Rescaling(1e-6, name="small")(x)), name="over")


def test_layers_in_float32_are_told_and_versions_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And nothing is printed, by whichever library or process."""
    model = overflowing()
    capfd.readouterr()
    made = tfhalf.export_model(model, tmp_path / "over", samples=[X], formats=["onnx"])
    assert "wide" in made.float32_layers
    assert tfhalf.export_model(model, tmp_path / "over", formats="onnx").version.name == "2"
    assert tfhalf.verify_export(tmp_path / "over").version == tmp_path / "over" / "2"
    assert capfd.readouterr() == ("", "")
    tfhalf.verify_export(tmp_path / "over", verbose=True)
    assert capfd.readouterr().out.startswith("drawn: 32 samples and 3 edge rows")


def test_a_file_is_exported_too(tmp_path: Path) -> None:
    model, _ = fitted(subclass, "float32")
    keras.models.clone_model(overflowing()).save(tmp_path / "f.keras")
    made = tfhalf.export_model(tmp_path / "f.keras", tmp_path / "file", formats=["onnx"])
    assert made.manifest.source["file"] == "f.keras"
    assert model is not None


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, inputs = fitted(functional, "float32")
    return tfhalf.export_model(model, tmp_path_factory.mktemp("v") / "v", samples=inputs, formats=["onnx"]).version


def test_what_an_artifact_takes(version: Path) -> None:
    x = {"image": X[:3], "size": X[:3, 0, :2, 0]}
    with tfhalf.open_artifact(version.parent) as artifact:
        assert artifact.path == version
        assert [(port.name, port.dtype, port.shape) for port in artifact.inputs] == [
            ("image", "float32", (None, 8, 8, 1)),
            ("size", "float32", (None, 2)),
        ]
        answers = artifact(x)
        assert {name: y.shape for name, y in answers.items()} == {"logits": (3, 4), "norm": (3, 1)}
        wide = artifact({"image": x["image"].astype(np.float64), "size": x["size"].tolist()})
        assert all(np.array_equal(answers[name], wide[name]) for name in answers)
        for bad, why in [
            (X, "takes image float32 .*, size float32 .*; received image"),
            ({**x, "size": x["size"][:, :1]}, r"size has shape \(3, 1\); \['batch', 2\] is accepted"),
            ({**x, "size": [["a", "b"]] * 3}, "size is <U1; float32 is accepted"),
        ]:
            with pytest.raises(tfhalf.DataError, match=why):
                artifact(bad)  # type: ignore[arg-type]
    with pytest.raises(tfhalf.ArtifactError, match="is closed; open it again"):
        artifact(x)


def test_what_is_not_opened(version: Path, tmp_path: Path) -> None:
    with pytest.raises(tfhalf.ArtifactError, match="does not exist"):
        tfhalf.open_artifact(tmp_path / "none")
    with pytest.raises(tfhalf.ArtifactError, match=r"runtime 'torch': .*onnx.* are accepted"):
        tfhalf.open_artifact(version, "torch")
    with pytest.raises(tfhalf.ArtifactError, match=r"holds no saved_model\.pb"):
        tfhalf.open_artifact(version, "savedmodel")


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    made = tfhalf.export_model(overflowing(), tmp_path / "changed", formats=["onnx"])
    with (made.version / "model.onnx").open("ab") as file:
        file.write(b"more")
    for look in (tfhalf.open_artifact, tfhalf.verify_export):
        with pytest.raises(tfhalf.IntegrityError, match=r"model\.onnx: is not the file that was published"):
            look(made.version)


def test_a_gpu_whose_memory_is_taken_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A notebook's TensorFlow has taken it whole: the process that compares would find none."""
    started: list[dict[str, str]] = []
    popen = child.subprocess.Popen

    def noting(*arguments: Any, **keywords: Any) -> Any:
        started.append(keywords.get("env") or {})
        return popen(*arguments, **keywords)

    monkeypatch.setattr(child.subprocess, "Popen", noting)
    for grows, visible in ((True, None), (False, "-1")):
        monkeypatch.setattr(device, "grow_memory", lambda grows=grows: grows)
        with caplog.at_level(logging.INFO, logger="tfhalf"):
            tfhalf.export_model(overflowing(), tmp_path / "gpu", formats=["onnx"])
        verifier = next(env for env in started if "PYTHONPATH" in env)
        assert verifier.get("CUDA_VISIBLE_DEVICES") == (visible or os.environ.get("CUDA_VISIBLE_DEVICES"))
        assert ("the artifacts are compared on the CPU" in caplog.text) is not grows
        started.clear()
    with pytest.raises(tfhalf.ConfigError, match=r"has taken the GPU's memory whole.*set_memory_growth"):
        tfhalf.train_pipeline(CHECKOUT / "pipelines" / "digits.yaml", runs=tmp_path / "runs", smoke=True)
    assert not (tmp_path / "runs").exists()


class Held:
    """A callable that is not a function."""

    def __call__(self, x: Any) -> Any:
        return 2 * x


class Unsaved(keras.layers.Layer):
    """What Keras cannot make again: an argument that no configuration holds."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def test_what_is_refused(tmp_path: Path) -> None:
    model = overflowing()
    stateful = keras.Sequential([keras.Input((4, 2), batch_size=1), layers.LSTM(3, stateful=True)])
    unsaved = keras.Sequential([keras.Input((4,)), Unsaved(Held())])
    for bad, options, why in [
        (model, {"samples": X[:, :4]}, r"^samples: image has shape \(64, 4, 8, 1\); \['batch', 8, 8, 1\] is taken"),
        (model, {"samples": [X, X]}, "^samples: 2 arrays for the inputs image; give one for each"),
        (model, {"samples": [[1.0], [1.0, 2.0]]}, "^samples: x makes no array"),
        (model, {"formats": ["tflite"]}, "^formats 'tflite': savedmodel, onnx, litert"),
        (model, {"opset": 12}, "^opset 12: 13 to 25 are accepted"),
        (model, {"sizes": {"image": 0}}, "^sizes 'image=0': NAME=SIZE"),
        (model, {"max_difference": 2.0}, "^max_difference 2: a share of the scale between 0 and 1"),
        (stateful, {}, "is a stateful LSTM"),
        (unsaved, {}, r"^model 'sequential\w*' \(Sequential\): Keras cannot save it and load it again"),
        (np.zeros(3), {}, "^model is a ndarray; a keras.Model, or the path of a model is accepted"),
        ("m.keras", {"custom_objects": {"a": 1}}, "^custom_objects: of a model in memory"),
    ]:
        with pytest.raises(tfhalf.InputError, match=why):
            tfhalf.export_model(bad, tmp_path / "refused", **options)  # type: ignore[arg-type]
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(tfhalf.ConfigError, match="is a run folder, which `tfhalf export "):
        tfhalf.export_model(tmp_path, tmp_path / "refused")
    with pytest.raises(tfhalf.InputError, match=r"^base 'a b': letters, digits"):
        tfhalf.export_model(model, tmp_path / "a b")
    assert not (tmp_path / "refused").exists()
