"""Memory of a GPU and copies to it, on a stream of one's own, by CUDA's driver.

TensorFlow copies to a GPU only once all that its compute stream has in its queue is done, so that nothing it brings is
there before the program that runs has ended. The driver comes with every GPU, whichever CUDA libraries are installed.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_HOST, _DEVICE = 1, 2  # CUmemorytype
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
_ASLEEP, _NO_TIMING = 1, 2  # CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING
_SCHEDULE_ASLEEP = 4  # CU_CTX_SCHED_BLOCKING_SYNC
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_Pointer, _Size = ctypes.c_uint64, ctypes.c_size_t


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of cuda.h."""

    _fields_ = [
        ("src_x", _Size), ("src_y", _Size), ("src_type", ctypes.c_uint), ("src_host", ctypes.c_void_p),
        ("src_device", _Pointer), ("src_array", ctypes.c_void_p), ("src_pitch", _Size),
        ("dst_x", _Size), ("dst_y", _Size), ("dst_type", ctypes.c_uint), ("dst_host", ctypes.c_void_p),
        ("dst_device", _Pointer), ("dst_array", ctypes.c_void_p), ("dst_pitch", _Size),
        ("width", _Size), ("height", _Size),
    ]  # fmt: skip


class CudaError(RuntimeError):
    """The driver refused a call."""


class Cuda:
    """A GPU by its number among those that CUDA shows; its context is the one that TensorFlow uses.

    Raises:
        CudaError: there is no such GPU, or no driver.
    """

    on_gpu = True  # what it allocates; not so of a stand-in for tests

    def __init__(self, number: int = 0) -> None:
        self.number = number
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
            # For calls that return at once: giving up Python's lock for them would cost a thread its turn.
            self._brief = ctypes.PyDLL("libcuda.so.1")
        except OSError as error:
            raise CudaError(f"CUDA's driver cannot be loaded ({error})") from error
        self._call("cuInit", ctypes.c_uint(0))
        self._device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(self._device), ctypes.c_int(number))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._current = threading.local()

    def enter(self) -> None:
        """Have this thread use the GPU; each method of this class does so first."""
        if not getattr(self._current, "entered", False):
            self._call("cuCtxSetCurrent", self._context)
            self._current.entered = True

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes on the GPU."""
        self.enter()
        address = _Pointer()
        self._call("cuMemAlloc_v2", ctypes.byref(address), _Size(size))
        return int(address.value)

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """New bytes of the host, uint8 [size], which the GPU reads by itself. They stay until the process ends."""
        self.enter()
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), _Size(size), ctypes.c_uint(_PORTABLE))
        assert address.value is not None
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address.value))

    def stream(self) -> int:
        """A new stream, which waits for no other, and whose work comes before that of streams of usual priority."""
        self.enter()
        stream, least, greatest = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        self._call("cuCtxGetStreamPriorityRange", ctypes.byref(least), ctypes.byref(greatest))
        self._call("cuStreamCreateWithPriority", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING), greatest)
        return int(stream.value or 0)

    def synchronize(self, stream: int) -> None:
        """Wait, asleep, until all that ``stream`` has in its queue is done."""
        self.enter()
        event = getattr(self._current, "event", None)
        if event is None:
            event = self._current.event = ctypes.c_void_p()
            self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(_ASLEEP | _NO_TIMING))
        self._call("cuEventRecord", event, ctypes.c_void_p(stream))
        self._call("cuEventSynchronize", event)

    def wait_asleep(self) -> None:
        """From now on whoever waits for the GPU in this process leaves the core to others, where the driver allows it;
        else it asks again and again, which saves some microseconds."""
        with suppress(CudaError):
            self._call("cuDevicePrimaryCtxSetFlags_v2", self._device, ctypes.c_uint(_SCHEDULE_ASLEEP))

    def rows(
        self, source: int, source_pitch: int, target: int, target_pitch: int, width: int, rows: int, stream: int,
        *, from_host: bool = False,
    ) -> None:  # fmt: skip
        """Begin to copy ``rows`` rows of ``width`` bytes, which lie so many bytes (pitch) apart, from the GPU, or the
        host, to the GPU."""
        self.enter()
        copy = _Copy2D(src_pitch=source_pitch, dst_type=_DEVICE, dst_device=target, dst_pitch=target_pitch,
                       width=width, height=rows)  # fmt: skip
        if from_host:
            copy.src_type, copy.src_host = _HOST, source
        else:
            copy.src_type, copy.src_device = _DEVICE, source
        self._check("cuMemcpy2DAsync_v2", self._brief.cuMemcpy2DAsync_v2(ctypes.byref(copy), ctypes.c_void_p(stream)))

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._driver, name)(*arguments))

    def _check(self, name: str, result: int) -> None:
        if result:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(result), ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'error ' + str(result).encode()).decode()}")


@lru_cache(maxsize=8)
def cuda(number: int = 0) -> Cuda:
    """`Cuda`, once for each GPU.

    Raises:
        CudaError: as `Cuda`.
    """
    return Cuda(number)
