"""Memory of a device that threads fill while a program reads other memory, as tensors of TensorFlow."""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any

import tensorflow as tf

from tfhalf.system.cuda import Cuda

_CPU, _CUDA = 1, 2  # DLDeviceType
_UINT = 1  # DLDataTypeCode
_NAME = ctypes.c_char_p(b"dltensor")


class _Tensor(ctypes.Structure):
    """DLManagedTensor of dlpack.h (version 0.8), whose first member is a DLTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    ]  # fmt: skip


_described: list[_Tensor] = []
"""Kept until the process ends: TensorFlow asks a tensor's description for a deleter when the tensor goes, and what goes
together goes in any order."""


class Buffer:
    """Memory at ``address``, which stays, and ``tensor``, uint8 of ``shape``, which shows what is in it at the time."""

    def __init__(self, address: int, shape: tuple[int, ...], *, gpu: bool) -> None:
        self.address = address
        described = _Tensor(
            data=address, device_type=_CUDA if gpu else _CPU, device_id=0, ndim=len(shape), code=_UINT, bits=8, lanes=1,
            shape=(ctypes.c_int64 * len(shape))(*shape), strides=None, byte_offset=0, manager=None, deleter=None,
        )  # fmt: skip
        _described.append(described)
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self.tensor: Any = tf.experimental.dlpack.from_dlpack(capsule(ctypes.byref(described), _NAME, None))


class Lease:
    """A buffer that nobody else gets while this is referred to: until the program that reads it has ended."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer


class Pool:
    """As many buffers of one shape, uint8, as are in use at once. Threads share it."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], size: int) -> None:
        self._cuda, self._shape, self._size = cuda, shape, size
        self._free: list[Buffer] = []
        self._lock = threading.Lock()

    def lease(self) -> Lease:
        """A buffer that no lease has, new where there is none."""
        with self._lock:
            buffer = self._free.pop() if self._free else None
        lease = Lease(buffer or Buffer(self._cuda.allocate(self._size), self._shape, gpu=self._cuda.on_gpu))
        weakref.finalize(lease, self._free.append, lease.buffer)  # which is atomic: it may come at any time
        return lease
