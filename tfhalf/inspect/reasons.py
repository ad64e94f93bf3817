"""What of an artifact is not float16, and why: `reasons_of`."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from tfhalf.inspect.facts import Account, Port, Tensor, is_float, words
from tfhalf.inspect.graph import Cast, Looked, Region, is_heavy, unread

REASONS = 10
_EXPONENTIALS = frozenset(words("softmax logsoftmax exp"))
_SOFTMAX = frozenset(words("softmax logsoftmax exp max reducemax sum reducesum mul sub div realdiv log"))
_NORMS = frozenset(words("rsqrt sqrt squareddifference variance reciprocal"))
_SCALES = {
    "resize": "Resize takes its scales in float32",
    "upsample": "Upsample takes its scales in float32",
    "quantize": "scale of a quantisation",
    "range": "counts, no weights",
}


@dataclass(frozen=True)
class Reason:
    """Something that is not float16: what, as what, and why. ``count`` values or operations."""

    what: str
    dtype: str
    count: int
    why: str


def reasons_of(account: Account, looked: Looked) -> list[Reason]:
    """Everything of an artifact that is not float16: tensors, islands, Casts, ports, and last what counts."""
    weights = [tensor for tensor in account.weights() if is_float(tensor.dtype)]
    return [
        *_tensors(weights, looked),
        *_islands(looked),
        *_casts(account, looked),
        *_ports(account),
        *_integers(account),
    ]


def _tensors(weights: list[Tensor], looked: Looked) -> list[Reason]:
    groups: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for tensor in weights:
        if tensor.dtype != "float16":
            groups[tensor.dtype, _why(tensor, looked)].append(tensor)
    reasons = []
    for (dtype, why), tensors in groups.items():
        names = [tensor.name for tensor in sorted(tensors, key=lambda tensor: -tensor.count)]
        reasons.append(Reason(_first(names), dtype, sum(t.count for t in tensors), why))
    return sorted(reasons, key=lambda reason: -reason.count)


def _first(names: list[str]) -> str:
    """The first name, its end where it is long, and how many there are more."""
    shown = names[0] if len(names[0]) <= 44 else f"...{names[0][-41:]}"
    return shown + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


def _why(tensor: Tensor, looked: Looked) -> str:
    if not looked.operations:
        return f"stored in {tensor.dtype}"
    if unread(looked, tensor):
        return "nothing reads it"
    for node, index in looked.readers[tensor.name]:
        op = node.op.lower().replace("_", "")
        if op == "cast" and node.to != tensor.dtype:
            return f"stored in {tensor.dtype}, cast to {node.to} at run time"
        if index and ("batchnorm" in op):
            return "BatchNormalization's scale, shift and statistics"
        if index and "norm" in op and node.dtype == "float16":
            return f"{node.op}'s scale and shift"
        for part, why in _SCALES.items():
            if op.startswith(part):
                return why
    node = looked.readers[tensor.name][0][0]
    for island in looked.islands:
        if node in island.nodes:
            return f"read by the {island.dtype} island {_names(island)}"
    return f"stored in {tensor.dtype}, read by {node.op} in {node.dtype or 'an unknown type'}"


def _islands(looked: Looked) -> list[Reason]:
    groups: dict[tuple[str, str, str], list[Region]] = defaultdict(list)
    for island in looked.islands:
        ops = {node.op.lower().replace("_", "") for node in island.nodes}
        what = ""
        if ops & _EXPONENTIALS and ops <= _SOFTMAX:
            what = " (a softmax)"
        elif ops & _NORMS and not any(is_heavy(node) for node in island.nodes):
            what = " (statistics of a normalisation)"
        groups[island.dtype, _names(island), f"{_position(island)}{what}"].append(island)
    reasons = []
    for (dtype, names, why), islands in groups.items():
        more = f" and in {len(islands) - 1:,} places more" if len(islands) > 1 else ""
        count = sum(len(island.nodes) for island in islands)
        reasons.append(Reason(f"{names} in {_first([_scope(islands[0])])}{more}", dtype, count, why))
    return sorted(reasons, key=lambda reason: -reason.count)


def _scope(island: Region) -> str:
    """What the names of an island's operations begin with, or the first one's."""
    names = [node.name.split("/") for node in island.nodes]
    shared = [parts[0] for parts in zip(*names, strict=False) if len(set(parts)) == 1]
    return "/".join(shared) or island.nodes[0].name or "a nameless operation"


def _position(island: Region) -> str:
    where = {"first": "before the first float16 operation", "last": "after the last float16 operation"}
    return f"a {island.dtype} island{', ' * bool(island.position)}{where.get(island.position, '')}"


def _names(island: Region) -> str:
    ops = Counter(node.op for node in island.nodes)
    parts = [op if count == 1 else f"{count} {op}" for op, count in ops.most_common(4)]
    return ", ".join(parts) + (", ..." if len(ops) > 4 else "")


def _casts(account: Account, looked: Looked) -> list[Reason]:
    often = "once, before the first run" if account.kind == "LiteRT" else "in each run"
    why = {
        "input": "at the border, before all float16",
        "output": "at the border, after all float16",
        "inside": "between float16 and an island",
        "weights": f"of stored weights, {often}",
    }
    groups: dict[tuple[str, str, str], list[Cast]] = defaultdict(list)
    for cast in (one for one in looked.casts if "float16" in (one.source, one.to)):
        groups[cast.source, cast.to, cast.role].append(cast)
    return [
        Reason(f"Cast {_first([cast.name for cast in casts])}", f"{source} -> {to}", len(casts), why[role])
        for (source, to, role), casts in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _ports(account: Account) -> list[Reason]:
    def reason(word: str, ports: list[Port]) -> list[Reason]:
        groups: dict[str, list[str]] = defaultdict(list)
        for port in ports:
            if port.dtype != "float16":
                groups[port.dtype].append(port.name)
        return [
            Reason(f"{word} {_first(names)}", dtype, len(names), f"what callers {'send' if word == 'input' else 'get'}")
            for dtype, names in groups.items()
        ]

    return reason("input", account.inputs) + reason("output", account.outputs)


def _integers(account: Account) -> list[Reason]:
    groups: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in account.weights():
        if not is_float(tensor.dtype):
            groups[tensor.dtype].append(tensor)
    return [
        Reason(
            _first([tensor.name for tensor in tensors]),
            dtype,
            sum(tensor.count for tensor in tensors),
            "shapes, axes and indices" if dtype in ("int64", "int32", "bool") else "integers: quantised or counted",
        )
        for dtype, tensors in groups.items()
    ]
