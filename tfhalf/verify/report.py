"""What a person reads: the table of comparisons, and ``report.md`` beside the artifacts."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.contents import contents
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.record import Artifact, Manifest, Sweep
from tfhalf.artifacts.reference import basis_line
from tfhalf.artifacts.share import share_lines
from tfhalf.progress import duration, size
from tfhalf.verify.compare import EDGE
from tfhalf.verify.other_sizes import sizes_line
from tfhalf.verify.scores import by_class

if TYPE_CHECKING:  # what an export is written with loads Keras, which a report does without
    from tfhalf.precision.cast import CastCounts

COLUMNS = {
    "artifact": "what was compared with the float32 model; 'first N' is N of the samples",
    "computed by": "the runtime that ran it, its version, and the device",
    "samples": "how many usual inputs both answered; edge rows are counted in the line on what the comparison rests on",
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

SCALED = ("mixed_float16", "float16")
"""The policies that have a loss scale, unless the manifest has none; of the others nothing is said."""
NOT_COVERED = "not covered"
"""The verdict where a second runtime does not open or run a file."""
STILL = 1e-3
"""Outputs whose spread is less, relative to their scale, hardly depend on the inputs."""


def table(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """The comparisons as text: the names of `COLUMNS` that have a cell in any row, behind ``accuracy`` the metrics of
    other tasks, and the rows.

    The float32 model has a row of its own where its accuracy or its metrics are known.
    """
    first_metrics = dict.fromkeys(name for c in comparisons for name in c.first_metrics)
    metrics = [name for name in first_metrics if name != "accuracy"][:METRICS]
    rows = [_cells(c) | {name: _number(c.metrics.get(name)) for name in metrics} for c in comparisons]
    first = next((c for c in comparisons if c.worst("reference_accuracy") is not None or c.reference_metrics), None)
    if first is not None:
        accuracy = _accuracy(first.worst("reference_accuracy"), first.reference_metrics)
        known = {"samples": f"{first.usual:,}", "accuracy": _percent(accuracy)}
        known |= {name: _number(first.reference_metrics.get(name)) for name in metrics}
        rows.insert(0, {"artifact": "float32 model", "computed by": "TensorFlow", **known})
    after = list(COLUMNS).index("accuracy") + 1
    columns = [*list(COLUMNS)[:after], *metrics, *list(COLUMNS)[after:]]
    names = [name for name in columns if any(row.get(name) for row in rows)]
    return names, [[row.get(name, "") for name in names] for row in rows]


def _accuracy(percent: float | None, metrics: Mapping[str, float]) -> float | None:
    """In percent, of items or, as a metric, of pixels or steps."""
    return 100 * metrics["accuracy"] if percent is None and "accuracy" in metrics else percent


METRICS = 3
"""Columns of metrics, at most."""
METRIC_WORDS = "of the samples, the task's metric of this name: shares from 0 to 1, errors in the targets' units"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.5g}"


def _cells(c: Comparison) -> dict[str, str]:
    """A row by column; of a model with several outputs the worst."""
    if c.not_covered:
        return {"artifact": c.artifact, "computed by": c.runtime, "time": duration(c.seconds), "": NOT_COVERED}
    edge = c.worst("edge_difference")
    return {
        "artifact": c.artifact,
        "computed by": c.runtime,
        "samples": f"{c.usual:,}",
        "accuracy": _percent(_accuracy(c.worst("accuracy"), c.metrics)),
        "agree": _percent(c.worst("agreement")),
        "max diff": f"{c.worst('max_difference') or 0.0:.1e}",
        "mean": f"{c.worst('mean_difference') or 0.0:.1e}",
        "edge": "" if edge is None else f"{edge:.1e}",
        "lost": f"{int((c.worst('non_finite') or 0) + (c.worst('edge_non_finite') or 0)):,}",
        "time": duration(c.seconds),
        "": "ok" if c.passed else "FAILS",
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


_LEFT = ("artifact", "computed by", "")  # columns of words; those of numbers are aligned at the right
_HEADS = {"accuracy": "acc. %", "max diff": "max"}  # where a terminal's width counts


def table_lines(comparisons: Sequence[Comparison]) -> list[str]:
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


def export_lines(counts: CastCounts, folded: Sequence[str], artifacts: Sequence[Artifact]) -> list[str]:
    """What became of the parameters, and the size of each artifact."""
    return [
        f"{counts.total:,} parameters in float16: {counts.clamped} clamped, {counts.flushed} flushed to 0, "
        f"{counts.subnormal} subnormal; {len(folded)} norms folded",
        *(f"{artifact.format}: {size(artifact.bytes)}{_batch(artifact)}" for artifact in artifacts),
    ]


def _batch(artifact: Artifact) -> str:
    return ", takes one sample at a time: its recurrent layers" if artifact.details.get("batch") == 1 else ""


def problems(comparisons: Sequence[Comparison]) -> str:
    """In one line, what falls short in which artifact."""
    return "; ".join(f"{c.artifact}: {', '.join(c.problems)}" for c in comparisons if c.problems)


def uncovered(comparisons: Sequence[Comparison]) -> list[str]:
    """A line for each comparison that a second runtime could not make."""
    return [f"{c.artifact} was not compared in {c.runtime}: {c.not_covered}" for c in comparisons if c.not_covered]


def notes(manifest: Manifest, comparisons: Sequence[Comparison]) -> list[str]:
    """How artifacts answer at other sizes, and what a comparison cannot tell."""
    sizes = sizes_line({row.size: row.shapes for row in manifest.reference.other_sizes}, comparisons)
    known = comparisons[0].outputs if comparisons and manifest.data is None else ()  # a test set is real
    return sizes + [
        f"{output.name} hardly changes from sample to sample, so its comparison says little; give real ones: "
        "--verify-with"
        for output in known
        if output.spread < STILL
    ]


def sweep_line(sweep: Sweep) -> str:
    """Up to which size of inputs float16 holds, in one line."""
    beyond = f"; beyond, {sweep.above}" if sweep.above else ""
    powers = f"2^{sweep.down} to 2^{sweep.up}"
    return f"float16 holds for {powers} times those here, values up to {sweep.up_to:.3g}{beyond}"


def report(manifest: Manifest, comparisons: Sequence[Comparison], lookups: Lookups | None = None) -> str:
    """``report.md``: what the version is, how it was made, how it compared."""
    lines = [
        f"# {manifest.name}",
        "",
        *_paragraphs(_origin(manifest)),
        *_paragraphs(_warnings(manifest)),
        *_paragraphs(_training(manifest)),
        *_paragraphs(_numbers(manifest)),
        "Inputs and outputs" + (", raw values as in the source; preprocessing is inside:" if manifest.data else ":"),
        "",
        *(f"- {port.name}: {port.dtype} {port.dims()}" for port in (*manifest.inputs, *manifest.outputs)),
        "",
        *_listed(
            (f"{what}: {line}" for what, lines in contents(manifest, lookups or Lookups()).items() for line in lines),
            none="",
        ),
        "## Layers in float32",
        "",
        *_listed(f"`{island.path}`: {island.reason}" for island in manifest.islands),
        "## Parity with the float32 model",
        "",
        f"{_sentence(basis_line(manifest.reference))} {_limits(manifest)}",
        "",
        *_listed((f"{name}: {text}" for name, text in manifest.reference.how.items()), none=""),
        *_paragraphs(
            [f"Sizes of inputs {', '.join(s.inputs)}: {sweep_line(s)}."] if (s := manifest.reference.sweep) else []
        ),
        *markdown(*table(comparisons)),
        "",
        *_listed((*notes(manifest, comparisons), *manifest.not_covered), none=""),
        *_listed((f"{kind}: not written. {why}" for kind, why in manifest.refused.items()), none=""),
        *_paragraphs(["Falls short:"] if problems(comparisons) else []),
        *_listed((f"{c.artifact}: {problem}" for c in comparisons for problem in c.problems), none=""),
        *_per_class(manifest.labels, comparisons),
        "## Files",
        "",
        "| file | size | sha256 |",
        "| --- | ---: | --- |",
        *(f"| {name} | {size(file.bytes)} | `{file.sha256[:16]}` |" for name, file in manifest.files.items()),
        "",
    ]
    return "\n".join(lines)


def markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table for ``report.md``."""
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in (text, "")]


