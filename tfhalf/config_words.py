"""What is wrong with a pipeline file, in words: the key at fault, what was received and what is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

At = tuple[Any, ...]  # the way to a value: keys, and indices of list items


def explain(model: type[BaseModel], problems: list[Any], tree: dict[str, Any]) -> tuple[At, str]:
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
    return at, f"received {shown(received)}, accepted: {describe(field)}{hint}"


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


def shown(value: Any) -> str:
    """A value in the words of YAML, cut short."""
    if value is None or isinstance(value, bool):
        return {None: "nothing (null)", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def dotted(at: At) -> str:
    """A place as messages write it: ``train.schedule.milestones[0]``."""
    dotted = ""
    for step in at:
        name = str(step) if isinstance(step, int) or (step.isprintable() and step == step.strip()) else repr(step)
        dotted += f"[{name}]" if isinstance(step, int) else f".{name}" if dotted else name
    return dotted or "the file"


def one_line(message: str) -> str:
    """Without line breaks and terminal codes, which paths, keys and tags may hold."""
    joined = " ".join(message.splitlines())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in joined)
