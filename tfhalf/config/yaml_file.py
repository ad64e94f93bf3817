"""Pipeline files as text: read with the line of every key, checked against types, and refused in plain words.

The YAML taken is a safe part of version 1.2: ``1e-3`` is a number, ``on`` and ``no`` are strings. Anchors, aliases and
tags are refused before anything is built from them, so no file can grow in memory or name a Python object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tfhalf.config.messages import NOT_READ, At, dotted, explain, one_line, shown
from tfhalf.errors import ConfigError
from tfhalf.files import open_regular

_MAX_BYTES = 1 << 18
_MAX_DEPTH = 12
_MAX_DIGITS = 400  # more than any float64 has; Python itself refuses to read integers of 4300 digits

_NUMBERED = ("class_weight", "class_weights")
"""Keys of mappings whose keys may be numbers, of classes."""

_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """What a file and its overrides say, not yet checked.

    ``origins`` holds where each key was given: ``file.yaml:12``, or ``--set train.epochs`` for an override.
    """

    tree: dict[str, Any]
    origins: dict[At, str]


def read(path: str | Path, overrides: Iterable[str] = ()) -> Source:
    """Read a YAML file and apply ``key.path=value`` overrides to it, in order.

    Raises:
        ConfigError: the file cannot be read, is not the YAML that is taken here, or an override fits nowhere in it.
    """
    text = _text(Path(path))
    tree, origins = _parse(text, str(path))
    if not isinstance(tree, dict):
        content = "it is empty" if tree is None else f"it is {shown(tree)}"
        raise ConfigError(
            one_line(f"{path}:1: a pipeline file is a mapping with keys such as name, model, data; {content}")
        )
    source = Source(tree, origins)
    for override in overrides:
        _apply(override, source)
    return source


def check(model: type[_M], source: Source) -> _M:
    """The source as ``model``.

    Raises:
        ConfigError: names where the first fault was given, its key, what was received and what is accepted.
    """
    try:
        return model.model_validate(source.tree)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    at, message = explain(model, problems, source.tree)
    # A key that was never given, or that an override brought, has its origin further up.
    origin = next(source.origins[at[:n]] for n in range(len(at), -1, -1) if at[:n] in source.origins)
    key = "" if origin == f"--set {dotted(at)}" else f": {dotted(at)}"
    raise ConfigError(one_line(f"{origin}{key}: {message}"))


def write(tree: dict[str, Any]) -> str:
    """YAML text that `read` reads back to an equal tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


# --- YAML ------------------------------------------------------------------------------------------------------------


