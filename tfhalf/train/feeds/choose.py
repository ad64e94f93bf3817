"""Which feed a training set gets: `make`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfhalf.data.columns import Columns
from tfhalf.data.lazy import LazyImages
from tfhalf.errors import ConfigError
from tfhalf.progress import size as words
from tfhalf.system.device import Device
from tfhalf.train.feeds.base import Feed
from tfhalf.train.feeds.resident import Resident
from tfhalf.train.feeds.streamed import Streamed
from tfhalf.train.step import Step

# Of a GPU's memory that the training set may take; activations and workspaces need the rest.
RESIDENT_SHARE = 0.4


def make(
    mode: Literal["auto", "resident", "streamed"],
    step: Step,
    x: np.ndarray | LazyImages | Columns,
    y: np.ndarray | Columns,
    weight: np.ndarray | None,
    device: Device,
    **settings: Any,
) -> tuple[Feed, str]:
    """The feed for inputs ``x``, targets ``y`` and items' ``weight``, and why it is this one, as a sentence for the
    user.

    ``settings`` are those of `Resident` and `Streamed`: batch_size, capacity, xla, max_skipped.

    Raises:
        ConfigError: ``mode`` is ``resident`` and the images are encoded still.
    """
    resident, reason = choose(mode, x, device)
    if resident:
        assert not isinstance(x, LazyImages)
        return Resident(step, x, y, weight, **settings), reason
    feed = Streamed(step, x, y, weight, **settings)
    if feed.canvases is not None:
        reason = f"streamed: JPEGs are decoded {feed.canvases.reason} while training goes on"
    return feed, f"{reason}; {feed.block} steps, {words(feed.block * feed.step_bytes)}, at a time"


def choose(
    mode: Literal["auto", "resident", "streamed"], x: np.ndarray | LazyImages | Columns, device: Device
) -> tuple[bool, str]:
    """Whether the training set is to be resident, and why. ``auto``: where an array takes at most 40 % of what is free
    of a GPU's memory, or there is no GPU.

    Raises:
        ConfigError: ``mode`` is ``resident`` and the images are encoded still.
    """
    lazy = isinstance(x, LazyImages)
    if lazy and mode == "resident":
        raise ConfigError(
            "train.feed is resident and the training images stay encoded (data.decode); accepted: streamed or auto; "
            "change one of the two"
        )
    if lazy:
        return False, f"streamed: images are decoded while training goes on, {words(x.nbytes)} of them"
    total = device.memory_bytes
    memory = f"{words(x.nbytes)} of {total / 2**30:.1f} GiB" if total else words(x.nbytes)
    if mode != "auto":
        return mode == "resident", f"{mode}: train.feed is {mode}; {memory}"
    if device.kind == "CPU" or total is None:
        return True, f"resident: {memory}"
    free = total - tf.config.experimental.get_memory_info("GPU:0")["current"]
    if x.nbytes <= RESIDENT_SHARE * free:
        return True, f"resident: {memory}"
    return False, f"streamed: {memory}, more than the {RESIDENT_SHARE:.0%} that the training set may take"