def _listed(texts: Iterable[str], none: str = "None.") -> list[str]:
    rows = [f"- {text}" for text in texts]
    return [*rows, ""] if rows else _paragraphs([none] if none else [])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _origin(manifest: Manifest) -> list[str]:
    text = f"Made {manifest.created} by tfhalf {manifest.versions.get('tfhalf', '?')}"
    if manifest.hardware:
        text += f" on {manifest.hardware.get('device', '?')}"
    if source := manifest.source:
        policies = ", ".join(map(str, source.get("policies", ())))
        text += f" from {source.get('file') or source.get('reference')}: {source.get('class')}, "
        text += f"{source.get('layers')} layers, saved in {policies}"
    return [f"{text}."]


def _warnings(manifest: Manifest) -> list[str]:
    """What whoever reads no further must know."""
    said = ["**Smoke run**: trained for two steps, to try the way; not to be used."] if manifest.smoke else []
    chance = manifest.training.chance if manifest.training else None
    if chance is not None and manifest.training is not None and not chance.better:
        accuracy = manifest.training.test_accuracy
        said.append(
            f"**Chance level**: no better than always answering {chance.label} (p = {chance.p_value:.2g})."
            if chance.share is None or accuracy is None
            else f"**Chance level**: {accuracy * 100:.2f} % is no better than always answering {chance.label!r} "
            f"({chance.share * 100:.2f} % of the test set, p = {chance.p_value:.2g})."
        )
    return said


