"""Seconds from untrained to evaluated on CIFAR-10 in PyTorch, by the public record's method.

    python benchmarks/pytorch_time_to_94.py DATA.npz [--seeds 10] [--epochs 8] [--curriculum] [--mode best]

Net, optimizers and figures are those of airbench94_muon (K. Jordan, github.com/KellerJordan/cifar10-airbench: 94.01 %,
2.59 s on an A100), which descends from arXiv:2404.00498; the code is not. Float16 weights, norms in float32, the loss
summed over batches of 2,000. A seed's time holds whitening, padding, drawing, training, and the test with six views;
weights are drawn and programs compiled before it. ``--curriculum`` trains on images of 24 pixels, then 28, then 32.

DATA.npz as in `pytorch_throughput.py`; ``-`` trains on patterns that can be learnt. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_data import Images, Resident, learnable, load, moments
from pytorch_modes import (
    BEST,
    MODES,
    begin_step,
    captured,
    compiled,
    each_mode,
    machine,
    memory,
    synchronize,
    troubles,
    use_fast_kernels,
    without_mode,
)
from pytorch_muon import Optimizer
from pytorch_nets import SpeedNet, whiten
from torch import nn

_WHITENING_EPOCHS, _SMOOTHING = 3, 0.2
_SIZES = (24, 24, 24, 28, 28, 28)  # of the first epochs with --curriculum; 32 after them
# Shift in both directions from the padded corner, mirrored, weight: arXiv:2404.00498, section 3.5.
_VIEWS = ((1, False, 1 / 4), (1, True, 1 / 4), (0, False, 1 / 8), (0, True, 1 / 8), (2, False, 1 / 8), (2, True, 1 / 8))


class Objective(nn.Module):
    """The summed loss of the images at ``index``, int64 [N], scaled to ``size`` pixels: what is compiled."""

    def __init__(self, net: SpeedNet, data: Resident, labels: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.data, self.dtype = net, data, dtype
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, index: torch.Tensor, size: int, learn_whitening: bool) -> torch.Tensor:
        x = self.data(index)
        if size != self.data.height:
            x = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        logits = self.net(x.to(self.dtype), learn_whitening)
        return F.cross_entropy(logits.float(), self.labels[index], label_smoothing=_SMOOTHING, reduction="sum")


class Answers(nn.Module):
    """Logits, float32, for the test images at ``index`` as their `Resident` shifts and mirrors them: compiled, too."""

    def __init__(self, net: SpeedNet, data: Resident, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.data, self.dtype = net, data, dtype

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.net(self.data(index).to(self.dtype)).float()


class Race:
    """Everything that is built and compiled once; `run` is one seed."""

    def __init__(self, arguments: argparse.Namespace, images: Images) -> None:
        self.device, self.mode, self.images = arguments.device, arguments.mode, images
        self.epochs, self.batch = arguments.epochs, arguments.batch
        self.dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[arguments.dtype]
        self.sizes = [_SIZES[e] if arguments.curriculum and e < len(_SIZES) else 32 for e in range(self.epochs)]
        mean, std = moments(images.x_train)
        eager = self.mode.startswith("eager")
        prepared = torch.float16 if eager and self.device == "cuda" else torch.float32 if eager else None
        self.data = Resident(images.x_train, mean, std, pad=2, flip="alternating", once_an_epoch=prepared)
        self.first = Resident(images.x_train[:5000], mean, std)
        self.test = Resident(images.x_test, mean, std, pad=1)
        widths = (24, 32, 32) if arguments.tiny else (64, 256, 256)
        net = SpeedNet(widths=widths, divisor=widths[-1])
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(self.dtype)
        self.net = net.to(self.device, memory_format=torch.channels_last)
        self.optimizer = Optimizer(self.net, self.batch, lambda what: compiled(what, self.mode, graphs=False))
        self.index = torch.zeros(self.batch, dtype=torch.int64, device=self.device)
        self.places = torch.arange(len(self.test), device=self.device)
        self.logits = torch.zeros(len(self.test), 10, device=self.device)
        objective = Objective(self.net, self.data, images.y_train, self.dtype)
        self.objective = compiled(objective, self.mode)
        self.answers = compiled(Answers(self.net, self.test, self.dtype), self.mode)
        self.factors = self._factors()
        self.graphs: dict[tuple[int, bool], Callable[[], None]] = {}

    @property
    def steps_per_epoch(self) -> int:
        return len(self.data) // self.batch

    def _factors(self) -> torch.Tensor:
        """[steps, 2]: both of the optimizer's factors fall to 0 in a line."""
        steps = torch.arange(self.epochs * self.steps_per_epoch, dtype=torch.float32, device=self.device)
        whitening = 1 - steps / (_WHITENING_EPOCHS * self.steps_per_epoch)
        return torch.stack([whitening.clamp(min=0), 1 - steps / len(steps)], 1)

    def prepare(self) -> None:
        """Compile all that `run` calls, and capture it where the mode says so."""
        self.reset(0)
        if self.mode.endswith("+graph"):
            self.start()
            for phase in dict.fromkeys(self._phase(epoch) for epoch in range(self.epochs)):
                self.index.copy_(torch.randperm(len(self.data), device=self.device)[: self.batch])
                self.graphs[phase] = captured(lambda phase=phase: self._step(*phase))
        self.run(0)

    def reset(self, seed: int) -> None:
        """Draw the first weights of ``seed``, in place; the head's have a standard deviation of 1."""
        torch.manual_seed(seed)
        self.net.reset()
        head = self.net.head.weight.data
        head.mul_(1 / head.float().std())
        self.optimizer.reset()

    def run(self, seed: int) -> tuple[float, float, float]:
        """Seconds and accuracies (all views, plain) of one training from ``seed``."""
        self.reset(seed)
        synchronize(self.device)
        start = time.perf_counter()
        self.start()
        for epoch in range(self.epochs):
            self.train(epoch)
        right = float((self.test_logits().argmax(1) == self.images.y_test).float().mean())
        synchronize(self.device)
        seconds = time.perf_counter() - start
        plain = sum(float((self.plain(part).argmax(1) == self.images.y_test[part]).sum()) for part in self._parts())
        return seconds, right, plain / len(self.test)

    def start(self) -> None:
        """The part of a run that comes before its first step."""
        whiten(self.net, self.first(torch.arange(len(self.first), device=self.device)))
        self.data.fill(self.images.x_train)
        self.test.fill(self.images.x_test)
        self.data.new_coins()
        self.net.train()

    def train(self, epoch: int) -> None:
        self.data.draw(epoch)
        steps = self.steps_per_epoch
        order = torch.randperm(len(self.data), device=self.device)[: steps * self.batch].view(steps, self.batch)
        phase = self._phase(epoch)
        replay = self.graphs.get(phase)
        for index, factors in zip(order, self.factors[epoch * steps : (epoch + 1) * steps], strict=True):
            self.index.copy_(index)
            self.optimizer.factors.copy_(factors)
            if replay is not None:
                replay()
            else:
                begin_step()
                self._step(*phase)

    def _phase(self, epoch: int) -> tuple[int, bool]:
        return self.sizes[epoch], epoch < _WHITENING_EPOCHS

    def _step(self, size: int, learn_whitening: bool) -> None:
        self.net.zero_grad(set_to_none=True)
        self.objective(self.index, size, learn_whitening).backward()
        self.optimizer.step()

    def test_logits(self) -> torch.Tensor:
        """Logits of the test images over all views."""
        self.net.eval()
        self.logits.zero_()
        with torch.no_grad():
            for shift, mirrored, weight in _VIEWS:
                self.test.shift.fill_(shift)
                self.test.mirrored.fill_(mirrored)
                for part, sums in zip(self._parts(), self.logits.split(self.batch), strict=True):
                    begin_step()
                    sums.add_(self.answers(part), alpha=weight)
        return self.logits

    def plain(self, part: torch.Tensor) -> torch.Tensor:
        """Logits of the test images at ``part`` as they are."""
        self.net.eval()
        self.test.shift.fill_(1)
        self.test.mirrored.fill_(False)
        with torch.no_grad():
            begin_step()
            return self.answers(part).clone()

    def _parts(self) -> tuple[torch.Tensor, ...]:
        return self.places.split(self.batch)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One mode's row."""
    use_fast_kernels()
    device = arguments.device
    small = (512, 256) if arguments.tiny else (50_000, 10_000)
    images = learnable(*small, device) if arguments.data == "-" else load(arguments.data, device)
    race = Race(arguments, images)
    start = time.perf_counter()
    race.prepare()
    compiling = time.perf_counter() - start
    runs = [race.run(seed) for seed in range(arguments.seeds)]
    seconds, accuracy, plain = (np.array(column) for column in zip(*runs, strict=True))
    row: dict[str, Any] = {
        "side": "pytorch",
        "net": "speednet",
        "mode": arguments.mode,
        "policy": arguments.dtype,
        "curriculum": arguments.curriculum,
        "seeds": arguments.seeds,
        "epochs": arguments.epochs,
        "batch": race.batch,
        "seconds": _summary(seconds),
        "accuracy": _summary(accuracy),
        "plain_accuracy": _summary(plain),
        "each": [{"seconds": round(s, 4), "accuracy": round(a, 4)} for s, a, _ in runs],
        "compile_s": round(compiling, 1),
        "memory_bytes": memory(device),
        "data": arguments.data,
        **machine(device),
    }
    if accuracy.min() < 0.2:
        row["trouble"] = f"does not train: {accuracy.min() * 100:.2f} % of the test images are right"
    return row


