"""A command in a process that another one of the same command has started: `tfhalf.system.processes`."""

from __future__ import annotations

from tfhalf.cli import main as tfhalf
from tfhalf.system.child import Channel


def main(channel: Channel, *arguments: str) -> None:
    """Run ``tfhalf`` with ``arguments``; the process ends with its exit code."""
    del channel
    tfhalf(list(arguments))
