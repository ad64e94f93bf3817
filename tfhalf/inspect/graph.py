"""A graph read for its dtypes: what each operation computes in, why each Cast is there, and which islands there are."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from tfhalf.inspect.facts import Graph, Node, Tensor, is_float, words

# Names are compared in lower case and without underscores, so that ONNX, TensorFlow and LiteRT share them.
_MOVES = frozenset(
    words(
        "identity identityn reshape transpose squeeze unsqueeze expanddims flatten concat concatv2 concatenation split "
        "splitv slice stridedslice gather gatherv2 gathernd gatherelements resourcegather pad padv2 mirrorpad "
        "tile expand broadcastto pack unpack spacetobatchnd batchtospacend depthtospace spacetodepth reversev2 "
        "reversesequence stopgradient snapshot preventgradient ensureshape dropout where select selectv2 scatternd "
        "scatterelements dynamicupdateslice tensorlistgetitem tensorliststack tensorlistsetitem tensorlistfromtensor "
        "if while loop scan optional checknumerics densify sparsetodense"
    )
)
_SILENT = frozenset(
    words(
        "const constant constantofshape placeholder placeholderwithdefault noop varhandleop readvariableop "
        "variablev2 shape shapen size rank shapeof fill zeroslike oneslike range assignvariableop assert "
        "print isfinite eyelike varisinitializedop tensorlistreserve emptytensorlist stringformat"
    )
)
_CASTS = frozenset(("cast", "castlike", "dequantize"))
_KINDS = {"cast": _CASTS, "moves": _MOVES, "silent": _SILENT}
_HEAVY = re.compile(r"conv|matmul|gemm|einsum|fullyconnected|lstm|gru|^rnn|attention", re.IGNORECASE)
# Where an epsilon stands, and what it keeps from 0.
_GUARDS = frozenset(words("add addv2 biasadd maximum max"))
_SENSITIVE = frozenset(words("rsqrt sqrt log reciprocal inv"))
_DIVIDES = frozenset(words("div realdiv divnonan floordiv"))
_CHOOSES = ("Where", "Select", "SELECT")  # a condition comes first
_STEPS = 10_000  # up or down a chain: a cycle in a hostile file ends too
_BUDGET = 2_000_000  # of steps in all: seconds, and more than any real graph needs


def kind(node: Node) -> str:
    """``cast``, ``moves``, ``silent`` or ``computes``."""
    what = _kind(node.op)
    return "computes" if what == "cast" and not is_float(node.dtype) and _plain(node.op) == "dequantize" else what


@lru_cache(maxsize=4096)
def _kind(op: str) -> str:
    name = _plain(op)
    return next((word for word, names in _KINDS.items() if name in names), "computes")


def _plain(op: str) -> str:
    return op.lower().replace("_", "")


def is_heavy(node: Node) -> bool:
    """A product of matrices, where float16 saves the time."""
    return bool(_HEAVY.search(node.op)) and not node.op.startswith("Convert")


@dataclass(frozen=True)
class Cast:
    """One change of dtype. ``role``: of ``weights``, at the ``input`` (no float16 arithmetic before it), at the
    ``output`` (none after it), or ``inside``. ``undone``: it turns back the Cast above it, with nothing computed
    between; ``exact`` where both together lose no bits."""

    name: str
    source: str
    to: str
    role: str
    undone: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Region:
    """Operations of another floating type, joined by their values. ``position``: ``first`` with no float16 arithmetic
    before them, ``last`` with none after them, else empty."""

    dtype: str
    nodes: tuple[Node, ...]
    position: str


@dataclass(frozen=True)
class Extremes:
    """A stored tensor that has an `Extreme`: what reads it, and what does so where it is cast to float16; ``guards``:
    it is added to or compared with what is then divided by, or taken a root or logarithm of."""

    tensor: Tensor
    readers: list[Node]
    narrowed: list[Node]
    guards: bool


@dataclass
class Looked:
    """What `look` returns. ``computing`` counts arithmetic by dtype, ``heavy`` the matrix products among it, and
    ``operations`` every node by (operation, dtype); "" stands for an unknown dtype."""

    computing: Counter[str] = field(default_factory=Counter)
    heavy: Counter[str] = field(default_factory=Counter)
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    casts: list[Cast] = field(default_factory=list)
    islands: list[Region] = field(default_factory=list)
    readers: dict[str, list[tuple[Node, int]]] = field(default_factory=dict)
    extremes: list[Extremes] = field(default_factory=list)


def look(graph: Graph) -> Looked:
    """Read ``graph`` for its dtypes."""
    paths = _Paths(graph)
    looked = Looked()
    for node in graph.nodes:
        what = kind(node)
        if what == "silent":
            continue
        looked.operations[node.op, node.to if what == "cast" else node.dtype] += 1
        if what == "computes" and (is_float(node.dtype) or not node.dtype):
            looked.computing[node.dtype] += 1
            if is_heavy(node):
                looked.heavy[node.dtype] += 1
        elif what == "cast" and is_float(node.to) and is_float(node.dtype) and node.to != node.dtype:
            looked.casts.append(paths.cast(node))
    if looked.computing["float16"]:
        looked.islands = paths.islands()
    for tensor_value, tensor in graph.stored.items():
        readers = paths.readers_through_moves(tensor_value)
        looked.readers.setdefault(tensor.name, []).extend(readers)
        if tensor.extreme is not None:
            looked.extremes.append(paths.extremes(tensor, tensor_value))
    return looked


class _Paths:
    """Ways up and down a graph through what only moves values."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.left = _BUDGET
        self.makers = {value: node for node in graph.nodes for value in node.outputs}
        self.readers: dict[str, list[tuple[Node, int]]] = defaultdict(list)
        for node in graph.nodes:
            for index, value in enumerate(node.inputs):
                self.readers[value].append((node, index))

        halves = [node for node in graph.nodes if kind(node) == "computes" and node.dtype == "float16"]
        self.after = self._reach(halves, lambda node: (r for v in node.outputs for r, _ in self.readers.get(v, ())))
        self.before = self._reach(halves, lambda node: (self.makers[v] for v in node.inputs if v in self.makers))

    @staticmethod
    def _reach(start: list[Node], step: Callable[[Node], Iterable[Node]]) -> set[int]:
        """Ids of the nodes to be reached from ``start``, which themselves count only where another one reaches them."""
        seen: set[int] = set()
        todo = list(start)
        while todo:
            for node in step(todo.pop()):
                if id(node) not in seen:
                    seen.add(id(node))
                    todo.append(node)
        return seen

    def root(self, value: str) -> str:
        """Where ``value`` comes from, through moves."""
        for _ in range(_STEPS):
            maker = self.makers.get(value)
            self.left -= 1
            if maker is None or kind(maker) != "moves" or not maker.inputs or self.left < 0:
                break
            value = maker.inputs[min(len(maker.inputs) - 1, int(maker.op.startswith(_CHOOSES)))]
        return value

    def below(self, values: tuple[str, ...]) -> Iterator[tuple[str, list[tuple[Node, int]]]]:
        """Each value that ``values`` are moved to, with what reads it and does more than move."""
        seen, todo = set(values), list(values)
        while todo and len(seen) < _STEPS and self.left > 0:
            value = todo.pop()
            self.left -= 1 + len(self.readers.get(value, ()))
            others = []
            for node, index in self.readers.get(value, ()):
                if kind(node) == "moves":
                    fresh = [out for out in node.outputs if out not in seen]
                    seen.update(fresh)
                    todo += fresh
                else:
                    others.append((node, index))
            yield value, others

    def readers_through_moves(self, value: str) -> list[tuple[Node, int]]:
        return [reader for _, readers in self.below((value,)) for reader in readers]

    def extremes(self, tensor: Tensor, value: str) -> Extremes:
        """What is to be known of a stored ``value`` that float16 does not hold."""
        below = [node for node, _ in self.readers_through_moves(value)]
        casts = [node for node in below if kind(node) == "cast" and node.to == "float16"]
        narrowed = [node for cast in casts for _, rows in self.below(cast.outputs) for node, _ in rows] or casts
        return Extremes(
            tensor, [node for node, _ in self.readers.get(value, ())], narrowed, any(map(self.guards, below))
        )

    def guards(self, node: Node) -> bool:
        """Whether ``node`` adds or compares, and what it gives is divided by, or taken the root or logarithm of."""
        if _plain(node.op) not in _GUARDS:
            return False
        todo, seen = [node], {id(node)}
        while todo and len(seen) < _STEPS:
            one = todo.pop()
            for _, readers in self.below(one.outputs):
                for reader, index in readers:
                    op = _plain(reader.op)
                    if op in _SENSITIVE or (op in _DIVIDES and index == 1):
                        return True
                    if kind(reader) == "cast" and id(reader) not in seen:
                        seen.add(id(reader))
                        todo.append(reader)
        return False

    def cast(self, node: Node) -> Cast:
        root = self.root(node.inputs[0]) if node.inputs else ""
        above = self.makers.get(root)
        undone = above is not None and kind(above) == "cast" and (above.dtype, above.to) == (node.to, node.dtype)
        exact = node.dtype in ("float32", "float64") and node.to in ("float16", "bfloat16", "float32")
        if root in self.graph.stored:
            role = "weights"
        elif node.to == "float16" and id(node) not in self.after:
            role = "input"
        else:
            role = "output" if node.dtype == "float16" and id(node) not in self.before else "inside"
        return Cast(node.name, node.dtype, node.to, role, undone, undone and exact)

    def islands(self) -> list[Region]:
        """Groups of arithmetic in another floating type than float16, in the graph's order."""
        other = [n for n in self.graph.nodes if kind(n) == "computes" and is_float(n.dtype) and n.dtype != "float16"]
        group = {id(node): number for number, node in enumerate(other)}
        parent = list(range(len(other)))

        def top(number: int) -> int:
            while parent[number] != number:
                parent[number] = parent[parent[number]]
                number = parent[number]
            return number

        for number, node in enumerate(other):
            for _, readers in self.below(node.outputs):
                for reader, _ in readers:
                    if id(reader) in group:
                        parent[top(group[id(reader)])] = top(number)
        members: dict[int, list[int]] = defaultdict(list)
        for number in range(len(other)):
            members[top(number)].append(number)
        return [self._island([other[n] for n in numbers]) for numbers in sorted(members.values())]

    def _island(self, nodes: list[Node]) -> Region:
        first = not any(id(node) in self.after for node in nodes)
        last = not any(id(node) in self.before for node in nodes)
        return Region(nodes[0].dtype, tuple(nodes), "first" if first else "last" if last else "")


def unread(looked: Looked, tensor: Tensor) -> bool:
    """Whether nothing reads ``tensor``."""
    return not looked.readers.get(tensor.name)
