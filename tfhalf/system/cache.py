"""Where tfhalf keeps what saves work the next time, beside the user's other caches, and how much of it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from tfhalf.errors import ConfigError

LIMIT = "TFHALF_CACHE_LIMIT"
_DEFAULT_LIMIT = 10 << 30
_UNITS = {"": 1, "b": 1, **{f"{unit}b": 1000 ** (i + 1) for i, unit in enumerate("kmgt")}}
_UNITS |= {f"{unit}ib": 1024 ** (i + 1) for i, unit in enumerate("kmgt")}


def cache_folder() -> Path:
    """``$TFHALF_CACHE_DIR``, else ``$XDG_CACHE_HOME/tfhalf``, else ``~/.cache/tfhalf``."""
    own, shared = os.environ.get("TFHALF_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    # The XDG Base Directory Specification has a relative path ignored.
    return (Path(shared) if shared and Path(shared).is_absolute() else Path("~/.cache").expanduser()) / "tfhalf"


def cache_limit() -> int:
    """Bytes that compiled programs may take: ``$TFHALF_CACHE_LIMIT``, else 10 GiB; 0 keeps none.

    Raises:
        ConfigError: the variable is not a size.
    """
    text = os.environ.get(LIMIT, "")
    if not text.strip():
        return _DEFAULT_LIMIT
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]{0,3})\s*", text, re.ASCII | re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(
            f"{LIMIT}={text!r} is not a size; accepted: a number of bytes, or one with kB, MB, GB, TB, KiB, MiB, GiB "
            "or TiB, such as 10GiB; 0 keeps no compiled programs"
        )
    return int(float(match[1]) * _UNITS[match[2].lower()])


def make_folder(path: Path) -> None:
    """Create ``path``, for this user alone, where it is not there yet.

    Raises:
        OSError: it cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def check_private(path: Path) -> None:
    """For a folder from which code is run: that nobody else can put any there.

    Raises:
        PermissionError: it is a link or not a folder, belongs to another user, or others may write in it; ``strerror``
            says so, and what to do.
        OSError: it cannot be looked at.
    """
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        why = "it is a link; remove it" if stat.S_ISLNK(facts.st_mode) else "it is not a folder; remove it"
    elif facts.st_uid != os.geteuid():
        why = f"it belongs to user {facts.st_uid}; set TFHALF_CACHE_DIR to a folder of your own"
    elif facts.st_mode & 0o022:
        why = f"others may write there; chmod go-w {path}"
    else:
        return
    raise PermissionError(0, why, str(path))
