"""Which array of a file each variable of a model takes: `targets`, `paired`."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import keras
from keras.src.saving import saving_lib

from tfhalf.train.initial.stored import Stored


class Target(NamedTuple):
    """A variable that takes a weight: its ``number`` among the model's variables, and its ``path``.

    In a file of Keras 3 it lies at ``key`` (``layers/conv2d/vars/0``), which goes by classes; ``label`` goes by the
    names of the layers: ``conv#0``.
    """

    number: int
    path: str
    shape: tuple[int, ...]
    label: str
    key: str


class _Recorder(saving_lib.H5IOStore):  # the walk takes no other kind
    """Stands where Keras' walk over a model has its file, and writes down which variable goes where."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {}
        self.names: dict[str, str] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
        """A layer's group."""
        self.names[path] = (metadata or {}).get("name", "")
        return self.groups.setdefault(path, {})


def targets(model: keras.Model) -> list[Target]:
    """Every variable of ``model`` that a weight is for, in its order; states of random seeds are not."""
    recorder = _Recorder()
    saving_lib._save_state(model, recorder, None, "", set())
    keys: dict[int, tuple[str, str]] = {}
    for group, held in recorder.groups.items():
        for own, variable in held.items():
            parts = group.split("/") if group else []
            above = ("/".join(parts[: depth + 1]) for depth in range(len(parts)))
            names = [recorder.names[one] for one in above if recorder.names.get(one)]
            keys[id(variable)] = (f"{'/'.join(names)}#{own}", f"{group}/vars/{own}".lstrip("/"))
    return [
        Target(number, variable.path, tuple(variable.shape), *keys.get(id(variable), ("", "")))
        for number, variable in enumerate(model.variables)
        if "seed_generator" not in variable.path
    ]


_Pair = tuple[Target, Stored]


def paired(params: list[Target], stored: list[Stored]) -> tuple[list[_Pair], dict[int, Stored]]:
    """Targets with the arrays that they take; and by number, arrays that stand for one and are of another shape.

    By name, where all names are the same. Else all in order, as Keras loads, where the layers are the same ones and
    only the last are of other shapes: Keras numbers layers as they are made, so that ``dense_1`` of the file may be
    ``dense`` of the model. Else by name as far as that goes, and what is left in order, where it agrees throughout.
    """
    named, ordered = _by_name(params, stored), _in_order(params, stored)
    fit, in_order = _of_one_shape(named), _of_one_shape(ordered)
    if len(named) < len(params) and in_order and len(in_order) >= len(fit):
        return in_order, {target.number: one for target, one in ordered if target.shape != one.shape}
    taken, used = {target.number for target, _ in fit}, {id(one) for _, one in fit}
    rest = _in_order([t for t in params if t.number not in taken], [s for s in stored if id(s) not in used])
    if fit and len(_of_one_shape(rest)) == len(rest):
        fit = [*fit, *rest]
    taken = {target.number for target, _ in fit}
    return fit, {target.number: one for target, one in named if target.number not in taken}


def _of_one_shape(pairs: list[_Pair]) -> list[_Pair]:
    return [(target, one) for target, one in pairs if target.shape == one.shape]


def _by_name(params: list[Target], stored: list[Stored]) -> list[_Pair]:
    """The pairs of the same name; the name that all of a model or file begin with may be taken off."""
    numbered = any("#" in one.name for one in stored)
    ours = [target.label if numbered else target.path for target in params]
    theirs = [one.name for one in stored]
    best: list[_Pair] = []
    for mine in (ours, _bare(ours)):
        for other in (theirs, _bare(theirs)):
            held = dict(zip(other, stored, strict=True))
            pairs = [(target, held[name]) for name, target in zip(mine, params, strict=True) if name in held]
            fits, most = (sum(t.shape == s.shape for t, s in some) for some in (pairs, best))
            best = pairs if fits > most or (fits == most and len(pairs) > len(best)) else best
    return best


def _bare(names: list[str]) -> list[str]:
    first = {name.partition("/")[0] for name in names}
    return [name.partition("/")[2] for name in names] if len(first) == 1 and all("/" in n for n in names) else names


def _in_order(params: list[Target], stored: list[Stored]) -> list[_Pair]:
    """All of both in order; none where counts or what each is called (kernel, bias) differ, or shapes before the last
    ones."""
    if len(params) != len(stored):
        return []
    if stored and stored[0].key:
        held = {one.key: one for one in stored}
        pairs = [(target, held[target.key]) for target in params if target.key in held]
        same = len(pairs) == len(params)
    else:
        pairs = list(zip(params, stored, strict=True))
        same = all(_last(target.path) == _last(one.name) for target, one in pairs)
    fits = [target.shape == one.shape for target, one in pairs]
    return pairs if same and fits == sorted(fits, reverse=True) else []


def _last(path: str) -> str:
    last = re.sub(r"_\d+$", "", path.rpartition("/")[2])
    return "kernel" if last == "depthwise_kernel" else last  # as Keras 2 called it
