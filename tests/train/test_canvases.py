"""Encoded images on their way to a device: by the CPU, by a stand-in for a GPU and its decoder, and while training."""

from __future__ import annotations

import ctypes
import gc
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfhalf import config
from tfhalf.config import Data
from tfhalf.data import LazyImages, load_splits
from tfhalf.data.decode.canvas import Canvas
from tfhalf.data.decode.fit import Fit
from tfhalf.data.encoded import Held
from tfhalf.data.sources import images
from tfhalf.errors import ConfigError, DataError
from tfhalf.progress import Progress
from tfhalf.system import cuda
from tfhalf.system.device import cpu
from tfhalf.train import job
from tfhalf.train.feeds import canvases
from tfhalf.train.feeds.buffers import Buffer
from tfhalf.train.feeds.canvases import OnGpu, OnHost, canvases_of
from tfhalf.train.feeds.gpu_decoder import GpuDecoder, Unavailable
from tfhalf.train.program import TrainProgram
from tfhalf.train.state import TrainState

DRAW = np.random.default_rng(0)


def encoded(height: int, width: int, kind: str = "JPEG", mode: str = "RGB", **save: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = DRAW.integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **save)
    return buffer.getvalue()


def some() -> list[bytes]:
    """Of each kind one, among plain ones."""
    odd = [encoded(20, 30, "PNG"), encoded(30, 20, progressive=True), encoded(20, 20, mode="L"),
           encoded(90, 90), encoded(25, 30, mode="CMYK")]  # fmt: skip
    return [encoded(20 + i, 30 - i) for i in range(5)] + odd + [encoded(31, 32), encoded(32, 31)]


def of(data: list[bytes], decoder: Any = "auto") -> LazyImages:
    items = Held(data, lambda index: f"image {index}")
    plain = images.lazy(items, "s", Fit((8, 8)), channels=3)
    return LazyImages(
        plain.decode,
        plain.indices[::-1].copy(),
        plain.item,
        plain.dtype,
        "s",
        items,
        Canvas(items, "s", (32, 32), 3, decoder),
    )


class FakeCuda(cuda.Cuda):
    """The host's memory in place of a GPU's."""

    on_gpu = False

    def __init__(self) -> None:
        self.number, self.held, self.queued = 0, [], []

    def allocate(self, size: int) -> int:
        raw = np.zeros(size + 64, np.uint8)
        self.held.append(raw)
        return raw.ctypes.data + -raw.ctypes.data % 64

    def pinned(self, size: int) -> np.ndarray:
        return np.empty(size, np.uint8)

    def stream(self) -> int:
        return 1

    def enter(self) -> None:
        pass

    def synchronize(self, stream: int) -> None:
        """What is copied is copied now, as a GPU may."""
        while self.queued:
            ctypes.memmove(*self.queued.pop(0))

    def wait_asleep(self) -> None:
        pass

    def rows(self, source: int, source_pitch: int, target: int, target_pitch: int, width: int, rows: int, stream: int,
             *, from_host: bool = False) -> None:  # fmt: skip
        for row in range(rows):
            self.queued.append((target + row * target_pitch, source + row * source_pitch, width))


class FakeImage:
    def __init__(self, pixels: np.ndarray) -> None:
        padded = np.zeros((pixels.shape[0], pixels.shape[1] + 3, 3), np.uint8)
        padded[:, : pixels.shape[1]] = pixels
        self._pixels, self.shape = padded, pixels.shape
        self.__cuda_array_interface__ = {"data": (padded.ctypes.data, False), "strides": (padded.strides[0], 3, 1)}


def library(refuses: tuple[int, ...] = (), fails: bool = False) -> types.ModuleType:
    """nvImageCodec as it is used: it decodes what libjpeg does, and every call leaves out ``refuses``."""
    module = types.ModuleType("nvidia.nvimgcodec")

    class Decoder:
        def __init__(self, **settings: Any) -> None:
            if fails:
                raise RuntimeError("no device")

        def decode(self, streams: list[bytes], **settings: Any) -> list[Any]:
            every = [FakeImage(np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))) for one in streams]
            return [None if i in refuses else image for i, image in enumerate(every)]

    module.Decoder, module.CodeStream = Decoder, lambda data: data  # type: ignore[attr-defined]
    module.DecodeParams = module.Backend = lambda *_, **__: None  # type: ignore[attr-defined]
    module.SampleFormat = types.SimpleNamespace(I_RGB=0, I_Y=1)  # type: ignore[attr-defined]
    module.ColorSpec = types.SimpleNamespace(SRGB=0, GRAY=1)  # type: ignore[attr-defined]
    module.BackendKind = types.SimpleNamespace(HW_GPU_ONLY=0, GPU_ONLY=1, HYBRID_CPU_GPU=2)  # type: ignore[attr-defined]
    return module


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    monkeypatch.setitem(sys.modules, "nvidia", types.ModuleType("nvidia"))
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", library())
    return FakeCuda()


