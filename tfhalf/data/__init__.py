"""Data: sources turned into checked numpy arrays, and the statistics that normalise them.

Importing this package loads numpy only; a source imports the library it needs when it is read.
"""

from tfhalf.data.lazy import LazyImages
from tfhalf.data.preprocess import Preprocess
from tfhalf.data.splits import check_at_hand, load_splits, runs_code
from tfhalf.data.types import Splits

__all__ = ["LazyImages", "Preprocess", "Splits", "check_at_hand", "load_splits", "runs_code"]
