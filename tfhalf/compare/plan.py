"""Which cells a comparison has: each dtype policy with each combination of ``--vary``, once for each seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf import config
from tfhalf.bench.run import POLICIES, each_once
from tfhalf.compare.records import Setting
from tfhalf.errors import ConfigError

REFERENCE = "float32"
_OTHERS = {"precision.policy": "--policies", "seed": "--seeds", "export.formats": "--formats"}
_CODE = re.compile(r"^(?P<file>[^:\n]+\.py):[A-Za-z_]\w*$")
_MOST_SEEDS, _MOST_CELLS = 1000, 100_000


@dataclass(frozen=True)
class Cell:
    """One training. ``key`` is of all that it depends on: its pipeline, and the Python files that this names. So a cell
    of a changed pipeline is another cell."""

    setting: Setting
    seed: int
    overrides: tuple[str, ...]
    key: str

    @property
    def folder(self) -> str:
        """Its name below the comparison's folder."""
        return f"{self.setting.policy}-seed{self.seed}-{self.key}"


@dataclass(frozen=True)
class Plan:
    """The cells of ``pipeline``, seed by seed, so that a table of few seeds is there early. ``settings`` are in the
    order of the rows."""

    source: Path
    pipeline: config.Pipeline
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    data_dir: str | None

    def reference_of(self, setting: Setting) -> Setting | None:
        """What ``setting`` is held against: float32, or else the first policy, with the same changes; for a single
        policy the first combination of changes. None of a reference itself."""
        policies = list(dict.fromkeys(one.policy for one in self.settings))
        base = REFERENCE if REFERENCE in policies else policies[0]
        changes = setting.changes if len(policies) > 1 else self.settings[0].changes
        reference = Setting(base, changes)
        return None if reference == setting else reference

    def first_of(self, setting: Setting) -> Setting | None:
        """The first combination of changes under the policy of ``setting``; None of that itself, and of a single
        policy, whose reference it is anyway."""
        first = Setting(setting.policy, self.settings[0].changes)
        several = len({one.policy for one in self.settings}) > 1
        return first if several and first != setting else None


def make_plan(
    source: Path,
    overrides: Sequence[str] = (),
    *,
    policies: str | None = None,
    seeds: int = 3,
    vary: Sequence[str] = (),
    formats: str | None = None,
    data_dir: str | None = None,
) -> Plan:
    """The cells that the options come to. Every cell's pipeline has been read and checked.

    Args:
        policies: with commas; None takes every policy.
        seeds: how many; the first is the pipeline's own.
        vary: ``KEY=A,B`` each; commas within brackets or quotes belong to a value.
        formats: artifacts to export, with commas; None takes the pipeline's.

    Raises:
        ConfigError: an option is malformed, or a cell's pipeline at fault.
    """
    for override in overrides:
        _refuse_key(override.partition("=")[0].strip(), "--set")
    if not 1 <= seeds <= _MOST_SEEDS:
        raise ConfigError(f"--seeds: received {seeds}; accepted: 1 to {_MOST_SEEDS}")
    base = [*overrides, *([f"export.formats=[{formats}]"] if formats is not None else [])]
    pipeline = config.load_pipeline(source, base)
    axes = [_values(one) for one in vary]
    keys = [axis[0].partition("=")[0] for axis in axes]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"--vary: {', '.join(keys)} names a key twice; give all of its values at once: KEY=A,B,C")
    chosen = _policies(policies)
    settings = [Setting(policy, changes) for changes in itertools.product(*axes) for policy in chosen]
    if len(settings) * seeds > _MOST_CELLS:
        raise ConfigError(f"{len(settings) * seeds:,} trainings; at most {_MOST_CELLS:,} are taken")
    numbers = tuple(range(pipeline.seed, pipeline.seed + seeds))
    cells = tuple(_cell(source, base, setting, seed) for seed in numbers for setting in settings)
    same = {cell.key: cell.setting for cell in cells}
    if len(same) < len(cells):
        raise ConfigError("--vary: two combinations come to the same pipeline; give each value once")
    return Plan(source, pipeline, tuple(settings), numbers, cells, data_dir)


def _cell(source: Path, base: Sequence[str], setting: Setting, seed: int) -> Cell:
    overrides = (*base, f"precision.policy={setting.policy}", *setting.changes, f"seed={seed}")
    try:
        pipeline = config.load_pipeline(source, overrides)
    except ConfigError as error:
        message = str(error)
        for change in setting.changes:
            key = change.partition("=")[0]
            message = message.replace(f"--set {key}", f"--vary {key}")
        raise ConfigError(message) from error
    # What has its default is left out: a key that a later version adds does not make another cell.
    said = pipeline.model_dump(mode="json", exclude_defaults=True)
    facts = json.dumps([said, [*_code(said, source.parent)]], sort_keys=True)
    return Cell(setting, seed, overrides, hashlib.sha256(facts.encode()).hexdigest()[:12])


def _code(tree: Any, folder: Path) -> Iterator[str]:
    """Digests of the Python files that a pipeline names, whose paths are relative to ``folder``."""
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _code(value, folder)
    elif isinstance(tree, str) and (match := _CODE.match(tree)):
        file = folder / match["file"]
        if file.is_file():
            yield hashlib.sha256(file.read_bytes()).hexdigest()


def _policies(text: str | None) -> list[str]:
    names = list(POLICIES) if text is None else [name.strip() for name in text.split(",")]
    each_once(names, "--policies", POLICIES)
    return sorted(names, key=lambda name: name != REFERENCE) if text is None else names


def _values(text: str) -> tuple[str, ...]:
    """``KEY=VALUE`` for each value of ``KEY=A,B``."""
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(
            f"--vary: received {text!r}; accepted: KEY=A,B, such as train.optimizer.learning_rate=0.1,0.01"
        )
    _refuse_key(key, "--vary")
    parts = [part.strip() for part in _split(values)]
    if len(parts) < 2 or not all(parts):
        raise ConfigError(
            f"--vary {key}: received {values!r}; give two values or more, with commas; --set takes a single one"
        )
    if len(set(parts)) < len(parts):
        raise ConfigError(f"--vary {key}: {values!r} holds a value twice; give each once")
    return tuple(f"{key}={part}" for part in parts)


def _refuse_key(key: str, option: str) -> None:
    if key in _OTHERS:
        raise ConfigError(f"{option} {key}: is what {_OTHERS[key]} chooses; give {_OTHERS[key]} instead")


def _split(values: str) -> list[str]:
    """At the commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in values:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
