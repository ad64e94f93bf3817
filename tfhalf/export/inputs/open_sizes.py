"""Open lengths, heights and widths: at which size inputs are drawn, and whether other sizes hold as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from tfhalf.artifacts.comparison import Limits
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.record import OtherSize
from tfhalf.artifacts.reference import Samples
from tfhalf.errors import ConfigError, ExportError, ParityError
from tfhalf.export.islands.simulator import Simulator
from tfhalf.precision.keras_graph import shape_error
from tfhalf.progress import Progress
from tfhalf.text import one_line
from tfhalf.verify.compare import compare_outputs

Sizes = Mapping[str, tuple[int, ...]]
"""By input, what stands for each of its open sizes behind the batch."""

# What is tried first, and at most, by an input's rank: lengths, and the sides of images and volumes.
_FIRST, _MOST = {4: 64, 5: 16}, {4: 512, 5: 64}
_LENGTH, _LONGEST = 32, 16_384


def shape_of(port: Port, sizes: Sizes, times: int = 1) -> tuple[int, ...]:
    """Of one sample: ``sizes`` where they say one, else ``times`` what is tried first."""
    rank = len(port.shape)
    first = min(_FIRST.get(rank, _LENGTH) * times, _MOST.get(rank, _LONGEST))
    chosen = iter(sizes.get(port.name, ()))
    return tuple(next(chosen, first) if size is None else size for size in port.shape[1:])


def is_open(port: Port) -> bool:
    """Whether a size behind the batch is the caller's."""
    return None in port.shape[1:]


def check(sizes: Sizes, ports: Sequence[Port]) -> None:
    """Hold ``--size`` against the inputs.

    Raises:
        ConfigError: no input has that name, or it has another number of open sizes.
    """
    known = {port.name: port for port in ports}
    for name, numbers in sizes.items():
        text = f"--size {name}={'x'.join(map(str, numbers))}"
        if name not in known:
            raise ConfigError(f"{text}: no input has that name; the model takes {', '.join(known)}")
        count = sum(size is None for size in known[name].shape[1:])
        if count != len(numbers):
            example = "x".join(["64"] * count)
            accepted = f"it has {count} open, as {name}={example}" if count else "none of its sizes is open"
            raise ConfigError(f"{text}: {name} is {known[name].dims()}; {accepted}")


def first_that_runs(
    ports: Sequence[Port], sizes: Sizes, run: Callable[[Mapping[str, tuple[int, ...]]], Exception | None]
) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample of each input that the model takes: as `shape_of` says, else with longer open sizes.

    Args:
        run: calls the model on samples of such shapes; returns what it raised.

    Raises:
        ExportError: it takes none.
    """
    openly = [port for port in ports if is_open(port) and port.name not in sizes]
    tried: list[dict[str, tuple[int, ...]]] = []
    error: Exception | None = None
    for times in (1, 2, 4, 8, 16, 32, 128, 512) if openly else (1,):
        shapes = {port.name: shape_of(port, sizes, times) for port in ports}
        if shapes in tried:
            continue
        tried.append(shapes)
        error = run(shapes)
        if error is None:
            return shapes
    if not openly:
        return tried[0]  # what is wrong with them is told when the model is run on its inputs
    assert error is not None
    why = one_line(error, 200)
    shown = ", ".join(f"{port.name} {list(tried[0][port.name])} to {list(tried[-1][port.name])}" for port in openly)
    name, count = openly[0].name, sum(size is None for size in openly[0].shape[1:])
    raise ExportError(
        f"the model takes inputs of none of the sizes that were tried ({shown}): {type(error).__name__}: {why}; give "
        f"one that it takes, as --size {name}={'x'.join(['300'] * count)}, or real inputs: --verify-with DATA.npz"
    )


def others(shapes: Mapping[str, tuple[int, ...]], ports: Sequence[Port]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Other shapes to try than ``shapes``, by what they are called: open sizes of 1, of 2, of an odd number, longer."""
    changes: dict[str, Callable[[int], int]] = {
        "1": lambda n: 1,
        "2": lambda n: 2,
        "odd": lambda n: n // 2 + 1 - (n // 2) % 2,
        "longer": lambda n: n + n // 2,
    }
    shapes_by_word: dict[str, dict[str, tuple[int, ...]]] = {}
    for word, change in changes.items():
        shape = {
            port.name: tuple(
                change(n) if size is None else n for size, n in zip(port.shape[1:], shapes[port.name], strict=True)
            )
            for port in ports
        }
        if shape != shapes and shape not in shapes_by_word.values():
            shapes_by_word[word] = shape
    return shapes_by_word


