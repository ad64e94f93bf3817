"""The graph of a functional model as a row of calls, and where to cut a part of it: `Graph`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras.src.backend.common.masking import set_keras_mask
from keras.src.models.functional import Functional, operation_fn

from tfhalf.train.remat.recompute import Compiler, recomputed

# What calls the layers in them within loops, and keeps dropout's masks between calls: computed again whole or not.
LOOPS = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)
_GATES = 8  # numbers that a recurrent layer keeps for each that it gives, about
_PIECES = 64  # that a run is cut into, at most


class Piece(NamedTuple):
    """Calls ``start`` to ``stop`` of a graph; ``saved``: bytes of their outputs less those that are kept, of a batch of
    1."""

    start: int
    stop: int
    saved: int


def functional_of(layer: Any) -> Functional | None:
    """The functional model that ``layer`` is, a Sequential's own too; None where its class has a ``call`` of its
    own."""
    inner = getattr(layer, "_functional", None) if isinstance(layer, keras.Sequential) else layer
    return inner if isinstance(inner, Functional) and type(inner).call is Functional.call else None


class Graph:
    """The calls of ``functional`` in an order in which those that are ``chosen`` follow one another where they can.

    Operations of `keras.ops` that take what a chosen call gives belong to it. Any calls that follow one another in this
    order can be one function: no path leaves them and comes back.
    """

    def __init__(self, functional: Functional, chosen: Callable[[Any], bool]) -> None:
        self.functional = functional
        depths = functional._nodes_by_depth
        nodes = [n for depth in sorted(depths, reverse=True) for n in depths[depth] if n.operation and not n.is_input]
        maker = {id(tensor): node for node in nodes for tensor in node.outputs}
        after = {id(n): {id(maker[id(x)]) for x in n.input_tensors if id(x) in maker} for n in nodes}
        marked: dict[int, bool] = {}
        self.nodes: list[Any] = []
        self.chosen: list[bool] = []
        ready = [node for node in nodes if not after[id(node)]]
        waiting = [node for node in nodes if after[id(node)]]
        while ready:
            for node in ready:
                if id(node) not in marked:
                    own = isinstance(node.operation, keras.layers.Layer)
                    marked[id(node)] = chosen(node.operation) if own else any(
                        marked[id(maker[id(x)])] for x in node.input_tensors if id(x) in maker
                    )  # fmt: skip
            state = self.chosen[-1] if self.chosen else False
            node = next((n for n in ready if marked[id(n)] == state), ready[0])
            ready.remove(node)
            self.nodes.append(node)
            self.chosen.append(marked[id(node)])
            for other in [n for n in waiting if id(node) in after[id(n)]]:
                after[id(other)].discard(id(node))
                if not after[id(other)]:
                    waiting.remove(other)
                    ready.append(other)
        self._index = {id(tensor): i for i, n in enumerate(self.nodes) for tensor in n.outputs}
        self._last = dict.fromkeys(self._index, -1)  # the last call that takes a tensor
        for i, node in enumerate(self.nodes):
            for tensor in node.input_tensors:
                if id(tensor) in self._last:
                    self._last[id(tensor)] = i
        for tensor in functional.outputs:
            self._last[id(tensor)] = len(self.nodes)
        self._bytes = {id(t): _bytes(t) for n in self.nodes for t in n.outputs}

    def weight(self, index: int) -> int:
        """Bytes that the call at ``index`` keeps for its gradient, about, of a batch of 1."""
        node = self.nodes[index]
        if isinstance(node.operation, LOOPS):  # gates and states of each step, whatever of them it returns
            steps = (node.input_tensors[0].shape[1:2] or (1,))[0] or 1
            return sum(_GATES * steps * t.shape[-1] * tf.as_dtype(t.dtype).size for t in node.outputs)
        return sum(self._bytes[id(t)] for t in node.outputs) * depth_of(node.operation)

    def pieces(self) -> list[Piece]:
        """The chosen calls, each run of which is cut so that what is kept between the pieces, and the largest of them,
        take the least together. Pieces that would save nothing are left out."""
        rows: list[Piece] = []
        start = None
        for i, chosen in enumerate([*self.chosen, False]):
            if chosen and start is None:
                start = i
            elif not chosen and start is not None:
                rows += self._cut(start, i)
                start = None
        return [piece for piece in rows if piece.saved > 0]

    def _kept(self, start: int, stop: int) -> int:
        """Bytes that the calls from ``start`` give to those from ``stop`` on."""
        outputs = [t for i in range(start, stop) for t in self.nodes[i].outputs]
        return sum(self._bytes[id(t)] for t in outputs if self._last[id(t)] >= stop)

    def _cut(self, start: int, stop: int) -> list[Piece]:
        weights = [self.weight(i) for i in range(start, stop)]
        crossing = [self._kept(start, start + i) for i in range(1, stop - start)]  # behind each call but the last
        best: tuple[int, list[int]] | None = None
        for count in range(1, min(stop - start, _PIECES) + 1):
            cuts = _cuts(weights, crossing, sum(weights) / count)
            ends = [0, *cuts, stop - start]
            largest = max(sum(weights[a:b]) for a, b in itertools.pairwise(ends))
            cost = largest + sum(crossing[cut - 1] for cut in cuts)
            if best is None or cost < best[0]:
                best = cost, ends
        assert best is not None
        pairs = [(start + a, start + b) for a, b in itertools.pairwise(best[1])]
        return [Piece(a, b, sum(weights[a - start : b - start]) - self._kept(a, b)) for a, b in pairs]

    def call(self, pieces: Iterable[Piece], compiler: Compiler, owner: keras.Layer) -> Callable[..., Any]:
        """The ``call`` of the functional model, in which each of ``pieces`` is `recomputed`. Losses that layers within
        them add become those of ``owner``."""
        starts = {piece.start: piece for piece in pieces}
        add_loss = partial(keras.layers.Layer.add_loss, owner)  # a functional model's own takes none

        def run(tensors: dict[int, Any], nodes: Sequence[Any], options: dict[str, Any]) -> None:
            for node in nodes:
                args, kwargs = node.arguments.fill_in(tensors)
                out = operation_fn(node.operation, **options)(*args, **kwargs)
                tensors.update(zip(map(id, node.outputs), keras.tree.flatten(out), strict=False))

        def call(inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
            functional, options = self.functional, {"training": training, **kwargs}
            flat = functional._standardize_inputs(inputs)
            for x, one in zip(flat, keras.tree.flatten(mask), strict=False):
                if one is not None:
                    set_keras_mask(x, one)
            tensors = dict(zip(map(id, functional.inputs), flat, strict=True))
            i = 0
            while i < len(self.nodes):
                piece = starts.get(i)
                if piece is None:
                    run(tensors, [self.nodes[i]], options)
                    i += 1
                    continue
                nodes = self.nodes[piece.start : piece.stop]
                outputs = [id(t) for n in nodes for t in n.outputs]
                reads = [
                    k for k in dict.fromkeys(id(t) for n in nodes for t in n.input_tensors) if k not in set(outputs)
                ]
                gives = [key for key in outputs if self._last[key] >= piece.stop]

                def function(
                    values: list[Any], nodes: Any = nodes, reads: Any = reads, gives: Any = gives
                ) -> list[Any]:
                    local = dict(zip(reads, values, strict=True))
                    run(local, nodes, options)
                    return [local[key] for key in gives]

                results = recomputed(function, [tensors[key] for key in reads], compiler, add_loss)
                tensors.update(zip(gives, results, strict=True))
                i = piece.stop
            flat = [tensors[id(x)] for x in functional.outputs]
            result = keras.tree.pack_sequence_as(functional._outputs_struct, flat)
            return result[0] if isinstance(result, list | tuple) and len(result) == 1 else result

        return call


def _cuts(weights: Sequence[int], crossing: Sequence[int], limit: float) -> list[int]:
    """Places between calls, so that no piece weighs more than ``limit`` where that can be: each as late as it may be,
    unless an earlier one in the piece's second half leaves less to keep."""
    cuts: list[int] = []
    begin = 0
    while begin < len(weights):
        end, total = begin, 0
        while end < len(weights) and (end == begin or total + weights[end] <= limit):
            total += weights[end]
            end += 1
        if end == len(weights):
            break
        options = range(begin + max(1, (end - begin + 1) // 2), end + 1)
        begin = min(options, key=lambda cut: (crossing[cut - 1], -cut))
        cuts.append(begin)
    return cuts


def depth_of(operation: Any) -> int:
    """How many layers without layers of their own ``operation`` holds; 1 for one of these."""
    below = getattr(operation, "_layers", [])
    return sum(depth_of(layer) for layer in below) if below else 1


def _bytes(tensor: Any) -> int:
    sides = [side for side in tensor.shape if side is not None]
    return int(math.prod(sides) * tf.as_dtype(tensor.dtype).size)
