"""The float32 model's answers over a test set, which lie beside the artifacts as ``reference.npz``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from tfhalf.errors import ArtifactError
from tfhalf.system.npz import read_npz
from tfhalf.text import one_line, printable

REFERENCE = "reference.npz"

Compared = TypeVar("Compared")


@dataclass(frozen=True)
class Verified(Generic[Compared]):
    """What verifying a version gives: the comparisons, and in ``lines`` what they rest on, for people."""

    comparisons: list[Compared]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Edges:
    """Edge rows ``x`` [M, ...] in the data's dtype, their ``kinds`` [M], and the float32 model's answers
    ``probabilities`` float32 [M, num_classes]."""

    x: np.ndarray
    kinds: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def read(cls, data: Mapping[str, np.ndarray], classes: tuple[int, ...]) -> Edges | None:
        """Those of ``reference.npz``, if it has any.

        Raises:
            ValueError: they do not go together.
        """
        if "edge_x" not in data:
            return None
        found = cls(*(data[f"edge_{key}"] for key in ("x", "kinds", "probabilities")))
        fits = found.kinds.ndim == 1 and found.probabilities.shape == (*found.kinds.shape, *classes)
        if not fits or found.kinds.dtype.kind != "U" or found.x.shape[:1] != found.kinds.shape or not len(found.kinds):
            raise ValueError("its edge rows do not go together")
        return found


@dataclass(frozen=True)
class Reference:
    """Answers of the float32 model: ``probabilities`` float32 [N, num_classes], labels ``y`` int32 [N].

    ``edges``: inputs at the ends of the data's range, by kind, with the answers; None in versions from before them.
    """

    probabilities: np.ndarray
    y: np.ndarray
    x_sha256: str
    edges: Edges | None = None

    def save(self, directory: Path) -> None:
        """Write ``reference.npz``."""
        digest = np.frombuffer(self.x_sha256.encode(), np.uint8)
        edges = {f"edge_{key}": value for key, value in vars(self.edges).items()} if self.edges is not None else {}
        np.savez_compressed(directory / REFERENCE, probabilities=self.probabilities, y=self.y, x_sha256=digest, **edges)

    @classmethod
    def load(cls, directory: Path) -> Reference:
        """Read ``reference.npz``.

        Raises:
            ArtifactError: it is missing or unreadable.
        """
        path = directory / REFERENCE
        try:
            data = read_npz(path)
            digest = data["x_sha256"].tobytes().decode("ascii")
            found = cls(data["probabilities"], data["y"], digest, Edges.read(data, data["probabilities"].shape[-1:]))
        except KeyError as error:
            raise ArtifactError(f"{path}: lacks {error}; it is damaged, export again") from None
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read: {one_line(error)}; export again") from None
        answers, y = found.probabilities, found.y
        fits = answers.ndim == 2 and answers.dtype.kind == "f" and answers.size and y.shape == answers.shape[:1]
        if not fits or y.dtype.kind not in "iu":
            raise ArtifactError(
                f"{path}: holds {answers.dtype} {answers.shape} for labels {y.dtype} {y.shape}, not float32 "
                "probabilities of as many images; it is damaged, export again"
            )
        return found


def edge_inputs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs at the ends of what ``x`` [N, ...] holds, in its dtype [M, ...], and of each its kind [M]: zeros, a
    constant, the smallest and the largest value of each feature (the last axis; of grey images, of all)."""
    axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else (0,)
    low, high = x.min(axes).astype(np.float64), x.max(axes).astype(np.float64)
    common = low.max() <= high.min()
    bottom, top = (low.max(), high.min()) if common else (low, high)
    values = {
        "zeros": np.clip(0.0, low - (high - low), high + (high - low)),
        "constant": bottom + 0.75 * (top - bottom),
        "smallest": low,
        "largest": high,
    }
    rows: dict[bytes, tuple[str, np.ndarray]] = {}
    for kind, value in values.items():
        row = np.broadcast_to(value if x.dtype.kind == "f" else np.round(value), x.shape[1:]).astype(x.dtype)
        rows.setdefault(row.tobytes(), (kind, row))
    return np.stack([row for _, row in rows.values()]), np.array([kind for kind, _ in rows.values()])


def basis(images: int, edges: Edges | None) -> str:
    """In one line, what a comparison rests on."""
    rows = (
        f" and {len(edges.x)} edge rows ({printable(', '.join(map(str, edges.kinds)))}), judged apart" if edges else ""
    )
    return f"test set: {images:,} images{rows}"


def data_sha256(x: np.ndarray) -> str:
    """Hash of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{x.dtype.str}{x.shape}".encode())
    digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()
