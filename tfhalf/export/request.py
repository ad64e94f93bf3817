"""The request of `tfhalf export`, checked before TensorFlow is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.formats import BY_DEFAULT, FORMATS
from tfhalf.errors import ConfigError
from tfhalf.files import check_writable, read_bytes
from tfhalf.runtimes.child import lacking
from tfhalf.text import one_line

ALL = "all"
"""The word for every format that the model can be written in."""

MAX_LABELS = 16 << 20
"""Bytes of a file of names of classes."""
MAX_LABEL = 500

LIST = "list"
"""Of ``--keep-float32``: print the names that it takes."""


@dataclass(frozen=True)
class Request:
    """Which model. ``arguments`` are the builder's."""

    model: str
    custom: Path | None = None
    weights: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How to export. ``formats``: those that are named, each of which must be written; None asks for none
    by name. ``tried`` are those that are written if the model can be, where none is named.

    ``keep_float32``: patterns for layers' paths, and ``auto``, which keeps what comes near float16's end.
    ``allow_float32``: also publish what has no parameter in float16.
    ``sizes``: what stands for open sizes of inputs that are drawn. ``samples`` by the inputs' names, instead of those
    of the file ``verify_with``. ``labels``: names of the classes, in order.
    """

    exports: Path = Path("exports")
    name: str | None = None
    formats: tuple[str, ...] | None = None
    tried: tuple[str, ...] = BY_DEFAULT
    verify_with: Path | None = None
    samples: Mapping[str, np.ndarray] | None = None
    keep_float32: tuple[str, ...] = ()
    opset: int = 18
    fold_batchnorm: bool = True
    limits: Limits = field(default_factory=Limits)
    bisect_seconds: float = 120.0
    allow_float32: bool = False
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


def read_request(
    model: str, *, custom: Path | None, weights: Path | None, arguments: tuple[str, ...], **_: Any
) -> Request:
    """Which model the command line names.

    Raises:
        ConfigError: an argument is not NAME=VALUE.
    """
    values = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--arg {text!r}: NAME=VALUE is accepted, such as --arg input_shape=[224,224,3]")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--arg {text!r}: the value is not YAML: {one_line(error, 120)}") from None
    if weights is not None and ":" not in model:
        raise ConfigError(f"--weights {weights}: {model} has its own weights; it goes with file.py:build")
    return Request(model, custom, weights, values)


def read_options(
    exports: Path,
    *,
    name: str | None,
    formats: str | None,
    verify_with: Path | None,
    keep_float32: tuple[str, ...],
    opset: int,
    bisect_seconds: float,
    max_difference: float | None,
    mean_difference: float | None,
    allow_float32: bool = False,
    sizes: tuple[str, ...] = (),
    labels: Path | None = None,
    **_: Any,
) -> Options:
    """How the command line says to export.

    Raises:
        ConfigError: a format is unknown, a name is not a folder's, or a limit is not positive.
    """
    check_writable(exports, "--exports")
    chosen, tried = _formats(formats)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
        raise ConfigError(f"--name {name!r}: letters, digits, '_', '-' and '.' are accepted, at most 80")
    differences = {"max_difference": max_difference, "mean_difference": mean_difference}
    chosen_limits: dict[str, Any] = {key: value for key, value in differences.items() if value is not None}
    for key, value in chosen_limits.items():
        if not 0 < value < 1:
            raise ConfigError(f"--{key.replace('_', '-')} {value:g}: a share of the scale between 0 and 1 is accepted")
    limits = Limits(**chosen_limits)
    return Options(
        exports,
        name,
        chosen,
        tried,
        verify_with,
        keep_float32=keep_float32,
        opset=opset,
        limits=limits,
        bisect_seconds=bisect_seconds,
        allow_float32=allow_float32,
        sizes=dict(map(_size, sizes)),
        labels=_labels(labels) if labels is not None else (),
    )


def _labels(path: Path) -> tuple[str, ...]:
    """The lines of a file of names of classes; empty ones at its end do not count.

    Raises:
        ConfigError: it cannot be read, is not text, or a line is empty or very long.
    """
    try:
        lines = read_bytes(path, MAX_LABELS).decode("utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise ConfigError(f"--labels {path}: does not exist; give a file with a class's name on each line") from None
    except OSError as error:
        raise ConfigError(f"--labels {path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--labels {path}: is not UTF-8 text: {one_line(error, 100)}") from None
    if not lines:
        raise ConfigError(f"--labels {path}: is empty; give the name of a class on each line, in the model's order")
    return check_labels(f"--labels {path}", lines)


def check_labels(where: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, without blanks around them; ``where`` they are from begins the message.

    Raises:
        ConfigError: a name is empty or very long.
    """
    names = tuple(label.strip() for label in labels)
    for number, name in enumerate(names, 1):
        if not name or len(name) > MAX_LABEL:
            received = f"{len(name):,} characters" if name else "nothing"
            raise ConfigError(
                f"{where}: line {number} has {received}; accepted: a name of at most {MAX_LABEL} characters"
            )
    return names


def _size(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME=64`` or ``NAME=64x48``."""
    name, _, numbers = text.rpartition("=")
    if not name or not re.fullmatch(r"[1-9][0-9]{0,6}(x[1-9][0-9]{0,6}){0,3}", numbers):
        raise ConfigError(f"--size {text!r}: NAME=SIZE is accepted, such as --size audio=16000 or --size image=300x300")
    return name, tuple(map(int, numbers.split("x")))


def _formats(text: str | None) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """``formats`` and ``tried`` of `Options`."""
    if text is None:
        if lack := lacking("onnx"):
            raise ConfigError(f"onnx: {lack}; or give --format savedmodel")
        return None, BY_DEFAULT
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    everything = chosen == (ALL,)
    if not chosen or (not everything and any(kind not in FORMATS for kind in chosen)):
        raise ConfigError(f"--format {text!r}: {', '.join(FORMATS)} are accepted, with commas between; or {ALL}")
    for kind in FORMATS.values():
        if (everything or kind.name in chosen) and kind.needs and (lack := lacking(kind.needs)):
            raise ConfigError(f"--format {text}: {lack}")
    return (None, tuple(FORMATS)) if everything else (chosen, ())
