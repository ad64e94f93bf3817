"""A training's measurement shared by the processes of several devices of one machine.

The process that measures a row is one of them, and starts the others. All do the same, in step; what the others measure
is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tfhalf.bench.watch import Stages
from tfhalf.system.child import Channel
from tfhalf.system.cluster import cluster_of
from tfhalf.system.group import ALONE, Group
from tfhalf.system.join import join
from tfhalf.system.processes import Processes
from tfhalf.system.tensorflow import import_tensorflow

_REMEDY = "start the measurement again"


@contextmanager
def sharing(devices: Sequence[str | None], arguments: Mapping[str, Any], stages: Stages) -> Iterator[Group]:
    """Import TensorFlow, in processes for all ``devices`` (`tfhalf.system.processes.devices_of`), which work together
    within the block; ``arguments`` are what `tfhalf.bench.training.measure` takes in each.

    Raises:
        PeerError: one has ended.
    """
    if len(devices) < 2 and devices[0] is None:
        import_tensorflow()
        yield ALONE
        return
    processes = Processes(devices, __name__, [json.dumps(dict(arguments))], remedy=_REMEDY)
    with processes.running():
        import_tensorflow()
        if len(devices) == 1:
            yield ALONE
            return
        group = join(processes.cluster, {}, stages)
        with group.watched(_REMEDY):
            yield group


def main(channel: Channel, arguments: str, *where: str) -> None:
    """One of the others: ``where`` are the options that `tfhalf.system.processes` adds."""
    del channel
    options = dict(zip(where[::2], where[1::2], strict=True))
    cluster = cluster_of({}, options["--coordinator"], int(options["--num-processes"]), int(options["--process-id"]))
    assert cluster is not None
    stages = Stages(lambda _: None)
    import_tensorflow()
    group = join(cluster, {}, stages)
    from tfhalf.bench import training

    with group.watched(_REMEDY):
        training.measure(**json.loads(arguments), stages=stages, group=group)
