"""Layers that stay in float32, whichever way that was decided: `Island`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Island:
    """A layer that stays in float32: its path, and the reasons."""

    path: str
    reasons: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons)

    @property
    def pattern(self) -> str:
        """For ``precision.keep_float32``: matches this layer's path alone."""
        return f"^{re.escape(self.path)}$"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with ``pattern``."""
        return {"path": self.path, "reasons": list(self.reasons), "pattern": self.pattern}
