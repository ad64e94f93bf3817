"""The net of ``models/speednet.py`` in PyTorch: float16 autocast, GradScaler, channels_last, `torch.compile`.

    python benchmarks/cifar10_pytorch.py DATA.npz [--epochs 10] [--no-compile]

DATA.npz holds x_train, y_train, x_test, y_test (uint8 [N, 32, 32, 3], integers [N]). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BATCH, MOMENTUM, RATE, DECAY, SMOOTHING = 1024, 0.85, 1.5, 0.00133, 0.2


class Block(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)), approximate="tanh")
        return F.gelu(self.norm2(self.conv2(x)), approximate="tanh")


class SpeedNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad = False
        self.blocks = nn.Sequential(Block(24, 64), Block(64, 256), Block(256, 256))
        self.head = nn.Linear(256, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.gelu(self.whitening(x), approximate="tanh"))
        return self.head(x.amax((2, 3))) / 9


def whiten(net: SpeedNet, x: torch.Tensor) -> None:
    patches = x.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.flip(0).reshape(12, 3, 2, 2).float()
    net.whitening.weight.data[:] = torch.cat([filters, -filters])
    net.whitening.bias.data.zero_()


def crop_and_flip(x: torch.Tensor, mirrored: torch.Tensor, epoch: int) -> torch.Tensor:
    """All images at once, once an epoch: shifted by up to two pixels, mirrored every second epoch."""
    padded, out = F.pad(x, (2,) * 4, "reflect"), torch.empty_like(x)
    shift = torch.randint(0, 5, (len(x), 2), device=x.device)
    for dy in range(5):
        for dx in range(5):
            chosen = (shift[:, 0] == dy) & (shift[:, 1] == dx)
            out[chosen] = padded[chosen, :, dy : dy + 32, dx : dx + 32]
    flip = (mirrored + epoch) % 2 == 1
    return torch.where(flip[:, None, None, None], out.flip(3), out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    with np.load(arguments.data) as data:
        raw, y = torch.tensor(data["x_train"]).cuda(), torch.tensor(data["y_train"]).cuda().long()
        raw_test, y_test = torch.tensor(data["x_test"]).cuda(), torch.tensor(data["y_test"]).cuda().long()
    mean, std = raw.float().mean((0, 1, 2)), raw.float().std((0, 1, 2))

    def normalised(images: torch.Tensor) -> torch.Tensor:
        x = ((images.float() - mean) / std).permute(0, 3, 1, 2)
        return x.half().contiguous(memory_format=torch.channels_last)

    x, x_test = normalised(raw), normalised(raw_test)
    net = SpeedNet().cuda().to(memory_format=torch.channels_last)
    whiten(net, x[:5000].float())
    biases = [p for n, p in net.named_parameters() if "norm" in n and p.requires_grad]
    others = [p for n, p in net.named_parameters() if "norm" not in n and p.requires_grad]
    optimizer = torch.optim.SGD(
        [
            {"params": biases, "lr": RATE * 64, "weight_decay": DECAY / 64},
            {"params": others, "lr": RATE, "weight_decay": DECAY},
        ],
        momentum=MOMENTUM,
        nesterov=True,
        fused=True,
    )
    steps = len(x) // BATCH
    total = steps * arguments.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: np.interp((i + 0.5) / total, [0, 0.23, 1], [0.2, 1, 0.0])
    )
    scaler = torch.amp.GradScaler("cuda")
    run = net if arguments.no_compile else torch.compile(net, mode="max-autotune")
    mirrored = torch.randint(0, 2, (len(x),), device="cuda")

    def one(batch: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(run(batch).float(), labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    before = {k: v.clone() for k, v in net.state_dict().items()}
    start = time.perf_counter()
    for _ in range(12):
        one(x[:BATCH], y[:BATCH])
    torch.cuda.synchronize()
    compiled = time.perf_counter() - start
    net.load_state_dict(before)
    for state in optimizer.state.values():
        state["momentum_buffer"].zero_()
    start, epochs = time.perf_counter(), []
    for epoch in range(arguments.epochs):
        begin = time.perf_counter()
        images = crop_and_flip(x, mirrored, epoch)
        order = torch.randperm(len(x), device="cuda")[: steps * BATCH].view(steps, BATCH)
        for index in order:
            one(images[index], y[index])
            schedule.step()
        torch.cuda.synchronize()
        epochs.append(time.perf_counter() - begin)
    wall = time.perf_counter() - start
    net.eval()
    with torch.no_grad(), torch.autocast("cuda", torch.float16):
        right = sum(int((net(part).argmax(1) == labels).sum()) for part, labels in zip(
            x_test.split(1000), y_test.split(1000), strict=True))  # fmt: skip
    row = {
        "side": "pytorch" + (" eager" if arguments.no_compile else " torch.compile"),
        "epochs": arguments.epochs,
        "compile_s": round(compiled, 1),
        "train_s": round(wall, 2),
        "images_per_s": round(steps * BATCH / float(np.median(epochs))),
        "accuracy": [round(right / len(x_test) * 100, 2)],
        "torch": torch.__version__,
    }
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
