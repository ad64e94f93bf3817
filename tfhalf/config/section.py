"""What every section of a pipeline file is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Patterns = tuple[str, ...]


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversion of types, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


def check_patterns(patterns: Iterable[str]) -> None:
    """Raise ValueError, which pydantic reports, for the first that is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def _layer_patterns(value: Literal["auto"] | Patterns) -> Literal["auto"] | Patterns:
    if value != "auto":
        check_patterns(value)
    return value


LayerPatterns = Annotated[Literal["auto"] | Patterns, AfterValidator(_layer_patterns)]
"""Regular expressions that are searched in layer paths, or ``auto``."""
