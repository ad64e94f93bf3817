"""The page of a version: `write` it beside the artifacts, among the files whose hash the manifest holds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from tfhalf.progress import duration, size
from tfhalf.verify.compare import SampleComparison
from tfhalf.verify.html import classes
from tfhalf.verify.html.elements import Child, bullets, element, facts, folded, line, page, section, table, value, words
from tfhalf.verify.report import COLUMNS, NOT_COVERED, SCALED, problems
from tfhalf.verify.report import table as comparison_table
from tfhalf.verify.samples import basis
from tfhalf.verify.test_set import Comparison

NAME = "report.html"

Comparisons = Sequence[Comparison] | Sequence[SampleComparison]

# What a section of its own tells; every other key of a manifest is told as it stands.
_TOLD = (
    *("schema", "kind", "name", "version", "created", "config", "pipeline_file", "seed", "git_revision", "versions"),
    *("hardware", "data", "labels", "input", "inputs", "outputs", "parameters", "cast", "kept_float32", "islands"),
    *("folded_batchnorm", "artifacts", "training", "files", "verification", "not_covered", "source", "samples"),
    *("refused", "search", "seconds", "smoke"),
)

_SWEEP = (
    "Inputs were multiplied by powers of two, up and down, until the float16 model no longer answered like the float32 "
    "model."
)


def write(
    directory: Path,
    manifest: dict[str, Any],
    comparisons: Comparisons,
    *,
    answers: classes.Answers | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> None:
    """Write ``directory/report.html``, and its size and hash into the manifest's ``files``.

    Args:
        answers: confusion matrices of a classifier, as `classes.part` takes them.
        pictures: PNG files by caption; one that is not there is left out.
    """
    text = render(manifest, comparisons, answers=answers, pictures=pictures).encode()
    (directory / NAME).write_bytes(text)
    files = {**manifest["files"], NAME: {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}}
    manifest["files"] = dict(sorted(files.items()))


def render(
    manifest: Mapping[str, Any],
    comparisons: Comparisons,
    *,
    answers: classes.Answers | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> str:
    """The page; arguments as of `write`. Whatever the manifest lacks is left out."""
    parts = [
        *_head(manifest, comparisons),
        _comparison(manifest, comparisons),
        _contents(manifest),
        _numbers(manifest),
        classes.part(manifest["labels"], answers) if answers else None,
        _training(manifest, pictures or {}),
        _others(manifest),
        _made_of(manifest),
        _files(manifest),
    ]
    style = (resources.files("tfhalf.verify.html") / "style.css").read_text(encoding="utf-8")
    title = f"{manifest['name']}, version {manifest.get('version', '?')}"
    return page(title, style, [part for part in parts if part is not None])


def _head(manifest: Mapping[str, Any], comparisons: Comparisons) -> list[Element]:
    passed = all(c.passed for c in comparisons)
    verdict = "every artifact answers like the float32 model" if passed else "falls short of the float32 model"
    badges = [element("span", verdict, class_=f"verdict {'good' if passed else 'bad'}")]
    if manifest.get("smoke"):
        badges.append(element("span", "smoke run: hardly trained, not to be used", class_="verdict warn"))
    elif (chance := (manifest.get("training") or {}).get("chance")) and not chance.get("better", True):
        words_of = f"no better than always answering {chance.get('label')!r}"
        badges.append(element("span", words_of, class_="verdict warn"))
    return [
        element("h1", f"{manifest['name']} ", element("span", f"version {manifest.get('version', '?')}")),
        element("div", *badges),
        element(
            "p",
            f"Made {manifest.get('created', '?')} by tfhalf {manifest.get('versions', {}).get('tfhalf', '?')}"
            + (f" on {manifest['hardware'].get('device', '?')}" if manifest.get("hardware") else "")
            + ". The artifacts compute in float16; this page is one file that loads nothing.",
            class_="note",
        ),
    ]


def _comparison(manifest: Mapping[str, Any], comparisons: Comparisons) -> Element:
    names, rows = comparison_table(comparisons)
    cells: list[list[Child]] = [[*row[:-1], _verdict(row[-1])] for row in rows]
    short = problems(comparisons)
    samples = manifest.get("samples")
    limits = manifest.get("config", {}).get("verify")
    return section(
        "Compared with the float32 model",
        element(
            "p", "A fresh process opened each artifact, ran it, and compared its answers with the float32 model's."
        ),
        table(names, cells, numbers=[i for i, name in enumerate(names) if name not in ("artifact", "computed by", "")]),
        *([element("p", f"Falls short: {short}", class_="bad")] if short else []),
        *([bullets(map(str, manifest["not_covered"]))] if manifest.get("not_covered") else []),
        folded("What the columns say", facts({name or "verdict": COLUMNS[name] for name in names})),
        *([folded("The limits", facts(limits))] if limits else []),
        *(_samples(samples) if samples else []),
        *_outputs(comparisons),
    )


def _samples(samples: Mapping[str, Any]) -> list[Element]:
    """What the comparison rests on, and up to which size of inputs it holds."""
    how = {name: text for name, text in samples.items() if name not in ("count", "edges", "origin", "file", "sweep")}
    parts = [element("h3", "What it was compared on"), element("p", f"{basis(samples)}."), facts(how)]
    if sweep := samples.get("sweep"):
        beyond = f" Beyond: {sweep['above']}." if sweep.get("above") else ""
        held = (
            f"Values up to {sweep['up_to']:,.6g} hold: 2^{sweep['up']} times those here, of which the largest is "
            f"{sweep['largest']:.4g}; down to 2^{sweep['down']} times.{beyond}"
        )
        below = [element("p", f"Below: {sweep['below']}.")] if sweep.get("below") else []
        parts += [element("h3", "Sizes of inputs"), element("p", held), *below, element("p", _SWEEP, class_="note")]
    return parts


def _verdict(text: str) -> Child:
    kind = {"ok": "good", NOT_COVERED: "warn"}.get(text, "bad")
    return element("span", text, class_=kind) if text else ""


def _outputs(comparisons: Comparisons) -> list[Element]:
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
        if isinstance(c, SampleComparison) and len(c.outputs) > 1
        for output in c.outputs
    ]
    names = ("artifact", "output", "max diff", "mean", "largest magnitude")
    return [folded("Each output", table(names, rows, numbers=(2, 3, 4)))] if rows else []


def _contents(manifest: Mapping[str, Any]) -> Element:
    kinds = [
        (
            one.get("format", "?"),
            ", ".join(one.get("files", ())),
            size(one.get("bytes", 0)),
            line(one.get("details", "")),
        )
        for one in manifest.get("artifacts", ())
    ]
    ports = [
        (way, port.get("name", "?"), port.get("dtype", "?"), " x ".join(map(str, port.get("shape", ()))))
        for way, key in (("input", "inputs"), ("output", "outputs"))
        for port in manifest.get(key, [manifest["input"]] if key == "inputs" and manifest.get("input") else ())
    ]
    source = manifest.get("source")
    return section(
        "What is in it",
        table(("format", "files", "size", "notes"), kinds, numbers=(2,)),
        table(("", "name", "dtype", "shape"), ports),
        *([element("h3", "The model that it was made from"), facts(source)] if source else []),
        *(
            [element("p", element("strong", f"{kind}: "), f"not written. {why}") for kind, why in found.items()]
            if (found := manifest.get("refused"))
            else []
        ),
    )


def _numbers(manifest: Mapping[str, Any]) -> Element:
    cast, reasons = manifest.get("cast", {}), {one.get("path"): one for one in manifest.get("islands", ())}
    parameters = [
        (dtype, f"{row.get('count', 0):,}", size(row.get("bytes", 0)))
        for dtype, row in manifest.get("parameters", {}).items()
    ]
    kept = [
        (path, reasons.get(path, {}).get("reason", "precision.keep_float32"))
        for path in manifest.get("kept_float32", ())
    ]
    counts = [
        (name, f"{cast.get(name, 0):,}", what)
        for name, what in (
            ("total", "became float16"),
            ("clamped", "are beyond float16's range, and became its largest number, 65,504"),
            ("flushed", "are nearer to 0 than float16's smallest number, and became 0"),
            ("subnormal", "are so small that float16 keeps fewer of their bits"),
        )
    ]
    folded_norms = manifest.get("folded_batchnorm", ())
    search = manifest.get("search")
    return section(
        "Numbers",
        table(("parameters in", "count", "size"), parameters, numbers=(1, 2)),
        *([table(("of them", "count", ""), counts, numbers=(1,))] if cast else []),
        element("h3", "Layers that compute in float32"),
        table(("layer", "reason"), kept) if kept else element("p", "None."),
        *([folded("How they were searched for", facts(search))] if search and kept else []),
        *([folded(f"{len(folded_norms):,} norms were folded", value(folded_norms))] if folded_norms else []),
    )


def _training(manifest: Mapping[str, Any], pictures: Mapping[str, Path]) -> Element | None:
    training = manifest.get("training")
    shown = [_picture(caption, path) for caption, path in pictures.items() if path.is_file()]
    if not training and not shown:
        return None
    rows = _without_scale(training or {})
    short = {name: _share(name, found) for name, found in rows.items() if not isinstance(found, dict | list)}
    more = [folded(words(name), value(found)) for name, found in rows.items() if isinstance(found, dict | list)]
    return section("Training", *shown, facts(short), *more)


def _without_scale(training: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a training that say something: of a policy without a loss scale, none of one."""
    unsaid = () if training.get("policy") == SCALED else ("loss_scale", "skipped", "skipped_at_floor")
    said = {name: found for name, found in training.items() if found not in ([], None) and name not in unsaid}
    if isinstance(last := said.get("last_epoch"), Mapping):
        said["last_epoch"] = {name: found for name, found in last.items() if found is not None and name not in unsaid}
    return said


