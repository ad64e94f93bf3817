"""What a person reads of an export: notes on its comparisons, and ``report.md`` beside the artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfhalf.artifacts.share import share_lines
from tfhalf.progress import size
from tfhalf.verify.compare import EDGE, INT8, SampleComparison
from tfhalf.verify.other_sizes import sizes_line
from tfhalf.verify.report import markdown
from tfhalf.verify.samples import basis

STILL = 1e-3
"""Outputs whose spread is less, relative to their scale, hardly depend on the inputs."""


def notes(manifest: Mapping[str, Any], comparisons: Sequence[SampleComparison]) -> list[str]:
    """How artifacts answer at other sizes, and what a comparison cannot tell."""
    flat = [output.name for output in (comparisons[0].outputs if comparisons else ()) if output.spread < STILL]
    sizes = sizes_line(_shapes_of(manifest["samples"].get("other_sizes") or ()), comparisons)
    return sizes + [
        f"{name} hardly changes from sample to sample, so its comparison says little; give real ones: --verify-with"
        for name in flat
    ]


def sweep_line(facts: Mapping[str, Any]) -> str:
    """`Sweep.to_dict` in one line."""
    beyond = f"; beyond, {facts['above']}" if facts["above"] else ""
    low, high = facts["down"], facts["up"]
    return f"float16 holds for 2^{low} to 2^{high} times those here, values up to {facts['up_to']:.3g}{beyond}"


def report(manifest: dict[str, Any], comparisons: Sequence[SampleComparison]) -> str:
    """``report.md``: what the artifact is, how it was made, how it compared."""
    source, samples, limits = manifest["source"], manifest["samples"], manifest["config"]["verify"]
    how = [f"- {name}: {text}" for name, text in samples.get("how", {}).items()]
    sweep = [f"Sizes of inputs {', '.join(s['inputs'])}: {sweep_line(s)}.", ""] if (s := samples.get("sweep")) else []
    ports = [f"- {p['name']}: {p['dtype']} {p['shape']}" for p in (*manifest["inputs"], *manifest["outputs"])]
    told = [f"- `{island['path']}`: {island['reason']}" for island in manifest["islands"]]
    kinds = [f"{row['count']:,} {dtype}" for dtype, row in manifest["parameters"].items()]
    text = [
        f"# {manifest['name']}",
        "",
        f"Made {manifest['created']} by tfhalf {manifest['versions'].get('tfhalf', '?')} from "
        f"{source.get('file') or source.get('reference')}: {source['class']}, {source['layers']} layers, saved in "
        f"{', '.join(source['policies'])}.",
        "",
        f"Parameters: {', '.join(kinds)}. Of those made float16 {manifest['cast']['clamped']} were clamped, "
        f"{manifest['cast']['flushed']} flushed to 0, {manifest['cast']['subnormal']} are subnormal.",
        "",
        *(f"{text[0].upper()}{text[1:]}.\n" for text in share_lines(manifest["parameters"])),
        "Inputs and outputs:",
        "",
        *ports,
        "",
        "## Layers in float32",
        "",
        *(told or ["None."]),
        "",
        "## Parity with the float32 model",
        "",
        f"{basis(samples)}. Differences are relative to an output's largest magnitude (the largest, at most "
        f"{limits['max_difference']:g}) and to its root mean square (the mean, at most {limits['mean_difference']:g}); "
        f"of edge rows they may be {EDGE:g} times as large, and no value may be lost that float32 gives."
        + (
            f" int8 may differ {INT8:g} times as much."
            if "litert-int8" in manifest["config"]["export"]["formats"]
            else ""
        ),
        "",
        *([*how, ""] if how else []),
        *sweep,
        *markdown(comparisons),
        "",
        *(f"- {note}" for note in notes(manifest, comparisons)),
        *(f"- {c.artifact}: {problem}" for c in comparisons for problem in c.problems),
        *(f"- {kind}: not written. {why}" for kind, why in manifest["refused"].items()),
        *(f"- {told}" for told in manifest.get("not_covered", ())),
        "",
        "## Files",
        "",
        "| file | size | sha256 |",
        "| --- | ---: | --- |",
        *(f"| {name} | {size(f['bytes'])} | `{f['sha256'][:16]}` |" for name, f in manifest["files"].items()),
        "",
    ]
    return "\n".join(text)


def _shapes_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Sequence[int]]]:
    """The shapes of a manifest's ``other_sizes`` by what the sizes are called."""
    return {row["size"]: row["shapes"] for row in rows}
