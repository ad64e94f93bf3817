"""Pipeline files as text: read with the line of every key, checked against types, and refused in plain words.

The YAML taken is a safe part of version 1.2: ``1e-3`` is a number, ``on`` and ``no`` are strings. Anchors, aliases and
tags are refused before anything is built from them, so no file can grow in memory or name a Python object.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tfhalf.errors import ConfigError

_MAX_BYTES = 1 << 18
_MAX_DEPTH = 12
_MAX_DIGITS = 400  # more than any float64 has; Python itself refuses to read integers of 4300 digits

At = tuple[Any, ...]  # the way to a value: keys, and indices of list items
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
        ConfigError: the file cannot be read, is not the YAML that is taken here, or an override has no place in it.
    """
    text = _text(Path(path))
    tree, origins = _parse(text, str(path))
    if not isinstance(tree, dict):
        found = "it is empty" if tree is None else f"it is {_shown(tree)}"
        raise ConfigError(
            _one_line(f"{path}:1: a pipeline file is a mapping with keys such as name, model, data; {found}")
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
    at, message = _explain(model, problems, source.tree)
    # A key that was never given, or that an override brought, has its origin further up.
    origin = next(source.origins[at[:n]] for n in range(len(at), -1, -1) if at[:n] in source.origins)
    key = "" if origin == f"--set {_dotted(at)}" else f": {_dotted(at)}"
    raise ConfigError(_one_line(f"{origin}{key}: {message}"))


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
        key = f": {_dotted(self.at)}" if self.at else ""
        raise ConfigError(_one_line(f"{_place(self.where, mark)}{key}: {problem}"))

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
        self.origins[self.at] = _place(self.where, mark)
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
        if node.tag != "tag:yaml.org,2002:str":
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
            self.refuse("holds half of a surrogate pair, which is no character", node.start_mark)

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
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)  # never more: the path may lead to an endless device
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {_MAX_BYTES} bytes; this is no pipeline file")
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        problem = "no such pipeline file; `tfhalf init DIR` writes working ones to start from"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text; a pipeline file is YAML"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError as error:  # a path with a null byte
        problem = f"is no path: {error}"
    raise ConfigError(_one_line(f"{path}: {problem}"))


