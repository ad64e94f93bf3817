"""Where tfhalf keeps what saves work the next time, beside the user's other caches."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$TFHALF_CACHE_DIR``, else ``$XDG_CACHE_HOME/tfhalf``, else ``~/.cache/tfhalf``."""
    own, shared = os.environ.get("TFHALF_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    # The XDG Base Directory Specification has a relative path ignored.
    return (Path(shared) if shared and Path(shared).is_absolute() else Path("~/.cache").expanduser()) / "tfhalf"
