"""What a version is compared with: `Reference`, the float32 model's answers, which lie beside the artifacts.

It holds usual samples, edge rows, and where sizes are open a few samples of other sizes. The inputs of usual samples
lie in it too, so that any version can be verified by a process that has nothing of the model; only those of a test set,
which may be large, are somewhere else: of these it has a digest, and the labels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tfhalf.artifacts.edges import edge_mask
from tfhalf.artifacts.record import ReferenceFacts
from tfhalf.artifacts.schema1 import SAMPLES, upgraded_arrays
from tfhalf.errors import ArtifactError
from tfhalf.system.npz import read_npz
from tfhalf.text import one_line, printable

REFERENCE = "reference.npz"
MOST_SIZES = 8
"""Other sizes that a version holds samples of, at most."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Samples:
    """``inputs``, and the float32 model's ``outputs`` to them, by name, each [N, ...]."""

    inputs: Arrays
    outputs: Arrays

    @property
    def count(self) -> int:
        """N."""
        return len(next(iter(self.outputs.values()), ()))

    def check(self, what: str, like: Samples | None = None) -> None:
        """Raise ValueError where there are none, they differ in number, or they are not such as those of ``like``."""
        counts = {x.shape[0] if x.ndim else 0 for x in (*self.inputs.values(), *self.outputs.values())}
        if not self.outputs or len(counts) != 1 or 0 in counts:
            raise ValueError(f"{what} do not go together: they are none, or differ in number")
        parts = ((self.inputs, like.inputs), (self.outputs, like.outputs)) if like is not None else ()
        if any(set(own) != set(others) for own, others in parts if others):
            raise ValueError(f"{what} do not go together: they have other names than the usual ones")

    def to_arrays(self, prefix: str) -> Arrays:
        """For a file: ``in/NAME`` and ``out/NAME`` behind ``prefix``."""
        parts = (("in", self.inputs), ("out", self.outputs))
        return {f"{prefix}{part}/{name}": x for part, arrays in parts for name, x in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> Samples:
        """What `to_arrays` gave."""
        parts = (f"{prefix}in/", f"{prefix}out/")
        return cls(*({name[len(p) :]: x for name, x in arrays.items() if name.startswith(p)} for p in parts))


NONE = Samples({}, {})


def joined(*parts: Mapping[str, np.ndarray]) -> Arrays:
    """Of arrays by name the rows of all ``parts``, of which some may be empty."""
    some = [part for part in parts if part]
    return {name: np.concatenate([part[name] for part in some]) for name in (some[0] if some else ())}


@dataclass(frozen=True)
class Reference:
    """The float32 model's answers.

    Attributes:
        usual: inputs as the model usually gets them. Without inputs where ``digest`` stands for them.
        edges: inputs at the ends of what it may get.
        edge_kinds: of each edge row which end.
        labels: of the usual samples, int32 [N], where they are known.
        targets: of the usual samples, by output, what another task is to predict, where that is known.
        digest: `data_sha256` of the usual inputs where these are a test set; else empty.
        other_sizes: a few samples each, by what their size is called.
    """

    usual: Samples
    edges: Samples = NONE
    edge_kinds: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    digest: str = ""
    other_sizes: Mapping[str, Samples] = field(default_factory=dict)
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_rows(
        cls, inputs: Arrays, outputs: Arrays, kinds: Sequence[str], other_sizes: Mapping[str, Samples] | None = None
    ) -> Reference:
        """Of rows together; ``kinds`` of each is `edges.TYPICAL` or an edge's name, and empty where none is one."""
        edge = edge_mask(kinds) if kinds else np.zeros(len(next(iter(outputs.values()))), bool)
        usual, edges = (
            Samples({name: x[rows] for name, x in inputs.items()}, {name: y[rows] for name, y in outputs.items()})
            for rows in (~edge, edge)
        )
        names = tuple(kind for kind, is_edge in zip(kinds, edge, strict=False) if is_edge)
        return cls(usual, edges if names else NONE, names, other_sizes=other_sizes or {})

    def basis(self, facts: ReferenceFacts) -> ReferenceFacts:
        """``facts`` of a manifest, with what is counted here."""
        counts = Counter(printable(kind, 40) for kind in self.edge_kinds)
        return facts.model_copy(update={"count": self.usual.count + len(self.edge_kinds), "edges": dict(counts)})

    def with_test_set(self, inputs: Arrays, y: np.ndarray | Mapping[str, np.ndarray]) -> Reference | None:
        """With the test set's ``inputs`` by name, where these and the targets ``y`` are those of the digest."""
        known = self.targets if self.labels is None else {"": self.labels}
        own = dict(y) if isinstance(y, Mapping) else dict.fromkeys(known, y)
        same = set(own) == set(known) and all(np.array_equal(own[name], known[name]) for name in known)
        if digest_of(inputs) != self.digest or not same:
            return None
        return replace(self, usual=replace(self.usual, inputs=inputs))

    def save(self, directory: Path) -> None:
        """Write ``reference.npz``."""
        arrays = self.usual.to_arrays("") | self.edges.to_arrays("edge/")
        if self.edge_kinds:
            arrays["edge/kinds"] = np.array(self.edge_kinds)
        if self.labels is not None:
            arrays["labels"] = self.labels
        arrays |= {f"target/{name}": y for name, y in self.targets.items()}
        if self.digest:
            arrays |= {"digest": np.frombuffer(self.digest.encode(), np.uint8)}
            arrays = {name: x for name, x in arrays.items() if not name.startswith("in/")}
        for size, samples in self.other_sizes.items():
            arrays |= samples.to_arrays(f"size/{size}/")
        np.savez_compressed(directory / REFERENCE, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, directory: Path) -> Reference:
        """Read the reference of a version, of whatever schema.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        path = directory / REFERENCE
        if not path.exists() and (directory / SAMPLES).exists():
            path = directory / SAMPLES
        try:
            arrays = read_npz(path)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: cannot be read: {one_line(error)}; export again") from None
        try:
            return _from_arrays(upgraded_arrays(arrays))
        except ValueError as error:
            raise ArtifactError(f"{path}: {one_line(error)}; it is damaged, export again") from None


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Reference:
    """The reference that a file's arrays are.

    Raises:
        ValueError: they do not go together.
    """
    kinds = arrays.get("edge/kinds", np.array([], str))
    sizes = dict.fromkeys(name.split("/", 2)[1] for name in arrays if name.startswith("size/"))
    reference = Reference(
        Samples.from_arrays(arrays, ""),
        Samples.from_arrays(arrays, "edge/"),
        tuple(map(str, kinds.reshape(-1))),
        arrays.get("labels"),
        arrays["digest"].tobytes().decode("ascii") if "digest" in arrays else "",
        {size: Samples.from_arrays(arrays, f"size/{size}/") for size in sizes},
        {name.partition("/")[2]: y for name, y in arrays.items() if name.startswith("target/")},
    )
    if kinds.dtype.kind != "U":
        raise ValueError("its edge rows do not go together")
    _check(reference)
    return reference


def _check(reference: Reference) -> None:
    """Raise ValueError, in one line, where the parts of a reference do not go together."""
    usual, edges = reference.usual, reference.edges
    usual.check("its samples")
    for size, samples in reference.other_sizes.items():
        samples.check(f"its samples of size {printable(size, 40)!r}", usual)
    if edges.outputs or reference.edge_kinds:
        edges.check("its edge rows", usual)
        if len(reference.edge_kinds) != edges.count or _widths_differ(edges, usual):
            raise ValueError("its edge rows do not go together")
    if not usual.inputs and not reference.digest:
        raise ValueError("it has no inputs, and no digest of some")
    if len(reference.other_sizes) > MOST_SIZES:
        raise ValueError(f"it has samples of more than {MOST_SIZES} other sizes")
    if reference.labels is not None:
        _check_labels(reference.labels, usual)
    for name, targets in reference.targets.items():
        if name not in usual.outputs or not targets.ndim or len(targets) != usual.count:
            raise ValueError(f"it holds targets {targets.dtype} {targets.shape} of {printable(name, 40)!r}")


def _widths_differ(edges: Samples, usual: Samples) -> bool:
    """Whether edge rows have another shape than usual ones."""
    parts = ((edges.inputs, usual.inputs), (edges.outputs, usual.outputs))
    return any(x.shape[1:] != others[name].shape[1:] for own, others in parts for name, x in own.items() if others)


def _check_labels(labels: np.ndarray, usual: Samples) -> None:
    classes = [y.shape[-1] for y in usual.outputs.values() if y.ndim == 2 and y.dtype.kind == "f"]
    if labels.dtype.kind not in "iu" or labels.shape != (usual.count,) or not classes:
        shapes = ", ".join(f"{y.dtype} {y.shape}" for y in list(usual.outputs.values())[:4])
        raise ValueError(f"it holds labels {labels.dtype} {labels.shape} for the answers {shapes}")
    if labels.min() < 0 or labels.max() >= min(classes):
        raise ValueError(f"it holds labels from {labels.min()} to {labels.max()} for {min(classes)} classes")


def digest_of(inputs: Mapping[str, np.ndarray]) -> str:
    """`data_sha256` of one input; of several by name that of all."""
    if len(inputs) == 1:
        return data_sha256(next(iter(inputs.values())))
    digest = hashlib.sha256()
    for name in sorted(inputs):
        digest.update(f"{name}:{data_sha256(inputs[name])};".encode())
    return digest.hexdigest()


def data_sha256(x: np.ndarray) -> str:
    """Hash of an array's dtype, shape and values."""
    digest = hashlib.sha256(f"{x.dtype.str}{x.shape}".encode())
    digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def basis_line(facts: ReferenceFacts) -> str:
    """In one line, what comparisons rest on."""
    edge = sum(facts.edges.values())
    usual = f"{facts.count - edge:,}"
    words = f"given: {usual} of {facts.file}" if facts.origin == "given" else f"{facts.origin}: {usual} samples"
    rows = f"{edge} edge row{'s' * (edge != 1)} ({', '.join(facts.edges)})"
    return f"{words} and {rows}, compared apart" if edge else words
