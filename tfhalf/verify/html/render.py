"""The page of a version: `write` it beside the artifacts, among the files whose hash the manifest holds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from tfhalf.artifacts.comparison import Comparison
from tfhalf.artifacts.contents import contents
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.record import File, Manifest, ReferenceFacts, Training
from tfhalf.artifacts.reference import basis_line
from tfhalf.progress import duration, size
from tfhalf.verify.html import classes
from tfhalf.verify.html.elements import Child, bullets, element, facts, folded, line, page, section, table, value, words
from tfhalf.verify.report import COLUMNS, METRIC_WORDS, NOT_COVERED, SCALED, problems
from tfhalf.verify.report import table as comparison_table

NAME = "report.html"

_SWEEP = (
    "Inputs were multiplied by powers of two, up and down, until the float16 model no longer answered like the float32 "
    "model."
)


def write(
    directory: Path,
    manifest: Manifest,
    comparisons: Sequence[Comparison],
    *,
    answers: classes.Answers | None = None,
    pictures: Mapping[str, Path] | None = None,
    views: Mapping[str, Path] | None = None,
) -> Manifest:
    """Write ``directory/report.html``; the manifest with its size and hash among the files.

    Args:
        answers: confusion matrices of a classifier, as `classes.part` takes them.
        pictures: PNG files of the training by caption; one that is not there is left out.
        views: such files of the answers.
    """
    lookups = Lookups.read(directory)
    text = render(manifest, comparisons, answers=answers, pictures=pictures, views=views, lookups=lookups).encode()
    (directory / NAME).write_bytes(text)
    files = {**manifest.files, NAME: File(bytes=len(text), sha256=hashlib.sha256(text).hexdigest())}
    return manifest.model_copy(update={"files": dict(sorted(files.items()))})


def render(
    manifest: Manifest,
    comparisons: Sequence[Comparison],
    *,
    answers: classes.Answers | None = None,
    pictures: Mapping[str, Path] | None = None,
    views: Mapping[str, Path] | None = None,
    lookups: Lookups | None = None,
) -> str:
    """The page; arguments as of `write`, with the version's ``lookups``. Whatever the manifest lacks is left out."""
    parts = [
        *_head(manifest, comparisons),
        _comparison(manifest, comparisons),
        _contents(manifest, lookups or Lookups()),
        _numbers(manifest),
        classes.part(manifest.labels, answers) if answers else None,
        _answers(views or {}),
        _training(manifest.training, pictures or {}),
        _origin(manifest),
        _files(manifest),
    ]
    style = (resources.files("tfhalf.verify.html") / "style.css").read_text(encoding="utf-8")
    title = f"{manifest.name}, version {_number(manifest)}"
    return page(title, style, [part for part in parts if part is not None])


def _number(manifest: Manifest) -> str:
    return "?" if manifest.version is None else str(manifest.version)


def _head(manifest: Manifest, comparisons: Sequence[Comparison]) -> list[Element]:
    passed = all(c.passed for c in comparisons)
    verdict = "every artifact answers like the float32 model" if passed else "falls short of the float32 model"
    badges = [element("span", verdict, class_=f"verdict {'good' if passed else 'bad'}")]
    chance = manifest.training.chance if manifest.training else None
    if manifest.smoke:
        badges.append(element("span", "smoke run: hardly trained, not to be used", class_="verdict warn"))
    elif chance is not None and not chance.better:
        words_of = f"no better than always answering {chance.label!r}"
        badges.append(element("span", words_of, class_="verdict warn"))
    device = f" on {manifest.hardware.get('device', '?')}" if manifest.hardware else ""
    return [
        element("h1", f"{manifest.name} ", element("span", f"version {_number(manifest)}")),
        element("div", *badges),
        element(
            "p",
            f"Made {manifest.created or '?'} by tfhalf {manifest.versions.get('tfhalf', '?')}{device}. The artifacts "
            "compute in float16; this page is one file that loads nothing.",
            class_="note",
        ),
    ]


def _comparison(manifest: Manifest, comparisons: Sequence[Comparison]) -> Element:
    names, rows = comparison_table(comparisons)
    cells: list[list[Child]] = [[*row[:-1], _verdict(row[-1])] for row in rows]
    short = problems(comparisons)
    limits = {name: limit for name, limit in vars(manifest.limits).items() if limit is not None}
    return section(
        "Compared with the float32 model",
        element(
            "p", "A fresh process opened each artifact, ran it, and compared its answers with the float32 model's."
        ),
        table(names, cells, numbers=[i for i, name in enumerate(names) if name not in ("artifact", "computed by", "")]),
        *([element("p", f"Falls short: {short}", class_="bad")] if short else []),
        *([bullets(manifest.not_covered)] if manifest.not_covered else []),
        folded("What the columns say", facts({name or "verdict": COLUMNS.get(name, METRIC_WORDS) for name in names})),
        folded("The limits", facts(limits)),
        *_basis(manifest.reference),
        *_outputs(comparisons),
    )


def _basis(basis: ReferenceFacts) -> list[Element]:
    """What the comparison rests on, and up to which size of inputs it holds."""
    if not basis.count:
        return []
    how: dict[str, Any] = {name: fact for name, fact in (("seed", basis.seed), ("how", basis.how)) if fact}
    if basis.other_sizes:
        how["other_sizes"] = [row.to_dict() for row in basis.other_sizes]
    parts = [element("h3", "What it was compared on"), element("p", f"{basis_line(basis)}."), facts(how)]
    if sweep := basis.sweep:
        beyond = f" Beyond: {sweep.above}." if sweep.above else ""
        held = (
            f"Values up to {sweep.up_to:,.6g} hold: 2^{sweep.up} times those here, of which the largest is "
            f"{sweep.largest:.4g}; down to 2^{sweep.down} times.{beyond}"
        )
        below = [element("p", f"Below: {sweep.below}.")] if sweep.below else []
        parts += [element("h3", "Sizes of inputs"), element("p", held), *below, element("p", _SWEEP, class_="note")]
    return parts


