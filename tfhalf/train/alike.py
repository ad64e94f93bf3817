"""Whether all processes that train together have read the same data."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from tfhalf.data.columns import Columns
from tfhalf.errors import DataError
from tfhalf.system.group import Group
from tfhalf.train.job import Job

_LOOKED_AT = 64  # items whose numbers are compared, spread over the set


def check_alike(job: Job, group: Group) -> None:
    """Compare sizes, targets and a sample of the inputs over ``group``.

    Raises:
        DataError: a process, which it names, has other data than the first.
    """
    if group.size == 1:
        return
    every = [json.loads(text) for text in group.texts(json.dumps(_facts(job)))]
    for rank, facts in enumerate(every):
        differing = [name for name in every[0] if facts.get(name) != every[0][name]]
        if differing:
            shown = "; ".join(f"{name} {facts.get(name)}, not {every[0][name]}" for name in differing)
            raise DataError(
                f"{job.splits.source}: process {rank} of {group.size} has other data than process 0: {shown}; all must "
                "read the same; copy it to every machine, or name a folder that they share"
            )


def _facts(job: Job) -> dict[str, Any]:
    splits = job.splits
    count = len(splits.x_train)
    rows = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(np.intp))
    return {
        "parts": dict(splits.sizes),
        "training targets": _digest(splits.y_train),
        "training inputs": _digest(splits.x_train[rows]),
        "normalisation": _digest(np.frombuffer(json.dumps(job.preprocess.to_dict()).encode(), np.uint8)),
    }


def _digest(values: Any) -> str:
    arrays = values.arrays if isinstance(values, Columns) else {"": values}
    digest = hashlib.sha256()
    for name, array in arrays.items():
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()[:12]
