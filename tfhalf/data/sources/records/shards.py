"""Which files are shards of records, and which part of the set each belongs to: `parts`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfhalf.data.storage.base import Entry, Storage, is_url, relative, said
from tfhalf.errors import DataError

PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The part that a word in a shard's name, or the name of its folder, stands for."""
FORM = (
    "shards of TFRecord or ArrayRecord, named with the word train, validation or test (such as "
    "train-00000-of-01024), or in folders of these names"
)
_SHARD = re.compile(r"-(\d{1,8})-of-(\d{1,8})(?=\.|$)")
_SUFFIX = re.compile(r"\.(tf_?records?|array_?records?|records?)(?=-\d|\.|$)", re.IGNORECASE)
_COUNTED = re.compile(r"(.*)\{(\d{1,8})\.\.(\d{1,8})\}(.*)")
_WORDS = re.compile(r"[^A-Za-z]+")
_WILD = re.compile(r"[*?\[]")
_METADATA = (".txt", ".json", ".md", ".csv", ".tsv", ".yaml", ".yml", ".pbtxt", ".xml", ".html", ".index", ".sh", ".py")

Parts = dict[str, list[Entry]]


def parts(storage: Storage, path: str, globs: Mapping[str, str], source: str) -> Parts:
    """The shards of each part, ``train`` among them, in the order of their names.

    Args:
        path: a folder, a shard, or a glob of shards; or a URL of one.
        globs: of parts whose shards are named by a glob below the folder ``path``; without any they go by their names.
        source: for messages.

    Raises:
        DataError: there are none, one is missing of those that a name counts, or one belongs to no part.
    """
    if globs:
        return _by_globs(storage, path, globs, source)
    listed, root = _listed(storage, path, source)
    if not listed:
        raise DataError(f"{source}: {path} holds no shard; accepted: {FORM}; correct data.source")
    if not is_one(path):
        _check_whole(listed, root, source)
    sorted_out: Parts = {}
    for entry in listed:
        sorted_out.setdefault(_part_of(relative(entry.path, root)), []).append(entry)
    unnamed = sorted_out.pop("", [])
    if unnamed and sorted_out:
        raise DataError(
            f"{source}: {relative(unnamed[0].path, root)} is of no part, and other shards are; accepted: {FORM}; "
            "rename it, or set data.records.train, val and test to globs"
        )
    if unnamed:
        return {"train": unnamed}
    if "train" not in sorted_out:
        raise DataError(
            f"{source}: {path} holds shards of {' and '.join(sorted_out)} alone; shards to train on are needed; set "
            "data.records.train to a glob of them"
        )
    return {part: sorted_out[part] for part in ("train", "val", "test") if part in sorted_out}


def is_one(path: str) -> bool:
    """Whether ``path`` names shards themselves, one or by a glob, and no folder of them."""
    return bool(_WILD.search(path) or _COUNTED.fullmatch(path) or (_looks(path) and not Path(path).is_dir()))


def brought_up(storage: Storage, entries: Sequence[Entry], source: str) -> list[Entry]:
    """``entries`` with size and stamp, which a listing may leave out.

    Raises:
        DataError: one cannot be read.
    """

    def whole(entry: Entry) -> Entry:
        try:
            return entry if entry.size >= 0 and entry.stamp else storage.entry(entry.path)
        except OSError as error:
            raise DataError(f"{source}: {entry.path} cannot be read ({said(error)}); {storage.advice}") from error

    with ThreadPoolExecutor(storage.parallel) as pool:
        return list(pool.map(whole, entries))


