"""``run/outcome.json``: what came of a run whose training has ended, published or not yet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfhalf.files import read_bytes, replacing

OUTCOME = "outcome.json"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class RunOutcome:
    """What a run has come to.

    Of what was published, else of the state that training ended in: ``epochs`` trained, ``test_accuracy`` (0 to 1; None
    of a task without one) and ``test_metrics``, how it stands beside ``chance``. ``version`` is the directory published
    last, None before; ``model_sha256`` of ``model.keras``, None where there is no such file. ``seconds`` are split by
    stage. ``metric_facts`` say of each metric its name, whether more is better, whether it is a share, and its unit;
    ``noun``, what items are called. ``remat``: what ``train.remat`` came to, None without it.
    """

    smoke: bool
    epochs: int
    test_accuracy: float | None
    chance: dict[str, Any]
    loss_scale: float
    skipped: int
    seconds: dict[str, float] = field(default_factory=dict)
    model_sha256: str | None = None
    version: str | None = None
    test_metrics: dict[str, float] = field(default_factory=dict)
    metric_facts: list[dict[str, Any]] = field(default_factory=list)
    noun: str = "images"
    remat: dict[str, Any] | None = None

    def write(self, run: Path) -> None:
        """Replace ``run/outcome.json``."""
        write_outcome(run, asdict(self))


def write_outcome(run: Path, facts: dict[str, Any]) -> None:
    """Put ``facts`` in the place of ``run/outcome.json``, whole or not at all."""
    with replacing(run / OUTCOME) as beside:
        beside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_outcome(run: Path) -> dict[str, Any]:
    """What ``run/outcome.json`` holds; nothing where there is none, or a damaged one, which the next end of the run
    replaces."""
    try:
        facts = json.loads(read_bytes(run / OUTCOME, _MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def published_version(run: Path) -> str | None:
    """The version directory that ``run`` published last; None where it has published nothing."""
    version = read_outcome(run).get("version")
    return version if isinstance(version, str) else None
