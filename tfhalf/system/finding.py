"""What `tfhalf doctor` says of one thing: `Finding`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``advice`` is empty only where nothing is off."""

    name: str
    status: Status
    value: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """The four fields, for JSON."""
        return asdict(self)
