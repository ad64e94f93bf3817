"""A colour for each class of a mask, the same in files, reports and pages."""

from __future__ import annotations

import colorsys

_RGB = tuple[int, int, int]
# Okabe and Ito's colours, which people with any kind of colour vision tell apart; yellow last, which is pale on white.
_FIRST: tuple[_RGB, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (110, 110, 110),
    (240, 228, 66),
)
_TURN = 0.618034  # of the golden ratio: each hue far from those before


def colours(classes: int) -> list[_RGB]:
    """Red, green and blue, 0 to 255, of each class."""
    more = (colorsys.hsv_to_rgb(k * _TURN % 1, 0.55 + 0.4 * (k % 2), 0.9) for k in range(classes - len(_FIRST)))
    return [*_FIRST[:classes], *((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in more)]
