"""What `tfhalf export` was asked for, checked before TensorFlow is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tfhalf.artifacts.formats import FILES, LITERT, USUAL
from tfhalf.errors import ConfigError
from tfhalf.files import check_writable
from tfhalf.runtimes.child import lacking
from tfhalf.text import one_line
from tfhalf.verify.compare import Limits

ALL = "all"
"""The word for every format that the model can be written in."""

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
    """How to export. ``formats``: those that were asked for by name, each of which must be written; None asks for none
    by name. ``tried`` are those that are written if the model can be, where none is named.

    ``keep_float32``: patterns for layers' paths, and ``auto``, which keeps what comes near float16's end.
    ``allow_float32``: also publish what has no parameter in float16.
    ``sizes``: what stands for open sizes of inputs that are drawn. ``samples`` by the inputs' names, in place of those
    of the file ``verify_with``.
    """

    exports: Path = Path("exports")
    name: str | None = None
    formats: tuple[str, ...] | None = None
    tried: tuple[str, ...] = USUAL
    verify_with: Path | None = None
    samples: Mapping[str, np.ndarray] | None = None
    keep_float32: tuple[str, ...] = ()
    opset: int = 18
    fold_batchnorm: bool = True
    limits: Limits = field(default_factory=Limits)
    bisect_seconds: float = 120.0
    allow_float32: bool = False
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_request(
    model: str, *, custom: Path | None, weights: Path | None, arguments: tuple[str, ...], **_: Any
) -> Request:
    """Which model the command line names.

    Raises:
        ConfigError: an argument is not NAME=VALUE.
    """
    found = {}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--arg {text!r}: NAME=VALUE is accepted, such as --arg input_shape=[224,224,3]")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--arg {text!r}: the value is not YAML: {one_line(error, 120)}") from None
    if weights is not None and ":" not in model:
        raise ConfigError(f"--weights {weights}: {model} has its own weights; it goes with file.py:build")
    return Request(model, custom, weights, found)


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
    **_: Any,
) -> Options:
    """How the command line says to export.

    Raises:
        ConfigError: a format is unknown, a name is no folder's, or a limit is not positive.
    """
    check_writable(exports, "--exports")
    chosen, tried = _formats(formats)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", name):
        raise ConfigError(f"--name {name!r}: letters, digits, '_', '-' and '.' are accepted, at most 80")
    limits = Limits()
    wanted = {
        "max_difference": limits.max_difference if max_difference is None else max_difference,
        "mean_difference": limits.mean_difference if mean_difference is None else mean_difference,
    }
    for key, value in wanted.items():
        if not 0 < value < 1:
            raise ConfigError(f"--{key.replace('_', '-')} {value:g}: a share of the scale between 0 and 1 is accepted")
    limits = Limits(wanted["max_difference"], wanted["mean_difference"])
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
    )


def _size(text: str) -> tuple[str, tuple[int, ...]]:
    """``NAME=64`` or ``NAME=64x48``."""
    name, _, numbers = text.rpartition("=")
    if not name or not re.fullmatch(r"[1-9][0-9]{0,6}(x[1-9][0-9]{0,6}){0,3}", numbers):
        raise ConfigError(f"--size {text!r}: NAME=SIZE is accepted, such as --size audio=16000 or --size image=300x300")
    return name, tuple(map(int, numbers.split("x")))


def _formats(text: str | None) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """``formats`` and ``tried`` of `Options`."""
    if text is None:
        return None, USUAL
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    everything = chosen == (ALL,)
    if not chosen or (not everything and any(kind not in FILES for kind in chosen)):
        raise ConfigError(f"--format {text!r}: {', '.join(FILES)} are accepted, with commas between; or {ALL}")
    if (everything or any(kind in LITERT for kind in chosen)) and (lack := lacking("litert")):
        raise ConfigError(f"--format {text}: {lack}")
    return (None, tuple(FILES)) if everything else (chosen, ())
