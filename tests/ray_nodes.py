"""A Ray cluster of two nodes with a core each, both on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

WITH_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (tfhalf[ray])")


def two_nodes(monkeypatch: pytest.MonkeyPatch, path: str) -> Iterator[str]:
    """The cluster's address, as a fixture; ``path`` is what its processes import from."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", path)
    local = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    local.add_node(num_cpus=1)
    try:
        yield local.address
    finally:
        local.shutdown()
