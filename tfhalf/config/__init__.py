"""A pipeline file: its schema, YAML with positions, messages, references to code.

The schema is loaded when a name of it is asked for: pydantic takes longer than a command's help should.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfhalf.config.optimizer import Lookahead as Lookahead
    from tfhalf.config.optimizer import Muon as Muon
    from tfhalf.config.optimizer import Optimizer as Optimizer
    from tfhalf.config.schema import NAME as NAME
    from tfhalf.config.schema import Augment as Augment
    from tfhalf.config.schema import Callback as Callback
    from tfhalf.config.schema import Colour as Colour
    from tfhalf.config.schema import Data as Data
    from tfhalf.config.schema import Export as Export
    from tfhalf.config.schema import HeldOut as HeldOut
    from tfhalf.config.schema import LossScale as LossScale
    from tfhalf.config.schema import Model as Model
    from tfhalf.config.schema import Normalize as Normalize
    from tfhalf.config.schema import Output as Output
    from tfhalf.config.schema import Pipeline as Pipeline
    from tfhalf.config.schema import Precision as Precision
    from tfhalf.config.schema import RandAugment as RandAugment
    from tfhalf.config.schema import Records as Records
    from tfhalf.config.schema import Schedule as Schedule
    from tfhalf.config.schema import Stage as Stage
    from tfhalf.config.schema import Task as Task
    from tfhalf.config.schema import Text as Text
    from tfhalf.config.schema import Train as Train
    from tfhalf.config.schema import Verify as Verify
    from tfhalf.config.schema import load_pipeline as load_pipeline

__all__ = [
    "NAME",
    "Augment",
    "Callback",
    "Colour",
    "Data",
    "Export",
    "HeldOut",
    "Lookahead",
    "LossScale",
    "Model",
    "Muon",
    "Normalize",
    "Optimizer",
    "Output",
    "Pipeline",
    "Precision",
    "RandAugment",
    "Records",
    "Schedule",
    "Stage",
    "Task",
    "Text",
    "Train",
    "Verify",
    "load_pipeline",
]
_HOMES = {
    "Lookahead": "tfhalf.config.optimizer",
    "Muon": "tfhalf.config.optimizer",
    "Optimizer": "tfhalf.config.optimizer",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "tfhalf.config.schema")), name)
