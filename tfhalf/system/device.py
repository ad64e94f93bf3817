"""The device that work runs on: what it is, and whether it computes in float16 itself."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tfhalf.system.group import ALONE, Group

# NVIDIA's compute capability from which an instruction exists.
FLOAT16_ARITHMETIC = (5, 3)
TENSOR_CORES = (7, 0)

_CPU_FLOAT16 = {"avx512_fp16", "amx_fp16", "asimdhp", "fphp"}  # x86, x86, Arm, Arm
# The last stands in Windows' Linux.
_NVIDIA_NODES = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl", "/usr/lib/wsl/lib/nvidia-smi")

MEMORY_SHARE = 0.9
"""Of the memory that there is, what a program may take: allocators leave gaps."""


@dataclass(frozen=True)
class Device:
    """A GPU, or the CPU where there is none.

    ``memory_bytes`` is the device's whole memory, None where it is unknown. ``native_float16`` says that the device
    has float16 arithmetic; without it every operation goes through float32. ``cpu_cores`` counts the cores this process
    may use. ``group``: the processes that train together, of which each has such a device.
    """

    kind: Literal["GPU", "CPU"]
    name: str
    compute_capability: tuple[int, int] | None
    memory_bytes: int | None
    native_float16: bool
    tensor_cores: bool
    cpu_cores: int
    group: Group = field(default=ALONE, compare=False)

    @property
    def alone(self) -> Device:
        """The device for work that this process does by itself."""
        return replace(self, group=ALONE)

    def describe(self, *, half: bool = True) -> str:
        """One line, such as ``NVIDIA H200, compute capability 9.0, 139.8 GiB, float16 Tensor Cores, 16 CPU cores``;
        without ``half``, nothing of float16."""
        parts = [self.name]
        if self.compute_capability:
            parts.append("compute capability {}.{}".format(*self.compute_capability))
        if self.memory_bytes:
            parts.append(f"{self.memory_bytes / 2**30:.1f} GiB")
        if half and self.tensor_cores:
            parts.append("float16 Tensor Cores")
        elif half:
            parts.append("float16 arithmetic" if self.native_float16 else "float16 emulated in float32")
        parts.append(f"{self.cpu_cores} CPU core{'s' if self.cpu_cores != 1 else ''}")
        count = self.group.size
        return (f"{count} x " if count > 1 else "") + ", ".join(parts)


def detect() -> Device:
    """The first GPU that TensorFlow sees, or else the CPU. Starts no GPU context, so it takes no GPU memory."""
    devices = gpus()
    return devices[0] if devices else cpu()


def gpus() -> list[Device]:
    """Every GPU that TensorFlow sees, in its order. Starts no GPU context, so it takes no GPU memory."""
    import tensorflow as tf

    devices = []
    for index, physical in enumerate(tf.config.list_physical_devices("GPU")):
        details: dict[str, Any] = tf.config.experimental.get_device_details(physical)
        capability = details.get("compute_capability")
        devices.append(
            Device(
                kind="GPU",
                name=details.get("device_name", physical.name),
                compute_capability=capability,
                memory_bytes=_gpu_memory(index),
                native_float16=capability is not None and capability >= FLOAT16_ARITHMETIC,
                tensor_cores=capability is not None and capability >= TENSOR_CORES,
                cpu_cores=cores(),
            )
        )
    return devices


def physical_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpu() -> Device:
    """The CPU, as the kernel describes it. Needs no TensorFlow."""
    facts = _cpu_facts()
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return Device(
        kind="CPU",
        name=facts.get("model name") or platform.processor() or platform.machine() or "CPU",
        compute_capability=None,
        memory_bytes=physical_memory(),
        native_float16=bool(flags & _CPU_FLOAT16),
        tensor_cores=False,
        cpu_cores=cores(),
    )


def xla_decision(
    mode: Literal["auto", "on", "off"], device: Device, *, half: bool = True, recurrent: bool = False
) -> tuple[bool, str]:
    """Whether training goes through XLA, and why, as a sentence for the user.

    ``auto`` is on for a GPU and off for a CPU. ``half``: whether any of it is in half precision, of which nothing is
    said otherwise. ``recurrent``: whether the model has layers that cuDNN computes, which XLA does not take.
    """
    slow = "XLA on a CPU makes half precision slower"
    if mode == "off":
        return False, "XLA is off: train.xla is off"
    if mode == "on":
        return True, "XLA is on: train.xla is on" + (f", though {slow}" if half and device.kind == "CPU" else "")
    if device.kind == "GPU" and recurrent:
        return False, "XLA is off: cuDNN computes the recurrent layers; train.xla: on compiles them without it"
    if device.kind == "GPU":
        return True, "XLA is on: it joins the operations of a training step into few GPU kernels"
    return False, f"XLA is off: {slow}" if half else "XLA is off: train.xla: auto compiles for GPUs alone"


def grow_memory() -> bool:
    """Let TensorFlow take GPU memory as it needs it, not all at once; whether it does.

    It does not where this process has started a GPU before, with its memory whole: that is its own to use, and leaves
    little to other processes. A limit that the caller has set (a logical device) stays.
    """
    import tensorflow as tf

    grows = True
    for physical in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(physical, True)
        except RuntimeError:
            grows = False
        except ValueError:  # the device has a limit
            continue
    return grows


@contextmanager
def float32_exactly() -> Iterator[None]:
    """Within the block a GPU multiplies float32 as float32: TensorFlow's default, TF32, keeps 11 bits as float16
    does."""
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@contextmanager
def spared_from_collection() -> Iterator[None]:
    """Within the block Python's garbage collection leaves out what lives at its beginning: TensorFlow's modules and
    traced programs are so many objects that a full collection takes 0.2 to 0.5 seconds, as long as an epoch may."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def nvidia_driver() -> str | None:
    """The version of NVIDIA's driver, None where there is none.

    Raises:
        subprocess.TimeoutExpired: nvidia-smi hangs, as it does on a GPU that is lost.
    """
    proc = Path("/proc/driver/nvidia/version")
    if proc.is_file() and (match := re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", proc.read_text())):
        return match[1]
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if result.returncode == 0 and result.stdout.strip():
            return result.stdout.split()[0]
    return None


def gpu_models() -> list[str]:
    """Names of NVIDIA's GPUs as the kernel's driver tells them; needs no TensorFlow, empty where it does not."""
    models = []
    for facts in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        models += re.findall(r"^Model:\s*(.+)$", facts.read_text(errors="replace"), re.MULTILINE)
    return models


def nvidia_device() -> str | None:
    """Where an NVIDIA device shows itself, None where there is none."""
    for node in _NVIDIA_NODES:
        if Path(node).exists():
            return node
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        # Class 03 is a display controller: NVIDIA makes network cards as well.
        if vendor.read_text().strip() == "0x10de" and vendor.with_name("class").read_text().startswith("0x03"):
            return str(vendor.parent)
    return None


def library(file: str) -> str | None:
    """Where a shared library is: in NVIDIA's Python packages, which TensorFlow searches first, or on the system."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        for path in Path(folder).glob(f"*/lib/{file}"):
            return str(path)
    try:
        ctypes.CDLL(file)
    except OSError:
        return None
    return f"{file} of the system"


def cores() -> int:
    """How many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_facts(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The first processor's entry, key by key; empty on a system without the file."""
    if not path.is_file():
        return {}
    facts: dict[str, str] = {}
    for line in path.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def _gpu_memory(index: int) -> int | None:
    """Bytes, from NVIDIA's driver: it numbers devices as TensorFlow does, and asking it starts no context."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:  # a GPU of another maker
        return None
    handle, size = ctypes.c_int(), ctypes.c_size_t()
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(handle), index)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    )
    return None if failed else size.value
