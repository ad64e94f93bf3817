"""What a trained model's artifacts are compared with, and how closely: the float32 net's answers over the test set."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from tfhalf import config
from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.edges import edges_by_name
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.reference import Reference, Samples, digest_of
from tfhalf.data import Splits
from tfhalf.data.columns import Columns, by_name
from tfhalf.system.device import float32_exactly
from tfhalf.tasks import Task
from tfhalf.train.evaluate import Evaluator
from tfhalf.train.job import Job


def float32_reference(job: Job, trained: keras.Model) -> Reference:
    """Answers of the same net built in float32, with TF32 off, over the test set."""
    float32_model = job.model("float32")
    float32_model.set_weights(trained.get_weights())
    splits, task = job.splits, job.task
    inputs = test_inputs(job)
    edge_inputs, kinds = edges_by_name(inputs, splits.texts)
    outputs = tuple(task.port_facts())
    with float32_exactly():
        evaluator = Evaluator(float32_model, job.preprocess, job.objective)
        usual, at_edges = (evaluator.predictions(x) for x in (splits.x_test, as_inputs(edge_inputs, splits)))
    samples = Samples({}, {name: usual[name] for name in outputs})
    edges = Samples(edge_inputs, {name: at_edges[name] for name in outputs})
    if task.targets == "classes":
        return Reference(samples, edges, kinds, splits.y_test, digest_of(inputs))
    return Reference(samples, edges, kinds, None, digest_of(inputs), targets=by_name(splits.y_test, outputs[0]))


def test_inputs(job: Job) -> dict[str, np.ndarray]:
    """The test set's inputs by the names of the artifacts' ports."""
    return by_name(job.splits.x_test, next(iter(job.splits.shapes)))


def test_targets(splits: Splits) -> np.ndarray | dict[str, np.ndarray]:
    """The test set's targets, of several outputs by name."""
    y: np.ndarray | Columns = splits.y_test
    return y.arrays if isinstance(y, Columns) else y


def as_inputs(inputs: Mapping[str, np.ndarray], splits: Splits) -> np.ndarray | Columns:
    """Inputs by name as ``splits`` has them."""
    return Columns(inputs) if isinstance(splits.x_train, Columns) else next(iter(inputs.values()))


def limits_of(verify: config.Verify, task: Task) -> Limits:
    """Of classes what counts is which one an item gets; of other answers also how far they are off."""
    differences = (None, None) if task.targets == "classes" else (Limits.max_difference, Limits.mean_difference)
    return Limits(
        *differences,
        verify.min_agreement,
        verify.max_accuracy_drop,
        verify.true_float16_samples,
        max_error_growth=verify.max_error_growth,
        min_metrics=dict(verify.min),
    )


def lookups_of(splits: Splits) -> Lookups:
    """The categories of a table and the words of texts, as a version holds them."""
    by_input = {}
    for name, words in splits.vocabularies.items():
        text = splits.texts.get(name)
        if text is None:
            by_input[name] = Lookup("category", words)
            continue
        how = text.settings
        by_input[name] = Lookup("text", words, text.length, text.samples, how.standardize, how.split, how.ngrams)
    return Lookups(by_input)
