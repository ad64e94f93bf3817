"""XLA's compiled GPU programs and its choices of kernels, kept for the user from one command and project to the next.

`keep_programs` says where, before TensorFlow reads its flags, `trim_programs` bounds them when a command ends. XLA
writes each file under another name first and then renames it, so that two processes may share a folder. Reading a
program back is running code: the folder is the user's alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from tfhalf.system.cache import cache_folder, cache_limit, check_private, make_folder
from tfhalf.system.device import gpu_models, nvidia_device, nvidia_driver
from tfhalf.system.program_key import KERNELS, PROGRAMS, ProgramKey, keys_in

_CACHE = "--tf_xla_persistent_cache_directory"
_READ_ONLY = "--tf_xla_persistent_cache_read_only=true"
_KERNELS = "--xla_gpu_experimental_autotuner_cache_dir"
_UNSAYABLE = re.compile(r"[\s'\"\\]")  # in flags, which are parted at blanks
_LEAST_DISK = 1 << 30  # bytes free, below which nothing is added: XLA fails where it cannot write
_TRIMMED_TO = 0.9  # of the limit, so that not every command trims


@dataclass
class _Kept:
    """What this process keeps: the cache and its key, held by ``lock``, since ``since``, nanoseconds since the epoch,
    when it had ``names``."""

    cache: Path
    key: ProgramKey
    lock: BinaryIO
    names: frozenset[str]
    since: int


_kept: _Kept | None = None
_last: tuple[Path, ProgramKey] | None = None  # where TensorFlow keeps them, once it has read its flags


def keep_programs(say: Callable[[str], None]) -> None:
    """Have XLA look for its programs in the user's cache, ``programs/KEY``, and leave new ones there; and beside them
    which kernels were the fastest for each convolution and matrix product, so that a changed program need not try them
    all again. Processes that this one starts share them.

    KEY stands for what a program depends on beside its own text, which XLA compares itself: the versions, the GPUs,
    their driver, and XLA's flags. Only for GPUs: on a CPU compiling is short, and reading programs back has crashed.

    Args:
        say: takes a line where they cannot be kept; nothing else changes then.

    Raises:
        ConfigError: TFHALF_CACHE_LIMIT is not a size.
    """
    global _kept, _last
    limit = cache_limit()
    flags = os.environ.get("TF_XLA_FLAGS", "")
    again = _last is not None and f"{_CACHE}={_last[1].folder}" in flags.split()
    if _kept is not None or (_CACHE in flags and not again) or not limit or nvidia_device() is None:
        return  # the user's own setting stands
    try:
        facts = _facts()
        cache = _private_cache()
        key = ProgramKey(cache / PROGRAMS / _digest(facts))
        if again and _last is not None:
            cache, key = _last
        with tempfile.TemporaryFile(dir=cache / PROGRAMS):
            pass
        lock = key.begin(facts)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"xla        compiled programs are not kept: {_why(error)}")
        return
    full = shutil.disk_usage(key.folder).free < _LEAST_DISK
    if full:
        say(f"xla        new compiled programs are not kept: {cache} has less than 1 GiB of its disk left")
    _kept, _last = _Kept(cache, key, lock, _names(key.folder), time.time_ns()), (cache, key)
    if not again:
        _set_flags(key.folder, flags, full)


def trim_programs(say: Callable[[str], None]) -> None:
    """Where this process has added programs, remove the ones that were not used for the longest time until all take no
    more than the limit: whole keys that no process uses, then programs of this one's key that it did not use itself.

    Args:
        say: takes a line where they cannot be removed.
    """
    global _kept
    kept, _kept = _kept, None
    if kept is None:
        return
    try:
        kept.key.note_used(kept.since)
        kept.lock.close()
        if _names(kept.key.folder) - kept.names:
            _trim(kept, cache_limit())
    except OSError as error:
        say(f"xla        the cache of compiled programs is not trimmed: {_why(error)}")


def are_kept() -> bool:
    """Whether TensorFlow has read, or will read, from this process that programs are kept."""
    return _last is not None


def program_names() -> frozenset[str] | None:
    """Names of the programs where XLA looks for them, for `from_cache` afterwards; None where it keeps none."""
    flags = os.environ.get("TF_XLA_FLAGS", "").split()
    folders = [flag.partition("=")[2] for flag in flags if flag.startswith(f"{_CACHE}=")]
    return _names(Path(folders[-1])) if folders and _READ_ONLY not in flags else None


def from_cache(before: frozenset[str] | None) -> bool | None:
    """Whether what was compiled since ``before`` came from the cache: nothing was added to it. None without one."""
    after = program_names()
    if before is None or after is None or not after:
        return None
    return not after - before


def origin_words(cached: bool | None) -> str:
    """What is said behind the seconds that compiling took, by `from_cache`."""
    return "" if cached is None else ", from the cache" if cached else ", kept for the next time"


def _facts() -> dict[str, Any]:
    """What a program depends on beside its own text."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return {
        **{package: metadata.version(package) for package in ("tensorflow", "keras")},
        "driver": nvidia_driver() or "",
        "gpus": gpu_models(),
        "flags": " ".join(flag for flag in flags if not flag.startswith(_KERNELS)),
    }


def _digest(facts: dict[str, Any]) -> str:
    parts = [facts["tensorflow"], facts["keras"], facts["driver"], *facts["gpus"], facts["flags"]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _private_cache() -> Path:
    """The cache folder with its folder for programs, both of which nobody else can write.

    Raises:
        OSError: they are not like that, or have a path that flags cannot say.
    """
    make_folder(cache_folder())
    cache = cache_folder().resolve()
    if _UNSAYABLE.search(str(cache)):
        raise PermissionError(0, "its path has a blank or a quote; set TFHALF_CACHE_DIR to another folder", str(cache))
    programs = cache / PROGRAMS
    check_private(cache)
    make_folder(programs)
    check_private(programs)
    programs.chmod(0o700)
    return cache


def _set_flags(folder: Path, flags: str, full: bool) -> None:
    parts = [flags, f"{_CACHE}={folder}", "--tf_xla_persistent_cache_device_types=GPU,XLA_GPU_JIT", _READ_ONLY * full]
    os.environ["TF_XLA_FLAGS"] = " ".join(filter(None, parts))
    xla = os.environ.get("XLA_FLAGS", "")
    if _KERNELS not in xla and not full:  # choices of kernels cannot be read alone
        os.environ["XLA_FLAGS"] = f"{xla} {_KERNELS}={folder / KERNELS}".strip()


def _trim(kept: _Kept, limit: int) -> None:
    keys = keys_in(kept.cache)
    total = sum(file.size for key in keys for file in key.files())
    if total <= limit:
        return
    least = int(limit * _TRIMMED_TO)
    for key in keys:
        if total > least and key != kept.key:
            with key.alone() as alone:
                total -= key.remove() if alone else 0
    with kept.key.alone() as alone:
        if total > least and alone:
            kept.key.remove_oldest(total - least, kept.since)


def _names(folder: Path) -> frozenset[str]:
    return frozenset(file.path.name for file in ProgramKey(folder).programs())


def _why(error: OSError | subprocess.TimeoutExpired) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    return "nvidia-smi does not answer"
