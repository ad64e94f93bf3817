"""Inputs for judging an exported model: the user's own, or drawn from what the model says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfhalf.artifacts.arrays import keys_of
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import ReferenceFacts
from tfhalf.errors import DataError
from tfhalf.export.inputs import edge_rows, open_sizes
from tfhalf.export.inputs.edge_rows import LARGE, Domain
from tfhalf.export.inputs.first_layers import Call
from tfhalf.export.inputs.known import Known, words_of
from tfhalf.export.inputs.open_sizes import Sizes
from tfhalf.export.interface import Interface
from tfhalf.precision.keras_graph import graph_of
from tfhalf.system import npz
from tfhalf.text import one_line

SEED = 0
COUNT = 32
MAX_BYTES = 8 << 20
MAX_OWN = 512
Arrays = Mapping[str, np.ndarray]


# --- the user's -------------------------------------------------------------------------------------------------------


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or the one of an npy file.

    Raises:
        DataError: it cannot be read, or holds Python objects.
    """
    try:
        arrays = npz.read_arrays(path)
    except FileNotFoundError:
        raise DataError(
            f"--verify-with {path}: does not exist; give an .npz file with an array for each input"
        ) from None
    except (OSError, ValueError) as error:
        why = one_line(error, 120)
        raise DataError(f"--verify-with {path}: cannot be read ({why}); give an .npz file of plain arrays") from None
    return arrays


@dataclass(frozen=True)
class OwnSamples:
    """The user's ``arrays`` by name; ``where`` they come from begins each error message, ``label`` is the manifest's
    word for it."""

    arrays: Arrays
    where: str
    label: str

    @classmethod
    def of_file(cls, path: Path) -> OwnSamples:
        """Those of `read_arrays`."""
        return cls(read_arrays(path), f"--verify-with {path}", path.name)


def checked(arrays: Mapping[str, np.ndarray], ports: tuple[Port, ...], where: str) -> dict[str, np.ndarray]:
    """The arrays that the inputs take, as their dtypes, at most `MAX_GIVEN` samples.

    A model of one input also takes the array ``x`` or ``x_test``, or the only one there is. ``where`` they come from
    begins each error message.

    Raises:
        DataError: one is missing, or its shape or values do not fit.
    """
    keys = keys_of(arrays, ports)
    missing = [port.name for port in ports if port.name not in keys]
    if missing:
        there = ", ".join(list(arrays)[:8]) or "none"
        raise DataError(f"{where}: lacks an array for {', '.join(missing)}; it has {there}")
    named = {name: arrays[key] for name, key in keys.items()}
    counts = {port.name: len(named[port.name]) if named[port.name].ndim else 0 for port in ports}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise DataError(f"{where}: the arrays have {counts} samples; the same number for each is needed")
    return {port.name: _fitted(named[port.name][:MAX_OWN], port, where) for port in ports}


