"""What a person reads: the parity table, and ``report.md`` beside the artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tfhalf.parity import SampleComparison
from tfhalf.progress import duration, size
from tfhalf.verify import Comparison

if TYPE_CHECKING:  # what an export is written with loads Keras, which a report does without
    from tfhalf.export.artifacts import Artifact
    from tfhalf.precision.float16 import CastCounts

_COLUMNS = (
    "artifact",
    "computed by",
    "images",
    "accuracy",
    "agreement",
    "max diff",
    "mean diff",
    "non-finite",
    "time",
    "",
)


def parity_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """One row of text per artifact, the float32 model first."""
    rows = []
    if comparisons:
        first = comparisons[0]
        rows.append(
            ("float32 model", "TensorFlow", f"{first.images:,}", f"{first.reference_accuracy:.2f} %", *[""] * 6)
        )
    for c in comparisons:
        rows.append(
            (
                c.artifact,
                c.runtime,
                f"{c.images:,}",
                f"{c.accuracy:.2f} %",
                f"{c.agreement:.2f} %",
                f"{c.max_difference:.1e}",
                f"{c.mean_difference:.1e}",
                str(c.non_finite),
                duration(c.seconds),
                "ok" if c.passed else "FAILS",
            )
        )
    return rows


SAMPLE_COLUMNS = ("artifact", "computed by", "samples", "max diff", "mean diff", "agreement", "non-finite", "time", "")


def sample_cells(c: SampleComparison) -> tuple[str, ...]:
    """One row: the worst of the outputs; differences are relative to an output's scale."""
    agreement = c.worst("agreement")
    return (
        c.artifact,
        c.runtime,
        f"{c.samples:,}",
        f"{c.worst('max_difference'):.1e}",
        f"{c.worst('mean_difference'):.1e}",
        "-" if agreement is None else f"{agreement:.2f} %",
        f"{c.worst('non_finite'):.0f}",
        duration(c.seconds),
        "ok" if c.passed else "FAILS",
    )


def parity_table(comparisons: Sequence[Comparison] | Sequence[SampleComparison]) -> Table:
    """The table for a terminal, of a pipeline's export or of a model's."""
    samples = [c for c in comparisons if isinstance(c, SampleComparison)]
    columns = SAMPLE_COLUMNS if samples else _COLUMNS
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < 2 or i == len(columns) - 1 else "right", no_wrap=i != 1)
    images = [c for c in comparisons if isinstance(c, Comparison)]
    for row in [sample_cells(c) for c in samples] or parity_rows(images):
        table.add_row(*row)
    return table


def export_lines(counts: CastCounts, folded: Sequence[str], artifacts: Sequence[Artifact]) -> list[str]:
    """What became of the parameters, and the size of each artifact."""
    return [
        f"{counts.total:,} parameters in float16: {counts.clamped} clamped, {counts.flushed} flushed to 0, "
        f"{counts.subnormal} subnormal; {len(folded)} norms folded",
        *(f"{artifact.format}: {size(artifact.bytes)}{_batch(artifact)}" for artifact in artifacts),
    ]


def _batch(artifact: Artifact) -> str:
    return ", takes one sample at a time: its recurrent layers" if artifact.details.get("batch") == 1 else ""


def problems(comparisons: Sequence[Comparison] | Sequence[SampleComparison]) -> str:
    """In one line, what falls short in which artifact."""
    return "; ".join(f"{c.artifact}: {', '.join(c.problems)}" for c in comparisons if c.problems)


def report(manifest: dict[str, Any], comparisons: Sequence[Comparison]) -> str:
    """``report.md``: what the artifact is, how it was made, how it compared."""
    training, data = manifest["training"], manifest["data"]
    sizes = manifest["data"]["sizes"]
    lines = [
        f"# {manifest['name']}",
        "",
        f"Made {manifest['created']} by tfhalf {manifest['versions'].get('tfhalf', '?')} on "
        f"{manifest['hardware']['device']}.",
        "",
        *_warnings(manifest),
        f"Data: {data['source']}, {sizes['train']:,} training, {sizes['validation']:,} validation and "
        f"{sizes['test']:,} test images, {len(manifest['labels'])} classes.",
        f"Training: {training['epochs']} epochs in `{training['policy']}`, seed {manifest['seed']}, "
        f"{duration(training['seconds']['train'])} (compilation {duration(training['seconds']['compile'])}), "
        f"final loss scale {training['loss_scale']:,.0f}, {training['skipped']} skipped steps.",
        "",
        "## Parity with the float32 model",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|" + " --- |" * len(_COLUMNS),
        *("| " + " | ".join(row) + " |" for row in parity_rows(comparisons)),
        "",
        *_problems(comparisons),
        "## Accuracy per class",
        "",
        "| class | " + " | ".join(c.artifact for c in comparisons) + " |",
        "|" + " --- |" * (len(comparisons) + 1),
        *_per_class(manifest["labels"], comparisons),
        "",
        "## Files",
        "",
        "| file | size | sha256 |",
        "| --- | ---: | --- |",
        *(f"| {name} | {size(f['bytes'])} | `{f['sha256'][:16]}` |" for name, f in manifest["files"].items()),
        "",
        "Input `image`: float32 [batch, "
        + ", ".join(map(str, manifest["input"]["shape"][1:]))
        + "], raw values as in the "
        "source; preprocessing is inside. Outputs `logits` and `probabilities`: float32.",
        "",
    ]
    return "\n".join(lines)


def _warnings(manifest: dict[str, Any]) -> list[str]:
    """What whoever reads no further must know."""
    chance = manifest["training"].get("chance") or {}
    said = ["**Smoke run**: trained for two steps, to try the way; not to be used."] if manifest.get("smoke") else []
    if chance and not chance["better"]:
        said.append(
            f"**Chance level**: {manifest['training']['test_accuracy'] * 100:.2f} % is no better than always answering "
            f"{chance['label']!r} ({chance['share'] * 100:.2f} % of the test set, p = {chance['p_value']:.2g})."
        )
    return [line for text in said for line in (text, "")]


def _problems(comparisons: Sequence[Comparison]) -> list[str]:
    lines = [f"- {c.artifact}: {problem}" for c in comparisons for problem in c.problems]
    return ["Falls short:", "", *lines, ""] if lines else []


def _per_class(labels: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    rows = []
    for k, label in enumerate(labels):
        values = [c.per_class_accuracy[k] for c in comparisons]
        rows.append(f"| {label} | " + " | ".join("-" if v is None else f"{v:.2f} %" for v in values) + " |")
    return rows
