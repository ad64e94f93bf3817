"""Bytes of many images: one after another where that is quick, side by side where it is not."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tfhalf.data.decode import reading
from tfhalf.data.decode.reading import Reading
from tfhalf.data.decode.threads import parallel
from tfhalf.errors import DataError


class Slow:
    """Items that take a while each; ``fault`` cannot be read."""

    def __init__(self, seconds: float, fault: int = -1) -> None:
        self.seconds, self.fault, self.readers = seconds, fault, set[int]()

    def __len__(self) -> int:
        return 200

    def read(self, index: int) -> bytes:
        self.readers.add(threading.get_ident())
        if self.seconds:
            time.sleep(self.seconds)
        if index == self.fault:
            raise DataError(f"s: {self.name(index)} cannot be read")
        return bytes([index])

    def name(self, index: int) -> str:
        return f"image {index}"


@pytest.mark.parametrize(("seconds", "threads"), [(0.0, False), (0.001, True)])
def test_what_is_slow_is_read_side_by_side(seconds: float, threads: bool) -> None:
    items = Slow(seconds)
    every = Reading(items)
    order = np.random.default_rng(0).permutation(200)[:120]
    for _ in range(2):
        assert every(order) == [bytes([index]) for index in order]
    assert (len(items.readers) > 1) is threads
    assert every(order[:0]) == []


def test_it_looks_again_whether_reading_has_become_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_AGAIN", 2)
    items = Slow(0.001)
    every = Reading(items)
    every(np.arange(40))
    items.seconds = 0
    for _ in range(3):
        every(np.arange(40))
    items.readers.clear()
    every(np.arange(40))
    assert items.readers == {threading.get_ident()}


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_an_image_at_fault_is_named(seconds: float) -> None:
    with pytest.raises(DataError, match="s: image 30 cannot be read"):
        Reading(Slow(seconds, fault=30))(np.arange(60))


def test_of_several_errors_the_first_ones_comes_out() -> None:
    def one(i: int) -> None:
        if i in (13, 5, 40):
            raise DataError(f"number {i}")

    for _ in range(3):
        with pytest.raises(DataError, match=r"number 5$"):
            parallel(one, 60, 1)
