"""The one table of formats, and what states it once more."""

from __future__ import annotations

from typing import get_args

from tfhalf import config
from tfhalf.artifacts.formats import BY_DEFAULT, FORMATS
from tfhalf.runtimes.open import BY_NAME


def test_a_pipeline_takes_each_format() -> None:
    """The schema of pipelines lies below the table, and states the names itself."""
    (names, _) = get_args(config.Export.model_fields["formats"].annotation)
    assert get_args(names) == tuple(FORMATS)
    assert config.Export().formats == BY_DEFAULT


def test_each_is_run() -> None:
    runtimes = [runtime for one in FORMATS.values() for runtime in one.runtimes]
    assert set(runtimes) <= set(BY_NAME)
    assert all(BY_NAME[runtime].format in (one.name, "onnx") for one in FORMATS.values() for runtime in one.runtimes)
    assert all(one.runtimes[0] == name for name, one in FORMATS.items())
    assert len({one.file for one in FORMATS.values()}) == len(FORMATS)


def test_how_much_coarser_numbers_may_differ() -> None:
    assert {name: one.numbers.tolerance for name, one in FORMATS.items()} == {
        "savedmodel": 1,
        "onnx": 1,
        "litert": 1,
        "litert-int8": 8,
    }
