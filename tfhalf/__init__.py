"""Train Keras models in half precision, ship truly float16 artifacts, prove that they answer like float32.

What `__all__` lists is public; everything else in the package may change. Importing this imports nothing heavy: each
name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from tfhalf._version import __version__ as __version__

if TYPE_CHECKING:
    from tfhalf.api.artifact import Artifact as Artifact
    from tfhalf.api.artifact import Verification as Verification
    from tfhalf.api.artifact import open_artifact as open_artifact
    from tfhalf.api.artifact import verify_export as verify_export
    from tfhalf.api.compare import OutputComparison as OutputComparison
    from tfhalf.api.compare import compare_outputs as compare_outputs
    from tfhalf.api.export import ExportedModel as ExportedModel
    from tfhalf.api.export import export_model as export_model
    from tfhalf.api.serving import create_app as create_app
    from tfhalf.api.training import measure_numerics as measure_numerics
    from tfhalf.api.training import train_pipeline as train_pipeline
    from tfhalf.config import Pipeline as Pipeline
    from tfhalf.config import load_pipeline as load_pipeline
    from tfhalf.errors import ArtifactError as ArtifactError
    from tfhalf.errors import ConfigError as ConfigError
    from tfhalf.errors import DataError as DataError
    from tfhalf.errors import ExportError as ExportError
    from tfhalf.errors import InputError as InputError
    from tfhalf.errors import IntegrityError as IntegrityError
    from tfhalf.errors import Interrupted as Interrupted
    from tfhalf.errors import ParityError as ParityError
    from tfhalf.errors import RefError as RefError
    from tfhalf.errors import RequestError as RequestError
    from tfhalf.errors import ResumeError as ResumeError
    from tfhalf.errors import ShortfallError as ShortfallError
    from tfhalf.errors import TfhalfError as TfhalfError
    from tfhalf.errors import TrainingError as TrainingError
    from tfhalf.errors import UnsupportedError as UnsupportedError
    from tfhalf.numerics.callback import NumericsCallback as NumericsCallback
    from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer as GuardedLossScaleOptimizer

_HOMES = {
    "tfhalf.api.artifact": ("Artifact", "Verification", "open_artifact", "verify_export"),
    "tfhalf.api.compare": ("OutputComparison", "compare_outputs"),
    "tfhalf.api.export": ("ExportedModel", "export_model"),
    "tfhalf.api.serving": ("create_app",),
    "tfhalf.api.training": ("measure_numerics", "train_pipeline"),
    "tfhalf.config": ("Pipeline", "load_pipeline"),
    "tfhalf.errors": (
        *("ArtifactError", "ConfigError", "DataError", "ExportError", "InputError", "IntegrityError", "Interrupted"),
        *("ParityError", "RefError", "RequestError", "ResumeError", "ShortfallError", "TfhalfError", "TrainingError"),
        "UnsupportedError",
    ),
    "tfhalf.numerics.callback": ("NumericsCallback",),
    "tfhalf.precision.loss_scale": ("GuardedLossScaleOptimizer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(["__version__", *_HOME])  # pyright: ignore[reportUnsupportedDunderAll]

logging.getLogger("tfhalf").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
