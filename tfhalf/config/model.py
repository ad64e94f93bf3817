"""The section of a pipeline file that says what is trained."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from tfhalf.config.section import Section, check_patterns


class Model(Section):
    """What is trained.

    ``build`` is ``file.py:name`` (relative to the pipeline file), ``package.module:name`` or
    ``keras.applications:Name``, or ``keras_hub:FOLDER`` of a preset that is there; ``args`` are its keyword arguments.

    ``weights``: what training starts from in place of drawn values, relative to the pipeline file: a ``.weights.h5``, a
    ``.keras``, an HDF5 file of Keras, a run folder, a checkpoint in one, or ``exports/NAME[/VERSION]`` of a run that is
    kept. What does not fit, such as a head for other classes, keeps its drawn values and is told.

    ``initializers``: patterns of weights' paths, and what draws those that match in place of their layers' own: a name
    of `keras.initializers`, ``{kernel: he_normal}``, or one with arguments, ``{head: {name: TruncatedNormal, stddev:
    0.01}}``.
    """

    build: Annotated[str, Field(min_length=3)]
    args: dict[str, Any] = Field(default_factory=dict)
    weights: Annotated[str, Field(min_length=1)] | None = None
    initializers: dict[str, Annotated[str, Field(min_length=1)] | dict[str, Any]] = Field(default_factory=dict)

    @field_validator("initializers")
    @classmethod
    def _patterns(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_patterns(value)
        return value

    @model_validator(mode="after")
    def _one_weights(self) -> Model:
        own = self.args.get("weights") if self.build.startswith("keras.applications:") else None
        if own is not None and own != "imagenet":
            raise ValueError(
                f"args.weights: received {own!r}, accepted: null or imagenet; name a file as model.weights"
            )
        return self
