"""Encoded images on their way to the device: decoded by the CPU or by the GPU, each at its own size (`Canvas`)."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import tensorflow as tf

from tfhalf.data.crop import OnCanvas
from tfhalf.data.decode.canvas import Canvas
from tfhalf.data.lazy import LazyImages
from tfhalf.errors import ConfigError
from tfhalf.system.cuda import Cuda, CudaError, cuda
from tfhalf.system.device import cores
from tfhalf.train.feeds.buffers import Lease, Pool
from tfhalf.train.feeds.gpu_decoder import GpuDecoder, Unavailable

# Cores that decode about as fast as one GPU trains. Beside a training the GPU's own decoder waits for the step's
# kernels: by 16 cores ResNet-50 trained at 0.92 of its speed from memory, by the GPU at 0.65 (docs/performance.md).
_ENOUGH = 12


class Canvases(ABC):
    """Brings images to the device. Threads share one.

    ``decoder``: ``cpu`` or ``gpu``; ``reason``: why, in a few words.
    """

    decoder, reason = "cpu", "on the CPU"

    def __init__(self, images: LazyImages) -> None:
        assert images.canvas is not None
        self.images, self.canvas = images, images.canvas

    @abstractmethod
    def bring(self, rows: np.ndarray, steps: int) -> tuple[OnCanvas, Lease | None]:
        """The images at ``rows``, int32 [at most ``steps``, batch size], as [steps, batch size, ...]; what is lacking
        is left as the memory was. It stays while the lease is referred to.

        Raises:
            DataError: an image cannot be decoded.
        """

    def _indices(self, rows: np.ndarray) -> np.ndarray:
        """Of the source's images."""
        return np.asarray(self.images.indices[rows.reshape(-1)])


class OnHost(Canvases):
    """By the CPU, for TensorFlow on a CPU."""

    def bring(self, rows: np.ndarray, steps: int) -> tuple[OnCanvas, Lease | None]:
        """See `Canvases.bring`."""
        pixels = np.empty((steps, rows.shape[1], *self.canvas.item), np.uint8)
        sides = np.ones((*pixels.shape[:2], 2), np.int32)
        self.canvas.fill(self._indices(rows), _first(pixels, len(rows)), _first(sides, len(rows)))
        return OnCanvas(tf.constant(pixels), tf.constant(sides)), None


class OnGpu(Canvases):
    """By the CPU or ``decoder``, into memory of the GPU, beside the program that trains."""

    def __init__(self, images: LazyImages, gpu: Cuda, decoder: GpuDecoder | None) -> None:
        super().__init__(images)
        self._gpu, self._decoder = gpu, decoder
        if decoder is not None:
            self.decoder, self.reason = "gpu", "on the GPU"
        else:
            gpu.wait_asleep()
        self._pools: dict[tuple[int, ...], Pool] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    def bring(self, rows: np.ndarray, steps: int) -> tuple[OnCanvas, Lease | None]:
        """See `Canvases.bring`."""
        shape = (steps, rows.shape[1], *self.canvas.item)
        with self._lock:
            pool = self._pools.setdefault(shape, Pool(self._gpu, shape, int(np.prod(shape))))
        lease, stream = pool.lease(), self._stream()
        sides = np.ones((*shape[:2], 2), np.int32)
        indices, known = self._indices(rows), _first(sides, len(rows))
        if not len(indices):  # a program is compiled
            pass
        elif self._decoder is None:
            self._on_cpu(indices, lease.buffer.address, known, stream)
        else:
            self._decoder(indices, lease.buffer.address, known, stream)
        self._gpu.synchronize(stream)
        return OnCanvas(lease.buffer.tensor, tf.constant(sides)), lease

    def _on_cpu(self, indices: np.ndarray, address: int, sides: np.ndarray, stream: int) -> None:
        """Decode into pinned memory, and begin to copy each image to its canvas."""
        each, row = int(np.prod(self.canvas.item)), self.canvas.sides[1] * self.canvas.channels
        packed = self._staging(len(indices) * each).reshape(-1, each)
        self.canvas.pack(indices, packed, sides)
        source = packed.ctypes.data
        for i, (height, width) in enumerate(sides.tolist()):
            line, start = width * self.canvas.channels, i * each
            self._gpu.rows(source + start, line, address + start, row, line, height, stream, from_host=True)

    def _stream(self) -> int:
        """This thread's."""
        if not hasattr(self._own, "stream"):
            self._own.stream = self._gpu.stream()
        stream: int = self._own.stream
        return stream

    def _staging(self, size: int) -> np.ndarray:
        """Pinned bytes of this thread's, uint8 [size]: what lay there before has been copied."""
        held = getattr(self._own, "staging", None)
        if held is None or len(held) < size:
            held = self._own.staging = self._gpu.pinned(size)
        return np.asarray(held[:size])


def _first(x: np.ndarray, steps: int) -> np.ndarray:
    """Items of the first ``steps`` of a block, one after another: a view."""
    return x[:steps].reshape(-1, *x.shape[2:])


def canvases_of(images: Any) -> Canvases | None:
    """What brings ``images`` to the device; None of what is not on a canvas.

    Raises:
        ConfigError: ``data.decoder`` is gpu, and it cannot be.
    """
    canvas: Canvas | None = images.canvas if isinstance(images, LazyImages) else None
    if canvas is None:
        return None
    if not tf.config.list_logical_devices("GPU"):
        if canvas.decoder == "gpu":
            raise _refused("TensorFlow sees no GPU")
        return OnHost(images)
    number = int(tf.config.get_visible_devices("GPU")[0].name.rpartition(":")[2])
    try:
        gpu = cuda(number)
    except CudaError as error:
        if canvas.decoder == "gpu":
            raise _refused(str(error)) from error
        return OnHost(images)
    if canvas.decoder == "cpu" or (canvas.decoder == "auto" and cores() >= _ENOUGH):
        return OnGpu(images, gpu, None)
    try:
        return OnGpu(images, gpu, GpuDecoder(canvas, gpu))
    except Unavailable as error:
        if canvas.decoder == "gpu":
            raise _refused(str(error)) from error
        on_cpu = OnGpu(images, gpu, None)
        on_cpu.reason = f"on the CPU ({error})"
        return on_cpu


def _refused(why: str) -> ConfigError:
    return ConfigError(f"data.decoder is gpu, and {why}; accepted: cpu or auto; change it, or install tfhalf[gpu]")
