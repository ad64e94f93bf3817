"""An ONNX file read once and held against what may be opened: what was checked is what is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf.errors import IntegrityError
from tfhalf.files import sha256
from tfhalf.inspect.onnx_check import parse_onnx, read_onnx_bytes, weights_beside


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was checked: its ``path``, its bytes, what they hold (an `onnx.ModelProto`), and the file of
    weights ``beside`` it, where there is one."""

    path: Path
    blob: bytes
    model: Any
    beside: Path | None


def read_checked(path: Path, digests: Mapping[str, str] | None = None) -> OnnxFile:
    """Read the file once and hold it against what may be opened.

    Args:
        path: the ONNX file.
        digests: the sha256 of each file by its name, where what is opened must be that.

    Raises:
        ArtifactError: it is refused.
        IntegrityError: its sha256 is another.
    """
    blob = read_onnx_bytes(path)
    if digests is not None:
        _check_unchanged(path, hashlib.sha256(blob).hexdigest(), digests)
    model = parse_onnx(path, blob)
    beside = weights_beside(path, model)
    if beside is not None and digests is not None:
        _check_unchanged(beside, sha256(beside), digests)
    return OnnxFile(path, blob, model, beside)


def _check_unchanged(path: Path, digest: str, digests: Mapping[str, str]) -> None:
    if digest != digests.get(path.name):
        raise IntegrityError(f"{path}: changed while it was opened; export again")
