"""Judging an artifact: thresholds at their edges, damaged and foreign data, and the fresh process."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from orphans import assert_no_orphan
from pipeline_version import X, Y, export

from tfhalf.artifacts import manifest as manifests
from tfhalf.config import Verify
from tfhalf.errors import ArtifactError, IntegrityError, ParityError, UnsupportedError
from tfhalf.progress import Progress
from tfhalf.runtimes.open import open_predictor
from tfhalf.system.child import Child
from tfhalf.verify import test_set
from tfhalf.verify.process import Verifier
from tfhalf.verify.reference import Edges, Reference, basis, data_sha256, edge_inputs
from tfhalf.verify.report import report, table, uncovered
from tfhalf.verify.test_set import EDGE_DIFFERENCE, compare, judge, verify_directory

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
    assert told.to_dict() == json.loads(json.dumps(told.to_dict())) | {
        "per_class_accuracy": (50.0, 100.0, 0.0, None),
        "problems": (),
    }
    strict = judge(reference, got, y, Verify(max_accuracy_drop=0.0, min_agreement=100.0), "a", "r")
    assert strict.problems == ("accuracy is 25.00 points lower, 0 allowed", "75.00 % agree, 100 % needed")


class Fake:
    about = "fake"

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


# --- edge rows --------------------------------------------------------------------------------------------------------


def test_edges_of_images_and_of_tables() -> None:
    images = np.random.default_rng(0).integers(3, 250, (30, 4, 4, 3)).astype(np.uint8)
    x, kinds = edge_inputs(images)
    assert kinds.tolist() == ["zeros", "constant", "smallest", "largest"]
    assert (x.dtype, x.shape) == (np.dtype(np.uint8), (4, 4, 4, 3))
    assert [len(np.unique(row)) for row in x[:2]] == [1, 1]
    table = np.stack([np.linspace(1.6e9, 1.7e9, 20), np.linspace(-3, 5, 20)], 1).astype(np.float32)
    x, kinds = edge_inputs(table)
    assert dict(zip(kinds, x.tolist(), strict=True))["zeros"] == [1.5e9, 0]  # no time stamp is 0
    assert dict(zip(kinds, x.tolist(), strict=True))["largest"] == pytest.approx([1.7e9, 5])
    assert edge_inputs(np.zeros((5, 3)))[1].tolist() == ["zeros"]
    assert basis(30, Edges(images[:2], np.array(["zeros", "largest"]), one_hot(np.zeros(2, int)))) == (
        "test set: 30 images and 2 edge rows (zeros, largest), judged apart"
    )
    assert basis(30, None) == "test set: 30 images"


@pytest.mark.parametrize(
    ("row", "answer", "problem"),
    [
        (0, np.nan, "edge row 'zeros': 1 values are not finite"),
        (1, 0.4, "edge row 'largest': probabilities differ by 0.3, 0.25 allowed"),
        (1, 0.2, None),
        (2, 0.9, None),  # float32 gives nothing there
    ],
)
def test_edge_rows_are_compared_apart(row: int, answer: float, problem: str | None) -> None:
    y = np.arange(12) % 4
    plain = judge(one_hot(y), one_hot(y), y, Verify(), "a", "r")
    reference = one_hot(np.array([0, 1, 2]))
    reference[2] = np.nan
    got = one_hot(np.array([0, 1, 2]))
    got[row, 3] = answer
    edges = Edges(np.zeros((3, 2)), np.array(["zeros", "largest", "constant"]), reference)
    told = plain.with_edges(edges, got, EDGE_DIFFERENCE)
    assert told.problems == ((problem,) if problem else ())
    assert (told.images, told.accuracy, told.non_finite) == (12, 100.0, 0)
    assert told.passed == (problem is None)
    with pytest.raises(ArtifactError, match=r"gives shape \(2, 4\)"):
        plain.with_edges(edges, got[:2], EDGE_DIFFERENCE)


def test_edges_lie_beside_the_answers(tmp_path: Path) -> None:
    y = np.arange(8) % 4
    edges = Edges(np.zeros((2, 5), np.uint8), np.array(["zeros", "largest"]), one_hot(np.array([1, 2])))
    Reference(one_hot(y), y, "0" * 64, edges).save(tmp_path)
    again = Reference.load(tmp_path).edges
    assert again is not None
    assert again.kinds.tolist() == ["zeros", "largest"]
    np.testing.assert_array_equal(again.probabilities, edges.probabilities)
    Reference(one_hot(y), y, "0" * 64).save(tmp_path)
    assert Reference.load(tmp_path).edges is None  # as versions have it that were published without
    for damaged in (replace(edges, kinds=edges.kinds[:1]), replace(edges, probabilities=np.zeros((2, 3)))):
        Reference(one_hot(y), y, "0" * 64, damaged).save(tmp_path)
        with pytest.raises(ArtifactError, match="its edge rows do not go together"):
            Reference.load(tmp_path)


# --- a version --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("version")
    export(directory)
    return directory


@pytest.mark.slow
def test_a_good_version_passes_in_a_fresh_process(version: Path) -> None:
    with Verifier(quiet()) as verifier:
        told = verifier(version, X, Y)
    assert [(c.artifact, c.images) for c in told] == [
        ("savedmodel", 40),
        ("onnx", 40),
        ("onnx, OpenVINO", 40),
        ("onnx, first 10", 10),
    ]
    for one in told:
        assert one.passed, one.problems
        assert one.agreement == 100
        assert one.max_difference < 0.005
        assert len(one.per_class_accuracy) == 3
        assert one.edge_non_finite == 0
        assert one.edge_difference is not None
        assert one.edge_difference < 0.01
    assert [c.runtime.split()[0] for c in told] == ["TensorFlow", "onnxruntime", "OpenVINO", "true"]
    here = verify_directory(version, X, Y, quiet()).comparisons
    assert [replace(c, seconds=0.0) for c in here] == [replace(c, seconds=0.0) for c in told]
    text = report(manifests.read(version), told)
    assert f"| b | {told[0].per_class_accuracy[1]:.2f} % |" in text
    assert len(table(told)[1]) == 5
    assert [sum(count for *_, count in c.confusion) for c in told] == [40, 40, 40, 10]
    assert "Falls short" not in text


@pytest.mark.slow
def test_what_a_second_runtime_does_not_open(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(directory: Path, runtime: str) -> Any:
        if runtime in ("onnx-openvino", "onnx-float16"):
            raise UnsupportedError(directory / "model.onnx", "does not open: no such operator")
        return open_predictor(directory, runtime)

    monkeypatch.setattr(test_set, "open_predictor", opened)
    told = verify_directory(version, X, Y, quiet()).comparisons
    assert all(c.passed for c in told)
    assert [c.not_covered for c in told] == ["", "", *["does not open: no such operator"] * 2]
    json.dumps([c.to_dict() for c in told], allow_nan=False)
    text = report({**manifests.read(version), "not_covered": uncovered(told)}, told)
    assert text.count("not covered |") == 2
    assert "- onnx, OpenVINO was not compared in OpenVINO: does not open: no such operator" in text


def test_another_test_set_is_refused(version: Path) -> None:
    for x, y in ((X + 1, Y), (X, np.roll(Y, 1)), (X[:39], Y[:39]), (X.astype(np.int16), Y)):
        with pytest.raises(
            ArtifactError, match=r"was made with another test set .40 images, npz:a.npz.; verify with the same"
        ):
            verify_directory(version, x, y, quiet())


def test_a_tampered_version_is_refused(tmp_path: Path) -> None:
    export(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model.onnx: is not the file that was published"):
        verify_directory(tmp_path, X, Y, quiet())


def test_an_artifact_of_other_weights_falls_short(tmp_path: Path) -> None:
    export(tmp_path, spoil=lambda model: model.layers[-1].kernel.assign(-np.asarray(model.layers[-1].kernel)))
    told = verify_directory(tmp_path, X, Y, quiet()).comparisons
    assert len(told) == 4
    assert not any(c.passed for c in told)
    assert all("% agree, 99.5 % needed" in " ".join(c.problems) for c in told)
    assert "Falls short" in report(manifests.read(tmp_path), told)


class Slow:
    """Answers after a while, until it has been asked 200 times."""

    about = "slow"

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
        self.batches += 1
        assert self.batches < 200
        time.sleep(0.02)
        return dict.fromkeys(("logits", "probabilities"), np.zeros((len(x), 3), np.float32))


@pytest.mark.parametrize("error", [ArtifactError, KeyboardInterrupt])
def test_a_failure_ends_what_runs_beside_it(
    version: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    beside = Slow()

    def opened(directory: Path, kind: str) -> Slow:
        if kind == "savedmodel":
            while not beside.batches:
                time.sleep(0.001)
            raise error("it does not open")
        return beside

    monkeypatch.setattr(test_set, "open_predictor", opened)
    monkeypatch.setattr(test_set, "BATCH", 1)
    monkeypatch.setattr(test_set, "EXACT_BATCH", 1)
    many = 300 // len(X)
    reference = Reference.load(version)
    again = Reference(
        np.tile(reference.probabilities, (many, 1)), np.tile(Y, many), data_sha256(np.tile(X, (many, 1, 1, 1)))
    )
    monkeypatch.setattr(Reference, "load", lambda directory: again)
    with pytest.raises(error, match="it does not open"):
        verify_directory(version, np.tile(X, (many, 1, 1, 1)), np.tile(Y, many), quiet())
    assert 1 <= beside.batches < 200


# --- the fresh process ------------------------------------------------------------------------------------------------


def stands(pid: int) -> bool:
    """Whether there is such a process; a zombie counts."""
    return Path(f"/proc/{pid}").exists()


def pid_of(verifier: Verifier) -> int:
    assert verifier._child is not None
    return verifier._child.process.pid


def test_it_is_started_once_and_goes_with_the_block() -> None:
    def training_fails() -> None:
        with Verifier(quiet()) as verifier:
            verifier.start()
            pids.append(pid_of(verifier))
            verifier.start()
            pids.append(pid_of(verifier))
            assert stands(pids[0])
            raise ZeroDivisionError

    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        training_fails()
    assert len(set(pids)) == 1
    assert not stands(pids[0])


@pytest.mark.slow
def test_one_that_died_early_is_replaced(version: Path) -> None:
    with Verifier(quiet()) as verifier:
        verifier.start()
        first = pid_of(verifier)
        os.kill(first, signal.SIGKILL)
        told = verifier(version, X, Y)
    assert not stands(first)
    assert len(told) == 4
    assert all(c.passed for c in told)


@pytest.mark.slow
def test_one_that_dies_just_before_it_is_asked_is_replaced(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start() -> None:
        really_start()
        started.append(pid_of(verifier))
        if len(started) == 2:
            os.kill(started[1], signal.SIGKILL)
            while "zombie" not in Path(f"/proc/{started[1]}/status").read_text():
                time.sleep(0.001)

    with Verifier(quiet()) as verifier:
        really_start = verifier.start
        monkeypatch.setattr(verifier, "start", start)
        verifier.start()
        assert len(verifier(version, X, Y)) == 4
    assert started[0] == started[1] != started[2]
    assert not any(map(stands, started))


@pytest.mark.parametrize("after", [0.05, pytest.param(8.0, marks=pytest.mark.slow)])
def test_it_ends_when_what_started_it_is_killed(after: float) -> None:
    """While it starts or imports, and while it waits."""
    code = (
        "from tfhalf.verify.process import Verifier; from tfhalf.progress import Progress\n"
        "verifier = Verifier(Progress(quiet=True)); verifier.start(); print(verifier._child.process.pid, flush=True)"
    )
    assert_no_orphan(code, wait=after)


@pytest.mark.slow
def test_its_failure_is_told(version: Path) -> None:
    with (
        Verifier(quiet()) as verifier,
        pytest.raises(ParityError, match=r"the process that verifies the artifacts failed: .*another test set"),
    ):
        verifier(version, X + 1, Y)


def test_its_end_without_a_word_is_told(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Verifier(quiet()) as verifier:
        verifier.start()
        with pytest.raises(ParityError, match="failed: it ended with code 1"):
            verifier(version, X, Y)


@pytest.mark.slow
def test_it_needs_no_keras_and_touches_no_device_before_it_is_asked(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "test.npz", x=X, y=Y)
    request = {"cwd": str(tmp_path), "directory": str(version), "data": "test.npz"}
    (tmp_path / "looks.py").write_text(
        "import os, sys; from tfhalf.verify import process as fresh\n"
        "def main(channel):\n"
        "    really_end = os._exit\n"
        "    def asked():\n"
        "        from tensorflow.python.eager import context\n"
        "        print('touched', context.context()._initialized or context.context()._physical_devices)\n"
        "    def end(code):\n"
        "        print('keras' in sys.modules, 'sklearn' in sys.modules, code, flush=True); really_end(code)\n"
        "    fresh.grow_memory, os._exit = asked, end\n"
        "    fresh.main(channel)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = Child("looks", stdout=subprocess.PIPE)
    child.send_json(request)
    assert json.loads(child.receive()[1]) == "begun"
    assert len(json.loads(child.receive()[1])) == 4
    with child.process as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"touched None\nFalse False 0\n"
    child.end()
