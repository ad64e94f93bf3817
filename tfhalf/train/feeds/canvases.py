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
from tfhalf.train.feeds.buffers import Lease, Pool
from tfhalf.train.feeds.gpu_decoder import GpuDecoder, Unavailable


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

    def _decode(self, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Fill ``pixels`` uint8 [steps, batch size, *item] by the CPU; the sides, int32 [steps, batch size, 2]."""
        sides = np.ones((*pixels.shape[:2], 2), np.int32)
        flat = (array[: len(rows)].reshape(-1, *array.shape[2:]) for array in (pixels, sides))
        self.images.fill_canvas(rows.reshape(-1), *flat)
        return sides


class OnHost(Canvases):
    """By the CPU, for TensorFlow on a CPU."""

    def bring(self, rows: np.ndarray, steps: int) -> tuple[OnCanvas, Lease | None]:
        """See `Canvases.bring`."""
        pixels = np.empty((steps, rows.shape[1], *self.canvas.item), np.uint8)
        sides = self._decode(rows, pixels)
        return OnCanvas(tf.constant(pixels), tf.constant(sides)), None


class OnGpu(Canvases):
    """By the CPU or ``decoder``, into memory of the GPU, beside the program that trains."""

    def __init__(self, images: LazyImages, gpu: Cuda, decoder: GpuDecoder | None) -> None:
        super().__init__(images)
        self._gpu, self._decoder = gpu, decoder
        if decoder is not None:
            self.decoder, self.reason = "gpu", "on the GPU"
        self._pools: dict[tuple[int, ...], Pool] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    def bring(self, rows: np.ndarray, steps: int) -> tuple[OnCanvas, Lease | None]:
        """See `Canvases.bring`."""
        shape = (steps, rows.shape[1], *self.canvas.item)
        with self._lock:
            pool = self._pools.setdefault(shape, Pool(self._gpu, shape, int(np.prod(shape))))
        lease, stream = pool.lease(), self._stream()
        if self._decoder is None:
            pixels = self._staging(int(np.prod(shape))).reshape(shape)
            sides = self._decode(rows, pixels)
            if len(rows):
                self._gpu.upload(pixels[: len(rows)], lease.buffer.address, stream)
        else:
            sides = np.ones((*shape[:2], 2), np.int32)
            index = self.images.indices[rows.reshape(-1)]
            self._decoder(index, lease.buffer.address, sides[: len(rows)].reshape(-1, 2), stream)
        self._gpu.synchronize(stream)
        return OnCanvas(lease.buffer.tensor, tf.constant(sides)), lease

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
    if canvas.decoder == "cpu":
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
