"""The table of `ten_nets.py`: a row for each net, and geometric means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ten_nets_list import Net

_GIB = 2**30
_COLUMNS = (
    "net",
    "batch",
    "tfhalf",
    "PyTorch, best mode",
    "tfhalf over it",
    "over the best with a CUDA graph",
    "peak memory, GiB",
    "over PyTorch's",
    "first compilation, s",
    "over `torch.compile` default's",
    "",
)
_MEANS = ("ratio", "memory_ratio", "compile_ratio")


def rows(nets: Sequence[Net], measured: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row per net, and of each ratio the geometric mean over the nets that have one: ``{name: {mean, nets}}``.

    Args:
        measured: by net ``{"rows": {side: row}}``; sides are tfhalf and PyTorch's modes.
    """
    table = [_row(net, measured.get(net.name, {}).get("rows", {})) for net in nets]
    means = {}
    for name in _MEANS:
        ratios = [row[name] for row in table if row.get(name)]
        if ratios:
            means[name] = {"mean": math.exp(sum(map(math.log, ratios)) / len(ratios)), "nets": len(ratios)}
    return table, means


def _row(net: Net, sides: Mapping[str, Any]) -> dict[str, Any]:
    ours = sides.get("tfhalf", {})
    modes = {mode: row for mode, row in sides.items() if mode != "tfhalf"}
    good = {mode: row for mode, row in modes.items() if _counts(row)}
    notes = [f"tfhalf: {ours['trouble']}"] if ours.get("trouble") else []
    notes += [f"{mode}: {row['trouble']}" for mode, row in modes.items() if row.get("trouble")]
    row: dict[str, Any] = {"net": net.name, "title": net.title, "batch": net.batch, "unit": net.unit}
    if _counts(ours):
        row |= {"tfhalf": _rate(net, ours), "tfhalf_memory": ours["memory_bytes"], "tfhalf_compile": ours["compile_s"]}
        if ours.get("from_cache"):
            notes.append("tfhalf's program was compiled before")
        if ours.get("skipped"):
            notes.append(f"tfhalf skipped {ours['skipped']} of {ours['steps']} steps")
    if good:
        mode = max(good, key=lambda one: _rate(net, good[one]))
        best = good[mode]
        row |= {"mode": mode, "pytorch": _rate(net, best), "pytorch_memory": best["memory_bytes"]}
        row["graph"] = max((_rate(net, one) for name, one in good.items() if name.endswith("+graph")), default=None)
    if "default" in good:
        row["pytorch_compile"] = good["default"]["compile_s"]
    different = _different(net, ours, good)
    if different:
        notes.append(different)
    else:
        row["ratio"] = _over(row, "tfhalf", "pytorch")
        row["graph_ratio"] = _over(row, "tfhalf", "graph")
        row["memory_ratio"] = _over(row, "tfhalf_memory", "pytorch_memory")
        row["compile_ratio"] = _over(row, "tfhalf_compile", "pytorch_compile")
    row["note"] = "; ".join(notes) if sides else "not measured"
    return row


def _counts(row: Mapping[str, Any]) -> bool:
    return "images_per_s" in row and not row.get("trouble")


def _rate(net: Net, row: Mapping[str, Any]) -> float:
    """Images or tokens per second; rows count items."""
    return row["images_per_s"]["median"] * net.each


def _over(row: Mapping[str, Any], ours: str, theirs: str) -> float | None:
    return row[ours] / row[theirs] if row.get(ours) and row.get(theirs) else None


def _different(net: Net, ours: Mapping[str, Any], good: Mapping[str, Any]) -> str:
    """Why the two sides cannot be compared: they did not train one net. Empty where they can."""
    counts = {mode: row["parameters"] for mode, row in good.items()}
    if _counts(ours):
        counts["tfhalf"] = ours["parameters"] - net.fixed
    expected = {net.parameters} if net.parameters else set()
    if len({*counts.values(), *expected}) < 2:
        return ""
    return f"{', '.join(f'{side} {count:,}' for side, count in counts.items())} parameters, {net.parameters:,} expected"


def markdown(report: Mapping[str, Any]) -> str:
    """The table, its means, and the machines that the rows are of."""
    lines = []
    for name, machine in report["machines"].items():
        gpu, versions = machine["gpu"], dict(machine["versions"])
        device = f"{gpu['name']}, driver {gpu['driver']}" if gpu else f"no GPU: {machine['host']['processor']}"
        of = [net for net, one in report["nets"].items() if one["machine"] == name and one["rows"]]
        for net in of:  # of the Python that has TensorFlow, which may be another one
            theirs = report["nets"][net]["rows"].get("tfhalf", {}).get("versions", {})
            versions |= {package: theirs[package] for package in ("tfhalf", "tensorflow", "keras") if package in theirs}
        packages = ", ".join(f"{package} {version}" for package, version in versions.items())
        if of:
            lines += [f"- {machine['date']}: {device}; {machine['host']['cpus']} CPUs; {packages}: {', '.join(of)}"]
    lines += ["", f"| {' | '.join(_COLUMNS)} |", f"|{' --- |' * len(_COLUMNS)}"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report["table"]]
    means = report["means"]
    words = {
        "ratio": "speed over PyTorch's best mode",
        "memory_ratio": "peak memory over PyTorch's",
        "compile_ratio": "first compilation over `torch.compile` default's",
    }
    lines.append("")
    for name, one in means.items():
        lines.append(
            f"- {words[name]}, geometric mean of {one['nets']} of {len(report['table'])} nets: {one['mean']:.3f}"
        )
    resnet = next((row for row in report["table"] if row["net"] == "resnet50"), {})
    if resnet.get("graph_ratio"):
        lines.append(f"- ResNet-50 over PyTorch with a CUDA graph: {resnet['graph_ratio']:.3f}")
    return "\n".join(lines).strip()


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    unit = row["unit"]
    theirs = f"{row['pytorch']:,.0f} {unit}/s ({row['mode']})" if "pytorch" in row else ""
    return (
        row["title"],
        str(row["batch"]),
        f"{row['tfhalf']:,.0f} {unit}/s" if "tfhalf" in row else "",
        theirs,
        _times(row.get("ratio")),
        _times(row.get("graph_ratio")),
        _both(row, "tfhalf_memory", "pytorch_memory", _GIB),
        _times(row.get("memory_ratio")),
        _both(row, "tfhalf_compile", "pytorch_compile", 1),
        _times(row.get("compile_ratio")),
        row["note"].replace("|", "/"),
    )


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def _both(row: Mapping[str, Any], ours: str, theirs: str, one: float) -> str:
    figures = [f"{row[name] / one:.1f}" if row.get(name) else "-" for name in (ours, theirs)]
    return " / ".join(figures) if figures != ["-", "-"] else ""