def seen(brought: tuple[Any, Any], count: int) -> list[np.ndarray]:
    """The images of a block, each at its size."""
    pixels, sides = (part.numpy().reshape(-1, *part.shape[2:]) for part in brought[0])
    return [image[:h, :w].copy() for image, (h, w) in zip(pixels[:count], sides[:count], strict=True)]


def alike(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    assert len(one) == len(other)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


# --- bringing ---------------------------------------------------------------------------------------------------------

ROWS = np.arange(12, dtype=np.int32)[::-1].reshape(3, 4)


def test_every_way_brings_the_same(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    given = of(some())
    expected = [given.canvas.image(int(given.indices[row])) for row in ROWS.reshape(-1)]
    alike(seen(OnHost(given).bring(ROWS, 4), 12), expected)
    alike(seen(OnGpu(given, gpu, None).bring(ROWS, 4), 12), expected)
    alike(seen(OnGpu(given, gpu, GpuDecoder(given.canvas, gpu)).bring(ROWS, 4), 12), expected)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", library(refuses=(0, 2, 5)))
    alike(seen(OnGpu(given, gpu, GpuDecoder(given.canvas, gpu)).bring(ROWS, 4), 12), expected)
    monkeypatch.setattr(gpu, "pinned", lambda size: np.empty(size, np.uint8) if size else pytest.fail("no bytes"))
    for decoder in (None, GpuDecoder(given.canvas, gpu)):  # as where a program is compiled
        empty, _ = OnGpu(given, gpu, decoder).bring(ROWS[:0], 4)
        assert empty.pixels.shape == (4, 4, 32, 32, 3)


@pytest.mark.parametrize("decoder", ["cpu", "gpu"])
def test_an_image_at_fault_is_named(gpu: FakeCuda, decoder: str) -> None:
    data = some()
    data[7] = data[7][:200]
    given = of(data)
    brings = OnGpu(given, gpu, GpuDecoder(given.canvas, gpu) if decoder == "gpu" else None)
    with pytest.raises(DataError, match=r"^s: image 7 is damaged"):
        brings.bring(ROWS, 3)


def test_memory_is_used_again_once_its_lease_ends(gpu: FakeCuda) -> None:
    brings = OnGpu(of(some()), gpu, None)
    one, first = brings.bring(ROWS[:1], 1)
    two, second = brings.bring(ROWS[1:2], 1)
    before = seen((one, first), 4)
    assert len(gpu.held) == 2
    del second
    gc.collect()
    three, third = brings.bring(ROWS[2:], 1)
    assert len(gpu.held) == 2
    alike(seen((one, first), 4), before)
    np.testing.assert_array_equal(two.pixels.numpy(), three.pixels.numpy())  # the same memory
    del third


def test_a_tensor_may_outlive_what_made_it() -> None:
    """As where garbage is collected, in any order: TensorFlow then asks the tensor's description for a deleter."""
    memory = np.arange(256, dtype=np.uint8)
    made = [Buffer(memory.ctypes.data, (4, 4), gpu=False).tensor for _ in range(64)]
    gc.collect()
    elsewhere = [(ctypes.c_uint64 * words)(*[1] * words) for words in range(1, 16) for _ in range(64)]
    np.testing.assert_array_equal(made[0].numpy().reshape(-1), np.arange(16))
    made.clear()  # with a pointer to 1, the process ends here
    assert len(elsewhere)


# --- which way --------------------------------------------------------------------------------------------------------


def test_where_there_is_no_gpu_the_cpu_decodes() -> None:
    assert isinstance(canvases_of(of(some())), OnHost)
    assert canvases_of(np.zeros((3, 4))) is None
    with pytest.raises(ConfigError, match=r"data\.decoder is gpu, and TensorFlow sees no GPU; accepted: cpu or auto"):
        canvases_of(of(some(), "gpu"))


def test_with_a_gpu_the_decoder_is_what_is_there(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    device = types.SimpleNamespace(name="/physical_device:GPU:0")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [device])
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [device])
    monkeypatch.setattr(canvases, "cuda", lambda number: gpu)
    monkeypatch.setattr(canvases, "cores", lambda: 8)
    assert canvases_of(of(some())).decoder == "gpu"
    monkeypatch.setattr(canvases, "cores", lambda: 16)
    assert canvases_of(of(some())).decoder == "cpu"
    assert canvases_of(of(some(), "gpu")).decoder == "gpu"
    monkeypatch.setattr(canvases, "cores", lambda: 8)
    assert canvases_of(of(some(), "cpu")).decoder == "cpu"
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", library(fails=True))
    by_cpu = canvases_of(of(some()))
    assert (by_cpu.decoder, by_cpu.reason) == ("cpu", "on the CPU (nvImageCodec does not run: no device)")
    with pytest.raises(ConfigError, match=r"data\.decoder is gpu, and nvImageCodec does not run"):
        canvases_of(of(some(), "gpu"))
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(Unavailable, match="nvImageCodec is not installed"):
        GpuDecoder(of(some()).canvas, gpu)

    def none(number: int) -> None:
        raise cuda.CudaError("no driver")

    monkeypatch.setattr(canvases, "cuda", none)
    assert isinstance(canvases_of(of(some())), OnHost)


def test_a_machine_without_a_driver_says_so() -> None:
    with pytest.raises(cuda.CudaError):
        cuda.Cuda(99)


# --- training ---------------------------------------------------------------------------------------------------------

NET = """
import keras

def build(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    return keras.Model(image, keras.layers.Dense(num_classes)(keras.layers.GlobalAveragePooling2D()(x)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("canvases")
    for number in range(48):
        file = root / "photos" / "ab"[number % 2] / f"{number:02}.{'png' if number % 7 == 3 else 'jpg'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(20 + number % 9, 24, "PNG" if file.suffix == ".png" else "JPEG"))
    (root / "net.py").write_text(NET)
    return root


def program(folder: Path, *, xla: str = "off", block: int | None = None, **train: Any) -> TrainProgram:
    values = {
        "name": "p",
        "model": {"build": "net.py:build"},
        "data": {"source": "folder:photos", "image_size": (16, 16), "validation": 0, "test": 0.2,
                 "augment": {"resized_crop": {}, "flip": "random"}},
        "train": {"epochs": 2, "batch_size": 4, "xla": xla, **train},
        "precision": {"policy": "float32"},
    }  # fmt: skip
    pipeline = config.Pipeline.model_validate(values)
    places = job.Places(folder / "p.yaml", folder / "runs", folder / "exports")
    made = job.prepare(pipeline, places, Progress(quiet=True))
    done = TrainProgram(made, TrainState(made), cpu())
    if block is not None:
        done.feed._block_bytes = block * 4 * 32 * 32 * 3
    done.compile()
    return done


def weights(trained: TrainProgram) -> list[np.ndarray]:
    return [np.asarray(v) for v in trained.state.model.variables]


def test_training_does_not_go_by_blocks_or_calls(folder: Path) -> None:
    one, two = program(folder), program(folder, block=2)
    order = one.order(0)
    assert two.feed._block(4) == 2
    together = one.feed(order, 0, 0)
    apart = [two.feed(order[:3], 0, 0), two.feed(order[3:], 0, 3)]
    np.testing.assert_allclose(together.loss, np.concatenate([part.loss for part in apart]), rtol=1e-6)
    for mine, theirs in zip(weights(one), weights(two), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    batch = one.feed.batch(order[0])
    x, _ = one.step.prepare(batch, tf.constant(0), tf.constant(0))
    assert x.shape == (4, 16, 16, 3)
    assert (x.numpy() != one.step.prepare(batch, tf.constant(0), tf.constant(1))[0].numpy()).mean() > 0.5


def test_stages_take_their_sizes_from_the_crop(folder: Path) -> None:
    trained = program(folder, sizes=(8, 16))
    small, large = trained.stages.all
    assert (small.size, large.size) == (8, None)
    for stage in (small, large):
        assert np.isfinite(trained.feed(trained.order(0)[:2], 0, 0, stage).loss).all()
    x, _ = trained.step.prepare(trained.feed.batch(trained.order(0)[0]), tf.constant(0), tf.constant(0), 8)
    assert x.shape == (4, 8, 8, 3)
    assert trained.feed_reason.startswith("streamed: JPEGs are decoded on the CPU while training goes on; ")


def test_only_images_of_files_can_be_cut(folder: Path) -> None:
    values: dict[str, Any] = {"image_size": (8, 8), "augment": {"resized_crop": {}}}
    for source in ("sklearn:digits", "synthetic:8x8x3"):
        with pytest.raises(DataError, match=r"data\.augment\.resized_crop is set; only folder:, records: and tfds:"):
            load_splits(Data.model_validate({"source": source, **values}), base=folder, seed=0)
    said: list[str] = []
    splits = load_splits(
        Data.model_validate({"source": "folder:photos", **values}), base=folder, seed=0, progress=said.append
    )
    assert splits.x_train.canvas.sides == (32, 32)
    assert "folder:photos: training images are decoded onto a canvas of 32 x 32 pixels" in said
    assert splits.x_test.shape[1:] == (8, 8, 3)
