"""The training step that `pytorch_throughput.py` and `pytorch_ten_nets.py` measure: data, net, loss, loss scale and
optimizer."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_data import Flip, Images, Resident, learnable, load, moments, noise
from pytorch_modes import begin_step, captured, compiled, forget_peak, synchronize
from pytorch_nets import NETS, TINY, SpeedNet, whiten
from torch import nn

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_WARM_UP = 12


@dataclass(frozen=True)
class Recipe:
    """What `pipelines/*.yaml` say, with one learning rate for all steps: below their mean, as nothing warms up."""

    batch: int
    rate: float
    momentum: float
    decay: float
    nesterov: bool = True
    smoothing: float = 0.0
    pad: int = 0
    flip: Flip = "none"
    cutout: int = 0


RECIPES = {
    "speednet": Recipe(1024, 0.5, 0.85, 0.00133, smoothing=0.2, pad=2, flip="alternating"),
    "resnet9": Recipe(1024, 0.2, 0.9, 0.0005, smoothing=0.2, pad=4, flip="random", cutout=8),
    "resnet50": Recipe(256, 0.05, 0.9, 0.0001, nesterov=False),
}


class Objective(nn.Module):
    """The mean loss of the items at ``index``, int64 [N]: what is differentiated, and what is compiled.

    ``net`` gives logits: [N, K], [N, K, H, W] or [N, T, K]; ``labels`` are int64 of the same shape without K.
    """

    def __init__(self, net: nn.Module, data: nn.Module, labels: torch.Tensor, dtype: torch.dtype, smoothing: float):
        super().__init__()
        self.net, self.data, self.dtype, self.smoothing = net, data, dtype, smoothing
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        x, labels = self.data(index), self.labels[index]
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.net(x)
        if logits.ndim == 3:
            logits, labels = logits.flatten(0, 1), labels.flatten()
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)


class Stepped:
    """A net on its device, and the step that trains it on ``data``: `Resident`, or what has its methods.

    ``learns``: whether the data can be learnt within a repeat, so that the loss has to fall.
    """

    learns = False

    def __init__(
        self,
        net: nn.Module,
        data: Any,
        labels: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        batch: int,
        mode: str,
        policy: str,
        device: str,
        smoothing: float = 0.0,
    ) -> None:
        self.net, self.data, self.optimizer = net, data, optimizer
        self.batch, self.mode, self.device, self.dtype = batch, mode, device, DTYPES[policy]
        self.scaler = torch.amp.GradScaler(device, init_scale=2.0**15, enabled=policy == "float16")
        self.total = torch.zeros((), device=device)
        self.index = torch.zeros(batch, dtype=torch.int64, device=device)
        self.run = compiled(Objective(net, data, labels, self.dtype, smoothing), mode)
        # On the host: the second copy is this measurement's, and none of the training's memory.
        self.before = {name: value.cpu().clone() for name, value in net.state_dict().items()}
        self.batches = self._batches()
        self._replay: Callable[[], None] | None = None

    def warm_up(self) -> float:
        """Compile and capture, the first step within, then a few steps more; the seconds of the former."""
        start = time.perf_counter()
        self.index.copy_(next(self.batches))
        if self.mode.endswith("+graph"):
            self._replay = captured(self._step, fresh_peak=True)
        else:
            self.step()
        synchronize(self.device)
        seconds = time.perf_counter() - start
        for _ in range(_WARM_UP):
            self.step()
        synchronize(self.device)
        if not self.mode.endswith("+graph"):  # where `captured` did so at the only time
            forget_peak(self.device, self.mode)
        return seconds

    def restart(self) -> None:
        """The first weights again and no momentum, in place. The loss scale stays."""
        self.net.load_state_dict(self.before)
        for state in self.optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value):
                    value.zero_()
        self.total.zero_()

    def step(self) -> None:
        """One step on the next batch."""
        self.index.copy_(next(self.batches))
        if self._replay is not None:
            self._replay()
        else:
            begin_step()
            self._step()

    def _step(self) -> None:
        # Before the forward pass: gradients may lie in memory that the next replay of a graph takes.
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.run(self.index)
        self.total.add_(loss.detach())
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _batches(self) -> Iterator[torch.Tensor]:
        steps = len(self.data) // self.batch
        epoch = 0
        while True:
            self.data.draw(epoch)
            order = torch.randperm(len(self.data), device=self.device)[: steps * self.batch]
            yield from order.view(steps, self.batch)
            epoch += 1

    def moved(self) -> bool:
        """Whether every trainable weight differs from its first value."""
        weights = [(name, value) for name, value in self.net.named_parameters() if value.requires_grad]
        return all(not torch.equal(value.cpu(), self.before[name]) for name, value in weights)

    def accuracy(self) -> float | None:
        """Share of right answers on test images, 0 to 1; None without any."""
        return None


class Trained(Stepped):
    """A net of `RECIPES` with its data and optimizer."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        device, mode = arguments.device, arguments.mode
        recipe, dtype = RECIPES[arguments.net], DTYPES[arguments.policy]
        self.learns = bool(recipe.pad)
        self.images = _images(arguments)
        mean, std = moments(self.images.x_train[:50_000:10])
        self.normalise = {"mean": mean, "std": std}
        data = Resident(
            self.images.x_train,
            **self.normalise,
            pad=recipe.pad,
            flip=recipe.flip,
            cutout=recipe.cutout,
            once_an_epoch=dtype if mode.startswith("eager") and recipe.pad else None,
        )
        net = (TINY if arguments.tiny else NETS)[arguments.net]().to(device, memory_format=torch.channels_last)
        if isinstance(net, SpeedNet):
            plain = Resident(self.images.x_train[:5000], **self.normalise)
            whiten(net, plain(torch.arange(len(plain), device=device)))
        super().__init__(
            net,
            data,
            self.images.y_train,
            _optimizer(net, recipe),
            batch=arguments.batch,
            mode=mode,
            policy=arguments.policy,
            device=device,
            smoothing=recipe.smoothing,
        )

    def accuracy(self) -> float | None:
        """Share of right answers on the test images, 0 to 1; None where they are random."""
        if not len(self.images.x_test):
            return None
        test = Resident(self.images.x_test, **self.normalise)
        self.net.eval()
        right = 0
        with torch.no_grad(), torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            for index in torch.arange(len(test), device=self.device).split(1000):
                right += int((self.net(test(index)).argmax(1) == self.images.y_test[index]).sum())
        self.net.train()
        return right / len(test)


