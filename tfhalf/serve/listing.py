"""What lies in the exports folders: names and versions from listings alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tfhalf.errors import ArtifactError, InputError
from tfhalf.export.version import versions

Found = dict[str, dict[int, Path]]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def scan(exports: Sequence[Path]) -> Found:
    """``{name: {version: directory}}`` below ``exports``: each exports/, exports/NAME or exports/NAME/VERSION.

    Folders with other names than letters, digits, ``.``, ``_`` and ``-`` are passed over.

    Raises:
        InputError: one name in two places.
    """
    found: Found = {}
    for path in exports:
        for name, there in _below(path).items():
            if name in found and set(found[name].values()) != set(there.values()):
                where = next(iter(found[name].values())).parent
                raise InputError(f"{path}: holds the model {name!r}, which {where} holds too; give one of them")
            found[name] = there
    return found


def check(exports: Sequence[Path]) -> None:
    """Refuse paths that hold nothing to serve.

    Raises:
        ArtifactError: says what is wrong with the first such path.
    """
    for path in exports:
        if not path.is_dir():
            raise ArtifactError(f"{path}: is no folder; give exports/, exports/NAME or exports/NAME/VERSION")
        if not _below(path):
            raise ArtifactError(f"{path}: holds no exported version; `tfhalf train PIPELINE` makes one")


def fingerprint(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a version's files: another one says that it is worth trying again."""
    rows = []
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                stat = os.stat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            rows.append((os.path.join(folder, name), stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(rows))


def _below(path: Path) -> Found:
    path = path.absolute()
    if (path / "manifest.json").is_file() and path.name.isdigit():
        return {path.parent.name: {int(path.name): path}}
    if numbers := versions(path):
        return {path.name: {number: path / str(number) for number in numbers}}
    if not path.is_dir():
        return {}
    found: Found = {}
    for child in sorted(path.iterdir()):
        if _NAME.fullmatch(child.name) and (numbers := versions(child)):
            found[child.name] = {number: child / str(number) for number in numbers}
    return found
