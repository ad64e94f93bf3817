"""Several processes that train as one, each on its own device: what they send each other.

Each call is one that all of them come to, in the same order: a collective operation of TensorFlow's, over NCCL between
GPUs and over gRPC between CPUs. Within a program that XLA compiles for a GPU it is part of that program.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tfhalf.errors import PeerError
from tfhalf.system.watch import watched

if TYPE_CHECKING:
    import numpy as np

_KEY = 1  # of the one group that there is
_BLOCK = 1 << 24  # bytes of all processes that are sent at a time
_TASK = re.compile(r"/task:(\d+)")


class Group:
    """Process ``rank`` of ``size``; ``Group()`` is one that works alone, for which every call gives back what it got.

    Args:
        gpu: whether tensors of a step lie on GPUs.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, gpu: bool = False) -> None:
        self.rank, self.size, self.gpu = rank, size, gpu
        self._keys = itertools.count(1)
        self._remedy = "start all of them again"
        self._sums: dict[Any, Callable[[Any], Any]] = {}

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def rows(self, order: np.ndarray) -> np.ndarray:
        """This process's columns of an epoch's ``order`` [steps, batch]: its part of each batch, one of equal ones."""
        if self.size == 1:
            return order
        part = order.shape[1] // self.size
        return order[:, self.rank * part : (self.rank + 1) * part]

    def part(self, count: int) -> slice:
        """This process's part of ``count`` items; parts differ in length by one at most."""
        return self._parts(count)[self.rank]

    def _parts(self, count: int) -> list[slice]:
        return [slice(count * rank // self.size, count * (rank + 1) // self.size) for rank in range(self.size)]

    # --- within a compiled step ---------------------------------------------------------------------------------------

    def sum(self, x: Any) -> Any:
        """The sum over processes of ``x``, a tensor of one shape and dtype in all of them; on each the same bits. Its
        gradient is the sum of the gradients."""
        import tensorflow as tf

        if self.size == 1:
            return x

        @tf.custom_gradient
        def summed(x: Any) -> Any:
            return self._reduce(x), lambda dy: self._reduce(dy)

        return summed(x)

    def sums(self, tensors: Sequence[Any]) -> list[Any]:
        """The sums over processes of floating ``tensors`` of one dtype, joined into one vector on their way.

        What is not finite in one process is not finite in the sum, in all of them.
        """
        import tensorflow as tf

        if self.size == 1 or not tensors:
            return list(tensors)
        flat = self._reduce(tf.concat([tf.reshape(x, [-1]) for x in tensors], 0))
        parts = tf.split(flat, [math.prod(x.shape) for x in tensors])
        return [tf.reshape(part, x.shape) for part, x in zip(parts, tensors, strict=True)]

    def _reduce(self, x: Any) -> Any:
        import tensorflow as tf

        return tf.raw_ops.CollectiveReduceV2(
            input=x,
            group_size=self.size,
            group_key=_KEY,
            instance_key=next(self._keys),  # all processes trace the same programs in the same order
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            communication_hint="nccl" if self.gpu else "ring",
        )

    # --- between steps ------------------------------------------------------------------------------------------------

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Every process's ``values``, stacked: [size, ...], bit by bit. All have one shape and dtype."""
        import numpy as np

        if self.size == 1:
            return values[None]
        length = -(-max(values.nbytes, 64) // 64) * 64  # so that many are of one size, and by one program
        rows = np.zeros((self.size, length), np.uint8)
        rows[self.rank, : values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)
        summed = self._host_sum(rows)
        return np.stack([_array(row[: values.nbytes], values) for row in summed])

    def joined(self, own: np.ndarray, count: int) -> np.ndarray:
        """``count`` items [count, ...], of which each process has its `part`, ``own``; in all of them, bit by bit."""
        import numpy as np

        if self.size == 1:
            return own
        every = np.empty((count, *own.shape[1:]), own.dtype)
        rows = max(1, _BLOCK // (self.size * max(1, every[:1].nbytes)))
        for start in range(0, -(-count // self.size), rows):
            block = np.zeros((min(rows, -(-count // self.size) - start), *own.shape[1:]), own.dtype)
            mine = own[start : start + len(block)]
            block[: len(mine)] = mine
            for part, sent in zip(self._parts(count), self.gather(block), strict=True):
                there = every[part][start : start + len(block)]
                there[:] = sent[: len(there)]
        return every

    def texts(self, text: str) -> list[str]:
        """Every process's ``text``."""
        import numpy as np

        content = text.encode()
        length = max(1, int(self.largest(len(content))))
        padded = np.frombuffer(content.ljust(length, b"\0"), np.uint8)
        return [row.tobytes().rstrip(b"\0").decode() for row in self.gather(padded)]

    def largest(self, value: float) -> float:
        """The largest ``value`` of any process."""
        import numpy as np

        return float(self.gather(np.array([value], np.float64)).max())

    def of_first(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The first process's ``arrays``; the others give theirs for shapes and dtypes alone."""
        import numpy as np

        if self.size == 1:
            return list(arrays)
        ends = np.cumsum([0, *(array.nbytes for array in arrays)])
        content = np.zeros(-(-int(ends[-1]) // 4) * 4, np.uint8)
        if self.first:
            content[: ends[-1]] = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
        content = self._host_sum(content)
        return [_array(content[ends[i] : ends[i + 1]], array) for i, array in enumerate(arrays)]

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over processes of float64 ``values``."""
        import numpy as np

        summed: np.ndarray = self.gather(np.asarray(values, np.float64)).sum(0)
        return summed

    def _host_sum(self, content: np.ndarray) -> np.ndarray:
        """The sum over processes of bytes, of which all but one process's are 0 at each place; a multiple of four."""
        import numpy as np
        import tensorflow as tf

        words = tf.constant(content.view(np.int32))  # floats would turn -0 into 0
        with self.together(), tf.device("CPU:0"):
            if content.shape not in self._sums:
                host, instance = Group(self.rank, self.size), next(self._keys)
                host._keys = itertools.repeat(instance)  # type: ignore[assignment]
                # Not called as it is: TensorFlow would warn that it is traced for several shapes.
                self._sums[content.shape] = tf.function(host._reduce, autograph=False).get_concrete_function(words)
            summed: np.ndarray = self._sums[content.shape](words).numpy()
        return summed.view(np.uint8)

    @contextmanager
    def together(self, remedy: str | None = None) -> Iterator[None]:
        """Within the block the end of another process is an error that names it.

        Args:
            remedy: what to do then; None: what a block around this one says.

        Raises:
            PeerError: one has ended, or has not answered for some seconds.
        """
        import tensorflow as tf

        if self.size == 1:
            yield
            return
        before = self._remedy
        self._remedy = remedy or before
        try:
            yield
        except (
            tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
            tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError, tf.errors.InternalError,
        ) as error:  # fmt: skip
            raise PeerError(self.lost(str(error)), self._remedy) from error
        finally:
            self._remedy = before

    @contextmanager
    def watched(self, remedy: str) -> Iterator[None]:
        """Within the block this process ends once another has gone or stands still, even where it waits for it within
        a program on a GPU (`tfhalf.system.watch`). All come to the end of the block together.

        Raises:
            PeerError: as `together`, where this process has noticed by itself.
        """
        import numpy as np

        if self.size == 1:
            yield
            return
        with watched(self.rank, self.size, remedy), self.together(remedy):
            yield
            self.gather(np.zeros(1))  # else one that is done could be missed by those that are not

    def lost(self, message: str) -> str:
        """Which process ``message``, an error of the runtime's, says has gone."""
        others = [int(number) for number in _TASK.findall(message) if int(number) != self.rank]
        who = f"process {others[0]} of {self.size}" if others else f"another of the {self.size} processes"
        return f"{who} has ended or does not answer"


def _array(content: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Bytes as an array of the shape and dtype of another."""
    import numpy as np

    return np.frombuffer(content.tobytes(), like.dtype).reshape(like.shape)


ALONE = Group()
