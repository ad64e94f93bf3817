"""What is learnt, one file a kind: targets, loss, metrics, what is served. A new kind is a subclass of `base.Task`."""

from tfhalf.tasks.base import Targets, Task
from tfhalf.tasks.binary import Binary
from tfhalf.tasks.classification import Classification
from tfhalf.tasks.metrics import Metric
from tfhalf.tasks.multilabel import Multilabel
from tfhalf.tasks.regression import Regression
from tfhalf.tasks.segmentation import Segmentation
from tfhalf.tasks.sequence import SequenceLabels
from tfhalf.tasks.several import Several

__all__ = [
    "CLASSES",
    "Binary",
    "Classification",
    "Metric",
    "Multilabel",
    "Regression",
    "Segmentation",
    "SequenceLabels",
    "Several",
    "Targets",
    "Task",
]
CLASSES: dict[str, type[Task]] = {
    task.name: task for task in (Classification, Binary, Multilabel, Regression, Segmentation, SequenceLabels)
}
"""By name, as a pipeline calls them."""
