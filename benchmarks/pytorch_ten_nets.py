"""Items per second of one of the ten nets' training steps in PyTorch, in one mode: a row of `ten_nets.py`.

    python benchmarks/pytorch_ten_nets.py gpt --mode default+graph

The step is that of `pytorch_throughput.py`, and counts under the same conditions: random items that lie on the GPU,
float16 autocast with `GradScaler`, channels_last, a fused optimizer, `scaled_dot_product_attention`. Prints one JSON
line last, with the number of parameters, which has to be that of Keras' net.
"""

from __future__ import annotations

import argparse
import json

import torch
from pytorch_data import Resident, moments, noise
from pytorch_modes import MODES, use_fast_kernels
from pytorch_ten_nets_models import create
from pytorch_throughput import LEAST_STEPS, measure
from pytorch_training import DTYPES, Stepped, with_momentum
from ten_nets_list import NETS, Net
from torch import nn


class Words(nn.Module):
    """Calling it with places int64 [N] gives the words there, of random ones int64 [N, length] on the device."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("x", x, persistent=False)

    def __len__(self) -> int:
        return len(self.x)

    def draw(self, epoch: int) -> None:
        """Nothing changes from epoch to epoch."""

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.x[index]


def data(net: Net, device: str) -> tuple[Resident | Words, torch.Tensor]:
    """Random items, and their classes int64 [N], [N, length] or [N, H, W]: as `ten_nets_keras.py` makes them."""
    if net.words:
        words = torch.randint(0, net.words, (net.count, net.item[0] + 1), device=device)
        every = torch.randint(0, net.classes, (net.count,), device=device)
        return Words(words[:, :-1].contiguous()), words[:, 1:].contiguous() if net.task == "sequence" else every
    x, y = noise(net.count, net.item[0], net.classes, device)
    if net.task == "segmentation":
        y = (x[..., 0] > x[..., 1]).long()
    mean, std = moments(x[:1000])
    return Resident(x, mean, std), y


def stepped(net: Net, arguments: argparse.Namespace) -> Stepped:
    """The net, its data and its optimizer, ready to be compiled."""
    device = arguments.device
    module = create(net).to(device, memory_format=torch.channels_last)
    x, y = data(net, device)
    return Stepped(
        module,
        x,
        y,
        optimizer_of(net, module, device),
        batch=net.batch,
        mode=arguments.mode,
        policy=arguments.policy,
        device=device,
    )


def optimizer_of(net: Net, module: nn.Module, device: str) -> torch.optim.Optimizer:
    """Fused; AdamW such that a CUDA graph can hold it."""
    settings = net.optimizer
    if settings.name == "adamw":
        return torch.optim.AdamW(
            module.parameters(),
            lr=settings.rate,
            weight_decay=settings.decay,
            fused=True,
            capturable=device == "cuda",
        )
    optimizer = torch.optim.SGD(
        module.parameters(), lr=settings.rate, momentum=settings.momentum, weight_decay=settings.decay, fused=True
    )
    return with_momentum(optimizer)


def parameters(module: nn.Module) -> int:
    """How many are trained."""
    return sum(one.numel() for one in module.parameters() if one.requires_grad)


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=sorted(NETS))
    parser.add_argument("--mode", choices=list(dict.fromkeys(MODES)), default="default")
    parser.add_argument("--policy", choices=sorted(DTYPES), default="float16")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, help="in place of the net's own")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if gpu else "cpu")
    parser.add_argument("--quick", action="store_true", help="a shallow net on tiny items: for a CPU")
    parser.add_argument("--count", action="store_true", help="print the number of parameters, and measure nothing")
    arguments = parser.parse_args()
    net = NETS[arguments.net]
    net = (net.small() if arguments.quick else net).with_batch(arguments.batch)
    torch.manual_seed(0)
    use_fast_kernels()
    if arguments.count:
        print(json.dumps({"net": net.name, "parameters": parameters(create(net)), "expected": net.parameters}))
        return
    trained = stepped(net, arguments)
    row = {**measure(trained, arguments, 4 if arguments.quick else LEAST_STEPS), "parameters": parameters(trained.net)}
    print(json.dumps(row), flush=True)
    raise SystemExit(1 if row.get("trouble") else 0)


if __name__ == "__main__":
    main()
