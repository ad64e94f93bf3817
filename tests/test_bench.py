"""``tfhalf bench``: what is counted, what is timed, what is said, and that a row that fails says so in one line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner, Result
from keras import layers, ops

from tfhalf.bench import flops, fresh, inference, matrix, plots, run, runtimes, tables, training
from tfhalf.bench.results import Cell, Inference, InferenceBench, Training, TrainingBench
from tfhalf.cli import main
from tfhalf.data import memory
from tfhalf.device import cpu
from tfhalf.errors import ArtifactError, DataError, InputError, ShortfallError, TrainingError
from tfhalf.progress import Progress

CHECKOUT = Path(__file__).resolve().parent.parent
DIGITS = CHECKOUT / "pipelines" / "digits.yaml"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)], catch_exceptions=False)


def refused(result: Any, code: int = 2) -> str:
    """One line on standard error and nothing on standard output; returns the message."""
    exit_code = result.exit_code if isinstance(result, Result) else result.returncode
    assert exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return str(result.stderr.removeprefix("error: ").rstrip("\n"))


# --- operations, counted by hand --------------------------------------------------------------------------------------


def work(*stack: Any, shape: tuple[int, ...], trained: Callable[[str], bool] = lambda path: True) -> flops.Work:
    """Of a model of these layers, on a batch of two."""
    image = keras.Input(shape)
    x = image
    for layer in stack:
        x = layer(x)
    model = keras.Model(image, x)
    return flops.count(model, shape, 2, [v for v in model.trainable_variables if trained(v.path)])


def test_dense_layers() -> None:
    """The first multiplies twice as often as its forward pass in a step, the second three times: nobody asks for the
    gradient of the image."""
    first, second = 2 * 2 * 12 * 7, 2 * 2 * 7 * 5
    found = work(layers.Dense(7, activation="relu"), layers.Dense(5), shape=(12,))
    assert found == flops.Work(first + second, 2 * first + 3 * second, ())


def test_a_small_convolutional_net() -> None:
    one = 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)  # same padding: as many places as pixels
    two = 2 * (2 * 3 * 3 * 6) * (3 * 3 * 4)  # valid and strided: 3x3 places
    head = 2 * 2 * 6 * 10
    found = work(
        layers.Conv2D(4, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(6, 3, strides=2),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
        shape=(8, 8, 3),
    )
    assert found == flops.Work(one + two + head, 2 * one + 3 * (two + head), ())
    assert (one, two, head) == (27648, 7776, 240)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_counts_the_same(policy: str) -> None:
    plain = work(layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3), shape=(6, 6, 2))
    half = [layers.Conv2D(4, 3, dtype=policy), layers.Flatten(dtype=policy), layers.Dense(3, dtype=policy)]
    assert work(*half, shape=(6, 6, 2)) == plain


def test_other_convolutions() -> None:
    depthwise = 2 * (2 * 6 * 6 * 8) * (3 * 3)
    pointwise = 2 * (2 * 6 * 6 * 5) * 8
    found = work(layers.SeparableConv2D(5, 3, depth_multiplier=2), shape=(8, 8, 4))
    assert found == flops.Work(depthwise + pointwise, 2 * depthwise + 3 * pointwise, ())
    transposed = 2 * (2 * 4 * 4 * 3) * (3 * 3 * 7)  # each of 4x4x3 values goes to 3x3x7 places
    assert work(layers.Conv2DTranspose(7, 3, strides=2), shape=(4, 4, 3)) == flops.Work(transposed, 2 * transposed, ())
    grouped = 2 * (2 * 6 * 6 * 8) * (3 * 3 * 2)  # traced as a function of its own
    assert work(layers.Conv2D(8, 3, groups=2), shape=(8, 8, 4)) == flops.Work(grouped, 2 * grouped, ())
    volume = 2 * (2 * 3 * 3 * 3 * 5) * (2 * 2 * 2 * 4)
    assert work(layers.Conv3D(5, 2), shape=(4, 4, 4, 4)) == flops.Work(volume, 2 * volume, ())


def test_attention_is_a_product_of_two_things_that_are_learned() -> None:
    """Queries, keys and values of the input: twice; scores, what they weigh and the output: three times."""
    projection, scores, output = 2 * (2 * 9 * 8) * 6, 2 * (2 * 2 * 9 * 9) * 4, 2 * (2 * 9 * 6) * 8
    attention = layers.MultiHeadAttention(2, 4)
    found = work(lambda x: attention(x, x), shape=(9, 6))
    assert found.uncounted == ()
    assert found.forward == 3 * projection + 2 * scores + output
    assert found.step == 2 * 3 * projection + 3 * (2 * scores + output)


@pytest.mark.parametrize(
    ("equation", "left", "right", "multiply_adds"),
    [
        ("ab,bc->ac", (3, 4), (4, 5), 3 * 4 * 5),
        ("...ab,...bc->...ac", (7, 1, 3, 4), (6, 4, 5), 7 * 6 * 3 * 4 * 5),
        ("ab,ab->", (3, 4), (3, 4), 12),
    ],
)
def test_einsum(equation: str, left: tuple[int, ...], right: tuple[int, ...], multiply_adds: int) -> None:
    graph = tf.Graph()
    with graph.as_default():
        op = tf.raw_ops.Einsum(inputs=[tf.ones(left), tf.ones(right)], equation=equation).op
    assert flops._einsum(op) == multiply_adds


def test_einsum_of_one_operand_and_transposed_products() -> None:
    graph = tf.Graph()
    with graph.as_default():
        assert flops._einsum(tf.raw_ops.Einsum(inputs=[tf.ones([3, 4])], equation="ab->ba").op) == 0
        assert flops._matrix(tf.matmul(tf.ones([4, 3]), tf.ones([5, 4]), True, True).op) == 3 * 4 * 5
        product = tf.matmul(tf.ones([2, 4, 3]), tf.ones([2, 5, 4]), adjoint_a=True, adjoint_b=True).op
        assert product.type.startswith("BatchMatMul")
        assert flops._batch_matrix(product) == 2 * 3 * 4 * 5


def test_what_is_frozen_costs_its_forward_pass_alone() -> None:
    """As in speednet: the first convolution is not trained, so the one after it has no input's gradient to compute."""
    one, two, head = 2 * (2 * 6 * 6 * 4) * 27, 2 * (2 * 4 * 4 * 4) * 36, 2 * 2 * 64 * 3
    stack = [layers.Conv2D(4, 3, name="frozen"), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    found = work(*stack, shape=(8, 8, 3), trained=lambda path: not path.startswith("frozen"))
    assert found == flops.Work(one + two + head, one + 2 * two + 3 * head, ())
    assert work(layers.Dense(3), shape=(4,), trained=lambda path: False).step == 2 * 2 * 4 * 3


def test_a_stopped_gradient_stops_the_count() -> None:
    first, second = 2 * 2 * 4 * 3, 2 * 2 * 3 * 5
    found = work(layers.Dense(3), layers.Lambda(ops.stop_gradient), layers.Dense(5), shape=(4,))
    assert found.step == 2 * first + 2 * second


def test_what_cannot_be_counted_is_named() -> None:
    found = work(layers.LSTM(3), layers.Dense(2), shape=(5, 4))
    assert found.uncounted == ("products within While",)
    assert work(layers.RandomFlip(), layers.Flatten(), layers.Dense(2), shape=(4, 4, 3)).uncounted == ()
    assert work(layers.Lambda(lambda x: x[:, : tf.size(tf.where(x[0] > 0))] @ tf.ones([1, 4]), output_shape=(4,)),
                shape=(1,)).uncounted == ("MatMul of unknown shape",)  # fmt: skip


# --- rates and memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_rate_of_matrix_products(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "_CPU_SIDE", 256)
    monkeypatch.setattr(matrix, "_PATIENCE", 0.2)
    found = matrix.peak(dtype, cpu())
    assert found.matrix == f"{dtype} 256x256"
    assert 1e7 < found.flops < 1e14


def test_a_rate_is_operations_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a quarter of a second whenever it is looked at."""
    monkeypatch.setattr(matrix, "_CPU_SIDE", 64)
    monkeypatch.setattr(matrix, "_CPU_CHAIN", 3)
    now = iter(i / 4 for i in range(10_000))
    monkeypatch.setattr(matrix, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert matrix.peak("float32", cpu()).flops == pytest.approx(2 * 64**3 * 3 / 0.25)


def test_products_of_products_keep_their_size() -> None:
    """Zeros and infinities would save a device power, and so show a rate that training cannot have."""
    left, right = matrix._matrices(256, "float16")
    for _ in range(8):
        left = tf.matmul(left, right)
    assert 0.2 < float(tf.math.reduce_std(tf.cast(left, tf.float32))) < 5


def test_the_peak_of_memory_is_this_process_own() -> None:
    bytes_, whose = training.memory_peak(cpu())
    assert whose == "host, the whole process"
    held = np.ones(2**26, np.uint8)
    assert training.memory_peak(cpu())[0] >= max(bytes_, held.nbytes)
    code = (
        "import json; from tfhalf.bench.training import memory_peak; from tfhalf.device import cpu; "
        "before = memory_peak(cpu())[0]; import numpy; x = numpy.ones(3 * 10**8, numpy.uint8); "
        "print(json.dumps([before, memory_peak(cpu())[0]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    before, after = json.loads(done.stdout)
    assert 2.5e8 < after - before < 3.5e8


# --- what is timed ----------------------------------------------------------------------------------------------------


class Variable:
    def __init__(self, value: float) -> None:
        self.value = np.float32(value)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.value)

    def assign(self, value: Any) -> None:
        self.value = np.float32(value)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(training, "time", made)
    monkeypatch.setattr(inference, "time", made)
    return made


class Trainer:
    """A trainer of 10 images in steps of two; a step takes ``seconds`` and moves the one weight."""

    def __init__(self, clock: Clock, seconds: float, stops: bool = False) -> None:
        self.clock, self.seconds, self.rows, self.stops = clock, seconds, 3, stops
        self.batch_size, self.steps_per_epoch = 2, 5
        self.weight = Variable(7.0)
        self.model = SimpleNamespace(variables=[self.weight])
        self.scale = Variable(1024)
        self.optimizer = SimpleNamespace(variables=[self.scale], dynamic_scale=self.scale)
        self.device = cpu()
        self.pipeline = SimpleNamespace(precision=SimpleNamespace(policy="float32"))
        self.calls: list[tuple[int, int, list[list[int]], float]] = []
        self.announced: list[list[list[int]]] = []
        self.feed = self
        self.measured = 0

    def measure_step(self) -> float:
        self.measured += 1
        return self.seconds

    def order(self, epoch: int) -> np.ndarray:
        return np.arange(10, dtype=np.int32).reshape(5, 2) + 100 * epoch

    def announce(self, order: np.ndarray) -> None:
        self.announced.append(order.tolist())

    def __call__(self, order: np.ndarray, epoch: int, first_step: int) -> Any:
        self.calls.append((epoch, first_step, order.tolist(), float(self.weight.value)))
        self.weight.value += len(order)
        self.scale.value /= 2
        self.clock.now += self.seconds * len(order)
        done = 0 if self.stops else len(order)
        return SimpleNamespace(steps=done, finite=np.array([False] + [True] * len(order))[:done])


def timed(trainer: Trainer) -> training._Timed:
    return training._Timed(trainer, Progress(quiet=True))  # type: ignore[arg-type]


def test_calls_are_training_s_own(clock: Clock) -> None:
    """Three steps, two, three, two: through each epoch's order, each call told of the one after it."""
    trainer = Trainer(clock, 0.001)
    timed(trainer).repeats(1, 0.05)
    epochs = [(epoch, first) for epoch, first, _, _ in trainer.calls]
    assert epochs[:5] == [(0, 0), (0, 3), (1, 5), (1, 8), (2, 10)]
    assert trainer.calls[1][2] == [[6, 7], [8, 9]]
    assert trainer.calls[2][2] == [[100, 101], [102, 103], [104, 105]]
    asked = [rows for _, _, rows, _ in trainer.calls]
    assert trainer.announced[:-1] == asked[1:]
    assert trainer.measured == 1


def test_every_repeat_takes_its_seconds_from_the_same_weights(clock: Clock) -> None:
    trainer = Trainer(clock, 0.002)
    found = timed(trainer)
    samples = found.repeats(4, 0.06)
    assert samples == pytest.approx([2 / 0.002] * 4)
    starts = [i for i, one in enumerate(trainer.calls) if one[3] == 7.0]
    assert len(starts) == 1 + 4  # once to warm up
    steps = sum(len(rows) for _, _, rows, _ in trainer.calls[starts[1] :])
    assert found.steps == steps
    assert found.skipped == len(trainer.calls) - starts[1]
    assert 0.95 * 4 * 0.06 < steps * 0.002 < 1.05 * 4 * 0.06
    assert trainer.scale.value == 1024 / 2 ** len(trainer.calls)  # which has settled once it has


@pytest.mark.parametrize(("seconds", "repeats"), [(13, 2), (100, 1), (2, 5)])
def test_slow_steps_end_the_repeats_early(clock: Clock, seconds: float, repeats: int) -> None:
    """Five repeats of 2 s: up to 20 s. A repeat holds at least one step, and there is at least one repeat."""
    trainer = Trainer(clock, seconds)
    assert timed(trainer).repeats(5, 2.0) == pytest.approx([2 / seconds] * repeats)
    assert [len(rows) for _, _, rows, _ in trainer.calls] == [1] * repeats


def test_a_gpu_s_memory_is_looked_at_while_training_is_timed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warming up is over: what compilation tries out does not count."""
    reset: list[tuple[str, int]] = []
    trainer = Trainer(clock, 0.001)
    trainer.device = replace(cpu(), kind="GPU")
    experimental = tf.config.experimental
    monkeypatch.setattr(experimental, "reset_memory_stats", lambda name: reset.append((name, len(trainer.calls))))
    monkeypatch.setattr(experimental, "get_memory_info", lambda name: {"current": 1, "peak": {"GPU:0": 7}[name]})
    timed(trainer).repeats(2, 0.05)
    starts = [i for i, one in enumerate(trainer.calls) if one[3] == 7.0]
    assert reset == [("GPU:0", starts[1])]
    assert training.memory_peak(trainer.device) == (7, "GPU")


def test_training_that_stands_still_is_an_error(clock: Clock) -> None:
    with pytest.raises(TrainingError, match="too many steps in a row"):
        timed(Trainer(clock, 0.001, stops=True)).repeats(1, 0.05)


MANIFEST: dict[str, Any] = {
    "input": {"shape": ["batch", 4, 4, 3]},
    "data": {"source": "tfds:cifar10", "preprocess": {"mean": [100.0], "std": [50.0]}},
}


def test_images_for_an_export() -> None:
    x = inference.images(MANIFEST, 64)
    assert x.shape == (64, 4, 4, 3)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (1, 255)
    assert (x == x.round()).all()
    assert np.array_equal(x, inference.images(MANIFEST, 64))
    mine = {**MANIFEST, "data": {"source": "npz:mine.npz", "preprocess": {"mean": [3.0, 5.0], "std": [1.0, 2.0]}}}
    x = inference.images(mine, 64)
    assert 2.5 <= x.min() < 2.6
    assert 5.4 < x.max() <= 5.5
    for preprocess in ({"mean": [0.0], "std": [255.0]}, {}):  # normalize: unit, and a manifest that does not say
        x = inference.images({**MANIFEST, "data": {"source": "a.py:load", "preprocess": preprocess}}, 64)
        assert x.min() > 0
        assert x.max() <= (255 if preprocess else 1)


@pytest.mark.parametrize("shape", [["batch"], ["batch", 0], ["batch", "wide"], ["batch", -3]])
def test_a_shape_that_is_none(shape: list[Any]) -> None:
    with pytest.raises(ArtifactError, match=r"input\.shape is .* damaged"):
        inference.images({**MANIFEST, "input": {"shape": shape}}, 2)


def test_a_batch_that_the_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10**5)
    with pytest.raises(DataError, match=r"take a smaller batch \(--batch-sizes\)"):
        inference.images(MANIFEST, 1000)


@pytest.mark.parametrize(
    ("pause", "seconds", "calls"), [(0.01, 0.1, 30), (0.01, 1.0, 101), (3.0, 2.0, 4), (60.0, 2.0, 1)]
)
def test_a_cell_holds_thirty_calls_unless_they_are_slow(clock: Clock, pause: float, seconds: float, calls: int) -> None:
    """Five times its seconds are the most that a call is begun after."""
    asked = []

    def answer(x: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(len(x))
        clock.now += pause
        return {}

    cell = inference._cell(answer, np.zeros((4, 2)), seconds)  # type: ignore[arg-type]
    warm = len(asked) - cell.calls
    assert (cell.batch_size, cell.calls) == (4, pytest.approx(calls, abs=1 if calls > 30 else 0))
    assert 1 <= warm <= 3
    assert cell.warm_up_seconds == pytest.approx(warm * pause)
    assert (cell.p50_ms, cell.p99_ms) == pytest.approx((1000 * pause, 1000 * pause))
    assert cell.images_per_s == pytest.approx(4 / pause)


def test_percentiles_of_a_cell(clock: Clock) -> None:
    pauses = iter([9.0] * 3 + [0.001 * (k + 1) for k in range(1000)])

    def answer(x: np.ndarray) -> dict[str, np.ndarray]:
        clock.now += next(pauses)
        return {}

    cell = inference._cell(answer, np.zeros((1, 2)), 100.0)  # type: ignore[arg-type]
    assert cell.p50_ms == pytest.approx(cell.calls / 2, abs=1)
    assert cell.p99_ms == pytest.approx(cell.calls * 0.99, abs=1)


def measured(monkeypatch: pytest.MonkeyPatch, runtime: str, opens: Callable[..., Any]) -> Inference:
    """An export whose files are all there, in a runtime that ``opens`` as it says."""
    monkeypatch.setattr(inference.manifests, "read", lambda where: MANIFEST)
    monkeypatch.setattr(inference.manifests, "check_files", lambda where, manifest: None)
    monkeypatch.setattr(inference, "missing", lambda where, runtime: "")
    monkeypatch.setattr(inference, "open_runtime", opens)
    monkeypatch.setattr(inference, "grow_memory", lambda: None)
    return inference.measure(
        directory="exports/net/1", runtime=runtime, batch_sizes=[8, 1, 4], seconds=0.001, progress=Progress(quiet=True)
    )


def test_a_batch_size_that_fails_leaves_the_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        runtime = "a small one"

        def __call__(self, x: np.ndarray) -> dict[str, np.ndarray]:
            if len(x) > 4:
                raise ValueError("out of\nmemory")
            return {}

    row = measured(monkeypatch, "onnx-cpu", lambda where, runtime: Small())
    assert [cell.batch_size for cell in row.cells] == [1, 4]
    assert row.computed_by == "a small one"
    assert row.error == "batch 8: ValueError: out of memory; leave it out of --batch-sizes"
    assert row.note == ""


def test_a_gpu_runtime_that_does_not_start_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(where: Path, runtime: str) -> Any:
        raise ArtifactError("could not start CUDAExecutionProvider")

    row = measured(monkeypatch, "onnx-cuda", opens)
    assert (row.cells, row.error) == ((), "")
    assert row.note == "not available: could not start CUDAExecutionProvider"
    with pytest.raises(ArtifactError):
        measured(monkeypatch, "onnx-cpu", opens)


def test_a_runtime_that_cannot_be_had(tmp_path: Path) -> None:
    assert runtimes.missing(tmp_path, "savedmodel-xla") == "the version holds no saved_model.pb"
    assert runtimes.missing(tmp_path, "onnx-cuda") == "the version holds no model.onnx"
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    assert runtimes.missing(tmp_path, "onnx-cpu") == ""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert "onnxruntime-gpu brings CUDA" in runtimes.missing(tmp_path, "onnx-cuda")
    with pytest.raises(ArtifactError, match="does not open in ONNX Runtime, CPU"):
        runtimes.open_runtime(tmp_path, "onnx-cpu")


# --- what is said -----------------------------------------------------------------------------------------------------

ROW = Training(
    policy="float32",
    samples=(90.0, 100.0, 120.0),
    batch_size=20,
    steps=300,
    skipped=0,
    compile_seconds=12.3,
    memory_bytes=5_000_000,
    memory_of="GPU",
    flops_forward=4 * 10**11,
    flops_step=10**12,
    uncounted=(),
    matrix="float32 8192x8192, TF32",
    matrix_flops=25e12,
    device="NVIDIA H200, compute capability 9.0, 139.8 GiB, float16 Tensor Cores, 16 CPU cores",
    device_kind="GPU",
    emulated=False,
    model="../models/net.py:build",
    parameters=1_234_567,
    input_shape=(224, 224, 3),
    feed="resident: 1 MB",
    xla="XLA is on",
)
HALF = replace(
    ROW, policy="mixed_float16", samples=(200.0, 250.0, 260.0), matrix="float16 8192x8192", matrix_flops=5e13
)
TRAINED = TrainingBench("net", {"repeats": 3, "seconds": 2.0}, {"python": "3.12"}, (HALF, ROW), ())
CELLS = (Cell(1, 100, 1.5, 2.5, 600.0, 0.4), Cell(8, 50, 3.0, 5.0, 2500.0, 0.1))
SERVED = InferenceBench(
    "exports/net/3",
    (8, 8, 1),
    {"batch_sizes": [1, 8], "seconds": 2.0},
    {"python": "3.12"},
    (
        Inference("savedmodel", "TensorFlow", "AMD EPYC, 23.5 GiB, float16 emulated, 2 CPU cores", CELLS),
        Inference("onnx-cuda", "ONNX Runtime, CUDA", "AMD EPYC", (), note="not available: no CUDA here"),
    ),
    (),
)


def text(found: TrainingBench | InferenceBench) -> list[list[str]]:
    """The table's cells."""
    return [list(row) for row in zip(*(column._cells for column in tables.table(found).columns), strict=True)]


def test_shares_and_ratios() -> None:
    assert ROW.images_per_s == 100
    assert ROW.steps_per_s == 5
    assert ROW.spread == pytest.approx(0.3)
    assert ROW.mfu == pytest.approx(10**12 * 5 / 25e12)
    assert replace(ROW, uncounted=("products within While",)).mfu is None
    assert replace(ROW, flops_step=0).mfu is None
    assert TRAINED.ratio(HALF) == 2.5
    assert replace(TRAINED, rows=(HALF,)).ratio(HALF) is None


def test_the_table_of_a_training() -> None:
    shared = ["12.3 s", "5.00 MB", "1,000"]
    assert text(TRAINED) == [
        ["mixed_float16", "250", "200", "260", "24.0 %", "12.5", "2.50", *shared, "50.0", "25.0 %"],
        ["float32", "100", "90.0", "120", "30.0 %", "5.00", "1.00", *shared, "25.0", "20.0 %"],
    ]
    said = "\n".join(tables.heading(TRAINED))
    for word in ("net: ../models/net.py:build, 1,234,567 parameters", "NVIDIA H200", "python 3.12", "20 images",
                 "resident: 1 MB", "XLA is on", "float16 8192x8192, float32 8192x8192, TF32"):  # fmt: skip
        assert word in said
    assert "emulated" not in said
    assert tables.notes(TRAINED) == []


@pytest.mark.parametrize("found", [TRAINED, SERVED], ids=["training", "inference"])
def test_a_narrow_terminal_cuts_no_figure(
    found: TrainingBench | InferenceBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    tables.show(found, Progress(quiet=True))
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [" ".join(row).strip() for row in text(found)]


def test_notes_of_a_training() -> None:
    odd = replace(HALF, emulated=True, skipped=4, samples=(1.0,), uncounted=("products within While",))
    found = replace(TRAINED, rows=(odd,))
    assert "emulated" in tables.heading(found)[-1]
    skipped, slow, uncounted = tables.notes(found)
    assert skipped == "mixed_float16: 4 of 300 steps were skipped for a non-finite gradient"
    assert "1 of 3 repeats" in slow
    assert "products within While" in uncounted
    assert text(found)[0][6] == text(found)[0][-1] == "-"


def test_the_table_of_an_export() -> None:
    assert text(SERVED) == [
        ["SavedModel", "1", "1.50", "2.50", "600", "100", "0.4 s"],
        ["", "8", "3.00", "5.00", "2,500", "50", "0.1 s"],
        ["ONNX Runtime, CUDA", *["-"] * 6],
    ]
    assert tables.notes(SERVED) == ["ONNX Runtime, CUDA: not available: no CUDA here"]
    assert "exports/net/3: input (8, 8, 1)" in tables.heading(SERVED)[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.0005, "0.0005"),
        (0.0123, "0.012"),
        (0.5, "0.50"),
        (9.876, "9.88"),
        (98.76, "98.8"),
        (1234.5, "1,234"),
    ],
)
def test_numbers(value: float, words: str) -> None:
    assert tables.number(value) == words


