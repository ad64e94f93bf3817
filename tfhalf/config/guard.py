"""What a pipeline file says of training that goes wrong."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tfhalf.config.section import Positive, Section


class Blowup(Section):
    """Training has blown up when a loss is not finite, or above ``bound`` (null: none), or when the loss scale's
    ``max_skipped`` is reached. ``stop`` ends the run; ``rollback`` goes back to the last checkpoint, and on with half
    the learning rate, at most ``retries`` times.
    """

    bound: Positive | None = None
    action: Literal["stop", "rollback"] = "stop"
    retries: Annotated[int, Field(ge=1, le=100)] = 2
