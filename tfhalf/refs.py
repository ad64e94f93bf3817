"""A reference in a pipeline file, turned into the callable it names.

Three forms are taken: ``path/file.py:name`` (relative to the pipeline file), ``package.module:name``, and
``keras.applications:Name``. A file is run by its path under a private module name: `sys.path` stays as it is, and two
files of the same name never meet.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tfhalf.errors import RefError


def resolve(ref: str, base: str | Path) -> Callable[..., Any]:
    """The callable that ``ref`` names.

    Args:
        ref: ``file.py:name`` or ``package.module:name``.
        base: folder that a relative file path starts from.

    Raises:
        RefError: no such file, module or name, the name is not callable, or the file fails while it is run.
    """
    where, colon, name = ref.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise RefError(f"{ref!r} is no reference; accepted: file.py:name, package.module:name, keras.applications:Name")
    module = _file(Path(base) / where, ref) if where.endswith(".py") else _module(where, ref)
    target = getattr(module, name, None)
    if target is None:
        near = difflib.get_close_matches(name, [n for n in dir(module) if not n.startswith("_")], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RefError(f"{ref!r}: {where} has no {name!r}{hint}")
    if not callable(target):
        raise RefError(f"{ref!r}: {name!r} is a {type(target).__name__}, not a callable")
    result: Callable[..., Any] = target
    return result


def sibling(function: Callable[..., Any], name: str) -> Callable[..., Any] | None:
    """The callable ``name`` that lives in the same module as ``function``, or None."""
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    found = getattr(module, name, None)
    return found if callable(found) else None


def _file(path: Path, ref: str) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise RefError(f"{ref!r}: there is no file {path}; the path starts from the pipeline file's folder")
    # The content is part of the name: an edited file is run anew, an unchanged one once.
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    private = f"_tfhalf_user_{path.stem}_{digest}"
    if private in sys.modules:
        return sys.modules[private]
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise RefError(f"{ref!r}: {path} cannot be run as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[private]
        if not isinstance(error, Exception):
            raise
        line = _line_in(error, path)
        raise RefError(f"{ref!r}: {path}{line} fails while it is run: {type(error).__name__}: {_one_line(error)}") from error
    return module


def _module(name: str, ref: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RefError(
            f"{ref!r}: no module named {error.name!r}; install it, or give a file: path/file.py:name"
        ) from None
    except Exception as error:
        raise RefError(f"{ref!r}: importing {name} fails: {type(error).__name__}: {_one_line(error)}") from error


def _line_in(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
