"""What a person reads of a benchmark: a few lines, and a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tfhalf.bench.results import Inference, InferenceBench, Training, TrainingBench, row_name
from tfhalf.bench.runtimes import RUNTIMES
from tfhalf.progress import Progress, duration, size
from tfhalf.system.programs import origin_words

_TRAINING = (
    *("slowest", "fastest", "spread", "steps/s", "x float32", "compile", "peak memory"),
    *("GFLOP/step", "matrix TFLOP/s", "MFU"),
)  # behind the policy and its rate
_APART = ("feed alone/s", "step alone/s", "waited")  # behind the rate, where they were measured
_WAIT = 0.01  # share of the time, from which on it is worth a line
_INFERENCE = ("runtime", "batch", "p50 ms", "p99 ms", "samples/s", "calls", "warm-up ms")
_PACKAGES = ("tensorflow", "keras", "onnxruntime", "ai-edge-litert", "openvino", "python")


def _input(row: Training) -> str:
    return f"input {row.input_shape}" if row.input_shape else "several inputs"


def heading(bench: TrainingBench | InferenceBench) -> list[str]:
    """One line per fact that all rows share, its name first."""
    if isinstance(bench, InferenceBench):
        lines = [f"export     {bench.version}: {inputs_of(bench)}; one call at a time"]
        return [*lines, *_devices(bench), _versions(bench.versions)]
    row = bench.rows[0]
    repeats = bench.settings["repeats"]
    times = f"{repeats} repeat{'s' if repeats != 1 else ''} of about {duration(bench.settings['seconds'])}"
    lines = [
        f"pipeline   {bench.pipeline}: {row.model}, {row.parameters:,} parameters, {_input(row)}",
        f"data       {row.source}: {row.images:,} training {row.noun}, {size(row.image_bytes)}, {_normalised(row)}",
        f"device     {row.device}",
        _versions(bench.versions),
        f"batch      {'each its own, of' if bench.batches else row.batch_size} {row.noun}; {times} after warming up"
        + (", augmentation included" if row.noun == "images" else ""),
        f"feed       {row.feed}",
        f"xla        {row.xla}",
        f"memory     {row.memory_of}",
        "matrix     best rate of square products, of which MFU is the share: "
        + ", ".join(dict.fromkeys(other.matrix for other in bench.rows)),
    ]
    if left_out := bench.settings.get("sizes_left_out"):
        lines.append(f"sizes      images as large as they are: train.sizes, {left_out}, is left out")
    if any(other.emulated for other in bench.rows):
        lines.append("           this CPU has no float16 arithmetic: mixed_float16 is emulated, and so is slow")
    return lines


def inputs_of(bench: InferenceBench) -> str:
    """The inputs of an export and their shapes, without the batch."""
    return "input " + ", ".join(f"{name} {list(shape)}" for name, shape in bench.inputs.items())


def _devices(bench: InferenceBench) -> list[str]:
    """A line per device, with its runtimes where there are several devices."""
    names: dict[str, list[str]] = {}
    for row in bench.rows:
        if row.cells:
            names.setdefault(row.device, []).append(RUNTIMES[row.runtime][0])
    if len(names) == 1:
        return [f"device     {next(iter(names))}"]
    return [f"{'' if i else 'device':<10} {device}: {'; '.join(names[device])}" for i, device in enumerate(names)]


def _normalised(row: Training) -> str:
    if not row.normalised_by:
        return "taken as they are"
    whole = row.normalised_by == row.images
    return "normalised by all of them" if whole else f"normalised by {row.normalised_by:,} of them"


def _versions(versions: dict[str, str]) -> str:
    return "versions   " + ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if name in versions)


def table(bench: TrainingBench | InferenceBench) -> Table:
    """One row per policy, or per runtime and batch size."""
    if isinstance(bench, InferenceBench):
        return _inference(bench)
    batch = ("batch",) if bench.batches else ()
    grid = _empty(("policy", *batch, f"{bench.rows[0].noun}/s", *(_APART if bench.apart else ()), *_TRAINING))
    for row in bench.rows:
        own = (f"{row.batch_size:,}",) if bench.batches else ()
        grid.add_row(row.policy, *own, number(row.images_per_s), *(_apart(row) if bench.apart else ()),
                     *_training_row(row, bench.ratio(row)))  # fmt: skip
    return grid


def show(bench: TrainingBench | InferenceBench, progress: Progress) -> None:
    """Print the table, and through ``progress`` what stands above and below it.

    Where a terminal is too narrow, lines wrap, but no figure is cut short.
    """
    for line in [*heading(bench), ""]:
        progress.line(line)
    grid = table(bench)
    needed = Console(width=1000).measure(grid).maximum
    Console(width=max(Console().width, needed)).print(grid)
    for line in notes(bench):
        progress.line(line)


def notes(bench: TrainingBench | InferenceBench) -> list[str]:
    """What the table cannot say, a line each."""
    if isinstance(bench, InferenceBench):
        return [f"{RUNTIMES[row.runtime][0]}: {row.note}" for row in bench.rows if row.note]
    lines = [_largest(bench, policy, batch) for policy, batch in (bench.largest or {}).items()]
    for row in bench.rows:
        name = row_name(row.policy, row.batch_size if bench.batches else 0)
        if row.remat:
            lines.append(f"{name}: remat: {row.remat}")
        if row.from_cache is not None:
            lines.append(f"{name}: compiled in {duration(row.compile_seconds)}{origin_words(row.from_cache)}")
        if row.skipped:
            lines.append(f"{name}: {row.skipped} of {row.steps} steps were skipped for a non-finite gradient")
        if len(row.samples) < bench.settings["repeats"]:
            lines.append(f"{name}: {len(row.samples)} of {bench.settings['repeats']} repeats: its steps are slow")
        if row.waited >= _WAIT and not bench.apart:
            lines.append(
                f"{name}: the device waited for data {share(row.waited)} of the time; --feed measures feed and "
                "step apart"
            )
        if row.uncounted:
            lines.append(f"{name}: not counted, so no share of the matrix rate: {', '.join(row.uncounted)}")
    return lines


def _largest(bench: TrainingBench, policy: str, batch: int) -> str:
    row = next(row for row in bench.rows if (row.policy, row.batch_size) == (policy, batch))
    used = f"{size(row.memory_bytes)} of {size(row.memory_limit)}"
    if batch > row.images - row.devices:
        return f"{policy}: all {batch:,} {row.noun} fit into a batch: {used}"
    return f"{policy}: the largest batch that fits is about {batch:,}: {used}"


def _empty(columns: tuple[str, ...]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        grid.add_column(column, justify="right" if i else "left", no_wrap=True)
    return grid


def _apart(row: Training) -> list[str]:
    rates = (row.feed_alone_per_s, row.step_alone_per_s)
    return [*("-" if rate is None else number(rate) for rate in rates), share(row.waited)]


def _training_row(row: Training, ratio: float | None) -> list[str]:
    """Behind the policy and its rate."""
    return [
        number(min(row.samples)),
        number(max(row.samples)),
        f"{row.spread * 100:.1f} %",
        number(row.steps_per_s),
        f"{ratio:.2f}" if ratio is not None else "-",
        duration(row.compile_seconds),
        size(row.memory_bytes),
        number(row.flops_step / 1e9),
        number(row.matrix_flops / 1e12),
        share(row.mfu),
    ]


def _inference(bench: InferenceBench) -> Table:
    grid = _empty(_INFERENCE)
    for row in bench.rows:
        for i, cells in enumerate(_cells(row)):
            grid.add_row(RUNTIMES[row.runtime][0] if not i else "", *cells)
        if not row.cells:
            grid.add_row(RUNTIMES[row.runtime][0], *["-"] * (len(_INFERENCE) - 1))
    return grid


def _cells(row: Inference) -> list[list[str]]:
    return [
        [
            str(cell.batch_size),
            number(cell.p50_ms),
            number(cell.p99_ms),
            number(cell.images_per_s),
            f"{cell.calls:,}",
            number(1000 * cell.warm_up_seconds),
        ]
        for cell in row.cells
    ]


def number(value: float) -> str:
    """Three or more significant digits: ``123,456``, ``98.7``, ``0.0123``."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    if value >= 0.1:
        return f"{value:.2f}" if value < 10 else f"{value:.1f}"
    return f"{value:.2g}"


def share(value: float | None) -> str:
    """``43.2 %``; ``-`` for None."""
    if value is None:
        return "-"
    return f"{value * 100:.1f} %" if value >= 0.001 or not value else f"{value * 100:.1g} %"
