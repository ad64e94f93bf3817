"""Encoded images on their way to the device: decoded by the CPU or by the GPU, each at its own size (`Canvas`)."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor, wait
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

_AT_ONCE = 4  # blocks of which the CPU decodes its part; more are not on their way
_EVERY = 2  # of so many images in a row of a batch the CPU decodes the last, where both decode


class Canvases(ABC):
    """Brings images to the device. Threads share one.

    ``decoder``: ``cpu``, ``gpu`` or ``both``; ``reason``: why, in a few words.
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
    """By the CPU, by ``decoder``, or ``together``, into memory of the GPU, beside the program that trains.

    Beside a training neither the GPU nor a few cores decode as fast as each does alone: together they do. Which image
    goes to which is a matter of its row in the batch.
    """

    def __init__(self, images: LazyImages, gpu: Cuda, decoder: GpuDecoder | None, *, together: bool = False) -> None:
        super().__init__(images)
        self._gpu, self._decoder, self._together = gpu, decoder, together
        if decoder is not None:
            self.decoder, self.reason = ("both", "on GPU and CPU") if together else ("gpu", "on the GPU")
        if together:
            self._beside = ThreadPoolExecutor(_AT_ONCE, "tfhalf-cpu-part")
        if decoder is None or together:
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
        indices, known, address = self._indices(rows), _first(sides, len(rows)), lease.buffer.address
        every = np.arange(len(indices))
        if self._decoder is None:
            self._on_cpu(every, indices, address, known)
        elif self._together:
            by_cpu = every % rows.shape[1] % _EVERY == _EVERY - 1
            cpu_part = self._beside.submit(self._on_cpu, every[by_cpu], indices, address, known)
            try:
                self._decoder(every[~by_cpu], indices, address, known, stream)
            finally:
                wait([cpu_part])  # it writes to the buffer
            cpu_part.result()
        else:
            self._decoder(every, indices, address, known, stream)
        self._gpu.synchronize(stream)
        return OnCanvas(lease.buffer.tensor, tf.constant(sides)), lease

    def _on_cpu(self, which: np.ndarray, indices: np.ndarray, address: int, sides: np.ndarray) -> None:
        """Decode ``which`` of the images at ``indices`` into pinned memory, and copy each to its canvas."""
        each, row = int(np.prod(self.canvas.item)), self.canvas.sides[1] * self.canvas.channels
        packed, own = self._staging(len(which) * each).reshape(-1, each), np.ones((len(which), 2), np.int32)
        self.canvas.pack(indices[which], packed, own)
        source, stream = packed.ctypes.data, self._stream()
        for i, (k, (height, width)) in enumerate(zip(which.tolist(), own.tolist(), strict=True)):
            line = width * self.canvas.channels
            self._gpu.rows(source + i * each, line, address + k * each, row, line, height, stream, from_host=True)
        sides[which] = own
        self._gpu.synchronize(stream)

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
        ConfigError: ``data.decoder`` is gpu or both, and it cannot be.
    """
    canvas: Canvas | None = images.canvas if isinstance(images, LazyImages) else None
    if canvas is None:
        return None
    if not tf.config.list_logical_devices("GPU"):
        if canvas.decoder in ("gpu", "both"):
            raise _refused(canvas.decoder, "TensorFlow sees no GPU")
        return OnHost(images)
    number = int(tf.config.get_visible_devices("GPU")[0].name.rpartition(":")[2])
    try:
        gpu = cuda(number)
    except CudaError as error:
        if canvas.decoder in ("gpu", "both"):
            raise _refused(canvas.decoder, str(error)) from error
        return OnHost(images)
    if canvas.decoder == "cpu":
        return OnGpu(images, gpu, None)
    try:
        return OnGpu(images, gpu, GpuDecoder(canvas, gpu), together=canvas.decoder in ("auto", "both"))
    except Unavailable as error:
        if canvas.decoder in ("gpu", "both"):
            raise _refused(canvas.decoder, str(error)) from error
        on_cpu = OnGpu(images, gpu, None)
        on_cpu.reason = f"on the CPU ({error})"
        return on_cpu


def _refused(decoder: str, why: str) -> ConfigError:
    return ConfigError(
        f"data.decoder is {decoder}, and {why}; accepted: cpu or auto; change it, or install tfhalf[gpu]"
    )