def _training(manifest: Manifest) -> list[str]:
    said = []
    if data := manifest.data:
        counts = {**(data.sizes.model_extra or {}), "test": data.sizes.test}
        items = data.noun or ("images" if any(len(port.shape) == 4 for port in manifest.inputs) else "items")
        classes = f", {len(manifest.labels)} classes" if manifest.labels else ""
        parts = ", ".join(f"{count:,} {part}" for part, count in counts.items() if isinstance(count, int))
        said.append(f"Data: {data.source}: {parts} {items}{classes}.")
    if training := manifest.training:
        seconds = training.seconds
        text = (
            f"Training: {training.epochs} epochs in `{training.policy}`, seed {manifest.seed}, "
            f"{duration(seconds.get('train', 0.0))} (compilation {duration(seconds.get('compile', 0.0))})"
        )
        if training.policy in SCALED and training.loss_scale is not None:
            text += f", final loss scale {training.loss_scale:,.0f}, {training.skipped} skipped steps"
        said.append(f"{text}.")
    return said


def _numbers(manifest: Manifest) -> list[str]:
    counts = ", ".join(f"{row.count:,} {dtype}" for dtype, row in manifest.parameters.items())
    said = [f"Parameters: {counts}."] if counts else []
    if cast := manifest.cast:
        said[-1:] = [
            f"{said[-1] if said else 'Parameters:'} Of those made float16 {cast.clamped} were clamped, {cast.flushed} "
            f"flushed to 0, {cast.subnormal} are subnormal."
        ]
    return [*said, *map(_sentence, share_lines(manifest.parameters))]


def _limits(manifest: Manifest) -> str:
    """What the artifacts are held to, in a sentence or three."""
    limits, said = manifest.limits, []
    if limits.max_difference is not None and limits.mean_difference is not None:
        said.append(
            "Differences are relative to an output's largest magnitude (the largest, at most "
            f"{limits.max_difference:g}) and to its root mean square (the mean, at most {limits.mean_difference:g}); "
            f"of edge rows they may be {EDGE:g} times as large, and no value may be lost that float32 gives."
        )
    if manifest.class_output is not None:
        text = f"At least {limits.min_agreement:g} % have to have the float32 model's top class"
        drop = limits.max_accuracy_drop
        said.append(text + ("." if drop is None else f", and accuracy may be {drop:g} points lower."))
    loose = {one.numbers.name: one.numbers.tolerance for one in manifest.formats if one.numbers.tolerance != 1}
    said += [f"{name} may differ {times:g} times as much." for name, times in loose.items()]
    return " ".join(said)


def _per_class(labels: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    """The recall of each class, where the samples' labels are known."""
    known = [c for c in comparisons if c.confusion]
    if not known or not labels:
        return []
    recalls = [by_class(c.confusion, len(labels)).recall for c in known]
    rows = (
        [label, *("-" if share is None else f"{100 * share:.2f} %" for share in shares)]
        for label, *shares in zip(labels, *recalls, strict=True)
    )
    names = ["class", *(c.artifact for c in known)]
    return ["## Accuracy per class", "", *markdown(names, rows), ""]
