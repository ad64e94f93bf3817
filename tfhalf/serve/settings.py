"""What `tfhalf serve` is told: frozen values with the defaults in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfhalf.errors import InputError
from tfhalf.system.device import cores

RUNTIMES = ("onnx", "savedmodel", "auto")
NEWEST = "newest"

_LABEL = re.compile(
    r"(?P<model>[^:=@]+):(?P<label>[A-Za-z][\w.-]*)=(?P<version>\d{1,10}|newest)(?:@(?P<share>[\d.]+))?"
)
_PIN = re.compile(r"(?P<model>[^:=@]+)=(?P<version>\d{1,10})")


@dataclass(frozen=True)
class Batching:
    """How requests are joined. ``max_queue`` bounds the waiting rows; None leaves it to
    `batching.admission.Admission`."""

    max_batch: int = 64
    max_delay_ms: float = 2.0
    max_queue: int | None = None

    @property
    def ladder(self) -> tuple[int, ...]:
        """Batch sizes that are warmed up, and that a runtime which compiles for each size is given: 1, 2, 3, 4, 6, 8,
        12, ... with at most a third of a padded batch wasted."""
        steps = {1, self.max_batch}
        power = 2
        while power <= self.max_batch:
            steps |= {power, power * 3 // 2}
            power *= 2
        return tuple(sorted(step for step in steps if step <= self.max_batch))


@dataclass(frozen=True)
class Limits:
    """What a request may cost. Bytes count after decompression."""

    max_body: int = 64 * 2**20
    max_bodies: int = 512 * 2**20  # all that are held at a time
    max_pixels: int = 32_000_000
    max_size: int = 8192  # of an open dimension beside the batch: attention takes memory by its square
    allow_nan: bool = False
    max_head: int = 64 * 2**10  # of a request: its URL and headers
    max_headers: int = 100
    max_url: int = 8 * 2**10
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    request_seconds: float = 60.0  # the deadline of a request that names none
    max_connections: int = 4096


@dataclass(frozen=True)
class Label:
    """A name for a version of a model. ``version`` None follows the newest; ``share`` (0 to 1) of the requests that
    name no version go to it."""

    model: str
    name: str
    version: int | None
    share: float = 0.0


@dataclass(frozen=True)
class Settings:
    """Everything that the app is made from.

    ``exports``: folders as `tfhalf train` writes them: exports/, exports/NAME or exports/NAME/VERSION. ``runtime`` None
    is the first of onnx and savedmodel that a version holds. ``pins``: (model, version) pairs; a pinned model serves
    these alone. ``latest``: how many of the newest versions of the others are served. ``token``: what a request must
    carry, None for none.
    """

    exports: tuple[Path, ...]
    runtime: str | None = None
    batching: Batching = field(default_factory=Batching)
    limits: Limits = field(default_factory=Limits)
    pins: tuple[tuple[str, int], ...] = ()
    labels: tuple[Label, ...] = ()
    latest: int = 1
    poll_seconds: float = 2.0
    repository_control: bool = False
    token: str | None = None
    threads: int = field(default_factory=cores)
    access_log: bool = True


def parse_labels(texts: Sequence[str]) -> tuple[Label, ...]:
    """``NAME:LABEL=VERSION[@PERCENT]``, as ``--label`` takes it.

    Raises:
        InputError: another form, a label given twice, or shares of more than 100 percent.
    """
    labels: dict[tuple[str, str], Label] = {}
    for text in texts:
        match = _LABEL.fullmatch(text)
        share = _percent(match["share"]) if match else None
        if match is None or share is None:
            raise InputError(
                f"--label {text!r}: give NAME:LABEL=VERSION[@PERCENT], for example cifar10:stable=3 or "
                "cifar10:canary=newest@10"
            )
        version = None if match["version"] == NEWEST else int(match["version"])
        label = Label(match["model"], match["label"], version, share)
        if (label.model, label.name) in labels:
            raise InputError(f"--label {text!r}: {label.model} has the label {label.name!r} already; give each once")
        labels[label.model, label.name] = label
    for model in {label.model for label in labels.values()}:
        total = sum(label.share for label in labels.values() if label.model == model)
        if total > 1 + 1e-9:
            raise InputError(
                f"--label: the labels of {model} take {total * 100:g} percent of its requests; 100 at most"
            )
    return tuple(labels.values())


def parse_pins(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """``NAME=VERSION``, as ``--pin`` takes it.

    Raises:
        InputError: another form.
    """
    pins = []
    for text in texts:
        match = _PIN.fullmatch(text)
        if match is None:
            raise InputError(f"--pin {text!r}: give NAME=VERSION, for example cifar10=3")
        pins.append((match["model"], int(match["version"])))
    return tuple(dict.fromkeys(pins))


def _percent(text: str | None) -> float | None:
    try:
        share = float(text or 0) / 100
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None