def _summary(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "min": float(values.min()), "max": float(values.max())}


def best(arguments: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """The row of the fastest mode that is as accurate as the others, with all of them under ``modes``."""
    modes = [name.strip() for name in arguments.modes.split(",")]
    rows = each_mode(__file__, without_mode(argv), modes, arguments.budget)
    table = [{"mode": mode, **row} for mode, row in rows]
    good = [row for _, row in rows if not row.get("trouble")]
    if not good:
        return {"side": "pytorch", "net": "speednet", "trouble": troubles(rows), "modes": table}
    enough = max(row["accuracy"]["mean"] for row in good) - 0.003
    good = [row for row in good if row["accuracy"]["mean"] >= enough]
    return {**min(good, key=lambda row: row["seconds"]["mean"]), "modes": table}


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="an npz file, or - for patterns of its own")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--curriculum", action="store_true", help="24 pixels, then 28, then 32")
    parser.add_argument("--mode", choices=[*dict.fromkeys(MODES), "best"], default="best")
    parser.add_argument("--modes", default=",".join(BEST), help="what best tries, in this order")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds for all that best tries")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16", help="of the weights")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if gpu else "cpu")
    parser.add_argument("--tiny", action="store_true", help="a small net, few images: to test this script")
    arguments = parser.parse_args()
    arguments.batch = arguments.batch or (32 if arguments.tiny else 2000)
    row = best(arguments, sys.argv[1:]) if arguments.mode == "best" else measure(arguments)
    print(json.dumps(row), flush=True)
    raise SystemExit(1 if row.get("trouble") else 0)


if __name__ == "__main__":
    main()
