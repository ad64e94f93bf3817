"""An HDF5 file of Keras: `inspect_h5`. A whole model has its configuration in an attribute; weights alone have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfhalf.artifacts import hdf5
from tfhalf.inspect.facts import Account, damaged
from tfhalf.inspect.keras_file import MAX_JSON, describe

CONFIG, VERSION, WEIGHTS = "model_config", "keras_version", "model_weights"


def inspect_h5(path: Path) -> Account:
    """The account of an HDF5 file that Keras wrote.

    Raises:
        ArtifactError: it is damaged, or holds what Keras does not write.
    """
    with hdf5.opened(path) as contents:
        account = Account(path, "Keras HDF5", path.stat().st_size)
        config = model_config(contents)
        version = (
            "".join(attribute_strings(contents, "", VERSION) or attribute_strings(contents, WEIGHTS, VERSION))
            or "not said"
        )
        describe(account, config or {"class_name": "weights alone"}, {"keras_version": version})
        account.tensors = sorted((s.tensor for s in contents.datasets.values()), key=lambda tensor: tensor.name)
    if config is None:
        account.facts = {"made by": f"Keras {version}", "model": "weights alone: the code that builds it is elsewhere"}
    return account


def model_config(contents: hdf5.Contents) -> dict[str, Any] | None:
    """The configuration of a whole model; None where the file has weights alone.

    Raises:
        ArtifactError: it is not what Keras writes.
    """
    text = "".join(attribute_strings(contents, "", CONFIG))
    if not text:
        return None
    if len(text) > MAX_JSON:
        raise damaged(contents.path, f"its {CONFIG} has more than {MAX_JSON:,} characters")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(contents.path, f"its {CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise damaged(contents.path, f"its {CONFIG} holds no object")
    return config


def attribute_strings(contents: hdf5.Contents, group: str, name: str) -> list[str]:
    """An attribute's strings; none where there is no such group or attribute.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        return contents.texts(group, name) if not group or group in contents.root else []
    except hdf5.DAMAGE as error:
        raise damaged(contents.path, str(error)) from None
