"""Names that Keras makes for layers without one: `numbered_anew`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from keras.src.backend.common import global_state


@contextmanager
def numbered_anew() -> Iterator[None]:
    """Within the block Keras counts from the start the names that it makes for layers without one: so every model of a
    builder has layers of the same names, which ``precision.keep_float32`` goes by."""
    before = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", before)