# The scalars of YAML 1.2's core schema and nothing else: no dates, no ``yes``, no base 60, no merge keys.
# Kind, what it looks like, the letters it can start with.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """Notes where every key stands while it reads, and refuses what `read` does not take."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.where = where
        self.at: At = ()
        self.origins: dict[At, str] = {}

    def refuse(self, problem: str, mark: Any) -> NoReturn:
        key = f": {dotted(self.at)}" if self.at else ""
        raise ConfigError(one_line(f"{_position(self.where, mark)}{key}: {problem}"))

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(parent, yaml.MappingNode) and index is None:
            return self._key(event, parent)
        before = self.at
        if parent is not None:
            self.at = (*before, index.value if isinstance(index, yaml.Node) else index)
        mark = index.start_mark if isinstance(index, yaml.Node) else event.start_mark
        if self.at in self.origins:
            self.refuse("is given twice; keep one", mark)
        self.origins[self.at] = _position(self.where, mark)
        self._plain(event)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node)
        self.at = before
        return node

    def _key(self, event: yaml.Event, parent: yaml.Node) -> yaml.Node | None:
        self._plain(event)
        node = super().compose_node(parent, None) if isinstance(event, yaml.ScalarEvent) else None  # type: ignore[arg-type]
        if not isinstance(node, yaml.ScalarNode):
            self.refuse("a list or a mapping cannot be a key", event.start_mark)
        if node.tag == "tag:yaml.org,2002:int" and self.at and self.at[-1] in _NUMBERED:
            node.tag = "tag:yaml.org,2002:str"
        if node.tag != "tag:yaml.org,2002:str":
            unread = next((step for step in self.at if step in NOT_READ), None)
            if unread is not None:
                self.refuse(f"unknown key {unread!r}; {NOT_READ[unread]}", event.start_mark)
            self.refuse(f"the key {node.value!r} is not text; put quotes round it", event.start_mark)
        self._scalar(node)
        return node

    def _plain(self, event: Any) -> None:
        if len(self.at) > _MAX_DEPTH:
            self.at = self.at[:3]
            self.refuse(f"is nested more than {_MAX_DEPTH} levels deep", event.start_mark)
        if getattr(event, "anchor", None) is not None:
            sign = "the alias *" if isinstance(event, yaml.AliasEvent) else "the anchor &"
            self.refuse(f"{sign}{event.anchor}: a pipeline file takes no anchors; repeat the value", event.start_mark)
        if getattr(event, "tag", None) is not None:
            name = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.refuse(f"the tag {name}: a pipeline file takes no tags; leave it out", event.start_mark)

    def _scalar(self, node: yaml.ScalarNode) -> None:
        text, kind = node.value, node.tag.rpartition(":")[2]
        if kind == "int" and len(text) > _MAX_DIGITS:
            self.refuse(f"a number of {len(text)} digits is too long", node.start_mark)
        if kind == "float" and not math.isfinite(self.construct_yaml_float(node)):
            self.refuse(f"received {text}; numbers must be finite", node.start_mark)
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            self.refuse("holds half of a surrogate pair, which is not a character", node.start_mark)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """YAML 1.1 would read 010 as eight."""
        text = node.value
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or `_Loader` would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Only double quotes keep every kind of line break as it is."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; give a pipeline file, for example {path / 'digits.yaml'}")
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {_MAX_BYTES} bytes; this is not a pipeline file")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        problem = "no such pipeline file; `tfhalf init DIR` writes working ones to start from"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text; a pipeline file is YAML"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    raise ConfigError(one_line(f"{path}: {problem}"))


def _parse(text: str, where: str) -> tuple[Any, dict[At, str]]:
    """The value of one YAML document, and where each of its keys stands."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        loader.origins.setdefault((), _position(where, None))
        return None if node is None else loader.construct_document(node), loader.origins
    except yaml.reader.ReaderError as error:
        where_in_file = where if where.startswith("--set ") else f"{where}:{text.count(chr(10), 0, error.position) + 1}"
        problem = f"{where_in_file}: is not valid YAML: the character {chr(error.character)!r} cannot stand in it"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"{_position(where, mark)}: is not valid YAML: {_problem(error)}"
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # "\UFFFFFFFF" overflows in the scanner
        mark = loader.get_mark() if loader else None
        problem = f"{_position(where, mark)}: is not valid YAML: {error}"
    finally:
        if loader:
            loader.dispose()
    raise ConfigError(one_line(problem))


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or str(error)
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces"
    if problem == "but found another document":
        return "it holds a second document; keep one, without '---'"
    if problem == "mapping values are not allowed here":
        return f"{problem}; put quotes round text that holds ': '"
    return problem


def _position(where: str, mark: Any) -> str:
    if where.startswith("--set "):
        return where  # an override is one line
    return f"{where}:{mark.line + 1 if mark else 1}"


def _apply(override: str, source: Source) -> None:
    """Put one ``key.path=value`` into the tree, in place."""
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(one_line(f"--set {override}: the form is key.path=value, for example train.epochs=3"))
    where = f"--set {dotted(tuple(steps))}"
    value, origins = _parse(text, where)
    branch: Any = source.tree
    for depth, step in enumerate(steps[:-1], start=1):
        if step not in branch:
            branch[step] = {}
            source.origins[tuple(steps[:depth])] = where
        branch = branch[step]
        if not isinstance(branch, dict):
            above = dotted(tuple(steps[:depth]))
            raise ConfigError(one_line(f"{where}: {above} is {shown(branch)}, which holds no keys; set it whole"))
    branch[steps[-1]] = value
    for stale in [at for at in source.origins if at[: len(steps)] == tuple(steps)]:
        del source.origins[stale]
    source.origins.update({(*steps, *at): where for at in origins})