def _by_globs(storage: Storage, path: str, globs: Mapping[str, str], source: str) -> Parts:
    if "train" not in globs:
        raise DataError(
            f"{source}: data.records names shards of {' and '.join(globs)} and none to train on; set data.records.train"
        )
    chosen: Parts = {}
    seen: dict[str, str] = {}
    for part, glob in globs.items():
        chosen[part] = _listed(storage, f"{path.rstrip('/')}/{glob}", source)[0]
        if not chosen[part]:
            raise DataError(f"{source}: data.records.{part} {glob!r} names no file in {path}; correct it")
        for entry in chosen[part]:
            if seen.setdefault(entry.path, part) != part:
                raise DataError(
                    f"{source}: {relative(entry.path, path)} is of data.records.{seen[entry.path]} and {part}; each "
                    "shard belongs to one part; correct one"
                )
    return chosen


def _listed(storage: Storage, path: str, source: str) -> tuple[list[Entry], str]:
    """The shards that ``path`` names, sorted, and the folder that messages leave out of their names."""
    wild = _WILD.search(path)
    braced = _COUNTED.fullmatch(path)
    if braced:
        return _counted(braced, source), path.rpartition("/")[0]
    root = path[: wild.start()].rpartition("/")[0] if wild else path.rstrip("/")
    try:
        if not wild and (is_url(path) or not Path(path).is_dir()) and _looks(path):
            return [storage.entry(path)], path.rpartition("/")[0]
        entries = list(storage.walk(root or "/"))
    except OSError as error:
        remedy = storage.advice if storage.is_remote else f"accepted: {FORM}; correct data.source"
        raise DataError(f"{source}: {root or path} cannot be read ({said(error)}); {remedy}") from error
    named = [(relative(entry.path, root), entry) for entry in entries]
    if wild:
        glob = path[len(root) + 1 :]
        kept = [
            entry for name, entry in named if fnmatch.fnmatchcase(name, glob) and name.count("/") == glob.count("/")
        ]
    else:
        kept = [entry for name, entry in named if _looks(name)]
        for name, _ in named:
            if (
                not _looks(name)
                and not name.lower().endswith(_METADATA)
                and not name.rpartition("/")[2].startswith(".")
            ):
                raise DataError(
                    f"{source}: {name} does not look like a shard; accepted: names that end in .tfrecord, "
                    ".array_record or -00000-of-00128; move it, or name the shards by a glob"
                )
    return sorted(kept, key=lambda entry: entry.path), root


def _counted(braced: re.Match[str], source: str) -> list[Entry]:
    """The files of ``NAME-{00000..00127}-of-00128``: over HTTP no list of files may be had."""
    before, first, last, after = braced.groups()
    count = int(last) - int(first) + 1
    if not 0 < count <= 1_000_000:
        raise DataError(
            f"{source}: {{{first}..{last}}} counts {count} shards; accepted: from 1 to 1,000,000; correct it"
        )
    return [Entry(f"{before}{number:0{len(first)}}{after}", -1, "") for number in range(int(first), int(last) + 1)]


def _looks(name: str) -> bool:
    last = name.rpartition("/")[2]
    return bool(_SHARD.search(last) or _SUFFIX.search(last))


def _part_of(name: str) -> str:
    """The part that a shard's name says, by its last such word, else a folder above it; "" where none does."""
    for step in reversed(name.split("/")):
        words = [PARTS[word.lower()] for word in _WORDS.split(step) if word.lower() in PARTS]
        if words:
            return words[-1]
    return ""


def _check_whole(entries: Sequence[Entry], root: str, source: str) -> None:
    """Refuse a set of which the names of shards say that there are more."""
    counted: dict[tuple[str, str, str], set[int]] = {}
    for entry in entries:
        name = relative(entry.path, root)
        if match := _SHARD.search(name):
            key = (name[: match.start()], match[2], name[match.end() :])
            counted.setdefault(key, set()).add(int(match[1]))
    for (before, total, after), numbers in counted.items():
        absent = set(range(int(total))) - numbers if int(total) <= 1_000_000 else set()
        if absent:
            missing = f"{before}-{min(absent):0{len(total)}}-of-{total}{after}"
            raise DataError(
                f"{source}: {missing} is missing, {len(absent)} of {int(total)} shards are; copy them, or name those "
                "that are to be used by a glob such as *"
            )
