"""What the commands of `side_by_side.py` found, as rows of one table."""

from __future__ import annotations

from typing import Any

_COLUMNS = ("row", "", "median/mean", "lowest", "highest", "spread", "x PyTorch", "accuracy", "took", "")


def rows(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per figure, with ``ratio`` to PyTorch's of the same net and precision where there is one."""
    table = [row for job in jobs for row in _rows(job)]
    bases: dict[tuple[Any, ...], float] = {}
    for row in table:
        # The first one of each: float16, and the fastest mode that trains.
        if row["name"].split("/")[-1].startswith("pytorch") and "value" in row and not row["note"]:
            bases.setdefault(_key(row), row["value"])
    for row in table:
        base = bases.get(_key(row))
        if base and "value" in row and not row["note"]:
            row["ratio"] = base / row["value"] if row["unit"] == "s" else row["value"] / base
    return table


def table(report: dict[str, Any]) -> str:
    """The aligned table, and what it was measured on."""
    gpu, host, versions = report["gpu"], report["host"], report["versions"]
    device = f"{gpu['name']}, driver {gpu['driver']}" if gpu else f"no GPU: {host['processor']}"
    lines = [
        f"{report['date']}  {device}; {host['cpus']} CPUs",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
    ]
    cells = [_COLUMNS, *(_cells(row) for row in report["table"])]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    left = (0, 1, len(_COLUMNS) - 1)
    for line in cells:
        parts = [f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["net"], row["unit"], row["precision"]


def _rows(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one command: `tfhalf bench` has one per policy, every other command one."""
    result, trouble = job.get("found"), job.get("trouble", "")
    if not job["net"] and not trouble:
        return []
    base = {"name": job["name"], "net": job["net"], "took": job.get("seconds"), "note": trouble}
    if not result:
        return [{**base, "unit": "", "precision": "", "note": trouble or "printed no JSON"}]
    if "policies" in result:
        policies = [_row({**base, "note": ""}, one) for one in result["policies"]]
        return [*policies, *(_failure(base, one) for one in result.get("failed", []))]
    return [_row({**base, "note": result.get("trouble") or trouble}, result)]


def _failure(base: dict[str, Any], failed: dict[str, str]) -> dict[str, Any]:
    return {**base, "unit": "", "precision": failed.get("name", ""), "note": failed.get("error", "failed")}


def _row(base: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    row = {**base, "precision": str(result.get("policy", "float16")).removeprefix("mixed_"), "mode": result.get("mode")}
    unit = "s" if "seconds" in result else "images/s"
    figure = result.get("seconds") if unit == "s" else result.get("images_per_s")
    row["unit"] = unit
    if isinstance(figure, dict):
        middle = figure.get("mean", figure.get("median"))
        row |= {"value": middle, "low": figure.get("min"), "high": figure.get("max")}
    elif figure is not None:
        row["value"] = float(figure)
    accuracy = result.get("accuracy")
    if isinstance(accuracy, list) and accuracy:
        accuracy = accuracy[0]
    row["accuracy"] = accuracy.get("mean") if isinstance(accuracy, dict) else accuracy
    if result.get("skipped"):
        row["mode"] = f"{row['mode'] or ''} {result['skipped']} steps skipped".strip()
    return row


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    value, low, high = row.get("value"), row.get("low"), row.get("high")
    spread = f"{(high - low) / value * 100:.1f} %" if value and low is not None and high is not None else ""
    accuracy = row.get("accuracy")
    if accuracy is not None:
        accuracy = accuracy if accuracy > 1 else accuracy * 100
    what = f"{row['unit']} {row['precision']}".strip()
    return (
        row["name"],
        what,
        *(_number(figure, row["unit"]) for figure in (value, low, high)),
        spread,
        f"{row['ratio']:.3f}" if "ratio" in row else "",
        f"{accuracy:.2f} %" if accuracy is not None else "",
        f"{row['took']:.0f} s" if row.get("took") else "",
        row["note"] or row.get("mode") or "",
    )


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if unit == "s" else f"{value:,.0f}"
