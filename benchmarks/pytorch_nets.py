"""The nets of `models/` in PyTorch: speednet, ResNet-9 and ResNet-50 v1.5.

None of them takes a maximum by `Tensor.amax`. Inductor computes that operator's gradient from ``x == x.amax()``, where
it works ``x`` out again in float32 and the maximum has been rounded to float16: nothing is equal, every gradient in
front of it is 0/0, and under a loss scale every step is skipped without a word
(github.com/pytorch/pytorch/issues/186799). A maximum by `max_pool2d` remembers places and is not affected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn


class SpeedNet(nn.Module):
    """`models/speednet.py`: K. Jordan's eight-layer whitening network (arXiv:2404.00498). Logits are divided by
    ``divisor``."""

    def __init__(self, classes: int = 10, widths: Sequence[int] = (64, 256, 256), divisor: float = 9) -> None:
        super().__init__()
        self.divisor = divisor
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad_(False)
        self.blocks = nn.Sequential(*(_SpeedBlock(a, b) for a, b in zip((24, *widths), widths, strict=False)))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        self.reset()

    def reset(self) -> None:
        """Start anew, in place: PyTorch's defaults, then the first filters of each convolution pass their inputs on."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d) and module is not self.whitening:
                nn.init.dirac_(module.weight.data[: module.in_channels])
        self.whitening.bias.data.zero_()

    def forward(self, x_NCHW: torch.Tensor, learn_whitening: bool = True) -> torch.Tensor:
        bias = self.whitening.bias
        x = F.conv2d(x_NCHW, self.whitening.weight, bias if learn_whitening else bias.detach())
        x = self.blocks(F.gelu(x, approximate="tanh"))
        return self.head(_largest(x)) / self.divisor


class _SpeedBlock(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)), approximate="tanh")
        return F.gelu(self.norm2(self.conv2(x)), approximate="tanh")


def whiten(net: SpeedNet, x_NCHW: torch.Tensor) -> None:
    """Set the first convolution to whiten 2x2 patches of the normalised images ``x_NCHW``: the eigenvectors of their
    covariance over the root of their eigenvalues, and their negatives."""
    x = x_NCHW.float()
    height, width = x.shape[2] - 1, x.shape[3] - 1
    corners = [x[:, :, dy : dy + height, dx : dx + width] for dy in (0, 1) for dx in (0, 1)]
    patches = torch.stack(corners, 2).permute(0, 3, 4, 1, 2).reshape(-1, 12)
    covariance = (patches.T @ patches / len(patches)).double().cpu()
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2)
    net.whitening.weight.data.copy_(torch.cat([filters, -filters]))


class ResNet9(nn.Module):
    """`models/resnet9.py`: D. Page, "How to Train Your ResNet" (2019)."""

    def __init__(self, classes: int = 10, widths: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        prep, first, second, third = widths
        self.prep = _ConvNorm(3, prep, 3, act=True)
        self.layer1 = _ConvNorm(prep, first, 3, act=True)
        self.residual1 = nn.Sequential(_ConvNorm(first, first, 3, act=True), _ConvNorm(first, first, 3, act=True))
        self.layer2 = _ConvNorm(first, second, 3, act=True)
        self.layer3 = _ConvNorm(second, third, 3, act=True)
        self.residual3 = nn.Sequential(_ConvNorm(third, third, 3, act=True), _ConvNorm(third, third, 3, act=True))
        self.head = nn.Linear(third, classes, bias=False)
        _he_normal(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.layer1(self.prep(x_NCHW)), 2)
        x = x + self.residual1(x)
        x = F.max_pool2d(self.layer2(x), 2)
        x = F.max_pool2d(self.layer3(x), 2)
        x = x + self.residual3(x)
        return self.head(_largest(x)) * 0.125


class ResNet50(nn.Module):
    """`models/resnet.py` of depth 50: K. He et al., arXiv:1512.03385, table 1, with the stride in the 3x3 convolution
    ("v1.5") and padding on both sides, as torchvision's."""

    def __init__(self, classes: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, width, 7, stride=2, act=True)
        blocks, before = [], width
        for stage, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                middle = width * 2**stage
                blocks.append(_Bottleneck(before, middle, 2 if stage and not block else 1))
                before = 4 * middle
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)
        _he_normal(self)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.stem(x_NCHW), 3, 2, padding=1)
        return self.head(self.blocks(x).mean((2, 3)))


class _Bottleneck(nn.Module):
    def __init__(self, before: int, middle: int, stride: int) -> None:
        super().__init__()
        self.a = _ConvNorm(before, middle, 1, act=True)
        self.b = _ConvNorm(middle, middle, 3, stride=stride, act=True)
        self.c = _ConvNorm(middle, 4 * middle, 1)
        changes = stride != 1 or before != 4 * middle
        self.shortcut = _ConvNorm(before, 4 * middle, 1, stride=stride) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.c(self.b(self.a(x))) + self.shortcut(x))


class _ConvNorm(nn.Module):
    """Convolution, norm and, with ``act``, ReLU."""

    def __init__(self, before: int, width: int, size: int, *, stride: int = 1, act: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return F.relu(x) if self.act else x


def _he_normal(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _largest(x_NCHW: torch.Tensor) -> torch.Tensor:
    """[N, C]: the largest value of each channel, by places (see above)."""
    return F.max_pool2d(x_NCHW, (x_NCHW.shape[2], x_NCHW.shape[3])).flatten(1)


NETS: dict[str, Callable[[], nn.Module]] = {"speednet": SpeedNet, "resnet9": ResNet9, "resnet50": ResNet50}
TINY: dict[str, Callable[[], nn.Module]] = {
    "speednet": lambda: SpeedNet(widths=(24, 32, 32)),
    "resnet9": lambda: ResNet9(widths=(8, 16, 16, 32)),
    "resnet50": lambda: ResNet50(classes=10, width=8),
}
