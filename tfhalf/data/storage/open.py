"""The `Storage` of a path or a URL: `storage_of`."""

from __future__ import annotations

from tfhalf.data.storage.base import Storage, is_url
from tfhalf.data.storage.local import Local
from tfhalf.data.storage.remote import Remote


def storage_of(path: str, source: str) -> Storage:
    """Where ``path`` is read from.

    Raises:
        DataError: it is a URL of a scheme that is not read, or whose library is not installed.
    """
    return Remote(path, source) if is_url(path) else Local()
