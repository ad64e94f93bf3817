"""The training set in host memory, brought to the device in blocks of steps while the block before is computed on."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

from tfhalf.data.columns import Columns
from tfhalf.data.lazy import LazyImages
from tfhalf.system.device import detect
from tfhalf.train.feeds.base import ChunkResult, Feed, joined, read
from tfhalf.train.feeds.buffers import Lease
from tfhalf.train.feeds.canvases import canvases_of
from tfhalf.train.objective import tensors
from tfhalf.train.stages import PLAIN, Stage
from tfhalf.train.step import Batch, Step

BLOCK_BYTES = 128 * 2**20
CANVAS_BYTES = 1536 * 2**20  # of images on canvases: in a block of few steps its start would be felt
CANVAS_SHARE = 0.02  # of the device's memory that a block of canvases takes at most: there are four
AHEAD = 2  # blocks gathered or copied while one is computed on: as many are on the device besides it
_ALIGNMENT = 64  # bytes; TensorFlow takes a buffer over as it is only where it starts at a multiple of this


class Streamed(Feed):
    """Up to ``capacity`` steps a call, as one program per block of ``block`` steps, fewer where batches are larger.

    Threads gather a block's images in the source's dtype, one copy in C for each image, and move it to the device. No
    thread holds Python's lock meanwhile, and the set itself, which may be a memory map, is never copied as a whole.
    Blocks come in the order of the steps, however long each took, so training is the same as with `Resident`.

    A block that is not there when the one before it is over leaves the device idle: these seconds are `waited`.

    Args:
        x: [N, ...] in the source's dtype, images that are encoded still, or several arrays by name.
        y: targets [N, ...], or several by name; they are on the device whole, with the items' ``weight`` float32 [N].
        xla: whether XLA compiles the program.
        block_bytes: of images in a block, at most, though a block holds at least one step; None for `BLOCK_BYTES`, or
            of canvases `CANVAS_BYTES` and `CANVAS_SHARE`.
    """

    streams: ClassVar[bool] = True

    def __init__(
        self,
        step: Step,
        x: np.ndarray | LazyImages | Columns,
        y: np.ndarray | Columns,
        weight: np.ndarray | None = None,
        *,
        batch_size: int,
        capacity: int,
        xla: bool,
        max_skipped: int,
        block_bytes: int | None = None,
    ) -> None:
        super().__init__(step, batch_size=batch_size, capacity=capacity, xla=xla, max_skipped=max_skipped)
        self.x, self.y = x, tensors(y)
        self.weight = None if weight is None else tf.constant(weight, tf.float32)
        self.canvases = canvases_of(x)
        self._item_bytes = max(1, _item_bytes(x))
        self._block_bytes = block_bytes or (BLOCK_BYTES if self.canvases is None else _canvas_bytes())
        self.block, self.step_bytes = self._block(batch_size), batch_size * self._item_bytes
        self._device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
        self._threads = ThreadPoolExecutor(AHEAD, "tfhalf-feed")
        self._announced: list[np.ndarray] = []
        self._coming: deque[tuple[np.ndarray, Future[Any]]] = deque()

    def _block(self, batch_size: int) -> int:
        """Steps in a block of batches of this size."""
        most = max(1, min(self.capacity, self._block_bytes // (batch_size * self._item_bytes)))
        return -(-self.capacity // -(-self.capacity // most))  # as few blocks as that allows, and all about as long

    def beside(self, step: Step) -> Feed:
        """A feed that runs ``step`` over the same data; what it has fetched is its own."""
        other = cast("Streamed", super().beside(step))
        other._announced, other._coming = [], deque()
        return other

    def announce(self, order: np.ndarray) -> None:
        """Begin to fetch ``order`` while the next call computes its own steps."""
        self._announced = self._blocks(self.step.group.rows(order))

    def __call__(self, order: np.ndarray, epoch: int, first_step: int, stage: Stage = PLAIN) -> ChunkResult:
        """Run one step per row of ``order``, int32 [steps, batch_size]; see `Feed`.

        Raises:
            DataError: an image that was encoded still cannot be decoded.
        """
        order = self.step.group.rows(order)
        blocks, block = self._blocks(order) or [order], self._block(order.shape[1])
        running: tuple[Any, ...] | None = None
        leases: deque[Lease | None] = deque(maxlen=2)  # of the blocks that programs may be reading
        results: list[ChunkResult] = []
        for i, rows in enumerate(blocks):
            self._fetch([*blocks[i:], *self._announced][: 1 + AHEAD])
            coming = self._coming.popleft()[1]
            if running is not None and not coming.done():  # the device will wait once it has ended
                results.append(read(running))
                running = None
                if results[-1].steps < block:
                    break
            x, index, lease = self._arrived(coming)
            leases.append(lease)
            scalars = (tf.constant(value, tf.int32) for value in (len(rows), epoch, first_step + i * block))
            before, running = running, self._program(stage, (x, self.y, self.weight), index, *scalars)
            # Waiting for the block before, and not for this one, leaves the device no gap between them.
            if before is not None:
                results.append(read(before))
                if results[-1].steps < block:  # too many in a row were skipped: this block runs no step either
                    break
        if running is not None:
            results.append(read(running))
        self._announced = []
        return joined(results)

    def bring(self, order: np.ndarray) -> None:
        """Bring the images of the steps ``order`` to the device, this process's part of them, and compute nothing."""
        blocks = self._blocks(self.step.group.rows(order))
        for i in range(len(blocks)):
            self._fetch([*blocks[i:], *self._announced][: 1 + AHEAD])
            self._coming.popleft()[1].result()
        self._announced = []

    def _arrived(self, coming: Future[Any]) -> Any:
        """What ``coming`` brings, while the device has nothing to do: the seconds until then are `waited`."""
        start = time.perf_counter()
        brought = coming.result()
        self.waited += time.perf_counter() - start
        return brought

    def batch(self, index: np.ndarray) -> Batch:
        """The batch at the places ``index``, int32 [N]."""
        if self.canvases is not None:
            on_canvas, lease = self.canvases.bring(index[None], 1)
            x = tf.nest.map_structure(lambda one: one[0], on_canvas)
            np.asarray(x.pixels[0, 0, 0, 0])  # waits for the copy
            del lease
        else:
            x = tensors(self.x[index])
        return self._batch(x, (self.y, self.weight), tf.constant(index, tf.int32))

    @staticmethod
    def _batch(x: Any, data: Any, index: Any) -> Batch:
        y, weight = tf.nest.map_structure(lambda one: None if one is None else tf.gather(one, index), data)
        return Batch(x, y, index, weight)

    def _blocks(self, order: np.ndarray) -> list[np.ndarray]:
        block = self._block(order.shape[1])
        return [order[start : start + block] for start in range(0, len(order), block)]

    def _fetch(self, blocks: list[np.ndarray]) -> None:
        """Have ``blocks`` come next, keeping those of them that are on their way already."""
        kept: deque[tuple[np.ndarray, Future[Any]]] = deque()
        for rows in blocks:
            if self._coming and np.array_equal(self._coming[0][0], rows):
                kept.append(self._coming.popleft())
            else:
                for _, useless in self._coming:
                    useless.cancel()
                self._coming.clear()
                kept.append((rows, self._threads.submit(self._bring, rows)))
        self._coming = kept

    def _bring(self, rows: np.ndarray) -> tuple[Any, Any, Lease | None]:
        """Inputs and places of the steps ``rows``, on the device: x [block, batch_size, ...], index int32 [block,
        batch_size]. What a last block lacks in steps is left as the memory was. x stays while the lease does."""
        x: Any
        lease = None
        if isinstance(self.x, Columns):
            x = {name: self._bring_array(array, rows) for name, array in self.x.arrays.items()}
        elif self.canvases is not None:
            x, lease = self.canvases.bring(rows, self._block(rows.shape[1]))
        else:
            x = self._bring_array(self.x, rows)
        index = np.zeros((self._block(rows.shape[1]), rows.shape[1]), np.int32)
        index[: len(rows)] = rows
        return x, tf.constant(index), lease

    def _bring_array(self, source: np.ndarray | LazyImages, rows: np.ndarray) -> Any:
        """The rows of one array, on the device: [block, batch_size, ...]."""
        x = _aligned((self._block(rows.shape[1]), rows.shape[1], *source.shape[1:]), source.dtype)
        target = x[: len(rows)].reshape(-1, *source.shape[1:])
        if isinstance(source, LazyImages):
            source.fill(rows.reshape(-1), target)
        else:
            np.take(source, rows.reshape(-1), axis=0, out=target, mode="clip")  # another mode buffers the result
        return self._moved(x)

    def _moved(self, x: np.ndarray) -> Any:
        with tf.device("CPU:0"):
            here = tf.experimental.dlpack.from_dlpack(x.__dlpack__())  # keeps the buffer alive, and copies nothing
        with tf.device(self._device):
            return tf.identity(here)

    def _run(self, data: Any, index: Any, steps: Any, epoch: Any, first_step: Any, *, stage: Stage) -> tuple[Any, ...]:
        def fetch(i: Any) -> Batch:
            return self._batch(tf.nest.map_structure(lambda one: one[i], data[0]), data[1:], index[i])

        return self._steps(fetch, steps, epoch, first_step, capacity=index.shape[0], stage=stage)


def _canvas_bytes() -> int:
    total = detect().memory_bytes
    return CANVAS_BYTES if total is None else min(CANVAS_BYTES, max(BLOCK_BYTES, int(CANVAS_SHARE * total)))


def _item_bytes(x: np.ndarray | LazyImages | Columns) -> int:
    """Bytes that an item takes on the device."""
    if isinstance(x, LazyImages):
        return int(np.prod(x.training_item)) * x.dtype.itemsize
    return x.nbytes // len(x)


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Uninitialised memory that TensorFlow can take over."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
