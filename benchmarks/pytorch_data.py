"""Images that stay on the device as uint8, and the batches that PyTorch makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

Flip = Literal["none", "random", "alternating"]


@dataclass(frozen=True)
class Images:
    """uint8 [N, H, W, C] and int64 [N], for training and for the test."""

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor


def load(path: str, device: str) -> Images:
    """The arrays x_train, y_train, x_test, y_test of an npz file: uint8 [N, H, W, C], integers [N]."""
    with np.load(path) as arrays:
        parts = {name: torch.from_numpy(arrays[name]) for name in ("x_train", "y_train", "x_test", "y_test")}
    moved = {name: (part.long() if name[0] == "y" else part).to(device) for name, part in parts.items()}
    return Images(**moved)


def learnable(train: int, test: int, device: str, size: int = 32) -> Images:
    """Ten classes that can be told apart: a coarse pattern each, shifted, under noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 3, 8, 8, generator=generator)
    patterns = nn.functional.interpolate(patterns, size=(size, size), mode="bilinear", align_corners=False)

    def some(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(0, 10, (count,), generator=generator)
        noise = torch.rand(count, 3, size, size, generator=generator)
        x = (0.6 * patterns[labels] + 0.4 * noise).permute(0, 2, 3, 1).contiguous()
        return (x * 255).to(torch.uint8).to(device), labels.to(device)

    return Images(*some(train), *some(test))


def noise(count: int, size: int, classes: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images uint8 [count, size, size, 3] and random labels."""
    x = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device=device)
    return x, torch.randint(0, classes, (count,), device=device)


class Resident(nn.Module):
    """Calling it with places int64 [N] gives the normalised images there, float32 [N, C, H, W] in channels_last.

    Crop, mirror image, cutout and normalisation are one gather and a little arithmetic: `torch.compile` makes a single
    kernel of them. Where nothing compiles that is slow, and ``once_an_epoch`` prepares all images in `draw`.

    The images are buffers, as CUDA graphs need: what a graph is called with would be copied before every replay.

    Args:
        x_NHWC: uint8, on the device.
        mean, std: float32 [C], in units of uint8.
        pad: images are padded by so many pixels by reflection and cropped at a random place.
        flip: ``alternating`` (arXiv:2404.00498, section 3.6): a coin per image once, then the other side every epoch.
        cutout: side of the square that is set to 0 around a random centre.
        once_an_epoch: None, or the dtype of the images that `draw` prepares.
    """

    def __init__(
        self,
        x_NHWC: torch.Tensor,
        mean: torch.Tensor,
        std: torch.Tensor,
        *,
        pad: int = 0,
        flip: Flip = "none",
        cutout: int = 0,
        once_an_epoch: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        count, self.height, self.width, channels = x_NHWC.shape
        self.pad, self.flip_kind, self.cutout, self.once_an_epoch = pad, flip, cutout, once_an_epoch
        device = x_NHWC.device

        def keep(name: str, tensor: torch.Tensor) -> None:
            self.register_buffer(name, tensor, persistent=False)

        keep("x", x_NHWC.new_empty((count, self.height + 2 * pad, self.width + 2 * pad, channels)))
        self.fill(x_NHWC)
        keep("mean", mean)
        keep("scale", 1 / std)
        keep("shift", torch.full((count, 2), pad, device=device))
        keep("mirrored", torch.zeros(count, dtype=torch.bool, device=device))
        keep("coin", torch.randint(0, 2, (count,), device=device) == 1)
        keep("centre", torch.zeros((count, 2), dtype=torch.int64, device=device))
        keep("rows", torch.arange(self.height, device=device))
        keep("columns", torch.arange(self.width, device=device))
        if once_an_epoch is not None:
            keep("ready", torch.empty(x_NHWC.shape, dtype=once_an_epoch, device=device))
            self.draw(0)

    def __len__(self) -> int:
        return len(self.x)

    def fill(self, x_NHWC: torch.Tensor) -> None:
        """Take these images, padded by reflection, in place."""
        rows, columns = (_reflected(side, self.pad, x_NHWC.device) for side in (self.height, self.width))
        self.x.copy_(x_NHWC[:, rows][:, :, columns] if self.pad else x_NHWC)

    def draw(self, epoch: int) -> None:
        """Draw places, sides and centres for one epoch, in place."""
        if self.pad:
            self.shift.random_(0, 2 * self.pad + 1)
        if self.flip_kind == "alternating":
            self.mirrored.copy_(~self.coin if epoch % 2 else self.coin)
        elif self.flip_kind == "random":
            self.mirrored.copy_(torch.randint_like(self.mirrored, 2, dtype=torch.int64) == 1)
        if self.cutout:
            self.centre.random_(0, self.height)
        if self.once_an_epoch is not None:
            for start in range(0, len(self.x), 10_000):
                part = torch.arange(start, min(start + 10_000, len(self.x)), device=self.x.device)
                self.ready[start : start + 10_000] = self._augmented(part).to(self.once_an_epoch)

    def new_coins(self) -> None:
        """Toss the coins of alternating flips again, in place."""
        self.coin.copy_(torch.randint_like(self.coin, 2, dtype=torch.int64) == 1)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        x = self._augmented(index) if self.once_an_epoch is None else self.ready[index]
        return x.permute(0, 3, 1, 2)

    def _augmented(self, index: torch.Tensor) -> torch.Tensor:
        if self.pad or self.flip_kind != "none":
            shift, mirrored = self.shift[index], self.mirrored[index]
            rows = shift[:, :1] + self.rows
            columns = torch.where(mirrored[:, None], self.width - 1 - self.columns, self.columns)
            columns = shift[:, 1:] + columns
            x = self.x[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        else:
            x = self.x[index]
        x = (x.float() - self.mean) * self.scale
        if self.cutout:
            centre = self.centre[index]
            keep_rows = _outside(self.rows, centre[:, :1], self.cutout)
            keep_columns = _outside(self.columns, centre[:, 1:], self.cutout)
            x = x * (keep_rows[:, :, None] | keep_columns[:, None, :])[..., None]
        return x


def moments(x_NHWC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel, float32, of uint8 images."""
    x = x_NHWC.float()
    return x.mean((0, 1, 2)), x.std((0, 1, 2))


def _reflected(side: int, pad: int, device: torch.device) -> torch.Tensor:
    """Places of a padded row: 2 1 | 0 1 2 ... n-1 | n-2 n-3."""
    places = torch.arange(-pad, side + pad, device=device).abs()
    return torch.where(places < side, places, 2 * (side - 1) - places)


def _outside(places: torch.Tensor, centre: torch.Tensor, size: int) -> torch.Tensor:
    first = centre - size // 2
    return (places < first) | (places >= first + size)
