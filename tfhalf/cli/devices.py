"""Options for work on several devices, and how a command becomes one of the processes that share it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from tfhalf._version import __version__
from tfhalf.cli.group import ARGUMENTS
from tfhalf.cli.options import load_tensorflow
from tfhalf.errors import ConfigError
from tfhalf.progress import Progress
from tfhalf.system.cluster import PORT, cluster_of

if TYPE_CHECKING:
    from tfhalf.system.group import Group

DEVICES = click.option(
    "--devices",
    metavar="all|N|0,1",
    help="Share every batch among this machine's GPUs, or among N processes of its CPU; a process is started for each.",
)
_OPTIONS = (
    DEVICES,
    click.option(
        "--coordinator",
        metavar="HOST:PORT",
        help=f"Address of process 0, where processes on several machines meet. [torchrun's or Slurm's; port {PORT}]",
    ),
    click.option("--num-processes", type=click.IntRange(1), help="Number of processes. [the launcher's]"),
    click.option("--process-id", type=click.IntRange(0), help="Number of this process, from 0. [the launcher's]"),
)
RAY = click.option(
    "--ray",
    metavar="ADDRESS",
    help="Share every batch among the GPUs of a Ray cluster, all or --num-processes of them; its machines see this "
    "folder: auto, HOST:PORT or ray://HOST:PORT.",
)
NAMES = ("devices", "coordinator", "num_processes", "process_id")


def device_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--devices``, and what makes a process one of several that a launcher has started."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@contextmanager
def sharing(
    progress: Progress, facts: Mapping[str, Any], *, loading: Mapping[str, Any], **where: Any
) -> Iterator[Group]:
    """Start and meet the processes that ``where``, the values of `device_options`, or a launcher speak of; within the
    block they work together. TensorFlow is imported on the way, with ``loading`` of `load_tensorflow`.

    Args:
        facts: what all processes must agree on, by the names that messages call it by.

    Raises:
        ConfigError: the options do not go together, or a process differs from the first.
        PeerError: a process did not come, or has ended.
    """
    devices, options = where["devices"], {name: where[name] for name in NAMES[1:]}
    others = _names_of(options)
    if devices is not None and others:
        raise ConfigError(
            f"--devices starts processes on this machine, {others[0]} belongs to processes that are started already; "
            "leave one of them out"
        )
    processes = None
    if devices is None:
        cluster = cluster_of(os.environ, **options)
    else:
        from tfhalf.system.processes import Processes, devices_of, visible_gpus

        each = devices_of(devices, visible_gpus(os.environ))
        context = click.get_current_context()
        remedy = "go on with: tfhalf train PIPELINE --resume" if context.info_name == "train" else "start it again"
        processes = Processes(each, "tfhalf.cli.process", without(context.meta[ARGUMENTS], "--devices"), remedy=remedy)
        cluster = processes.cluster if len(each) > 1 else None
    if cluster is not None and cluster.rank:  # what the first one says is enough
        progress = Progress(quiet=True)
    with processes.running() if processes else nullcontext():
        load_tensorflow(progress, **loading)
        from tfhalf.system.group import ALONE

        if cluster is None:
            yield ALONE
            return
        from tfhalf.system.join import join

        yield join(cluster, {**_versions(), **{name: str(value) for name, value in facts.items()}}, progress)


def on_ray(address: str, where: Mapping[str, Any], progress: Progress) -> int:
    """This command in processes of the Ray cluster at ``address``; ``where`` are the values of `device_options`.

    Returns:
        Its exit code.

    Raises:
        ConfigError: the options do not go together, or the cluster cannot be used.
    """
    from tfhalf.cli.ray import run_on_ray

    if wrong := [option for option in _names_of(where) if option != "--num-processes"]:
        raise ConfigError(f"--ray starts processes on a cluster, and says itself which is which; leave {wrong[0]} out")
    arguments = without(click.get_current_context().meta[ARGUMENTS], "--ray", "--num-processes")
    return run_on_ray(address, where["num_processes"], arguments, progress)


def _names_of(values: Mapping[str, Any]) -> list[str]:
    """The options that have a value, as they are written."""
    return [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]


def without(arguments: Sequence[str], *options: str) -> list[str]:
    """A command line without ``options`` and their values: that of a process which is one of those they start."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in options:
            next(rest, None)
        elif argument.partition("=")[0] not in options:
            kept.append(argument)
    return kept


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"tfhalf": __version__, **versions, "python": platform.python_version()}
