"""The machine that a benchmark runs on, and the commands that it runs there."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("torch", "triton", "timm", "tensorflow", "keras", "numpy", "nvidia-cudnn-cu13", "nvidia-cublas")


def environment(**more: str) -> dict[str, str]:
    """This process' own, with the checkout on Python's path, and ``more``."""
    # Scripts in benchmarks/ import tfhalf, which need not be installed.
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **more}


def add_side_options(parser: argparse.ArgumentParser) -> None:
    """What both sides are run by, and on."""
    parser.add_argument("--setup", type=Path, help="shell file that TensorFlow's commands, and no others, source first")
    parser.add_argument("--tf-python", default=sys.executable, help="the Python that has TensorFlow")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="of the PyTorch commands")


def after_setup(setup: Path | None, command: Sequence[str]) -> list[str]:
    """``command``, after the shell file ``setup`` has been sourced."""
    if setup is None:
        return list(command)
    return ["bash", "-c", '. "$0" >&2 && exec "$@"', str(setup.resolve()), *command]


def facts() -> dict[str, Any]:
    """``gpu``, empty without one; ``versions`` of what computes, as far as it is installed; ``host``."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpu: dict[str, str] = {}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,uuid", "--format=csv,noheader"]
        said = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60).stdout.splitlines()
        if said:
            gpu = dict(
                zip(("name", "driver", "memory", "uuid"), (part.strip() for part in said[0].split(",")), strict=False)
            )
    host = {"cpus": os.cpu_count(), "processor": _processor(), "system": platform.platform()}
    return {"gpu": gpu, "versions": versions, "host": host}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