def _fitted(array: np.ndarray, port: Port, where: str) -> np.ndarray:
    fits = array.ndim == len(port.shape) and all(
        size is None or size == got for size, got in zip(port.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(f"{where}: {port.name} has shape {array.shape}; {port.dims()} is taken")
    if port.dtype != "string" and array.dtype.kind not in "fiub":
        raise DataError(f"{where}: {port.name} is {array.dtype}; {port.dtype} is taken")
    if port.dtype == "string":
        return array.astype(str)
    if port.dtype.startswith(("int", "uint")) and array.dtype.kind == "f" and not np.array_equal(array, array.round()):
        raise DataError(f"{where}: {port.name} holds fractions; {port.dtype} is taken")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: {port.name} holds values that are not finite")
    return array.astype(port.dtype)


# --- what a comparison rests on ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleInputs:
    """``arrays`` by name [N, ...], and of each row its kind: ``drawn`` or ``given``, or the name of an edge. Edge rows
    come last. ``facts`` are the manifest's: where they are from, and how they were drawn. ``floats``: the inputs whose
    values are sizes, and not indices of a table. ``other_sizes``: a few more, of other sizes where those are open."""

    arrays: dict[str, np.ndarray]
    kinds: tuple[str, ...]
    facts: ReferenceFacts
    floats: tuple[str, ...]
    other_sizes: dict[str, dict[str, np.ndarray]]


def sample_inputs(
    model: keras.Model, interface: Interface, own: OwnSamples | None, sizes: Sizes | None = None
) -> SampleInputs:
    """The user's ``own`` arrays, or drawn ones; and edge rows of both.

    Args:
        sizes: what stands for open sizes of drawn inputs.

    Raises:
        ConfigError: ``sizes`` fit no input.
        DataError: an array is missing, or its shape or values do not fit.
        ExportError: inputs are open in their sizes, and the model takes none of those that were tried.
    """
    ports = interface.inputs
    open_sizes.check(sizes or {}, ports)
    known = Known(model, ports, interface.call)
    if own is not None:
        usual = checked(own.arrays, ports, own.where)
        known.shapes = {name: x.shape[1:] for name, x in usual.items()}
        domains = {port.name: known.of_own(port, usual[port.name]) for port in ports}
        facts = ReferenceFacts(origin="given", file=own.label)
    else:
        if any(map(open_sizes.is_open, ports)):
            known.shapes = open_sizes.first_that_runs(ports, sizes or {}, known.fails_on)
        usual, words, domains = _draw(known, SEED)
        facts = ReferenceFacts(origin="drawn", seed=SEED, how=words)
    edges, kinds = edge_rows.edge_rows(ports, {name: d for name, d in domains.items() if d is not None}, usual, SEED)
    fixed = ports[0].shape[0]
    if fixed and kinds:  # in whole batches
        whole = np.arange(-(-len(kinds) // fixed) * fixed) % len(kinds)
        edges, kinds = {name: x[whole] for name, x in edges.items()}, tuple(kinds[k] for k in whole)
    kinds = (*[facts.origin] * len(next(iter(usual.values()))), *kinds)
    return SampleInputs(
        {name: np.concatenate([x, edges[name]]) for name, x in usual.items()},
        kinds,
        edge_rows.counted(facts, kinds),
        tuple(known.floats),
        _other_sizes(known, domains, usual),
    )


def _other_sizes(known: Known, domains: Mapping[str, Domain | None], usual: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """A batch or two samples of the other sizes that are tried where sizes are open, as the usual ones in range."""
    shapes = {name: x.shape[1:] for name, x in usual.items()}
    if not any(map(open_sizes.is_open, known.ports)):
        return {}
    rng, groups = np.random.default_rng(SEED + 2), {}
    for word, other in open_sizes.others(shapes, known.ports).items():
        groups[word] = {
            name: np.resize(rng.permutation(x.reshape(-1)[: 1 << 20]), (known.ports[0].shape[0] or 2, *other[name]))
            for name, x in usual.items()
        }
    return groups


# --- drawn ------------------------------------------------------------------------------------------------------------


def draw(model: keras.Model, ports: tuple[Port, ...], seed: int = SEED) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Seeded inputs for ``ports``, and in words how each was drawn.

    Integers are drawn below the smallest vocabulary that reads them; other floats as the statistics of the layers that
    read them say, images in the range that the first preprocessing layer expects, and from a standard normal
    distribution where nothing says how.
    """
    arrays, words, _ = _draw(Known(model, ports, _call_of(model)), seed)
    return arrays, words


def _call_of(model: keras.Model) -> Call:
    graph = graph_of(model)
    structure = 0 if graph is None else graph._inputs_struct
    return lambda function, tensors: function(keras.tree.pack_sequence_as(structure, list(tensors)))


def _draw(known: Known, seed: int) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, Domain | None]]:
    rng, ports = np.random.default_rng(seed), known.ports
    each = sum(int(np.prod(known.shapes[port.name])) * 4 for port in ports)
    count = max(4, min(COUNT, MAX_BYTES // max(each, 1)))
    fixed = ports[0].shape[0]
    count = fixed * max(1, count // fixed) if fixed else count
    arrays, words, domains = {}, {}, {}
    for port in ports:
        shape = (count, *known.shapes[port.name])
        arrays[port.name], words[port.name], domains[port.name] = _drawn(rng, port, shape, known)
    return arrays, words, domains


def _drawn(rng: Any, port: Port, shape: tuple[int, ...], known: Known) -> tuple[np.ndarray, str, Domain | None]:
    if port.dtype == "bool":
        return rng.random(shape) < 0.5, "true or false", None
    if port.dtype == "string":
        words = np.array(words_of(known.readers[port.name]))
        return words[rng.integers(0, len(words), shape)], "words of the vocabulary", None
    if (domain := known.whole(port)) is not None:
        top = int(domain.high) + 1
        kind = "integers" if port.dtype.startswith(("int", "uint")) else "whole numbers"
        return rng.integers(0, top, shape).astype(port.dtype), f"{kind} below {top:,}", domain
    domain, said = known.sizes(port)
    if not domain.spread:
        low, high = float(domain.low), float(domain.high)
        drawn = rng.uniform(low, high, shape)
        return (np.round(drawn) if high - low > 1.5 else drawn).astype(port.dtype), said, domain
    deviation = (domain.high - domain.low) / (2 * LARGE)
    x = rng.normal(size=shape) * deviation + (domain.low + domain.high) / 2
    return x.astype(port.dtype), said, domain