def _verdict(text: str) -> Child:
    kind = {"ok": "good", NOT_COVERED: "warn"}.get(text, "bad")
    return element("span", text, class_=kind) if text else ""


def _outputs(comparisons: Sequence[Comparison]) -> list[Element]:
    """Of a model with several outputs, each."""
    rows = [
        (
            c.artifact,
            output.name,
            f"{output.max_difference:.1e}",
            f"{output.mean_difference:.1e}",
            f"{output.scale:.4g}",
        )
        for c in comparisons
        if len(c.outputs) > 1
        for output in c.outputs
    ]
    names = ("artifact", "output", "max diff", "mean", "largest magnitude")
    return [folded("Each output", table(names, rows, numbers=(2, 3, 4)))] if rows else []


def _answers(views: Mapping[str, Path]) -> Element | None:
    shown = [_picture(caption, path) for caption, path in views.items() if path.is_file()]
    return section("Answers to the test set", *shown) if shown else None


def _contents(manifest: Manifest, lookups: Lookups) -> Element:
    kinds = [(one.format, ", ".join(one.files), size(one.bytes), line(one.details or "")) for one in manifest.artifacts]
    ports = [
        (way, port.name, port.dtype, " x ".join(map(str, port.dims())))
        for way, ports in (("input", manifest.inputs), ("output", manifest.outputs))
        for port in ports
    ]
    source = [element("h3", "The model that it was made from"), facts(manifest.source)] if manifest.source else []
    return section(
        "What is in it",
        table(("format", "files", "size", "notes"), kinds, numbers=(2,)),
        table(("", "name", "dtype", "shape"), ports),
        facts({what: lines[0] if len(lines) == 1 else lines for what, lines in contents(manifest, lookups).items()}),
        *source,
        *(
            element("p", element("strong", f"{kind}: "), f"not written. {why}")
            for kind, why in manifest.refused.items()
        ),
    )


def _numbers(manifest: Manifest) -> Element:
    cast, reasons = manifest.cast, {one.path: one.reason for one in manifest.islands}
    parameters = [(dtype, f"{row.count:,}", size(row.bytes)) for dtype, row in manifest.parameters.items()]
    kept = [(path, reasons.get(path, "precision.keep_float32")) for path in manifest.kept_float32]
    counts = [
        (name, f"{getattr(cast, name, 0):,}", what)
        for name, what in (
            ("total", "became float16"),
            ("clamped", "are beyond float16's range, and became its largest number, 65,504"),
            ("flushed", "are nearer to 0 than float16's smallest number, and became 0"),
            ("subnormal", "are so small that float16 keeps fewer of their bits"),
        )
    ]
    norms, search = manifest.folded_batchnorm, manifest.search
    return section(
        "Numbers",
        table(("parameters in", "count", "size"), parameters, numbers=(1, 2)),
        *([table(("of them", "count", ""), counts, numbers=(1,))] if cast else []),
        element("h3", "Layers that compute in float32"),
        table(("layer", "reason"), kept) if kept else element("p", "None."),
        *([folded("How they were searched for", facts(search))] if search and kept else []),
        *([folded(f"{len(norms):,} norms were folded", value(norms))] if norms else []),
    )


def _training(training: Training | None, pictures: Mapping[str, Path]) -> Element | None:
    shown = [_picture(caption, path) for caption, path in pictures.items() if path.is_file()]
    if not training and not shown:
        return None
    rows = _without_scale(training.to_dict()) if training else {}
    short = {name: _share(name, fact) for name, fact in rows.items() if not isinstance(fact, dict | list)}
    more = [folded(words(name), value(fact)) for name, fact in rows.items() if isinstance(fact, dict | list)]
    return section("Training", *shown, facts(short), *more)


def _without_scale(training: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a training that say something: of a policy without a loss scale, none of one."""
    scaled = training.get("policy") in SCALED and training.get("loss_scale") is not None
    unsaid = () if scaled else ("loss_scale", "skipped", "skipped_at_floor")
    said = {name: fact for name, fact in training.items() if fact not in ([], {}, None) and name not in unsaid}
    if isinstance(last := said.get("last_epoch"), Mapping):
        said["last_epoch"] = {name: fact for name, fact in last.items() if fact is not None and name not in unsaid}
    return said


def _share(name: str, fact: Any) -> Any:
    return f"{fact * 100:.2f} %" if name.endswith("accuracy") and isinstance(fact, float) else fact


def _picture(caption: str, path: Path) -> Element:
    data = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    image = Element("img", {"src": data, "alt": caption})  # longer than `clean` lets a text be
    return element("figure", image, element("figcaption", caption))


def _origin(manifest: Manifest) -> Element:
    rest = {"pipeline_file": manifest.pipeline_file, "git_revision": manifest.git_revision, "seed": manifest.seed}
    if manifest.seconds is not None:
        rest["took"] = duration(manifest.seconds)
    parts = {
        "Data": manifest.data.to_dict() if manifest.data else {},
        "Configuration": manifest.config.to_dict(),
        "Versions": manifest.versions,
        "Hardware": manifest.hardware,
    }
    opened = [folded(title, facts(facts_of_part)) for title, facts_of_part in parts.items() if facts_of_part]
    return section("How it was made", facts(rest), *opened)


def _files(manifest: Manifest) -> Element:
    rows = [(name, size(file.bytes), element("code", file.sha256)) for name, file in manifest.files.items()]
    return section("Files", table(("file", "size", "sha256"), rows, numbers=(1,)))
