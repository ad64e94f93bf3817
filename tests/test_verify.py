"""Judging an artifact: thresholds at their edges, damaged and foreign data, and the fresh process."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keras import layers

from tfhalf import config
from tfhalf.config import Verify
from tfhalf.errors import ArtifactError, IntegrityError, ParityError
from tfhalf.export import manifest as manifests
from tfhalf.export.artifacts import describe, write_artifacts
from tfhalf.progress import Progress
from tfhalf.report import parity_rows, report
from tfhalf.verify import Reference, compare, data_sha256, judge, to_dict, verify_directory, verify_fresh

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")

LOOSE = Verify(max_accuracy_drop=100.0, min_agreement=0.0)


def one_hot(top: np.ndarray, classes: int = 4) -> np.ndarray:
    return np.full((len(top), classes), 0.1, np.float32) + 0.6 * np.eye(classes, dtype=np.float32)[top]


def quiet() -> Progress:
    return Progress(io.StringIO(), quiet=True)


# --- thresholds -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4000), st.integers(0, 4000), st.integers(0, 400))
@example(2000, 2, 1)  # 100 - 99.9 is a little less than 0.1 in floats
def test_agreement_at_its_edge(n: int, differing: int, tenths: int) -> None:
    """``tenths`` of a percent may differ: exact whole numbers, no fractions of floats."""
    differing = min(differing, n)
    top = np.zeros(n, int)
    got = top.copy()
    got[:differing] = 1
    y = np.full(n, 2)  # neither is right, so accuracy plays no part
    told = judge(
        one_hot(top), one_hot(got), y, Verify(min_agreement=100 - tenths / 10, max_accuracy_drop=0.0), "a", "r"
    )
    allowed = max(1, tenths * n // 1000) if tenths else 0
    assert told.passed == (differing <= allowed)
    assert told.agreement == pytest.approx(100 * (n - differing) / n)
    assert told.accuracy == told.reference_accuracy == 0


@given(st.integers(1, 4000), st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 400))
def test_accuracy_at_its_edge(n: int, lost: int, won: int, tenths: int) -> None:
    """What is lost counts against what is won."""
    lost = min(lost, n)
    won = min(won, n - lost)
    before, after = np.ones(n, int), np.ones(n, int)  # label 0: all wrong
    before[:lost] = 0
    after[n - won :] = 0
    told = judge(
        one_hot(before),
        one_hot(after),
        np.zeros(n, int),
        Verify(max_accuracy_drop=tenths / 10, min_agreement=0.0),
        "a",
        "r",
    )
    allowed = max(1, tenths * n // 1000) if tenths else 0
    assert told.passed == (lost - won <= allowed)
    assert told.accuracy == pytest.approx(100 * won / n)
    assert told.reference_accuracy == pytest.approx(100 * lost / n)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_whatever_is_allowed(bad: float) -> None:
    y = np.array([0, 1, 2, 3])
    got = one_hot(y)
    got[1, 3] = bad
    told = judge(one_hot(y), got, y, LOOSE, "a", "r")
    assert told.problems == ("1 values are not finite",)
    assert (told.non_finite, told.accuracy, told.agreement) == (1, 75.0, 75.0)
    assert np.isfinite([told.max_difference, told.mean_difference]).all()


def test_differences_and_classes() -> None:
    y = np.array([0, 0, 1, 2])
    reference, got = one_hot(np.array([0, 0, 1, 1])), one_hot(np.array([0, 1, 1, 1]))
    told = judge(reference, got, y, LOOSE, "a", "r", 1.5)
    assert told.per_class_accuracy == (50.0, 100.0, 0.0, None)
    assert (told.accuracy, told.reference_accuracy, told.agreement) == (50.0, 75.0, 75.0)
    assert told.max_difference == pytest.approx(0.6)
    assert told.mean_difference == pytest.approx(0.6 * 2 / 16)
    assert told.passed
    assert to_dict(told) == json.loads(json.dumps(to_dict(told))) | {
        "per_class_accuracy": (50.0, 100.0, 0.0, None),
        "problems": (),
    }
    strict = judge(reference, got, y, Verify(max_accuracy_drop=0.0, min_agreement=100.0), "a", "r")
    assert strict.problems == ("accuracy is 25.00 points lower, 0 allowed", "75.00 % agree, 100 % needed")


class Fake:
    runtime = "fake"

    def __init__(self, answers: dict[str, np.ndarray]) -> None:
        self.answers, self.seen = answers, []

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        assert x.dtype == np.float32
        at = sum(self.seen)
        self.seen.append(len(x))
        return {name: value[at : at + len(x)] for name, value in self.answers.items()}


def test_compare_goes_in_batches() -> None:
    y = np.arange(7) % 4
    fake = Fake({"logits": one_hot(y), "probabilities": one_hot(y)})
    x = np.zeros((7, 2), np.uint8)
    told = compare(one_hot(y), fake, x, y, Verify(), artifact="a", progress=quiet(), batch_size=3)
    assert fake.seen == [3, 3, 1]
    assert (told.passed, told.images, told.accuracy) == (True, 7, 100.0)


def test_answers_of_another_kind_are_refused() -> None:
    y, x = np.arange(4), np.zeros((4, 2), np.uint8)
    with pytest.raises(ArtifactError, match="gives probabilities; expected logits and probabilities"):
        compare(one_hot(y), Fake({"probabilities": one_hot(y)}), x, y, Verify(), artifact="a", progress=quiet())
    five = one_hot(y, 5)
    with pytest.raises(ArtifactError, match=r"gives shape \(4, 5\), expected \(4, 4\)"):
        compare(
            one_hot(y), Fake({"logits": five, "probabilities": five}), x, y, Verify(), artifact="a", progress=quiet()
        )


def test_the_hash_of_data() -> None:
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    others = [x.reshape(4, 3), x.astype(np.int16), x + 1, x.T]
    assert len({data_sha256(one) for one in (x, *others)}) == 5
    assert data_sha256(x) == data_sha256(np.asfortranarray(x))


def test_reference_round_trip(tmp_path: Path) -> None:
    reference = Reference(one_hot(np.arange(4)), np.arange(4, dtype=np.int32), "ab" * 32)
    reference.save(tmp_path)
    again = Reference.load(tmp_path)
    np.testing.assert_array_equal(again.probabilities, reference.probabilities)
    np.testing.assert_array_equal(again.y, reference.y)
    assert again.x_sha256 == reference.x_sha256
    for content in (b"", b"nothing", (tmp_path / "reference.npz").read_bytes()[:200]):
        (tmp_path / "reference.npz").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"reference.npz: cannot be read: .*; export again"):
            Reference.load(tmp_path)
    (tmp_path / "reference.npz").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        Reference.load(tmp_path)


# --- a version --------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).integers(0, 17, (40, 4, 4, 1)).astype(np.uint8)
Y = (np.arange(40) % 3).astype(np.int32)


def export(directory: Path, spoil: Any = None) -> None:
    """A small version as `tfhalf.publish` writes it; ``spoil`` changes the model before it is exported."""
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, layers.Dense(3)(layers.Dense(16, activation="relu")(layers.Flatten()(image))))
    pipeline = config.Pipeline.model_validate(
        {
            "name": "job",
            "model": {"build": "a.py:b"},
            "data": {"source": "npz:a.npz"},
            "verify": {"true_float16_samples": 10},
        }
    )
    logits = np.asarray(model((X.astype(np.float32) - 8) / 5)).astype(np.float64)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    Reference((e / e.sum(-1, keepdims=True)).astype(np.float32), Y, data_sha256(X)).save(directory)
    if spoil:
        spoil(model)
    _, rebuilt = write_artifacts(
        model, directory, pipeline, mean=(8.0,), std=(5.0,), input_shape=(4, 4, 1), labels=("a", "b", "c")
    )
    manifests.write(
        directory,
        {
            "schema": manifests.SCHEMA,
            "name": "job",
            "created": "now",
            "pipeline_file": "/a.yaml",
            "config": pipeline.dump(),
            "seed": 0,
            "versions": {},
            "hardware": {"device": "a CPU"},
            "data": {"source": "npz:a.npz", "sizes": {"train": 1, "validation": 1, "test": 40}},
            "labels": ["a", "b", "c"],
            "training": {
                "epochs": 1,
                "policy": "float32",
                "seconds": {"train": 1, "compile": 1},
                "loss_scale": 1,
                "skipped": 0,
            },
            **describe(rebuilt, (4, 4, 1), 3),
            "files": manifests.file_hashes(directory),
        },
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("version")
    export(directory)
    return directory


def test_a_good_version_passes_in_a_fresh_process(version: Path) -> None:
    told = verify_fresh(version, X, Y, quiet())
    assert [(c.artifact, c.images) for c in told] == [("savedmodel", 40), ("onnx", 40), ("onnx, first 10", 10)]
    for one in told:
        assert one.passed, one.problems
        assert one.agreement == 100
        assert one.max_difference < 0.005
        assert len(one.per_class_accuracy) == 3
    assert [c.runtime.split()[0] for c in told] == ["TensorFlow", "onnxruntime", "true"]
    here = verify_directory(version, X, Y, quiet())
    assert [replace(c, seconds=0.0) for c in here] == [replace(c, seconds=0.0) for c in told]
    text = report(manifests.read(version), told)
    assert f"| b | {told[0].per_class_accuracy[1]:.2f} % |" in text
    assert len(parity_rows(told)) == 4
    assert "Falls short" not in text


def test_another_test_set_is_refused(version: Path) -> None:
    for x, y in ((X + 1, Y), (X, np.roll(Y, 1)), (X[:39], Y[:39]), (X.astype(np.int16), Y)):
        with pytest.raises(
            ArtifactError, match=r"was made with another test set .40 images, npz:a.npz.; verify with the same"
        ):
            verify_directory(version, x, y, quiet())


@pytest.mark.slow
def test_a_failure_of_the_fresh_process_is_told(version: Path) -> None:
    with pytest.raises(ParityError, match=r"the process that verifies the artifacts failed: .*another test set"):
        verify_fresh(version, X + 1, Y, quiet())


def test_a_tampered_version_is_refused(tmp_path: Path) -> None:
    export(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model.onnx: is not the file that was published"):
        verify_directory(tmp_path, X, Y, quiet())


def test_an_artifact_of_other_weights_falls_short(tmp_path: Path) -> None:
    export(tmp_path, spoil=lambda model: model.layers[-1].kernel.assign(-np.asarray(model.layers[-1].kernel)))
    told = verify_directory(tmp_path, X, Y, quiet())
    assert len(told) == 3
    assert not any(c.passed for c in told)
    assert all("% agree, 99.5 % needed" in " ".join(c.problems) for c in told)
    assert "Falls short" in report(manifests.read(tmp_path), told)
