"""Items as the bytes that they are stored in, read one at a time: what a set that no memory holds is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Encoded(Protocol):
    """The encoded images of a source, by their number.

    Many threads read at once; none of them holds Python's lock while it waits for a disk or a network.
    """

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index: int) -> bytes:
        """The bytes of one image.

        Raises:
            DataError: it cannot be read, or is larger than an image may be.
        """

    def name(self, index: int) -> str:
        """What messages call it: a file below the source's folder, or a record of a shard."""


class Held:
    """Encoded images that lie in the memory; ``name`` says what messages call the one of a number."""

    def __init__(self, images: Sequence[bytes], name: Callable[[int], str]) -> None:
        self._images, self.name = images, name

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> bytes:
        """The bytes of one image."""
        return self._images[index]
