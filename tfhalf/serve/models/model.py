"""A served model: which of its versions are wanted, which answer, and which one a request means."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfhalf.errors import RequestError
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.settings import Label

STABLE = "stable"


@dataclass(frozen=True)
class Failure:
    """Why a version does not answer. ``fingerprint`` is that of the files that were tried."""

    message: str
    fingerprint: Any
    when: float = field(default_factory=time.time)


class Model:
    """Touched by the event loop alone.

    ``available`` is the folder's listing, ``loaded`` what answers, ``failures`` what was tried and did not load.
    """

    def __init__(self, name: str, pins: Sequence[int], labels: Sequence[Label], latest: int) -> None:
        self.name, self.pins, self.labels, self.latest = name, frozenset(pins), tuple(labels), latest
        self.available: dict[int, Path] = {}
        self.loaded: dict[int, Loaded] = {}
        self.failures: dict[int, Failure] = {}
        self.unloaded = False
        self._owed = {label.name: 0.0 for label in self.labels if label.share}

    @property
    def ready(self) -> bool:
        """Whether some version answers."""
        return bool(self.loaded)

    def due(self) -> set[int]:
        """Versions that ought to be loaded: the pinned ones, or the newest that work; and the labelled ones."""
        if self.unloaded:
            return set()
        working = [number for number in sorted(self.available, reverse=True) if number not in self.failures]
        chosen = {number for number in working if number in self.pins} if self.pins else set(working[: self.latest])
        labelled = {label.version for label in self.labels}
        return chosen | {number for number in working if number in labelled}

    def newest(self) -> Loaded | None:
        """The highest version that answers."""
        return self.loaded[max(self.loaded)] if self.loaded else None

    def choose(self, version: str | None) -> Loaded:
        """The version that a request means: a number, a label, or None, which goes by the labels' shares.

        Raises:
            RequestError: 404, there is no such version or label; 503, nothing is loaded.
        """
        if not self.loaded:
            raise RequestError(503, f"model {self.name!r} has no version that answers{self._why()}", retry_after=5)
        if version is None or version == "":
            return self._default()
        if not version.isascii() or not version.isdigit():
            return self.labelled(version)
        number = int(version[:20])
        if number in self.loaded:
            return self.loaded[number]
        if number in self.failures:
            raise RequestError(
                503, f"model {self.name!r} version {number} does not load: {self.failures[number].message}"
            )
        there = ", ".join(map(str, sorted(self.loaded)))
        raise RequestError(404, f"model {self.name!r} has no version {version[:20]} that is served; served: {there}")

    def labelled(self, name: str) -> Loaded:
        """The version under a label.

        Raises:
            RequestError: 404, no such label; 503, its version does not answer.
        """
        for label in self.labels:
            if label.name == name:
                loaded = self.newest() if label.version is None else self.loaded.get(label.version)
                if loaded is None:
                    raise RequestError(503, f"model {self.name!r}: version {label.version} ({name}) does not answer")
                return loaded
        known = ", ".join(label.name for label in self.labels) or "none"
        raise RequestError(404, f"model {self.name!r} has no version or label {name[:50]!r}; labels: {known}")

    def _default(self) -> Loaded:
        """By the labels' shares, spread evenly (smooth weighted round robin); the rest to `stable`, or the newest."""
        if not self.labels:
            return self.loaded[max(self.loaded)]
        rest = 1.0
        for label in self.labels:
            if label.share:
                rest -= label.share
                self._owed[label.name] += label.share
        if self._owed:
            due = max(self._owed, key=lambda name: self._owed[name])
            if self._owed[due] >= 0.5 if rest > 1e-9 else self._owed[due] > 0:
                self._owed[due] -= 1
                version = self._of(due)
                if version is not None:
                    return version
        stable = self._of(STABLE)
        newest = stable or self._plain() or self.newest()
        assert newest is not None
        return newest

    def _of(self, name: str) -> Loaded | None:
        label = next((label for label in self.labels if label.name == name), None)
        if label is None:
            return None
        return self.newest() if label.version is None else self.loaded.get(label.version)

    def _plain(self) -> Loaded | None:
        """The newest version that no label with a share holds."""
        held = {label.version for label in self.labels if label.share}
        free = [number for number in self.loaded if number not in held]
        return self.loaded[max(free)] if free else None

    def _why(self) -> str:
        if self.unloaded:
            return ": it was unloaded"
        if self.failures:
            number = max(self.failures)
            return f": version {number}: {self.failures[number].message}"
        return ""
