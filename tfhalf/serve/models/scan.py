"""What lies in the exports folders: names and versions from listings alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence, Sized
from pathlib import Path

from tfhalf.artifacts.version import versions
from tfhalf.errors import ArtifactError, InputError

Models = dict[str, dict[int, Path]]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def scan(exports: Sequence[Path]) -> Models:
    """``{name: {version: directory}}`` below ``exports``: each exports/, exports/NAME or exports/NAME/VERSION.

    Folders with other names than letters, digits, ``.``, ``_`` and ``-`` are passed over.

    Raises:
        InputError: one name in two places.
    """
    return merge([(path, _below(path)) for path in exports])


def merge(listings: Sequence[tuple[Path, Models]]) -> Models:
    """What lies below each path, as one.

    Raises:
        InputError: one name in two places.
    """
    merged: Models = {}
    for path, below in listings:
        for name, there in below.items():
            if name in merged and set(merged[name].values()) != set(there.values()):
                where = next(iter(merged[name].values())).parent
                raise InputError(f"{path}: holds the model {name!r}, which {where} holds too; give one of them")
            merged[name] = there
    return merged


def check(exports: Sequence[Path]) -> None:
    """Refuse paths that cannot hold anything to serve; what lies in models' folders is not looked at.

    Raises:
        ArtifactError: says what is wrong with the first such path.
    """
    for path in exports:
        if not path.is_dir():
            raise ArtifactError(f"{path}: is not a folder; give exports/, exports/NAME or exports/NAME/VERSION")
        try:
            check_not_empty(path, bases(path))
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be listed: {error.strerror}") from None


def check_not_empty(path: Path, content: Sized) -> None:
    """Refuse a path below which nothing lies.

    Raises:
        ArtifactError: says so.
    """
    if not content:
        raise ArtifactError(f"{path}: holds no exported version; `tfhalf train PIPELINE` makes one")


def fingerprint(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a version's files: another one says that it is worth trying again."""
    rows = []
    for folder, _, names in os.walk(directory):
        for path in (os.path.join(folder, name) for name in names):
            try:
                stat = os.stat(path)
            except OSError as error:  # gone, or a link that leads nowhere
                rows.append((path, -1, error.errno or 0))
            else:
                rows.append((path, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(rows))


def bases(path: Path) -> dict[str, Path]:
    """Models below ``path`` by name, each with the folder that `below` lists; nothing in these is looked at.

    Raises:
        OSError: ``path`` cannot be listed.
    """
    path = path.absolute()
    if _is_version(path) or versions(path):
        return {path.parent.name if _is_version(path) else path.name: path}
    if not path.is_dir():
        return {}
    return {name: path / name for name in sorted(os.listdir(path)) if _NAME.fullmatch(name)}


def below(base: Path) -> dict[int, Path]:
    """Versions in a folder that `bases` named.

    Raises:
        OSError: it cannot be listed.
    """
    if _is_version(base):
        return {int(base.name): base}
    return {number: base / str(number) for number in versions(base)}


def _is_version(path: Path) -> bool:
    return path.name.isdigit() and (path / "manifest.json").is_file()


def _below(path: Path) -> Models:
    models: Models = {}
    for name, base in bases(path).items():
        try:
            if there := below(base):
                models[name] = there
        except OSError:  # one that cannot be listed cannot be served, and keeps no other from that
            continue
    return models
