"""Which decoder a run's images went through: the GPU's pixels differ from the CPU's by a level, seldom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfhalf.files import replacing
from tfhalf.train.record import run_folder


def note_decoder(run: Path, feed: Any) -> str | None:
    """Record in ``run`` what decodes the JPEGs of ``feed``, where they are decoded while training goes on.

    Returns:
        A sentence for the user where the run began with another decoder; else None.
    """
    canvases = getattr(feed, "canvases", None)
    if canvases is None:
        return None
    facts = run_folder.facts(run)
    before = facts.get("decoder")
    if before is None:
        with replacing(run / run_folder.FACTS) as beside:
            beside.write_text(json.dumps({**facts, "decoder": canvases.decoder}, indent=2) + "\n", encoding="utf-8")
    elif before != canvases.decoder:
        return (
            f"JPEGs were decoded by the {before.upper()} when the run began, and are by the {canvases.decoder.upper()} "
            f"now: a few pixels differ by a level; data.decoder: {before} keeps them"
        )
    return None
