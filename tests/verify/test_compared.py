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
from orphans import assert_gone, assert_no_orphan, runs
from pipeline_version import X, Y, export

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Comparison, Limits, OutputParity
from tfhalf.artifacts.edges import edge_inputs
from tfhalf.artifacts.manifest import open_version
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import Artifact, Manifest, ReferenceFacts
from tfhalf.artifacts.reference import Reference, Samples, data_sha256
from tfhalf.errors import ArtifactError, IntegrityError, ParityError, UnsupportedError
from tfhalf.progress import Progress
from tfhalf.runtimes.base import ONNXRUNTIME, Engine
from tfhalf.runtimes.open import open_predictor
from tfhalf.system.child import Child
from tfhalf.verify import version as version_module
from tfhalf.verify.compare import compare_outputs
from tfhalf.verify.process import _ANSWER, Verifier
from tfhalf.verify.report import report, table, uncovered
from tfhalf.verify.scores import by_class
from tfhalf.verify.version import Batches, TestSet, batches_of, compare_rows, compare_version, run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx")

PROBABILITIES = "probabilities"


def limits(max_accuracy_drop: float = 0.1, min_agreement: float = 99.5) -> Limits:
    """As a pipeline has them."""
    return Limits(None, None, min_agreement, max_accuracy_drop)


LOOSE = limits(100.0, 0.0)
TESTED = TestSet(X, Y)


def compared(
    reference: np.ndarray, got: np.ndarray, y: np.ndarray, held_to: Limits, kinds: tuple[str, ...] = ()
) -> OutputParity:
    """Probabilities [N, classes] whose labels are known."""
    outputs = ({PROBABILITIES: reference}, {PROBABILITIES: got})
    (found,) = compare_outputs(*outputs, [PROBABILITIES], held_to, kinds, y)
    return found


CPU = Engine(ONNXRUNTIME, "CPU")


