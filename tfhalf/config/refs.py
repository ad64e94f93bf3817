"""A reference in a pipeline file, turned into the callable it names.

Three forms are taken: ``path/file.py:name`` (relative to the pipeline file), ``package.module:name``, and
``keras.applications:Name``. A file is run by its path under a private module name: `sys.path` stays as it is, and two
files of the same name never meet.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tfhalf.errors import RefError, TfhalfError
from tfhalf.files import read_bytes
from tfhalf.text import one_line

_MISSING = object()
_MAX_BYTES = 64 << 20


def resolve(ref: str, base: str | Path) -> Callable[..., Any]:
    """The callable that ``ref`` names.

    Args:
        ref: ``file.py:name`` or ``package.module:name``.
        base: folder that a relative file path starts from.

    Raises:
        RefError: no such file, module or name, the name is not callable, or the file fails while it is run.
    """
    where, colon, name = ref.rpartition(":")
    is_file = where.endswith(".py")
    is_module = all(part.isidentifier() for part in where.split("."))
    if not colon or not name.isidentifier() or not (is_file or is_module):
        raise RefError(
            f"{ref!r} is not a reference; accepted: file.py:name, package.module:name, keras.applications:Name"
        )
    module = _file(Path(base) / where, ref) if is_file else _module(where, ref)
    with user_code(f"{ref!r}: {where} fails to give {name!r}"):  # a module may make its names on demand
        target = getattr(module, name, _MISSING)
    if target is _MISSING:
        near = difflib.get_close_matches(name, [n for n in dir(module) if not n.startswith("_")], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RefError(f"{ref!r}: {where} has no {name!r}{hint}")
    if not callable(target):
        raise RefError(f"{ref!r}: {name!r} is of type {type(target).__name__}, not a callable")
    result: Callable[..., Any] = target
    return result


def load_file(path: Path) -> ModuleType:
    """The module that a Python file is, run by its path.

    Raises:
        RefError: no such file, or it fails while it is run.
    """
    return _file(path, str(path))


def sibling(function: Callable[..., Any], name: str) -> Callable[..., Any] | None:
    """The callable ``name`` that lives in the same module as ``function``, or None."""
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    value = getattr(module, name, None)
    return value if callable(value) else None


@contextmanager
def user_code(fails: str, kind: type[TfhalfError] = RefError, advice: str = "") -> Iterator[None]:
    """Turn whatever the user's own code raises within the block into one line: ``fails``, the error, ``advice``.

    That includes SystemExit, by which that code would decide tfhalf's exit code; Ctrl-C stays what it is.

    Raises:
        TfhalfError: of the class ``kind``; one that the block raises itself stays as it is.
    """
    try:
        yield
    except (TfhalfError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise kind(f"{fails}: {raised(error)}{advice}") from error


def raised(error: BaseException) -> str:
    """An exception of the user's own code in one line: its class, its text and, where it is none of the usual kind,
    what to do."""
    text = ": ".join(dict.fromkeys((type(error).__name__, one_line(error))))
    if isinstance(error, Exception):
        return text
    return f"{text} (raised at {_raised_at(error)}); such code must return or raise an Exception, not end the process"


def _raised_at(error: BaseException) -> str:
    """``file.py:12``, where ``error`` was raised."""
    trace, location = error.__traceback__, "an unknown line"
    while trace is not None:
        location = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return location


class _Exact(importlib.machinery.SourceFileLoader):
    """Runs the very bytes that were read.

    Python's own cache of compiled files tells versions apart by size and whole second: a file edited twice within one
    would run as it was.
    """

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source, self.path)


def _file(path: Path, ref: str) -> ModuleType:
    try:
        path = path.resolve()
        source = read_bytes(path, _MAX_BYTES)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise RefError(f"{ref!r}: there is no file {path}; the path starts from the pipeline file's folder") from None
    except (OSError, RuntimeError, ValueError) as error:  # not readable, a loop of links, a null byte
        raise RefError(f"{ref!r}: {path} cannot be read: {one_line(error)}") from None
    # The content is part of the name: an edited file is run anew, an unchanged one once.
    digest = hashlib.sha256(os.fsencode(path) + b"\0" + source).hexdigest()[:16]
    private = f"_tfhalf_user_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{digest}"
    if private in sys.modules:
        return sys.modules[private]
    spec = importlib.util.spec_from_file_location(private, path, loader=_Exact(private, str(path), source))
    if spec is None or spec.loader is None:
        raise RefError(f"{ref!r}: {path} cannot be run as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(private, None)
        if isinstance(error, KeyboardInterrupt):  # the user's wish, and no fault of the file
            raise
        what = f"{path}{_line_in(error, path)} fails while it is run: {raised(error)}"
        raise RefError(f"{ref!r}: {what}") from error
    return module


def _module(name: str, ref: str) -> ModuleType:
    with user_code(f"{ref!r}: importing {name} fails"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise RefError(
                f"{ref!r}: no module named {error.name!r}; install it, or give a file: path/file.py:name"
            ) from None


def _line_in(error: BaseException, path: Path) -> str:
    """``:12``, the last line of ``path`` that ran, or the one that does not parse."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}" if error.lineno else ""
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
