"""A Ray cluster (docs.ray.io, Ray Core), for whatever is placed on its machines."""

from __future__ import annotations

import socket
from typing import Any

from tfhalf.errors import ConfigError


def connect(address: str) -> Any:
    """The module ``ray``, connected to the cluster at ``address``.

    Args:
        address: as `ray.init` takes it: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at ``address``.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--ray: Ray is not installed; pip install 'tfhalf[ray]'") from None
    try:
        _check_answers(address)  # Ray would try for minutes
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"--ray {address}: no cluster answers there ({reason}); start one with: ray start --head"
        ) from error
    return ray


def resources(ray: Any) -> tuple[int, list[float]]:
    """How many GPUs the cluster has, and the cores of each of its machines that work may be placed on."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(one.get("GPU", 0)) for one in nodes), [one["CPU"] for one in nodes if one.get("CPU", 0) >= 1]


def _check_answers(address: str) -> None:
    """Raise OSError or ValueError where nothing listens at HOST:PORT; ``auto`` is for Ray to find."""
    if address != "auto":
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise ValueError("accepted: auto, HOST:PORT or ray://HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
