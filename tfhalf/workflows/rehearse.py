"""What would stop the export of a net, found out before it is trained: `check_model`."""

from __future__ import annotations

from typing import Any

import keras

from tfhalf.data.columns import Columns
from tfhalf.export.program import input_ports
from tfhalf.export.write import rehearse
from tfhalf.train.head import SAMPLES, refuse_probabilities
from tfhalf.train.integers import refuse_normalized
from tfhalf.train.job import Job


def check_model(job: Job, model: keras.Model) -> None:
    """Find out before training whether ``model`` takes what the data holds, gives logits and can be exported;
    nothing is written.

    Raises:
        ConfigError: it takes whole numbers that are normalised, or gives probabilities.
        ExportError, ConfigError: as the export would, after training.
    """
    refuse_normalized(job.pipeline, job.builder, model)
    if not isinstance(job.splits.x_train, Columns):
        some: Any = job.preprocess.apply(job.splits.x_train[:SAMPLES])
        refuse_probabilities(model, some, job.task)
    inputs = input_ports(job.splits.shapes, job.splits.dtypes)
    rehearse(model, job.pipeline, preprocess=job.preprocess, inputs=inputs, task=job.task)
