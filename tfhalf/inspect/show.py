"""What ``tfhalf inspect`` prints: text of at most 100 columns, or the same as a dict for JSON."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tfhalf.inspect.facts import Port, Tensor, is_float
from tfhalf.inspect.look import Inspected
from tfhalf.inspect.reasons import REASONS

WIDTH, LABEL = 100, 12
_LARGEST = 5
_OPERATIONS = 14
_ORDER = ("float16", "bfloat16", "float32", "float64")


def text(artifacts: Sequence[Inspected]) -> str:
    """Every artifact, one after another, and a line that compares them."""
    parts = ["\n".join(_shown(line) for line in _artifact(one)) for one in artifacts]
    if len(artifacts) > 1:
        parts.append("\n".join(_line("together", comparison(artifacts))))
    return "\n\n\n".join(parts)


def facts(artifacts: Sequence[Inspected]) -> dict[str, Any]:
    """The same whole, for JSON."""
    report: dict[str, Any] = {"artifacts": [_dict(one) for one in artifacts]}
    if len(artifacts) > 1:
        report["comparison"] = comparison(artifacts)
    return report


def comparison(artifacts: Sequence[Inspected]) -> str:
    """Whether artifacts of one version hold the same, in a line."""
    answers = {one.verdict.answer for one in artifacts}
    same = (
        f"all are {answers.pop()}"
        if len(answers) == 1
        else "they differ: " + ", ".join(f"{one.account.kind} is {one.verdict.answer}" for one in artifacts)
    )
    held = [f"{one.account.kind} {_floats(one):,} weights, {_mb(one.account.bytes)} MB" for one in artifacts]
    return f"{same}; " + "; ".join(held)


def _floats(one: Inspected) -> int:
    return sum(tensor.count for tensor in one.account.weights() if is_float(tensor.dtype))


# --- JSON -------------------------------------------------------------------------------------------------------------


def _dict(one: Inspected) -> dict[str, Any]:
    account, looked = one.account, one.looked
    operations: dict[str, dict[str, int]] = defaultdict(dict)
    for (op, dtype), count in sorted(looked.operations.items()):
        operations[op][dtype or "unknown"] = count
    return {
        "path": str(account.path),
        "kind": account.kind,
        "bytes": account.bytes,
        "verdict": one.verdict.to_dict(),
        **account.details,
        "inputs": [port.to_dict() for port in account.inputs],
        "outputs": [port.to_dict() for port in account.outputs],
        "parameters": _sums(account.weights()),
        "beside": {role: _sums(list(group)) for role, group in _roles(account.tensors).items() if role != "weight"},
        "operations": dict(operations),
        "arithmetic": {dtype or "unknown": count for dtype, count in sorted(looked.computing.items())},
        "casts": [asdict(cast) for cast in looked.casts],
        "islands": [
            {"dtype": i.dtype, "place": i.position, "nodes": [n.name for n in i.nodes]} for i in looked.islands
        ],
        "float16_values": None if account.values is None else asdict(account.values),
        "tensors": [tensor.to_dict() for tensor in sorted(account.tensors, key=lambda t: -t.bytes)],
        "notes": account.notes,
    }


def _sums(tensors: list[Tensor]) -> dict[str, dict[str, int]]:
    sums: dict[str, dict[str, int]] = {}
    for dtype in _sorted({tensor.dtype for tensor in tensors}):
        group = [tensor for tensor in tensors if tensor.dtype == dtype]
        count, size = sum(t.count for t in group), sum(t.bytes for t in group)
        sums[dtype] = {"tensors": len(group), "count": count, "bytes": size}
    return sums


def _roles(tensors: list[Tensor]) -> dict[str, list[Tensor]]:
    roles: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        roles[tensor.role].append(tensor)
    return roles


def _sorted(dtypes: set[str]) -> list[str]:
    return sorted(dtypes, key=lambda d: (_ORDER.index(d) if d in _ORDER else len(_ORDER), not d, d))


# --- text -------------------------------------------------------------------------------------------------------------


def _artifact(one: Inspected) -> list[str]:
    account = one.account
    lines = _line("artifact", f"{account.path}: {account.kind}, {_mb(account.bytes)} MB")
    lines += _line("verdict", one.verdict.line)
    for label, text in account.facts.items():
        lines += _line(label, text) if text else []
    for label, ports in (("inputs", account.inputs), ("outputs", account.outputs)):
        lines += _table(label, [(_end(port.name, 50), port.dtype, _shape(port)) for port in ports[:10]], "<<<")
        lines += _line("", f"and {len(ports) - 10:,} more: --json has all") if len(ports) > 10 else []
    lines += ["", *_parameters(one), *_values(one), *_operations(one), *_casts(one), *_largest(one), *_reasons(one)]
    for number, note in enumerate(account.notes):
        lines += ["", *_line("note", note)] if not number else _line("", note)
    return lines


def _parameters(one: Inspected) -> list[str]:
    rows: list[tuple[str, ...]] = [("", "tensors", "values", "MB")]
    roles = {"weight": "", "copy": "stored again", "unused": "not read", "optimizer": "optimizer", "state": "state"}
    groups = _roles(one.account.tensors)
    for role, word in roles.items():
        for dtype, sums in _sums(groups.get(role, [])).items():
            name = f"{dtype}, {word}" if word else dtype
            rows.append((name, f"{sums['tensors']:,}", f"{sums['count']:,}", _mb(sums["bytes"])))
    return _table("parameters", rows, "<>>>") if len(rows) > 1 else _line("parameters", "none")


def _values(one: Inspected) -> list[str]:
    values = one.account.values
    if values is None or not values.total:
        return []
    parts = ((values.subnormal, "subnormal"), (values.infinite, "INFINITE"), (values.nan, "NaN"))
    shares = ", ".join(f"{count:,} {word}" for count, word in parts if count) or "all normal or zero"
    unseen = values.total - values.checked
    return _line("float16", f"of the stored values: {shares}" + (f"; {unseen:,} were not looked at" if unseen else ""))


def _operations(one: Inspected) -> list[str]:
    looked = one.looked
    if not looked.operations:
        return []
    dtypes = _sorted({dtype for _, dtype in looked.operations})[:5]
    ops: Counter[str] = Counter()
    for (op, _), count in looked.operations.items():
        ops[op] += count
    rows = [("", *(dtype or "unknown" for dtype in dtypes))]
    for op, _ in sorted(ops.items(), key=lambda item: (-item[1], item[0]))[:_OPERATIONS]:
        counts = (looked.operations[op, dtype] for dtype in dtypes)
        rows.append((_cut(op, 32), *(f"{count:,}" if count else "" for count in counts)))
    if len(ops) > _OPERATIONS:
        rows.append((f"and {len(ops) - _OPERATIONS} kinds more", *("" for _ in dtypes)))
    return ["", *_table("operations", rows, "<" + ">" * len(dtypes))]


def _casts(one: Inspected) -> list[str]:
    casts = one.looked.casts
    if not casts:
        return []
    kinds = Counter((cast.source, cast.to) for cast in casts)
    text = ", ".join(f"{count:,} {source} -> {to}" for (source, to), count in kinds.most_common())
    exact, lossy = (sum(cast.undone and cast.exact is kind for cast in casts) for kind in (True, False))
    if exact:
        text += f"; of these {exact:,} only to turn back the one before: those pairs can go"
    if lossy:
        text += f"; of these {lossy:,} only to turn back the one before, which rounded to the narrower type"
    return ["", *_line("casts", text)]


def _largest(one: Inspected) -> list[str]:
    largest = sorted(one.account.weights(), key=lambda tensor: -tensor.bytes)[:_LARGEST]
    rows = [(_end(t.name, 44), t.dtype, "x".join(map(str, t.shape)) or "scalar", _mb(t.bytes)) for t in largest]
    return ["", *_table("largest", rows, "<<<>")] if rows else []


def _reasons(one: Inspected) -> list[str]:
    """What is not float16, a line or more each; of each, how much."""
    reasons = one.verdict.reasons
    if not reasons:
        return []
    width = max(len(reason.dtype) for reason in reasons[:REASONS])
    digits = max(len(f"{reason.count:,}") for reason in reasons[:REASONS])
    lines: list[str] = []
    for reason in reasons[:REASONS]:
        start = f"{reason.dtype:<{width}}  {reason.count:>{digits},}  "
        lines += textwrap.wrap(f"{start}{reason.what}: {reason.why}", WIDTH - LABEL, subsequent_indent=" " * len(start))
    if len(reasons) > REASONS:
        lines.append(f"and {len(reasons) - REASONS:,} more: --json has all")
    first, *rest = lines
    return ["", f"{'not float16':<{LABEL}}{first}", *(" " * LABEL + line for line in rest)]


def _shown(line: str) -> str:
    """A line as it may go to a terminal: a file's names are its maker's, and may hold what a terminal obeys."""
    return "".join(c if c.isprintable() else "?" for c in line).rstrip()


def _line(label: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, WIDTH - LABEL) or [""]
    return [f"{label if not number else '':<{LABEL}}{line}" for number, line in enumerate(wrapped)]


def _table(label: str, rows: Sequence[tuple[str, ...]], align: str) -> list[str]:
    """Rows under one label, in columns; ``align`` has ``<`` or ``>`` for each."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{a}{w}}" for cell, a, w in zip(row, align, widths, strict=True)) for row in rows]
    return [f"{label if not n else '':<{LABEL}}{_cut(line.rstrip(), WIDTH - LABEL)}" for n, line in enumerate(lines)]


def _shape(port: Port) -> str:
    if port.shape is None:
        return "of any rank" if port.dtype else ""
    return f"[{', '.join('?' if dim is None else str(dim) for dim in port.shape)}]"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.3f}"


def _end(name: str, length: int) -> str:
    return name if len(name) <= length else f"...{name[3 - length :]}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