def _images(arguments: argparse.Namespace) -> Images:
    device = arguments.device
    if arguments.net == "resnet50":
        x, y = noise(*((64, 64, 10) if arguments.tiny else (5120, 224, 1000)), device)
        return Images(x, y, x[:0], y[:0])
    if arguments.data:
        return load(arguments.data, device)
    return learnable(*((512, 256) if arguments.tiny else (50_000, 10_000)), device)


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    named = [(name, value) for name, value in net.named_parameters() if value.requires_grad]
    fast = [value for name, value in named if isinstance(net, SpeedNet) and "norm" in name]
    rest = [value for name, value in named if not any(value is other for other in fast)]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if fast:  # biases of the norms learn 64 times faster: arXiv:2404.00498, section 3.4
        groups.append({"params": fast, "lr": recipe.rate * 64, "weight_decay": recipe.decay / 64})
    optimizer = torch.optim.SGD(
        groups,
        lr=recipe.rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.decay,
        fused=True,
    )
    return with_momentum(optimizer)


def with_momentum(optimizer: torch.optim.SGD) -> torch.optim.SGD:
    """``optimizer`` with momentum of 0. That is the same as none, but fused SGD leaves memory as it finds it where the
    first step is skipped for an overflow."""
    for group in optimizer.param_groups:
        for value in group["params"]:
            optimizer.state[value]["momentum_buffer"] = torch.zeros_like(value)
    return optimizer
