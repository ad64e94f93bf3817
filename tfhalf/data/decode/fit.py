"""How an image comes to the size that a net takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fit:
    """``size``: (height, width). Without ``center`` the whole image is stretched to it. With ``center`` it keeps its
    proportions: of the largest box in its middle that has those of ``size``, so large a share of each side is kept.

    That is what torchvision's Resize(256) and CenterCrop(224) keep, where the share is 224 / 256 = 0.875, in one step:
    the sampling grid is theirs but for their rounding to whole pixels.
    """

    size: tuple[int, int]
    center: float | None = None

    def leaves(self, height: int | None, width: int | None) -> bool:
        """Whether nothing happens to an image of such sides."""
        return (height, width) == self.size and self.center in (None, 1)

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """What is kept of an image with such sides: its left, upper, right and lower edge in pixels."""
        if self.center is None:
            return 0, 0, width, height
        scale = min(height / self.size[0], width / self.size[1]) * self.center
        high, wide = scale * self.size[0], scale * self.size[1]
        left, top = (width - wide) / 2, (height - high) / 2
        return max(0.0, left), max(0.0, top), min(width, left + wide), min(height, top + high)

    def pillow(self, image: Any, **options: Any) -> Any:
        """A Pillow image at the size, bilinear and antialiased; the image itself where it stays as it is.

        Args:
            options: of Pillow's ``resize``.
        """
        from PIL import Image

        if self.leaves(image.height, image.width):
            return image
        box = self.box(image.height, image.width)
        return image.resize(self.size[::-1], Image.Resampling.BILINEAR, box=box, **options)
