"""The devices that onnxruntime has on this machine."""

from __future__ import annotations

import ctypes.util
import importlib.util
import sys
from contextlib import redirect_stdout
from functools import cache

from tfhalf.runtimes.base import Device


def gpu_devices() -> tuple[Device, ...]:
    """The devices beside the CPU that this onnxruntime was built for, the fastest first; none without onnxruntime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return ()
    providers = onnx_providers("Tensorrt", "CUDA")
    names: tuple[tuple[Device, str], ...] = (("TensorRT", "Tensorrt"), ("CUDA", "CUDA"))
    return tuple(device for device, name in names if f"{name}ExecutionProvider" in providers)


def onnx_providers(*devices: str) -> list[str]:
    """The providers of ``devices`` (TensorRT's is called Tensorrt) that this onnxruntime was built with, in that order;
    TensorRT's only where its libraries are on the machine.

    Without CUDA's libraries onnxruntime takes the next provider in silence.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    built = [device for device in devices if f"{device}ExecutionProvider" in there]
    # Asked last: looking for a library in the system starts processes.
    usable = [f"{device}ExecutionProvider" for device in built if device != "Tensorrt" or _load_tensorrt()]
    if any(name != "CPUExecutionProvider" for name in usable):
        _load_cuda()
    return usable


@cache
def _load_tensorrt() -> bool:
    """Whether TensorRT is installed, by pip or in the system."""
    if importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")  # loads them
        return True
    return ctypes.util.find_library("nvinfer") is not None


@cache
def _load_cuda() -> None:
    """Load CUDA's libraries from where pip puts them; onnxruntime alone looks in the system's folders."""
    import onnxruntime

    with redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()


def lacking(device: str) -> str:
    """Why onnxruntime has no ``device`` here; empty where it has it."""
    if device == "CPU" or device in gpu_devices():
        return ""
    import onnxruntime

    there = ", ".join(onnxruntime.get_available_providers())
    return f"onnxruntime {onnxruntime.__version__} has {there}; onnxruntime-gpu brings CUDA"
