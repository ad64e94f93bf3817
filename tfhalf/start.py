"""Starting TensorFlow: without its chatter, and with XLA's programs kept on disk.

Everything here happens before TensorFlow is imported: it reads its settings once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib import metadata
from pathlib import Path

from tfhalf.device import gpu_models, nvidia_device, nvidia_driver
from tfhalf.errors import ConfigError

PROGRAMS = ".xla"
_CACHE = "--tf_xla_persistent_cache_directory"


def import_tensorflow(keep_programs: Path | None = None) -> None:
    """Import TensorFlow without the lines that its libraries write to file descriptor 2 before they read any setting.

    They are shown after all when the import fails.

    Args:
        keep_programs: folder under which XLA's compiled GPU programs are kept for the next run; None keeps none.

    Raises:
        ConfigError: Keras is set to another backend.
    """
    backend = os.environ.get("KERAS_BACKEND")
    if backend != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND is {backend!r}; tfhalf needs tensorflow: unset it")
    if keep_programs is not None:
        _keep_programs(keep_programs)
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            held.seek(0)
            os.write(before, held.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


def _keep_programs(folder: Path) -> None:
    """Have XLA look for its programs in ``folder/.xla/KEY`` and leave new ones there.

    KEY stands for what a program depends on beside its own text, which XLA compares itself: the versions, the GPUs,
    their driver, and XLA's flags. Only for GPUs: on a CPU compiling is short, and reading programs back has crashed.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if _CACHE in flags or nvidia_device() is None or " " in str(folder.absolute()):
        return  # the user's own setting stands; a path with a blank cannot be said in flags
    parts = [
        *(metadata.version(package) for package in ("tensorflow", "keras")),
        nvidia_driver() or "",
        *gpu_models(),
        os.environ.get("XLA_FLAGS", ""),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    place = folder.absolute() / PROGRAMS / key
    os.environ["TF_XLA_FLAGS"] = (
        f"{flags} {_CACHE}={place} --tf_xla_persistent_cache_device_types=GPU,XLA_GPU_JIT".strip()
    )
