"""What the runtimes of the server share: what each is, what it is opened from, and a check of its names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError
from tfhalf.serve.signature import Signature

Arrays = dict[str, np.ndarray]


class Runtime(Protocol):
    """A model that is ready to compute.

    ``about`` is a line for people, ``platform`` the Open Inference Protocol's word.
    """

    about: str
    platform: str

    @property
    def ladder(self) -> tuple[int, ...] | None:
        """The batch sizes that it is to be called with, where each costs a compilation; None where any is as good."""

    def __call__(self, feeds: Arrays) -> Arrays:
        """Outputs by name for inputs by name, each [N, ...]. Called by one thread at a time."""
        ...


@dataclass(frozen=True)
class Source:
    """A version to open: its ``directory``, whose files match ``manifest``, and its ``signature``."""

    directory: Path
    manifest: Manifest
    signature: Signature


def check_names(path: Path, signature: Signature, inputs: set[str], outputs: set[str]) -> None:
    """Hold what an artifact takes and gives against its manifest.

    Raises:
        ArtifactError: they differ.
    """
    if inputs != set(signature.inputs) or outputs != set(signature.outputs):
        raise ArtifactError(
            f"{path}: takes {', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))}; its manifest says "
            f"{', '.join(signature.inputs)} and {', '.join(signature.outputs)}"
        )
