"""The ten nets of `ten_nets_list.py` in PyTorch: timm's, and what timm has not.

Attention is `scaled_dot_product_attention`, in timm's nets too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from ten_nets_list import Net
from torch import nn

# timm's names, and what makes them Keras' nets.
_TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet50": ("resnet50", {}),
    "efficientnet_b0": ("efficientnet_b0", {"drop_rate": 0.2, "drop_path_rate": 0.2}),
    "efficientnet_v2_s": ("efficientnetv2_s", {"drop_rate": 0.2, "drop_path_rate": 0.2}),
    "mobilenet_v2": ("mobilenetv2_100", {}),
    "convnext_tiny": ("convnext_tiny", {}),
    "densenet121": ("densenet121", {}),
    "vit_s16": ("vit_small_patch16_224", {}),
}


def create(net: Net) -> nn.Module:
    """The net with weights of its own; logits as `pytorch_training.Objective` takes them."""
    args = dict(net.args)
    if net.name in _TIMM:
        import timm

        name, more = _TIMM[net.name]
        size = {"img_size": net.item[0]} if net.name == "vit_s16" else {}
        return timm.create_model(name, pretrained=False, num_classes=net.classes, **more, **size, **args)
    if net.name == "unet":
        return UNet(net.classes, **args)
    kinds = {"gpt": GPT, "bert": BERT}
    return kinds[net.name](net.item[0], net.words, net.classes, **args)


class GPT(nn.Module):
    """`ten_nets_keras.gpt`: words int64 [N, length] to logits of the next word, by the embedding's own weights."""

    def __init__(self, length: int, words: int, classes: int, width: int = 768, depth: int = 12, heads: int = 12):
        super().__init__()
        if words != classes:
            raise ValueError(f"{words} words, {classes} classes: the next word is one of the words")
        self.words = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        _small_normal(self)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.blocks(self.words(words) + self.positions))
        return F.linear(x, self.words.weight)


class BERT(nn.Module):
    """`ten_nets_keras.bert`: words int64 [N, length] to logits, by the first word's vector."""

    def __init__(self, length: int, words: int, classes: int, width: int = 768, depth: int = 12, heads: int = 12):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.segments = nn.Embedding(2, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.Sequential(*(_BertBlock(width, heads) for _ in range(depth)))
        self.pooler = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)
        _small_normal(self)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(words) + self.positions + self.segments.weight[0])
        return self.head(torch.tanh(self.pooler(self.blocks(x)[:, 0])))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        items, length, width = x.shape
        # [3, N, heads, length, width / heads]
        q, k, v = self.inputs(x).view(items, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.output(y.transpose(1, 2).reshape(items, length, width))


class _Block(nn.Module):
    """GPT's: norms before each part, and the tanh form of GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads, causal=True)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.wide(self.norm2(x))


class _BertBlock(nn.Module):
    """BERT's: norms behind each part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.attention = _Attention(width, heads, causal=False)
        self.wide = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.wide(x))


class UNet(nn.Module):
    """`models/unet.py`: images [N, C, H, W] to logits [N, classes, H, W]."""

    def __init__(self, classes: int, width: int = 64, depth: int = 4, channels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_convolutions(a, b) for a, b in zip([channels, *widths], widths, strict=False))
        # A window of 2x2 that keeps the size has one pixel of padding behind the image, as in Keras.
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2 * one, one, 2))
            for one in widths[-2::-1]
        )
        self.level = nn.ModuleList(_convolutions(2 * one, one) for one in widths[-2::-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        skips.pop()  # the bottom
        for up, level in zip(self.up, self.level, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def _convolutions(before: int, width: int) -> nn.Sequential:
    first, second = (nn.Conv2d(a, width, 3, padding=1, bias=False) for a in (before, width))
    return nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), second, nn.BatchNorm2d(width), nn.ReLU())


def _small_normal(net: nn.Module) -> None:
    """A deviation of 0.02, and biases of 0: as GPT-2 and BERT begin."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    nn.init.normal_(net.positions, std=0.02)
