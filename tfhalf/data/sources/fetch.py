"""Downloading a TFDS set that is not prepared yet, and saying at once when there is no network to do so."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tfhalf.errors import DataError
from tfhalf.text import first_line

Progress = Callable[[str], None]

_PORTS = {"http": 80, "https": 443, "ftp": 21}
_TIMEOUT = 3.0


def prepare(builder: Any, source: str, say: Progress) -> None:
    """Download and prepare ``builder``'s set unless it is prepared already.

    Raises:
        DataError: no host can be reached, or downloading or preparing fails.
    """
    if not prepared(builder, source):
        _download(builder, source, say)


def prepared(builder: Any, source: str) -> bool:
    """Whether ``builder``'s set is prepared already. Needs no TensorFlow.

    TFDS itself retries each URL ten times, for minutes; so the hosts are tried first, for four seconds at most.

    Raises:
        DataError: it is not, and no host can be reached.
    """
    # It may lie in a cloud bucket, so it stays TFDS's own kind of path.
    if (builder.data_path / "dataset_info.json").exists():
        return True
    urls = list(_missing(builder))
    if urls and not reachable(urls):
        hosts = ", ".join(sorted({urlsplit(url).hostname or url for url in urls}))
        raise DataError(f"{source}: cannot be downloaded, no connection to {hosts}; {_ways(builder)}")
    return False


def reachable(urls: Iterable[str]) -> bool:
    """Whether a connection to at least one URL's host, or to the proxy set for it, opens within four seconds."""
    addresses = {_address(url) for url in urls}
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    end = time.monotonic() + _TIMEOUT + 1
    for address in addresses:
        # Daemons: a name look-up that hangs must hold up neither this answer nor the end of the process.
        threading.Thread(target=_answer, args=(address, answers), daemon=True).start()
    for _ in addresses:
        try:
            if answers.get(timeout=max(0.0, end - time.monotonic())):
                return True
        except queue.Empty:
            return False
    return False


def _ways(builder: Any) -> str:
    return (
        f"it is not prepared in {builder.data_path}: give TFDS_DATA_DIR or --data-dir where it is, or prepare it once "
        "on a machine with network and copy the folder, or use another source such as folder:PATH or sklearn:digits"
    )


def _download(builder: Any, source: str, say: Progress) -> None:
    import tensorflow_datasets as tfds

    say(f"{source}: downloading and preparing into {builder.data_path}")
    without_gcs = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(download_config=without_gcs)
    except Exception as error:  # the set's own code runs here and may raise anything
        what = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"{source}: TFDS cannot download or prepare it ({what}); {_ways(builder)}") from error
    say(f"{source}: prepared in {builder.data_path}")


def _missing(builder: Any) -> Iterable[str]:
    """URLs that are to be downloaded still. Where none is registered the set's home page stands for its host."""
    from tensorflow_datasets.core.download import resource

    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        return  # its files are fetched by hand, and TFDS says how
    registered = builder.url_infos
    if not registered:
        home = builder.info.homepage
        if home and urlsplit(home).scheme in _PORTS:
            yield home
        return
    downloads = Path(builder.data_dir_root) / "downloads"
    own = downloads / builder.name
    cached = {file.name for file in own.rglob("*")} if own.is_dir() else set()
    for url, info in registered.items():
        if urlsplit(url).scheme in _PORTS and resource.get_dl_fname(url, info.checksum) not in cached:
            yield url


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme) or getproxies().get("all")
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = parts.port
    except ValueError:  # a port that is not a number, in a proxy's setting: it will not be reached either
        port = 0
    return parts.hostname or "", _PORTS.get(parts.scheme, 443) if port is None else port


def _answer(address: tuple[str, int], answers: queue.SimpleQueue[bool]) -> None:
    try:
        with socket.create_connection(address, timeout=_TIMEOUT):
            answers.put(True)
    except (OSError, UnicodeError):  # UnicodeError: a host name that cannot be one
        answers.put(False)
