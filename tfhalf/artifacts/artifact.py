"""One format on disk: `Artifact`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """One format on disk. ``bytes`` is the sum of its files; ``details`` are what else is to be said of it."""

    format: str
    files: tuple[str, ...]
    bytes: int
    details: dict[str, Any] = field(default_factory=dict)
