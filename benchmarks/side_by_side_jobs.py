"""The commands that `side_by_side.py` runs, in their order."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from host import after_setup

_HERE = Path(__file__).resolve().parent
_PIPELINES = {
    "speednet": "pipelines/cifar10.yaml",
    "resnet9": "pipelines/cifar10_resnet9.yaml",
    "resnet50": "pipelines/resnet50_synthetic.yaml",
}


@dataclass(frozen=True)
class Job:
    """One command.

    ``limit``: seconds. ``usual``: runs unless other names are asked for. ``data``: reads the npz file, which the
    ``needed`` job makes. ``missing``: what it cannot run without. ``budget``: takes ``--budget``, its limit.
    """

    name: str
    net: str
    command: list[str]
    limit: float
    usual: bool = True
    data: bool = False
    needed: bool = False
    missing: str = ""
    budget: bool = False

    @property
    def there(self) -> bool:
        return not self.missing

    def plus(self, more: Sequence[str]) -> Job:
        return replace(self, command=[*self.command, *more])


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """All jobs; those of one net stand together, PyTorch's first."""
    listed: list[Job] = []
    data = str(arguments.data.resolve()) if arguments.data and not arguments.tiny else "-"
    if arguments.data and not arguments.data.exists() and not arguments.tiny:
        command = _tensorflow(arguments, ["benchmarks/cifar10_npz.py", data])
        listed.append(Job("data", "", command, 180, usual=False, needed=True))
    for net in _PIPELINES:
        listed += _throughput(arguments, net, data)
        listed.append(_bench(arguments, net))
        if net == "speednet":
            command = _tensorflow(arguments, ["benchmarks/cifar10_keras_fit.py"])
            listed.append(Job("speednet/keras", net, command, 150, usual=arguments.all and not arguments.tiny))
    for race, more in (("time94", []), ("curriculum", ["--curriculum"])):
        listed += _race(arguments, race, data, more)
    return listed


def _throughput(arguments: argparse.Namespace, net: str, data: str) -> list[Job]:
    reads = net != "resnet50" and data != "-"
    plain = [sys.executable, "benchmarks/pytorch_throughput.py", net, *(["--data", data] if reads else [])]
    plain += _small(arguments)
    limit = arguments.each
    best = ["--mode", "best", *(["--modes", "eager"] if arguments.tiny else [])]
    first = ["--policy", "float32" if arguments.tiny else "float16"]  # which a CPU only emulates
    listed = [Job(f"{net}/pytorch", net, [*plain, *first, *best], limit, data=reads, budget=True)]
    for policy in ("float32", "bfloat16"):
        name, command = f"{net}/pytorch-{policy}", [*plain, "--policy", policy, *best]
        listed.append(Job(name, net, command, limit, usual=arguments.all, data=reads, budget=True))
    listed.append(Job(f"{net}/pytorch-eager", net, [*plain, "--mode", "eager"], 120, usual=arguments.all, data=reads))
    return listed


def _bench(arguments: argparse.Namespace, net: str) -> Job:
    pipeline, policies, more = _PIPELINES[net], arguments.policies, []
    if arguments.tiny:
        pipeline, policies, more = "pipelines/digits.yaml", "float32", ["--seconds", "0.2", "--repeats", "2"]
    command = ["-m", "tfhalf", "bench", pipeline, "--policies", policies, *more, "--json"]
    limit = 120.0 * len(policies.split(","))
    return Job(f"{net}/tfhalf", net, _tensorflow(arguments, command), limit, missing=_missing(pipeline))


def _race(arguments: argparse.Namespace, name: str, data: str, more: Sequence[str]) -> list[Job]:
    seeds = ["--seeds", str(2 if arguments.tiny else arguments.seeds)]
    limit = arguments.each
    command = [sys.executable, "benchmarks/pytorch_time_to_94.py", data, *seeds, *more, *_small(arguments)]
    if arguments.tiny:
        command += ["--mode", "eager", "--dtype", "float32", "--epochs", "4"]
    else:
        command += ["--mode", "best"]
    ours = "benchmarks/tfhalf_time_to_94.py"
    theirs = _tensorflow(arguments, [ours, *seeds, *more])
    lacks = "" if arguments.data or arguments.tiny else "the data; give --data"
    return [
        Job(f"{name}/pytorch", name, command, limit, data=data != "-", budget=True, missing=lacks),
        Job(f"{name}/tfhalf", name, theirs, limit, usual=not arguments.tiny, missing=_missing(ours)),
    ]


def _small(arguments: argparse.Namespace) -> list[str]:
    device = ["--device", arguments.device] if arguments.device else []
    return [*device, "--tiny"] if arguments.tiny else device


def _missing(path: str) -> str:
    return "" if (_HERE.parent / path).exists() else path


def _tensorflow(arguments: argparse.Namespace, command: Sequence[str]) -> list[str]:
    return after_setup(arguments.setup, [arguments.tf_python, *command])
