"""Starting TensorFlow: without its chatter, and with XLA's programs kept on disk.

Everything here happens before TensorFlow is imported: it reads its settings once.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from tfhalf.errors import ConfigError
from tfhalf.system.device import gpu_models, nvidia_device, nvidia_driver

PROGRAMS = ".xla"
_CACHE = "--tf_xla_persistent_cache_directory"
_KERNELS = "--xla_gpu_experimental_autotuner_cache_dir"
_SAME_BITS = "--xla_gpu_deterministic_ops"  # which also has no kernel chosen by how fast it was
# TensorFlow and Keras import these where they are installed, for wrappers and plots that nothing here uses: a third of
# the time that TensorFlow's import takes.
_UNUSED = ("sklearn", "matplotlib", "pandas", "jax")


def import_tensorflow(
    keep_programs: Path | None = None, *, deterministic: bool = False, without: tuple[str, ...] = ()
) -> None:
    """Import TensorFlow without the lines that its libraries write to file descriptor 2 before they read any setting.

    They are shown after all when the import fails.

    Args:
        keep_programs: folder under which XLA's compiled GPU programs are kept for the next run; None keeps none.
        deterministic: have every operation give the same bits each time, or be refused.
        without: packages that TensorFlow and Keras import where they can, beside `_UNUSED`; they do without.

    Raises:
        ConfigError: Keras is set to another backend.
    """
    backend = os.environ.get("KERAS_BACKEND")
    if backend != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND is {backend!r}; tfhalf needs tensorflow: unset it")
    if deterministic:
        set_same_bits()
    if keep_programs is not None:
        keep_compiled_programs(keep_programs)
    if "tensorflow" not in sys.modules:
        _import(without)
    if deterministic:
        keep_same_bits()


def set_same_bits() -> bool:
    """Have XLA give the same bits each time on a GPU too; whether that comes in time: TensorFlow, where it is imported
    already, may have read its flags."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _SAME_BITS in flags:
        return True
    os.environ["XLA_FLAGS"] = f"{flags} {_SAME_BITS}=true".strip()
    return "tensorflow" not in sys.modules


def keep_same_bits(in_time: bool = True) -> None:
    """Have TensorFlow's operations give the same bits each time, from now on.

    Args:
        in_time: whether `set_same_bits` came in time.

    Raises:
        ConfigError: it did not, and there is a GPU.
    """
    import tensorflow as tf

    if not in_time and tf.config.list_physical_devices("GPU"):
        raise ConfigError(
            "deterministic: TensorFlow was imported before tfhalf could set XLA's flag; set "
            f"XLA_FLAGS={_SAME_BITS}=true in the environment before the program starts"
        )
    tf.config.experimental.enable_op_determinism()


def _import(without: tuple[str, ...]) -> None:
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            with _hidden((*_UNUSED, *without)), _all_kept():
                import tensorflow  # noqa: F401
        except BaseException:
            held.seek(0)
            os.write(before, held.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)


@contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Within the block ``packages`` cannot be imported, except those that are already; afterwards they can."""
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's word for "not to be had"
    try:
        yield
    finally:
        for package in hidden:
            sys.modules.pop(package, None)


@contextmanager
def _all_kept() -> Iterator[None]:
    """Within the block nothing is looked through for garbage, and what is there at its end never is.

    A large library's modules stay until the process ends. Going through them again and again takes a quarter of their
    import, and going through them once more most of the time in which a process ends.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
    gc.freeze()


@contextmanager
def unlisted_tables() -> Iterator[None]:
    """Within the block tables of words may be created outside of any graph. TensorFlow lists None as the initializer
    of each, in a graph that never runs, and would warn of it whenever another graph is saved."""
    import tensorflow as tf

    try:
        yield
    finally:
        tf.compat.v1.get_default_graph().clear_collection(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)


def keep_compiled_programs(folder: Path) -> None:
    """Have XLA look for its programs in ``folder/.xla/KEY`` and leave new ones there; and beside them which kernels
    were the fastest for each convolution and matrix product, so that a changed program need not try them all again.

    KEY stands for what a program depends on beside its own text, which XLA compares itself: the versions, the GPUs,
    their driver, and XLA's flags. Only for GPUs: on a CPU compiling is short, and reading programs back has crashed.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if _CACHE in flags or nvidia_device() is None or " " in str(folder.absolute()):
        return  # the user's own setting stands; a path with a blank cannot be said in flags
    xla = os.environ.get("XLA_FLAGS", "")
    parts = [
        *(metadata.version(package) for package in ("tensorflow", "keras")),
        nvidia_driver() or "",
        *gpu_models(),
        " ".join(flag for flag in xla.split() if not flag.startswith(_KERNELS)),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    programs = folder.absolute() / PROGRAMS / key
    os.environ["TF_XLA_FLAGS"] = (
        f"{flags} {_CACHE}={programs} --tf_xla_persistent_cache_device_types=GPU,XLA_GPU_JIT".strip()
    )
    if _KERNELS not in xla:
        kernels = programs / "kernels"
        kernels.mkdir(parents=True, exist_ok=True)
        os.environ["XLA_FLAGS"] = f"{xla} {_KERNELS}={kernels}".strip()
