"""Starting TensorFlow: without its chatter, and with XLA's programs kept for the user.

Everything here happens before TensorFlow is imported: it reads its settings once.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tfhalf.errors import ConfigError
from tfhalf.system.programs import keep_programs

_SAME_BITS = "--xla_gpu_deterministic_ops"  # which also has no kernel chosen by how fast it was
# TensorFlow and Keras import these where they are installed, for wrappers and plots that nothing here uses: a third of
# the time that TensorFlow's import takes.
_UNUSED = ("sklearn", "matplotlib", "pandas", "jax")


def import_tensorflow(
    say: Callable[[str], None] | None = None, *, deterministic: bool = False, without: tuple[str, ...] = ()
) -> None:
    """Import TensorFlow without the lines that its libraries write to file descriptor 2 before they read any setting.

    They are shown after all when the import fails.

    Args:
        say: takes a line where XLA's compiled GPU programs cannot be kept for the next time (`keep_programs`). None
            leaves that to the process that started this one.
        deterministic: have every operation give the same bits each time, or be refused.
        without: packages that TensorFlow and Keras import where they can, beside `_UNUSED`; they do without.

    Raises:
        ConfigError: Keras is set to another backend, or the cache's limit is not a size.
    """
    backend = os.environ.get("KERAS_BACKEND")
    if backend != "tensorflow":
        raise ConfigError(f"KERAS_BACKEND is {backend!r}; tfhalf needs tensorflow: unset it")
    if deterministic:
        set_same_bits()
    if say is not None:
        keep_programs(say)
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