def verified(directory: Path, x: np.ndarray = X, y: np.ndarray = Y) -> list[Comparison]:
    """The comparisons of a version, in this process."""
    return compare_version(open_version(directory), quiet(), TestSet(x, y)).comparisons


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
    told = compared(one_hot(top), one_hot(got), y, limits(0.0, 100 - tenths / 10))
    allowed = max(1, tenths * n // 1000) if tenths else 0
    assert (told.problems == ()) == (differing <= allowed)
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
    told = compared(one_hot(before), one_hot(after), np.zeros(n, int), limits(tenths / 10, 0.0))
    allowed = max(1, tenths * n // 1000) if tenths else 0
    assert (told.problems == ()) == (lost - won <= allowed)
    assert told.accuracy == pytest.approx(100 * won / n)
    assert told.reference_accuracy == pytest.approx(100 * lost / n)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_whatever_is_allowed(bad: float) -> None:
    y = np.array([0, 1, 2, 3])
    got = one_hot(y)
    got[1, 3] = bad
    told = compared(one_hot(y), got, y, LOOSE)
    assert told.problems == ("1 of 16 values are not finite",)
    assert (told.non_finite, told.accuracy, told.agreement) == (1, 75.0, 75.0)
    assert np.isfinite([told.max_difference, told.mean_difference]).all()


def test_differences_and_classes() -> None:
    y = np.array([0, 0, 1, 2])
    reference, got = one_hot(np.array([0, 0, 1, 1])), one_hot(np.array([0, 1, 1, 1]))
    told = compared(reference, got, y, LOOSE)
    assert by_class(told.confusion, 4).recall == (0.5, 1.0, 0.0, None)
    assert (told.accuracy, told.reference_accuracy, told.agreement) == (50.0, 75.0, 75.0)
    assert told.max_difference == pytest.approx(0.6)
    assert told.mean_difference == pytest.approx(0.6 * 2 / 16)
    assert told.problems == ()
    strict = compared(reference, got, y, limits(0.0, 100.0))
    assert strict.problems == (
        "accuracy is 25.00 points lower, 0 allowed",
        "75.00 % have the same top class, 100 % needed",
    )


def test_a_comparison_as_json() -> None:
    y = np.array([0, 0, 1, 2])
    output = compared(one_hot(y), one_hot(np.array([0, 1, 1, 2])), y, limits())
    found = Comparison("onnx", "r", 6, (output,), 1.5, edges=2)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (told["accuracy"], told["reference_accuracy"], told["agreement"]) == (75.0, 100.0, 75.0)
    assert (told["samples"], told["usual"], told["edges"]) == (6, 4, 2)
    assert told["passed"] is True  # one row may differ
    assert "confusion" not in told["outputs"][0]
    assert _ANSWER.validate_json(_ANSWER.dump_json((found,))) == (found,)


def test_without_labels_nothing_is_right() -> None:
    """Whether accuracy is known depends on the reference, and on nothing else."""
    y = np.arange(8) % 4
    (found,) = compare_outputs({"y": one_hot(y)}, {"y": one_hot(y)}, ["y"], Limits())
    assert (found.accuracy, found.agreement, found.confusion) == (None, 100.0, ())
    names, rows = table([Comparison("onnx", "r", 8, (found,), 0.1)])
    assert "accuracy" not in names
    names, rows = table([Comparison("onnx", "r", 8, (compared(one_hot(y), one_hot(y), y, limits()),), 0.1)])
    assert [row[names.index("accuracy")] for row in rows] == ["100.00 %", "100.00 %"]


def test_few_rows_are_held_to_the_scale_of_all() -> None:
    """True float16 runs two rows, and an engine at load perhaps the edge rows alone: one score near 0 sets no scale."""
    y = np.array([[1e-4], [2.0], [-3.0], [5.0]], np.float32)
    edges = Samples({"x": np.zeros((1, 2), np.float32)}, {"y": np.array([[2e-4]], np.float32)})
    reference = Reference(Samples({"x": np.ones((4, 2), np.float32)}, {"y": y}), edges, ("zeros",))
    ports = ((Port("x", "float32", (None, 2)),), (Port("y", "float32", (None, 1)),))
    facts = reference.basis(ReferenceFacts(origin="drawn"))
    files = (Artifact(format="onnx", files=("model.onnx",), bytes=1),)
    manifest = Manifest(
        name="m", created="", inputs=ports[0], outputs=ports[1], artifacts=files, limits=Limits(), reference=facts
    )
    for usual in (0, 1, 4):
        answers = np.concatenate([y[:usual], edges.outputs["y"]])
        (near,) = compare_rows(manifest, reference, {"y": answers + 3e-4}, usual, 1, Limits())
        assert near.problems == ()
        assert near.edge_difference == pytest.approx(3e-4 / 5, rel=1e-3)
        (far,) = compare_rows(manifest, reference, {"y": answers + 3}, usual, 1, Limits())
        assert "edge row 'zeros': the largest difference is 0.6 of the scale, 0.4 allowed" in far.problems
    assert near.scale == 5


class Fake:
    about, engine = "fake", CPU

    def __init__(self, answers: dict[str, np.ndarray]) -> None:
        self.answers, self.seen = answers, []

    def __call__(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert x["image"].dtype == np.float32
        at = sum(self.seen)
        self.seen.append(len(x["image"]))
        return {name: value[at : at + len(x["image"])] for name, value in self.answers.items()}


def test_samples_go_in_batches() -> None:
    y = np.arange(7) % 4
    fake = Fake({"logits": one_hot(y)})
    got, done = Batches(fake, 3, {"image": "float32"}).run({"image": np.zeros((7, 2), np.uint8)})
    assert done == 7
    assert fake.seen == [3, 3, 1]
    np.testing.assert_array_equal(got["logits"], one_hot(y))
    assert run(fake, {}, 3) == {}
    fake = Fake({"logits": one_hot(np.arange(9) % 4)})
    got, done = Batches(fake, 3, {"image": "float32"}, whole=True).run({"image": np.zeros((7, 2), np.uint8)})
    assert (done, len(got["logits"]), fake.seen) == (7, 7, [3, 3, 3])  # on a GPU: a size costs a choice of kernels
    assert [batches_of(count) for count in (1, 37, 359, 10_000)] == [8, 8, 44, 250]


def test_fewer_answers_than_samples_are_refused(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that answers one sample of each batch is not compared on those alone."""

    class One:
        about, engine = "one", CPU

        def __call__(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict.fromkeys(("logits", PROBABILITIES), np.zeros((1, 3), np.float32))

    monkeypatch.setattr(version_module, "open_predictor", lambda directory, runtime: One())
    with pytest.raises(ArtifactError, match=r"probabilities: it gives shape \(\d+, 3\), expected \(\d+, 3\)"):
        verified(version)


def test_answers_of_another_kind_are_refused() -> None:
    y = np.arange(4)
    with pytest.raises(ArtifactError, match="gives logits; expected probabilities"):
        compare_outputs({PROBABILITIES: one_hot(y)}, {"logits": one_hot(y)}, [], limits(), (), y)
    with pytest.raises(ArtifactError, match=r"gives shape \(4, 5\), expected \(4, 4\)"):
        compared(one_hot(y), one_hot(y, 5), y, limits())


def test_the_hash_of_data() -> None:
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    others = [x.reshape(4, 3), x.astype(np.int16), x + 1, x.T]
    assert len({data_sha256(one) for one in (x, *others)}) == 5
    assert data_sha256(x) == data_sha256(np.asfortranarray(x))


def test_reference_round_trip(tmp_path: Path) -> None:
    reference = Reference(
        Samples({}, {PROBABILITIES: one_hot(np.arange(4))}), labels=np.arange(4, dtype=np.int32), digest="ab" * 32
    )
    reference.save(tmp_path)
    again = Reference.load(tmp_path)
    np.testing.assert_array_equal(again.usual.outputs[PROBABILITIES], one_hot(np.arange(4)))
    np.testing.assert_array_equal(again.labels, reference.labels)
    assert (again.digest, again.usual.inputs, again.edge_kinds) == ("ab" * 32, {}, ())
    for content in (b"", b"nothing", (tmp_path / "reference.npz").read_bytes()[:200]):
        (tmp_path / "reference.npz").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"reference.npz: cannot be read: .*; export again"):
            Reference.load(tmp_path)
    (tmp_path / "reference.npz").unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        Reference.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": ""}, "it has no inputs, and no digest of some"),
        ({"labels": np.arange(3)}, r"it holds labels int64 \(3,\) for the answers float32 \(4, 4\)"),
        ({"labels": np.arange(4) + 1}, "it holds labels from 1 to 4 for 4 classes"),
        ({"labels": np.arange(4.0)}, "it holds labels float64"),
        ({"usual": Samples({}, {PROBABILITIES: np.zeros((0, 4), np.float32)})}, "its samples do not go together"),
        ({"usual": Samples({}, {})}, "its samples do not go together"),
    ],
)
def test_a_reference_that_does_not_go_together(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    whole = Reference(Samples({}, {PROBABILITIES: one_hot(np.arange(4))}), labels=np.arange(4), digest="ab" * 32)
    replace(whole, **change).save(tmp_path)
    with pytest.raises(ArtifactError, match=f"{words}.*; it is damaged, export again"):
        Reference.load(tmp_path)


# --- edge rows --------------------------------------------------------------------------------------------------------


def test_edges_of_images_and_of_tables() -> None:
    images = np.random.default_rng(0).integers(3, 250, (30, 4, 4, 3)).astype(np.uint8)
    x, kinds = edge_inputs(images)
    assert kinds == ("zeros", "constant", "smallest", "largest")
    assert (x.dtype, x.shape) == (np.dtype(np.uint8), (4, 4, 4, 3))
    assert [len(np.unique(row)) for row in x[:2]] == [1, 1]
    table = np.stack([np.linspace(1.6e9, 1.7e9, 20), np.linspace(-3, 5, 20)], 1).astype(np.float32)
    x, kinds = edge_inputs(table)
    assert dict(zip(kinds, x.tolist(), strict=True))["zeros"] == [1.5e9, 0]  # no time stamp is 0
    assert dict(zip(kinds, x.tolist(), strict=True))["largest"] == pytest.approx([1.7e9, 5])
    assert edge_inputs(np.zeros((5, 3)))[1] == ("zeros",)


@pytest.mark.parametrize(
    ("row", "answer", "problem"),
    [
        (0, np.nan, "edge row 'zeros': 1 of 4 values are not finite"),
        (1, 0.4, "edge row 'largest': the largest difference is 0.3 of the scale, 0.25 allowed"),
        (1, 0.2, None),
        (2, 0.9, None),  # float32 gives nothing there
    ],
)
def test_edge_rows_are_compared_apart(row: int, answer: float, problem: str | None) -> None:
    y = np.arange(12) % 4
    reference = one_hot(np.array([0, 1, 2]))
    reference[2] = np.nan
    got = one_hot(np.array([0, 1, 2]))
    got[row, 3] = answer
    kinds = (*["given"] * 12, "zeros", "largest", "constant")
    whole = (np.concatenate([one_hot(y), reference]), np.concatenate([one_hot(y), got]))
    told = compared(*whole, y, limits(), kinds)
    assert told.problems == ((problem,) if problem else ())
    assert (told.accuracy, told.non_finite) == (100.0, 0)


def test_edges_lie_beside_the_answers(tmp_path: Path) -> None:
    y = np.arange(8) % 4
    edges = Samples({"image": np.zeros((2, 5), np.uint8)}, {PROBABILITIES: one_hot(np.array([1, 2]))})
    whole = Reference(Samples({}, {PROBABILITIES: one_hot(y)}), edges, ("zeros", "largest"), y, "0" * 64)
    whole.save(tmp_path)
    again = Reference.load(tmp_path)
    assert again.edge_kinds == ("zeros", "largest")
    np.testing.assert_array_equal(again.edges.outputs[PROBABILITIES], edges.outputs[PROBABILITIES])
    for damaged in (
        replace(whole, edge_kinds=("zeros",)),
        replace(whole, edges=replace(edges, outputs={PROBABILITIES: np.zeros((2, 3))})),
    ):
        damaged.save(tmp_path)
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
        told = verifier(version, TESTED)
    assert [(c.artifact, c.usual) for c in told] == [
        ("savedmodel", 40),
        ("onnx", 40),
        ("onnx, OpenVINO", 40),
        ("onnx, first 10", 10),
    ]
    for one in told:
        assert one.passed, one.problems
        assert one.worst("agreement") == 100
        assert one.worst("max_difference") < 0.005
        assert one.worst("edge_non_finite") == 0
        assert one.worst("edge_difference") < 0.01
    assert [c.runtime.split()[0] for c in told] == ["TensorFlow", "onnxruntime", "OpenVINO", "true"]
    here = verified(version)
    assert [replace(c, seconds=0.0) for c in here] == [replace(c, seconds=0.0) for c in told]
    text = report(manifests.read(version), told)
    assert f"| b | {100 * by_class(told[0].confusion, 3).recall[1]:.2f} % |" in text
    assert len(table(told)[1]) == 5
    assert [sum(count for *_, count in c.confusion) for c in told] == [40, 40, 40, 10]
    assert "Falls short" not in text


@pytest.mark.slow
def test_what_a_second_runtime_does_not_open(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(directory: Path, runtime: str) -> Any:
        if runtime in ("onnx-openvino", "onnx-float16"):
            raise UnsupportedError(directory / "model.onnx", "does not open: no such operator")
        return open_predictor(directory, runtime)

    monkeypatch.setattr(version_module, "open_predictor", opened)
    told = verified(version)
    assert all(c.passed for c in told)
    assert [c.not_covered for c in told] == ["", "", *["does not open: no such operator"] * 2]
    json.dumps([c.to_dict() for c in told], allow_nan=False)
    text = report(manifests.read(version).model_copy(update={"not_covered": tuple(uncovered(told))}), told)
    assert text.count("not covered |") == 2
    assert "- onnx, OpenVINO was not compared in OpenVINO: does not open: no such operator" in text


def test_another_test_set_is_refused(version: Path) -> None:
    for x, y in ((X + 1, Y), (X, np.roll(Y, 1)), (X[:39], Y[:39]), (X.astype(np.int16), Y)):
        with pytest.raises(
            ArtifactError, match=r"was made with another test set .40 samples, npz:a.npz.; verify with the same"
        ):
            verified(version, x, y)


def test_a_tampered_version_is_refused(tmp_path: Path) -> None:
    export(tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model.onnx: is not the file that was published"):
        verified(tmp_path)


def test_an_artifact_of_other_weights_falls_short(tmp_path: Path) -> None:
    export(tmp_path, spoil=lambda model: model.layers[-1].kernel.assign(-np.asarray(model.layers[-1].kernel)))
    told = verified(tmp_path)
    assert len(told) == 4
    assert not any(c.passed for c in told)
    assert all("% have the same top class, 99.5 % needed" in " ".join(c.problems) for c in told)
    assert "Falls short" in report(manifests.read(tmp_path), told)


class Slow:
    """Answers after a while, until it has been asked 200 times."""

    about, engine = "slow", CPU

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches += 1
        assert self.batches < 200
        time.sleep(0.02)
        return dict.fromkeys(("logits", "probabilities"), np.zeros((len(x["image"]), 3), np.float32))


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

    monkeypatch.setattr(version_module, "open_predictor", opened)
    monkeypatch.setattr(version_module, "batches_of", lambda count: 1)
    many = 300 // len(X)
    reference = Reference.load(version)
    again = Reference(
        Samples({}, {PROBABILITIES: np.tile(reference.usual.outputs[PROBABILITIES], (many, 1))}),
        labels=np.tile(Y, many),
        digest=data_sha256(np.tile(X, (many, 1, 1, 1))),
    )
    monkeypatch.setattr(Reference, "load", lambda directory: again)
    with pytest.raises(error, match="it does not open"):
        verified(version, np.tile(X, (many, 1, 1, 1)), np.tile(Y, many))
    assert 1 <= beside.batches < 200


# --- the fresh process ------------------------------------------------------------------------------------------------


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
            assert runs(pids[0])
            raise ZeroDivisionError

    pids: list[int] = []
    with pytest.raises(ZeroDivisionError):
        training_fails()
    assert len(set(pids)) == 1
    assert_gone(pids[0])


@pytest.mark.slow
def test_one_that_died_early_is_replaced(version: Path) -> None:
    with Verifier(quiet()) as verifier:
        verifier.start()
        first = pid_of(verifier)
        os.kill(first, signal.SIGKILL)
        told = verifier(version, TESTED)
    assert_gone(first)
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
            while runs(started[1]):
                time.sleep(0.001)

    with Verifier(quiet()) as verifier:
        really_start = verifier.start
        monkeypatch.setattr(verifier, "start", start)
        verifier.start()
        assert len(verifier(version, TESTED)) == 4
    assert started[0] == started[1] != started[2]
    for pid in started:
        assert_gone(pid)


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
        verifier(version, TestSet(X + 1, Y))


def test_its_end_without_a_word_is_told(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Verifier(quiet()) as verifier:
        verifier.start()
        with pytest.raises(ParityError, match="failed: it ended with code 1"):
            verifier(version, TESTED)


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