def _share(name: str, found: Any) -> Any:
    return f"{found * 100:.2f} %" if name.endswith("accuracy") and isinstance(found, float) else found


def _picture(caption: str, path: Path) -> Element:
    data = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    image = Element("img", {"src": data, "alt": caption})  # longer than `clean` lets a text be
    return element("figure", image, element("figcaption", caption))


def _others(manifest: Mapping[str, Any]) -> Element | None:
    """Facts that no section above knows."""
    found = {key: fact for key, fact in manifest.items() if key not in _TOLD and fact not in ({}, [], None, "")}
    children: list[Child] = []
    for key, fact in found.items():
        children += [element("h3", words(key)), value(fact) if isinstance(fact, dict) else element("p", value(fact))]
    return section("More facts", *children) if found else None


def _made_of(manifest: Mapping[str, Any]) -> Element:
    rest = {key: manifest.get(key) for key in ("pipeline_file", "git_revision", "seed")}
    if isinstance(seconds := manifest.get("seconds"), int | float):
        rest["took"] = duration(seconds)
    parts = (("Data", "data"), ("Configuration", "config"), ("Versions", "versions"), ("Hardware", "hardware"))
    opened = [folded(title, facts(manifest[key])) for title, key in parts if manifest.get(key)]
    return section("How it was made", facts(rest), *opened)


def _files(manifest: Mapping[str, Any]) -> Element:
    rows = [
        (name, size(row.get("bytes", 0)), element("code", str(row.get("sha256"))))
        for name, row in manifest.get("files", {}).items()
    ]
    return section("Files", table(("file", "size", "sha256"), rows, numbers=(1,)))
