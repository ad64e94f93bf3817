"""What would stop the export of a net, found out before it is trained: `check_model`."""

from __future__ import annotations

import keras

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
    refuse_probabilities(model, job.preprocess.apply(job.splits.x_train[:SAMPLES]))
    rehearse(model, job.pipeline, preprocess=job.preprocess, input_shape=job.splits.input_shape)