def _parse(text: str, where: str) -> tuple[Any, dict[At, str]]:
    """The value of one YAML document, and where each of its keys stands."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        loader.origins.setdefault((), _place(where, None))
        return None if node is None else loader.construct_document(node), loader.origins
    except yaml.reader.ReaderError as error:
        place = where if where.startswith("--set ") else f"{where}:{text.count(chr(10), 0, error.position) + 1}"
        problem = f"{place}: is not valid YAML: the character {chr(error.character)!r} cannot stand in it"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"{_place(where, mark)}: is not valid YAML: {_problem(error)}"
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # "\UFFFFFFFF" overflows in the scanner
        mark = loader.get_mark() if loader else None
        problem = f"{_place(where, mark)}: is not valid YAML: {error}"
    finally:
        if loader:
            loader.dispose()
    raise ConfigError(_one_line(problem))


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or str(error)
    if "'\\t'" in problem:
        return f"{problem}; indent with spaces"
    if problem == "but found another document":
        return "it holds a second document; keep one, without '---'"
    if problem == "mapping values are not allowed here":
        return f"{problem}; put quotes round text that holds ': '"
    return problem


def _place(where: str, mark: Any) -> str:
    if where.startswith("--set "):
        return where  # an override is one line
    return f"{where}:{mark.line + 1 if mark else 1}"


def _apply(override: str, source: Source) -> None:
    """Put one ``key.path=value`` into the tree, in place."""
    key, equals, text = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(_one_line(f"--set {override}: the form is key.path=value, for example train.epochs=3"))
    where = f"--set {_dotted(tuple(steps))}"
    value, origins = _parse(text, where)
    branch: Any = source.tree
    for depth, step in enumerate(steps[:-1], start=1):
        if step not in branch:
            branch[step] = {}
            source.origins[tuple(steps[:depth])] = where
        branch = branch[step]
        if not isinstance(branch, dict):
            above = _dotted(tuple(steps[:depth]))
            raise ConfigError(_one_line(f"{where}: {above} is {_shown(branch)}, which holds no keys; set it whole"))
    branch[steps[-1]] = value
    for stale in [at for at in source.origins if at[: len(steps)] == tuple(steps)]:
        del source.origins[stale]
    source.origins.update({(*steps, *at): where for at in origins})


# --- what is wrong, in words -----------------------------------------------------------------------------------------


def _explain(model: type[BaseModel], problems: list[Any], tree: dict[str, Any]) -> tuple[At, str]:
    """The key of the problem that says most, and the message for it."""
    walked = [(*_walk(model, problem["loc"]), problem) for problem in problems]
    unknown = [entry for entry in walked if entry[2]["type"] == "extra_forbidden"]
    at, field, problem = (unknown or walked)[0]
    # A union reports every member it tried: the member that got furthest is the one that was meant.
    deeper = [entry for entry in walked if len(entry[0]) > len(at) and entry[0][: len(at)] == at]
    judged = [entry for entry in walked if entry[0] == at and entry[2]["type"] == "value_error"]
    at, field, problem = (deeper or judged or [(at, field, problem)])[0]
    kind = problem["type"]
    if kind == "missing" and isinstance(at[-1], int):  # a list that is too short
        at, field = at[:-1], _walk(model, at[:-1])[1]
    elif kind == "missing":
        return at, f"is needed and missing; it is {describe(field)}"
    if kind == "extra_forbidden":
        choices = list(_section(_walk(model, at[:-1])[1]).model_fields)
        return at, f"unknown key {at[-1]!r}{_near(at[-1], choices)} (accepted: {', '.join(choices)})"
    if kind == "value_error":
        return at, str(problem["msg"]).removeprefix("Value error, ")
    received = _value(tree, at)
    hint = _near(received, list(_literals(field)))
    if received is None and isinstance(field, FieldInfo) and not field.is_required():
        hint = "; leave the key out for its default"
    return at, f"received {_shown(received)}, accepted: {describe(field)}{hint}"


def _walk(model: type[BaseModel], loc: At) -> tuple[At, Any]:
    """The keys in a pydantic location, and the field or type they lead to (None past an unknown key).

    Pydantic also puts the name of the union member that it tried into a location; such steps are left out.
    """
    at: At = ()
    field: Any = model
    steps = iter(loc)
    for step in steps:
        members = [member for member in _members(field) if member is not NoneType]
        if len(members) > 1:
            step = next(steps, None)
            if step is None:
                break
            members = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        inner = members[0]
        if step == "[key]":
            break
        at = (*at, step)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            field = inner.model_fields.get(step)
        elif get_origin(inner) in (tuple, dict):
            field = [argument for argument in get_args(inner) if argument is not Ellipsis][-1]
        if field is None:
            break
    return at, field


def _members(field: Any) -> Iterator[Any]:
    """The types a field is a union of, bare of their constraints; the type itself where it is no union."""
    if isinstance(field, FieldInfo):
        field = field.annotation
    origin = get_origin(field)
    if origin is Annotated:
        yield from _members(get_args(field)[0])
    elif origin in (Union, UnionType):
        for member in get_args(field):
            yield from _members(member)
    else:
        yield field


def _section(field: Any) -> type[BaseModel]:
    return next(member for member in _members(field) if isinstance(member, type) and issubclass(member, BaseModel))


def _literals(field: Any) -> Iterator[str]:
    return (choice for member in _members(field) if get_origin(member) is Literal for choice in get_args(member))


def describe(field: Any, bounds: str = "") -> str:
    """What a pydantic field or a type accepts, in words: ``a whole number from 1 to 4096``."""
    if isinstance(field, FieldInfo):
        return field.description or describe(field.rebuild_annotation())
    origin, arguments = get_origin(field), get_args(field)
    if origin is Annotated:
        metadata = [part for one in arguments[1:] for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        named = (one.description for one in arguments[1:] if isinstance(one, FieldInfo) and one.description)
        return next(named, None) or describe(arguments[0], _bounds(metadata))
    if origin in (Union, UnionType):
        return ", or ".join(describe(member) for member in arguments)
    if origin is Literal:
        return " or ".join(", ".join(repr(choice) for choice in arguments).rsplit(", ", 1))
    if origin is tuple:
        count = bounds if Ellipsis in arguments else f" of {len(arguments)}"
        return f"a list{count}, each {describe(arguments[0])}"
    if origin is dict:
        return "a mapping" if arguments[1] is Any else f"a mapping, each value {describe(arguments[1])}"
    if isinstance(field, type) and issubclass(field, BaseModel):
        return f"a mapping with keys {', '.join(field.model_fields)}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    characters = " characters" if field is str and bounds else ""
    return words.get(field, "a value") + bounds + characters


def _bounds(metadata: list[Any]) -> str:
    """The words for ``annotated_types`` constraints, such as `` from 1 to 4096`` or `` in [0, 1)``."""
    found: dict[str, Any] = {}
    for part in metadata:
        found.update(
            {name: getattr(part, name) for name in ("gt", "ge", "lt", "le", "min_length") if hasattr(part, name)}
        )
    low, high = found.get("ge", found.get("gt")), found.get("le", found.get("lt"))
    if "min_length" in found:
        return f" of at least {found['min_length']}"
    if low is not None and high is not None:
        if "ge" in found and "le" in found:
            return f" from {_number(low)} to {_number(high)}"
        return f" in {'[' if 'ge' in found else '('}{_number(low)}, {_number(high)}{']' if 'le' in found else ')'}"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return "".join(f" {signs[name]} {_number(bound)}" for name, bound in found.items())


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _near(received: Any, choices: list[str]) -> str:
    close = difflib.get_close_matches(str(received), choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _value(tree: Any, at: At) -> Any:
    for step in at:
        tree = tree[step]
    return tree


def _shown(value: Any) -> str:
    """A value in the words of YAML, cut short."""
    if value is None or isinstance(value, bool):
        return {None: "nothing (null)", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _dotted(at: At) -> str:
    dotted = ""
    for step in at:
        name = str(step) if isinstance(step, int) or (step.isprintable() and step == step.strip()) else repr(step)
        dotted += f"[{name}]" if isinstance(step, int) else f".{name}" if dotted else name
    return dotted or "the file"


def _one_line(message: str) -> str:
    """Without line breaks and terminal codes, which paths, keys and tags may hold."""
    joined = " ".join(message.splitlines())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in joined)
