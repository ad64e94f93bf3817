"""The part of a pipeline file that cuts a training into stages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from tfhalf.config.section import Patterns, Positive, Section, check_patterns


class Stage(Section):
    """One of ``train.stages``: so many ``epochs`` in which what ``freeze`` matches stands still.

    ``freeze``: regular expressions searched in the paths of variables (``conv1/kernel``) and of layers (``conv1``). A
    BatchNormalization of which the layer or every variable is matched stands still whole: it normalises by its moving
    statistics, and leaves them (Keras' ``trainable = False``). What a later stage does not match trains again.
    ``learning_rate`` takes the place of ``optimizer.learning_rate``, which the schedule multiplies as before; a Muon
    rate keeps its ratio to it. ``size``: height (and width) in pixels that square images are scaled down to.
    ``batch_size`` takes the place of ``train.batch_size``.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    freeze: Patterns = ()
    learning_rate: Positive | None = None
    size: Annotated[int, Field(ge=1, le=4096)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @field_validator("freeze")
    @classmethod
    def _patterns(cls, value: Patterns) -> Patterns:
        check_patterns(value)
        return value


def with_epochs(train: Any) -> Any:
    """The section ``train`` as it is read, with the sum of its stages' epochs where it names no ``epochs``."""
    if not isinstance(train, dict) or "epochs" in train or not isinstance(train.get("stages"), list | tuple):
        return train
    parts = [one.get("epochs") if isinstance(one, dict) else getattr(one, "epochs", None) for one in train["stages"]]
    whole = parts and all(isinstance(part, int) and not isinstance(part, bool) for part in parts)
    return {**train, "epochs": sum(parts)} if whole else train


def check_stages(train: Any) -> None:
    """Raise ValueError, which pydantic reports, where ``stages`` of the section ``train`` do not go with its rest, or a
    batch that grows does not."""
    stages = train.stages
    beside = [key for key in ("sizes", "freeze_after") if getattr(train, key)]
    if stages and beside:
        raise ValueError(f"stages and {beside[0]} exclude each other: say it by each stage's size and freeze")
    total = sum(stage.epochs for stage in stages)
    if stages and total != train.epochs:
        raise ValueError(
            f"epochs is {train.epochs} and the epochs of the stages add up to {total}: change one, or leave epochs out"
        )
    if train.schedule.decay == "batch":
        if any(stage.batch_size for stage in stages):
            raise ValueError("schedule.decay 'batch' and a stage's batch_size exclude each other: keep one")
        lookahead = train.optimizer.lookahead
        if train.schedule.name == "plateau" and lookahead and lookahead.power:
            raise ValueError(
                "optimizer.lookahead.power goes by the number of steps, which nobody knows beforehand where a plateau "
                "grows the batch: set power to 0, or schedule.decay to rate"
            )
