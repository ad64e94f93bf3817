"""Pictures, by matplotlib: where they may be written, checked before the work that they show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tfhalf.errors import ConfigError, ShortfallError
from tfhalf.files import check_writable

_SUFFIXES = (".png", ".svg")


def check(path: Path | None) -> None:
    """Before anything is measured; nothing without a ``path``.

    Raises:
        ConfigError: no picture can be written there.
    """
    if path is None:
        return
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--plot {path}: accepted: a name that ends in {' or '.join(_SUFFIXES)}; rename it")
    folder = path.absolute().parent
    if not os.path.isdir(folder) or (os.path.lexists(path) and not os.path.isfile(path)):
        raise ConfigError(f"--plot {path}: accepted: a file in a folder that exists; make the folder, or take another")
    check_writable(folder if os.path.isfile(path) else path, "--plot")
    if os.path.lexists(path) and not os.access(path, os.W_OK):
        raise ConfigError(f"--plot {path}: cannot be written; name another path")
    figure(1, 1)


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write ``figure``, a matplotlib one, to ``path``.

    Raises:
        ShortfallError: the disk does not take it.
    """
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise ShortfallError(
            f"--plot {path}: the picture cannot be written: {error.strerror or error}; free some, or name another path"
        ) from error


def figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, without pyplot: no display, no global state.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib, which is not installed: pip install matplotlib") from None
    return Figure((width, height), layout="constrained")
