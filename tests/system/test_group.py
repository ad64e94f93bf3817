"""What processes send each other between steps, here threads that take turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tfhalf.errors import PeerError
from tfhalf.system import group as groups
from tfhalf.system.group import ALONE, Group


class Thread(Group):
    """One of several threads, which `gather` from each other."""

    def __init__(self, rank: int, shared: list[np.ndarray], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(shared))
        self._all, self._barrier = shared, barrier

    def gather(self, values: np.ndarray) -> np.ndarray:
        self._all[self.rank] = values.copy()
        self._barrier.wait(10)
        every = np.stack(self._all)
        self._barrier.wait(10)
        return every


def joined(size: int, items: np.ndarray) -> list[np.ndarray]:
    """What each of so many threads makes of its part of ``items``."""
    barrier = threading.Barrier(size)
    shared = [np.zeros(0)] * size

    def one(rank: int) -> np.ndarray:
        group = Thread(rank, shared, barrier)
        return group.joined(items[group.part(len(items))], len(items))

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))


@pytest.mark.parametrize("block", [1, 64, 1 << 24])
@pytest.mark.parametrize(("size", "count"), [(2, 11), (3, 11), (4, 4), (4, 9), (3, 300)])
def test_parts_become_the_whole_again(size: int, count: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_BLOCK", block)
    items = np.random.default_rng(0).normal(size=(count, 2, 3)).astype(np.float32)
    for every in joined(size, items):
        assert every.dtype == items.dtype
        assert np.array_equal(every, items)


def test_one_that_works_alone_has_the_whole() -> None:
    items = np.arange(5)
    assert ALONE.joined(items, 5) is items


def test_the_end_of_another_within_a_call_is_told_with_what_the_work_around_says() -> None:
    def fail() -> None:
        with group.together():
            raise tf.errors.UnavailableError(None, None, "from /job:worker/replica:0/task:2")

    group = Group(0, 3)
    with pytest.raises(PeerError, match="process 2 of 3 has ended or does not answer; start all of them again"):
        fail()
    with pytest.raises(PeerError, match="does not answer; go on with it"), group.together("go on with it"):
        fail()
    with pytest.raises(PeerError, match="; start all of them again"):
        fail()
