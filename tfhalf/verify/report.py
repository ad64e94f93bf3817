"""What a person reads: the table of comparisons, and ``report.md`` beside the artifacts."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfhalf.artifacts.artifact import Artifact
from tfhalf.artifacts.share import share_lines
from tfhalf.progress import duration, size
from tfhalf.verify.compare import SampleComparison
from tfhalf.verify.test_set import Comparison

if TYPE_CHECKING:  # what an export is written with loads Keras, which a report does without
    from tfhalf.precision.cast import CastCounts

COLUMNS = {
    "artifact": "what was compared with the float32 model; 'first N' is N of the samples",
    "computed by": "the runtime that ran it, its version, and the device",
    "samples": "how many inputs both answered",
    "accuracy": "of the samples, how many have the right class",
    "agree": "of the samples, how many have the float32 model's top class",
    "max diff": "the largest difference from the float32 model's answers: of probabilities, or of any other output "
    "relative to its largest magnitude",
    "mean": "the mean difference: of probabilities, or of any other output relative to its root mean square",
    "edge": "the largest difference at edge rows (zeros, constants, padding, the ends of a range): of probabilities, "
    "or relative to the row's own magnitude or the output's; they are compared apart, and may differ more",
    "lost": "values that are not finite here, and are in float32, those at edge rows too",
    "time": "how long it ran, beside the others",
    "": "whether every limit holds; 'not covered' where a second runtime does not open or run the file",
}
"""The columns of the table of comparisons, and what each says."""


SCALED = "mixed_float16"
"""The policy that has a loss scale; of one without it nothing is said."""
NOT_COVERED = "not covered"
"""The verdict where a second runtime does not open or run a file."""


def table(comparisons: Sequence[Comparison] | Sequence[SampleComparison]) -> tuple[list[str], list[list[str]]]:
    """The comparisons as text: the names of `COLUMNS` that have a cell in any row, and the rows.

    The float32 model has a row of its own where its accuracy is known.
    """
    rows = [_cells(c) for c in comparisons]
    first = comparisons[0] if comparisons else None
    if isinstance(first, Comparison):
        known = {"samples": f"{first.images:,}", "accuracy": f"{first.reference_accuracy:.2f} %"}
        rows.insert(0, {"artifact": "float32 model", "computed by": "TensorFlow", **known})
    names = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    return names, [[row.get(name, "") for name in names] for row in rows]


def _cells(c: Comparison | SampleComparison) -> dict[str, str]:
    """A row by column; of a model with several outputs the worst."""
    if c.not_covered:
        return {"artifact": c.artifact, "computed by": c.runtime, "time": duration(c.seconds), "": NOT_COVERED}
    agreement: float | None
    if isinstance(c, Comparison):
        samples, largest, mean, agreement = c.images, c.max_difference, c.mean_difference, c.agreement
        edge, lost = c.edge_difference, c.non_finite + c.edge_non_finite
    else:
        samples, agreement, edge = c.samples, c.worst("agreement"), c.worst("edge_difference")
        largest, mean = c.worst("max_difference") or 0.0, c.worst("mean_difference") or 0.0
        lost = int((c.worst("non_finite") or 0) + (c.worst("edge_non_finite") or 0))
    return {
        "artifact": c.artifact,
        "computed by": c.runtime,
        "samples": f"{samples:,}",
        "accuracy": f"{c.accuracy:.2f} %" if isinstance(c, Comparison) else "",
        "agree": "" if agreement is None else f"{agreement:.2f} %",
        "max diff": f"{largest:.1e}",
        "mean": f"{mean:.1e}",
        "edge": "" if edge is None else f"{edge:.1e}",
        "lost": f"{lost:,}",
        "time": duration(c.seconds),
        "": "ok" if c.passed else "FAILS",
    }


_LEFT = ("artifact", "computed by", "")  # columns of words; those of numbers are aligned at the right


_HEADS = {"accuracy": "acc. %", "max diff": "max"}  # where a terminal's width counts


def table_lines(comparisons: Sequence[Comparison] | Sequence[SampleComparison]) -> list[str]:
    """`table` under its header, as `train`, `export` and `verify` print it: a line for each row, which a program may
    search, of at most 110 columns where nothing is longer than usual."""
    names, rows = table(comparisons)
    laid_out = Table(box=None, pad_edge=False)
    for name in names:
        laid_out.add_column(_HEADS.get(name, name), justify="left" if name in _LEFT else "right", no_wrap=True)
    for row in rows:
        laid_out.add_row(
            *(Text(cell if name in _LEFT else _short(cell)) for name, cell in zip(names, row, strict=True))
        )
    text = io.StringIO()
    Console(file=text, width=1000, color_system=None, force_terminal=False).print(laid_out)
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]


def _short(number: str) -> str:
    """Without the sign of a percentage and the zero of an exponent."""
    return re.sub(r"e([+-])0(?=\d$)", r"e\1", number.removesuffix(" %"))


def markdown(comparisons: Sequence[Comparison] | Sequence[SampleComparison]) -> list[str]:
    """`table` for ``report.md``."""
    names, rows = table(comparisons)
    return [_row(names), "|" + " --- |" * len(names), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


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


def uncovered(comparisons: Sequence[Comparison] | Sequence[SampleComparison]) -> list[str]:
    """A line for each comparison that a second runtime could not make."""
    return [f"{c.artifact} was not compared in {c.runtime}: {c.not_covered}" for c in comparisons if c.not_covered]


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
        f"{duration(training['seconds']['train'])} (compilation {duration(training['seconds']['compile'])})"
        + (
            f", final loss scale {training['loss_scale']:,.0f}, {training['skipped']} skipped steps."
            if training["policy"] == SCALED
            else "."
        ),
        "",
        *(f"{text[0].upper()}{text[1:]}.\n" for text in share_lines(manifest["parameters"])),
        *_islands(manifest),
        "## Parity with the float32 model",
        "",
        *markdown(comparisons),
        "",
        *(f"- {told}" for told in manifest.get("not_covered", ())),
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


def _islands(manifest: dict[str, Any]) -> list[str]:
    """The layers that the artifacts needed in float32 beside those of the pipeline."""
    rows = [f"- `{island['path']}`: {island['reason']}" for island in manifest.get("islands", ())]
    return ["In float32 beside what the pipeline keeps so:", "", *rows, ""] if rows else []


def _problems(comparisons: Sequence[Comparison]) -> list[str]:
    lines = [f"- {c.artifact}: {problem}" for c in comparisons for problem in c.problems]
    return ["Falls short:", "", *lines, ""] if lines else []


def _per_class(labels: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    rows = []
    for k, label in enumerate(labels):
        values = [c.per_class_accuracy[k] for c in comparisons]
        rows.append(f"| {label} | " + " | ".join("-" if v is None else f"{v:.2f} %" for v in values) + " |")
    return rows
