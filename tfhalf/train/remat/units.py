"""Which parts of a net are worked out again: `by_patterns` and `candidates`; and the net with these parts: `again`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras

from tfhalf.errors import ConfigError
from tfhalf.precision.policy import layer_path, matching
from tfhalf.train.remat.graph import LOOPS, Graph, Piece, depth_of, functional_of
from tfhalf.train.remat.recompute import Compiler, recomputed, refusing_assigned

KEY = "train.remat"


class Unit(NamedTuple):
    """A part that is worked out again as a whole: a layer, or ``piece`` of the ``graph`` of one.

    ``saved``: about the bytes that are not kept because of it, of a batch of 1; 0 where shapes do not say.
    """

    layer: keras.layers.Layer
    graph: Graph | None
    piece: Piece | None
    saved: int

    @property
    def layers(self) -> list[str]:
        """The paths of the layers in it, those that hold others as one."""
        if self.graph is None or self.piece is None:
            return [layer_path(self.layer)]
        nodes = self.graph.nodes[self.piece.start : self.piece.stop]
        return [layer_path(n.operation) for n in nodes if isinstance(n.operation, keras.layers.Layer)]


def by_patterns(model: keras.Model, patterns: Sequence[str]) -> list[Unit]:
    """The units that hold the layers of ``model`` whose paths ``patterns`` match.

    Matched layers that follow one another in a functional model become as many units as leave the least to keep; one
    that the code of a layer calls is a unit by itself.

    Raises:
        ConfigError: a pattern matches no layer, or what they match leaves nothing to work out again.
    """
    chosen = {id(layer) for layer in matching(model, patterns, KEY)}
    units = list(_chosen(model, lambda layer: id(layer) in chosen or _holds(layer, chosen)))
    if not units:
        raise ConfigError(
            f"{KEY}: what {list(patterns)} match leaves nothing to compute twice; accepted: layers that follow one "
            "another, or that hold others; widen the patterns"
        )
    return units


def _holds(layer: Any, chosen: set[int]) -> bool:
    return isinstance(layer, LOOPS) and any(id(inner) in chosen for inner in layer._flatten_layers())


def _chosen(layer: Any, chosen: Callable[[Any], bool], seen: set[int] | None = None) -> Iterator[Unit]:
    """The units of what is ``chosen`` below ``layer``, the outermost of what lies within each other."""
    seen = set() if seen is None else seen
    functional = functional_of(layer)
    if functional is None:
        for child in layer._layers:
            if id(child) in seen:
                continue
            seen.add(id(child))
            if chosen(child):
                yield Unit(child, None, None, 0)
            else:
                yield from _chosen(child, chosen, seen)
        return
    graph = Graph(functional, chosen)
    yield from (Unit(layer, graph, piece, piece.saved) for piece in graph.pieces())
    for node in graph.nodes:
        operation = node.operation
        if isinstance(operation, keras.layers.Layer) and not chosen(operation) and id(operation) not in seen:
            seen.add(id(operation))
            yield from _chosen(operation, chosen, seen)


def candidates(model: keras.Model) -> list[Unit]:
    """The units that ``model`` falls into as a whole, those that save the most first; not the last part of it, which is
    worked out again as soon as it is there, and saves nothing."""
    units = _of_whole(model)[:-1]
    return sorted(units, key=lambda unit: -unit.saved)


def _of_whole(layer: Any) -> list[Unit]:
    functional = functional_of(layer)
    if functional is None:
        children = [child for child in layer._layers if child._layers and not isinstance(child, LOOPS)]
        if len(children) == 1:
            return _of_whole(children[0]) or [Unit(children[0], None, None, depth_of(children[0]))]
        return [Unit(child, None, None, depth_of(child)) for child in children]
    graph = Graph(functional, lambda _: True)
    weights = [graph.weight(i) for i in range(len(graph.nodes))]
    heaviest = max(range(len(weights)), key=weights.__getitem__)
    inner = graph.nodes[heaviest].operation
    if getattr(inner, "_layers", None) and not isinstance(inner, LOOPS) and 2 * weights[heaviest] > sum(weights):
        return _of_whole(inner)
    return [Unit(layer, graph, piece, piece.saved) for piece in graph.pieces()]


@contextmanager
def again(units: Sequence[Unit], compiler: Compiler) -> Iterator[None]:
    """Within the block, in which a step is traced, each of ``units`` is worked out again in the backward pass. Layers
    that compute by another function within it do so in both."""
    calls: list[tuple[Any, Any]] = []
    graphs: dict[int, list[Unit]] = {}
    for unit in units:
        if unit.graph is None:
            calls.append((unit.layer, _call(unit.layer, unit.layer.call, compiler)))
        else:
            graphs.setdefault(id(unit.graph), []).append(unit)
    for same in graphs.values():
        graph, layer = same[0].graph, same[0].layer
        assert graph is not None
        pieces = [unit.piece for unit in same if unit.piece is not None]
        calls.append((graph.functional, graph.call(pieces, compiler, layer)))
    before = [vars(operation).get("call") for operation, _ in calls]
    for operation, call in calls:
        operation.call = call
    try:
        with refusing_assigned():
            yield
    finally:
        for (operation, _), call in zip(calls, before, strict=True):
            if call is None:
                del operation.call
            else:
                operation.call = call


def _call(layer: Any, call: Callable[..., Any], compiler: Compiler) -> Callable[..., Any]:
    def function(arguments: Any) -> Any:
        args, kwargs = arguments
        return call(*args, **kwargs)

    return lambda *args, **kwargs: recomputed(function, (args, kwargs), compiler, layer.add_loss)
