"""Redeploys, orderly ends and killed workers under load: no wrong answer, and none lost that could be given."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from serve_helpers import Served, expected, images, make_version, server, tensor, until

pytestmark = pytest.mark.slow

CLIENTS = 4


class Load:
    """Clients that ask, each as soon as it is answered, until the load is over; ``answers`` counts what came of it."""

    def __init__(self, served: Served) -> None:
        self._url = f"{served.url}/v2/models/net/infer"
        self._over = threading.Event()
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.versions: set[str] = set()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        x = images(1 + number)
        body = {"inputs": [tensor(x)]}
        while not self._over.is_set():
            try:
                answer = httpx.post(self._url, json=body, timeout=20, verify=False)  # no certificates to load
            except httpx.ConnectError:
                self.answers["refused"] += 1  # nobody listens: the request was not accepted
                time.sleep(0.01)
                continue
            except httpx.TransportError as error:
                self.answers[f"lost: {type(error).__name__}"] += 1
                continue
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 200:
                self._check(answer.json(), x)

    def _check(self, told: dict[str, object], x: np.ndarray) -> None:
        version = str(told["model_version"])
        self.versions.add(version)
        outputs = told["outputs"]
        assert isinstance(outputs, list)
        data = next(o["data"] for o in outputs if o["name"] == "probabilities")
        got = np.asarray(data, np.float32).reshape(len(x), -1)
        if not np.allclose(got, expected(x, int(version)), atol=2e-3):
            self.wrong.append(version)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def lost(self) -> int:
        """Requests that were accepted and not answered."""
        return sum(count for what, count in self.answers.items() if what.startswith("lost"))


@contextmanager
def load(served: Served) -> Iterator[Load]:
    found = Load(served)
    try:
        yield found
    finally:
        found.end()


def test_twenty_redeploys(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1, seed=1)
    with server(tmp_path, "--poll-seconds", 0.05, "--no-access-log") as served, load(served) as asked:
        for number in range(2, 22):
            make_version(tmp_path, "net", number, seed=number)
            late = time.monotonic() + 60
            while str(number) not in asked.versions:
                assert time.monotonic() < late, number
                time.sleep(0.02)
    assert asked.versions >= {str(number) for number in range(2, 22)}
    assert set(asked.answers) == {"200"}, asked.answers
    assert not asked.wrong


@pytest.mark.parametrize(("workers", "times"), [(1, 10), (2, 3)])
def test_orderly_ends(workers: int, times: int, tmp_path: Path) -> None:
    """Under clients that each open a connection for each request: whoever the kernel let connect is answered."""
    make_version(tmp_path, "net", 1, seed=1)
    for _ in range(times):
        with server(tmp_path, "--no-access-log", "--workers", workers) as served:
            with load(served) as asked:
                until(lambda asked=asked: asked.answers["200"] > 20, 60)  # type: ignore[misc]
                assert served.stop(signal.SIGTERM) == 0
            assert set(asked.answers) <= {"200", "503", "refused"}, asked.answers  # 503: it came after the signal
            assert not asked.wrong


def test_five_killed_workers(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1, seed=1)
    with server(tmp_path, "--workers", 2, "--no-access-log") as served, load(served) as asked:
        children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
        for _ in range(5):
            before = set(children.read_text().split())
            assert len(before) == 2
            os.kill(int(min(before)), signal.SIGKILL)
            late = time.monotonic() + 60
            while len(set(children.read_text().split()) - before) != 1:
                assert time.monotonic() < late
                time.sleep(0.02)
            time.sleep(2.6)  # five that live less than 5 s each would end the server: something is wrong then
            answered = asked.answers["200"]
            while asked.answers["200"] < answered + 20:
                assert time.monotonic() < late
                time.sleep(0.02)
    assert asked.lost <= 5 * CLIENTS, asked.answers  # what the killed ones held
    assert set(asked.answers) <= {"200", "refused"} | {what for what in asked.answers if what.startswith("lost")}
    assert not asked.wrong
