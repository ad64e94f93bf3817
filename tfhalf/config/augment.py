"""The sections of ``data.augment`` that change colours and shapes of images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tfhalf.config.section import Section

_Factor = Annotated[float, Field(ge=0, le=10)]


class Colour(Section):
    """Colours changed at random, as torchvision's ColorJitter does: each of ``brightness``, ``contrast`` and
    ``saturation`` is multiplied by a factor drawn from [max(0, 1 - v), 1 + v], and ``hue`` turned by a share of the
    circle drawn from [-v, v]. 0 leaves one as it is. For images of uint8; hue and saturation change those of three
    channels.
    """

    brightness: _Factor = 0.0
    contrast: _Factor = 0.0
    saturation: _Factor = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class RandAugment(Section):
    """RandAugment (Cubuk et al., arXiv:1909.13719): ``layers`` operations one after another for each image, drawn from
    fourteen, all of the strength ``magnitude`` of 30. For images of uint8 with one or three channels.
    """

    layers: Annotated[int, Field(ge=1, le=8)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