def hold(
    simulator: Simulator,
    kept: Iterable[str],
    groups: Mapping[str, Mapping[str, np.ndarray]],
    typical: Mapping[str, np.ndarray],
    limits: Limits,
    progress: Progress,
) -> tuple[tuple[OtherSize, ...], dict[str, Samples]]:
    """Whether float16 answers like float32 at other sizes, for the manifest; it is printed too. For each of ``groups``
    of inputs its shapes, and whether the float32 model itself takes them; and those that it takes, with its answers.

    As edge rows are, they are held to `verify.compare.EDGE` times the limits, and to lose no value; ``typical``, the
    float32 answers to usual inputs, sets the scale.

    Raises:
        ParityError: float16 fails where float32 does not.
    """
    islands, sized = list(kept), {}
    rows: list[OtherSize] = []
    for word, inputs in groups.items():
        row = OtherSize(size=word, shapes={name: x.shape[1:] for name, x in inputs.items()}, taken=True)
        progress.status(f"sizes of inputs: {_shown([row])} ...")
        try:
            if error := shape_error(simulator.model, [inputs[port.name].shape for port in simulator.interface.inputs]):
                raise error
            reference = simulator.reference(inputs)
            why = "" if _some_finite(reference) else "no value that it gives is finite"
        except Exception as error:  # noqa: BLE001  # whatever a layer raises on a size it was not made for; it is told
            why = one_line(error, 200)
        rows.append(row.model_copy(update={"taken": not why, "why": why}))
        if why:
            continue
        sized[word] = Samples(dict(inputs), dict(reference))
        try:
            got, kinds = simulator.simulate(islands, inputs), [word] * len(_first(inputs))
            outputs = compare_outputs(reference, got, (), limits, kinds, typical=typical)
            problems = [f"{output.name}: {problem}" for output in outputs for problem in output.problems]
        except Exception as error:  # noqa: BLE001  # as above, of float16
            problems = [one_line(error, 200)]
        if problems:
            port = next(port for port in simulator.interface.inputs if is_open(port))
            shape = row.shapes[port.name]
            sizes = "x".join(str(n) for n, size in zip(shape, port.shape[1:], strict=True) if size is None)
            raise ParityError(
                f"float16 does not answer like float32 where {_shown([row])}: {problems[0]}; nothing was published; "
                f"--size {port.name}={sizes} looks for the layers that have to be float32 there"
            )
    progress.clear()
    holds, refused = ([row for row in rows if row.taken is taken] for taken in (True, False))
    parts = [f"float16 holds where {_shown(holds)}"] if holds else []
    parts += [f"float32 itself fails where {_shown(refused)}"] if refused else []
    if parts:
        progress.line(f"sizes      {'; '.join(parts)}")
    return tuple(rows), sized


def _some_finite(answers: Mapping[str, np.ndarray]) -> bool:
    """Not where a layer averaged what a size below its kernel left: nothing."""
    return any(x.dtype.kind != "f" or bool(np.isfinite(x).any()) for x in answers.values() if x.size)


def _first(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(arrays.values()))


def _shown(rows: Sequence[OtherSize]) -> str:
    return ", or ".join(" and ".join(f"{name} is {list(shape)}" for name, shape in row.shapes.items()) for row in rows)