def test_pictures_of_a_training(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.draw(TRAINED, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    plots.draw(TRAINED, tmp_path / "a.svg")
    said = (tmp_path / "a.svg").read_text()
    for word in ("mixed_float16", "float32", "images per second", "net: training throughput, batch 20", "NVIDIA H200",
                 "2.50 x float32", "MFU 25.0 %", "250 images/s"):  # fmt: skip
        assert f"<!-- {word} -->" in said, word
    plots.draw(replace(TRAINED, rows=(replace(ROW, samples=(5.0,), uncounted=("x",)),)), tmp_path / "one.png")


def test_a_picture_of_an_export(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.draw(SERVED, tmp_path / "a.svg")
    said = (tmp_path / "a.svg").read_text()
    for word in (
        "SavedModel",
        "milliseconds",
        "images per second",
        "images in a call (batch size)",
        "AMD EPYC, 2 CPU cores",
    ):
        assert f"<!-- {word} -->" in said, word
    assert "exports/net/3" in said
    assert "CUDA" not in said


@pytest.mark.parametrize("name", ["a.gif", "a", "nowhere/a.png", "folder.png"])
def test_a_picture_that_cannot_be_made_is_told_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    message = refused(call(DIGITS, "--plot", tmp_path / name))
    assert message.startswith(f"--plot {tmp_path / name}: accepted: ")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "--plot needs matplotlib" in refused(call(DIGITS, "--plot", tmp_path / "a.png"))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.yaml"], "absent.yaml: does not exist; give a pipeline file, exports/NAME or exports/NAME/VERSION"),
        (["exports/absent"], "exports/absent: does not exist"),
        (
            [DIGITS, "--policies", "float16"],
            "--policies: 'float16' is not one of mixed_float16, mixed_bfloat16, float32",
        ),
        ([DIGITS, "--policies", "float32,"], "--policies: '' is not one of"),
        ([DIGITS, "--policies", "float32,float32"], "--policies: float32, float32 holds a name twice"),
        ([DIGITS, "--batch-sizes", "1,8"], f"{DIGITS} is a pipeline file, which takes no --batch-sizes"),
        ([DIGITS, "--set", "precision.policy=float32"], "give --policies instead"),
        ([DIGITS, "--set", "train.epocs=3"], "did you mean 'epochs'?"),
        ([DIGITS, "--seconds", "nan"], "--seconds: received nan; accepted: above 0, up to 3600"),
        ([DIGITS, "--seconds", "0"], "--seconds: received 0; accepted"),
        (["empty", "--seconds", "4000"], "--seconds: received 4000; accepted"),
        (["empty"], "holds no exported version"),
        (["empty", "--policies", "float32", "--repeats", "3"], "is an export, which takes no --policies, --repeats"),
        (["empty", "--set", "seed=1", "--data-dir", "x"], "takes no --set, --data-dir"),
        (
            ["empty", "--batch-sizes", "1,0"],
            "--batch-sizes: '0' is no batch size; accepted: whole numbers from 1 to 65536",
        ),
        (["empty", "--batch-sizes", "1,x"], "--batch-sizes: 'x' is no batch size"),
        (["empty", "--batch-sizes", ""], "--batch-sizes: '' is no batch size"),
    ],
)
def test_bad_arguments(arguments: list[Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()

    def never(*_: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(run, "ask", never)
    assert words in refused(call(*arguments))


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--seconds", "x"], ["--repeats", "x"]])
def test_usage_errors(arguments: list[str]) -> None:
    result = call(DIGITS, *arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_one_policy_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(request: dict[str, Any], name: str, progress: Progress) -> dict[str, Any]:
        assert request["kind"] == "training"
        if request["policy"] == "float32":
            raise ShortfallError("float32: out of memory")
        return {**HALF.__dict__, "policy": name, "samples": [1.0], "input_shape": [8], "uncounted": []}

    monkeypatch.setattr(run, "ask", ask)
    result = call(DIGITS, "--json")
    assert result.exit_code == 1
    assert result.stderr == "error: float32: out of memory\n"
    told = json.loads(result.stdout)
    assert [row["policy"] for row in told["policies"]] == ["mixed_float16", "mixed_bfloat16"]
    assert told["failed"] == [{"name": "float32", "error": "float32: out of memory"}]
    assert told["policies"][0]["ratio_to_float32"] is None
    assert refused(call(DIGITS, "--policies", "float32"), 1) == "float32: out of memory"


def test_one_runtime_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cell = {"batch_size": 1, "calls": 30, "p50_ms": 1.0, "p99_ms": 2.0, "images_per_s": 900.0, "warm_up_seconds": 0.1}

    def ask(request: dict[str, Any], name: str, progress: Progress) -> dict[str, Any]:
        runtime = request["runtime"]
        if runtime == "savedmodel":
            raise ShortfallError(f"{name}: it died")
        row = {"runtime": runtime, "computed_by": "x", "device": "y", "note": "", "error": ""}
        return {**row, "cells": [cell], "error": "batch 8: no" if runtime == "onnx-cpu" else ""}

    monkeypatch.setattr(run, "ask", ask)
    monkeypatch.setattr(run.manifests, "read", lambda where: MANIFEST)
    monkeypatch.setattr(run.manifests, "check_files", lambda where, manifest: None)
    (tmp_path / "manifest.json").write_text("{}")
    result = call(tmp_path, "--json")
    assert result.exit_code == 1
    assert result.stderr == "error: SavedModel: it died; ONNX Runtime, CPU: batch 8: no\n"
    told = json.loads(result.stdout)
    assert [row["runtime"] for row in told["runtimes"]] == ["savedmodel-xla", "onnx-cpu", "onnx-cuda"]
    assert [one["name"] for one in told["failed"]] == ["savedmodel", "onnx-cpu"]


def test_an_input_at_fault_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(request: dict[str, Any], name: str, progress: Progress) -> dict[str, Any]:
        asked.append(name)
        raise InputError(f"{name}: npz:absent.npz does not exist")

    monkeypatch.setattr(run, "ask", ask)
    assert refused(call(DIGITS)) == "mixed_float16: npz:absent.npz does not exist"
    assert asked == ["mixed_float16"]


# --- processes --------------------------------------------------------------------------------------------------------

NET = """
import os, signal, sys, time
import keras

def build(*, input_shape, num_classes, does=None):
    if does == "exit":
        print("so it ends", file=sys.stderr)
        os._exit(3)
    if does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "wait":
        with open("pid.new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("pid.new", "pid")
        time.sleep(100)
    if does == "exit in float16" and keras.config.dtype_policy().name == "mixed_float16":
        os._exit(3)
    print("a model says something")
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes)])
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline whose model does what ``model.args.does`` says, in the folder that is stood in."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    data = "{source: 'synthetic:4x4x1', args: {train: 64, test: 8}, validation: 0}"
    Path("p.yaml").write_text(
        f"name: mine\nmodel: {{build: 'net.py:build'}}\ndata: {data}\ntrain: {{batch_size: 16}}\n"
    )
    return Path("p.yaml")


def ask(mine: Path, *overrides: str) -> dict[str, Any]:
    request = {"kind": "training", "pipeline": str(mine), "overrides": list(overrides), "data_dir": None}
    asked = {**request, "policy": "mixed_float16", "repeats": 1, "seconds": 0.05}
    return fresh.ask(asked, "mixed_float16", Progress(quiet=True))


@pytest.mark.slow
def test_a_process_that_ends_by_itself(mine: Path) -> None:
    with pytest.raises(ShortfallError) as raised:
        ask(mine, "model.args={does: exit}")
    assert str(raised.value) == "mixed_float16: the process that measures it ended with code 3: so it ends"
    with pytest.raises(ShortfallError, match=r"^mixed_float16: .* ended by signal 9 \(Killed\); the memory may not"):
        ask(mine, "model.args={does: die}")


@pytest.mark.slow
def test_a_process_that_refuses_its_input(mine: Path) -> None:
    with pytest.raises(InputError) as raised:
        ask(mine, "model.args={dose: exit}")
    assert str(raised.value).startswith("mixed_float16: model.args: net.py:build takes no 'dose'")


def tfhalf(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tfhalf", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_policy_that_fails_for_real(mine: Path) -> None:
    options = ("--repeats", 1, "--seconds", 0.05, "--policies", "mixed_float16,float32")
    done = tfhalf(mine, "--set", "model.args={does: exit in float16}", *options)
    assert done.returncode == 1
    assert done.stderr == "error: mixed_float16: the process that measures it ended with code 3: it said nothing\n"
    assert "a model says something" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[-1:]] == ["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_process_that_measures_ends_with_the_one_that_asks(mine: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tfhalf", "bench", str(mine), "--set", "model.args={does: wait}"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _until(lambda: Path("pid").exists() or running.poll() is not None)
    worker = int(Path("pid").read_text())
    assert _alive(worker)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=20)
    if number == signal.SIGINT:
        assert (running.returncode, stdout) == (130, "")
        assert stderr == "interrupted; no version is half-written\n"
    _until(lambda: not _alive(worker))


def _until(happened: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not happened():
        time.sleep(0.01)
        assert time.monotonic() - start < 60


def _alive(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# --- for real ---------------------------------------------------------------------------------------------------------

TRAINING_KEYS = {
    *("policy", "samples", "batch_size", "steps", "skipped", "compile_seconds", "memory_bytes", "memory_of"),
    *(
        "flops_forward",
        "flops_step",
        "uncounted",
        "matrix",
        "matrix_flops",
        "device",
        "device_kind",
        "emulated",
        "model",
    ),
    *("parameters", "input_shape", "feed", "xla", "images_per_s", "steps_per_s", "spread", "mfu", "ratio_to_float32"),
}


@pytest.mark.slow
def test_digits_are_trained_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = tfhalf(DIGITS, "--repeats", 2, "--seconds", 0.2, "--json", "--plot", "digits.png")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"kind", "pipeline", "settings", "versions", "policies", "failed"}
    assert (told["kind"], told["pipeline"], told["failed"]) == ("training", "digits", [])
    assert [row["policy"] for row in told["policies"]] == ["mixed_float16", "float32", "mixed_bfloat16"]
    for row in told["policies"]:
        assert set(row) == TRAINING_KEYS
        layers_ = [2 * 64 * a * b for a, b in ((64, 128), (128, 64), (64, 10))]
        assert row["flops_forward"] == sum(layers_)
        assert row["flops_step"] == 3 * sum(layers_) - layers_[0]
        assert row["batch_size"] == 64
        assert len(row["samples"]) == 2
        speed = row["images_per_s"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert row["steps_per_s"] == pytest.approx(speed["median"] / 64)
        assert row["mfu"] == pytest.approx(row["flops_step"] * row["steps_per_s"] / row["matrix_flops"])
        assert 0 < row["mfu"] < 1
        assert row["memory_bytes"] > 10**8
        assert row["compile_seconds"] > 0
    assert told["policies"][1]["ratio_to_float32"] == 1
    assert {"tensorflow", "keras", "python"} <= set(told["versions"])
    assert [path.name for path in Path().iterdir()] == ["digits.png"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``exports/digits`` of a smoke run."""
    where = tmp_path_factory.mktemp("exported")
    command = [sys.executable, "-m", "tfhalf", "train", str(DIGITS), "--smoke", "--quiet"]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return where / "exports" / "digits"


@pytest.mark.slow
def test_an_export_answers_for_real(exported: Path, tmp_path: Path) -> None:
    options = ("--batch-sizes", "8,1", "--seconds", 0.05)
    done = tfhalf(exported, *options, "--json", "--plot", tmp_path / "a.svg")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"kind", "version", "input_shape", "settings", "versions", "runtimes", "failed"}
    assert told["version"] == str(exported / "1")
    assert told["input_shape"] == [8, 8, 1]
    assert [row["runtime"] for row in told["runtimes"]] == list(runtimes.RUNTIMES)
    *there, cuda = told["runtimes"]
    for row in there:
        assert set(row) == {"runtime", "computed_by", "device", "cells", "note", "error"}
        assert (row["note"], row["error"]) == ("", "")
        assert [cell["batch_size"] for cell in row["cells"]] == [1, 8]
        for cell in row["cells"]:
            assert cell["calls"] >= 30
            assert 0 < cell["p50_ms"] <= cell["p99_ms"]
            assert cell["images_per_s"] < 1.01 * cell["batch_size"] / (cell["p50_ms"] / 1000) * 2
    assert ["XLA" in row["computed_by"] for row in there] == [False, True, False]
    assert there[2]["computed_by"].endswith(", CPU")
    assert cuda["cells"] or cuda["note"].startswith("not available: ")
    assert "<!-- ONNX Runtime, CPU -->" in (tmp_path / "a.svg").read_text()
    table = tfhalf(exported / "1", "--batch-sizes", 4, "--seconds", 0.02, "--quiet").stdout.splitlines()
    assert [line[:19].strip() for line in table] == ["runtime", *(name for name, _ in runtimes.RUNTIMES.values())]


@pytest.mark.slow
def test_runtimes_answer_alike(exported: Path) -> None:
    """What is timed is the model: each runtime gives the same probabilities for the same images."""
    manifest = json.loads((exported / "1" / "manifest.json").read_text())
    x = inference.images(manifest, 16)
    answers = [runtimes.open_runtime(exported / "1", name)(x) for name in ("savedmodel", "savedmodel-xla", "onnx-cpu")]
    for answer in answers:
        assert set(answer) == {"logits", "probabilities"}
        np.testing.assert_allclose(answer["probabilities"], answers[0]["probabilities"], atol=0.01)
    np.testing.assert_allclose(answers[0]["probabilities"].sum(-1), 1, atol=1e-3)


@pytest.mark.slow
def test_files_that_were_changed_are_not_opened(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "exports" / "digits")
    version = tmp_path / "exports" / "digits" / "1"
    with (version / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "model.onnx: is not the file that was published" in refused(call(version), 1)
    request = {"directory": str(version), "runtime": "onnx-cpu", "batch_sizes": [1], "seconds": 0.01}
    with pytest.raises(ShortfallError, match=r"^onnx: .*model\.onnx: is not the file that was published"):
        fresh.ask({"kind": "inference", **request}, "onnx", Progress(quiet=True))
