"""``report.html``, the pictures and files of classes: whatever names and labels hold, of ten classes and a thousand."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seen_page import Seen
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.comparison import Comparison, Limits, OutputParity
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import IntegrityError
from tfhalf.progress import Progress
from tfhalf.tasks import Classification
from tfhalf.train.record import curves, plot
from tfhalf.train.record.history import Epoch
from tfhalf.verify import scores
from tfhalf.verify.compare import compare_outputs
from tfhalf.verify.html import classes, confusion_picture, render
from tfhalf.verify.html.elements import clean, element, page, value
from tfhalf.verify.report import COLUMNS, markdown, table, table_lines

PNG = b"\x89PNG\r\n\x1a\n"
LOOSE = Limits(None, None, 0.0, 100.0)
SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    '"><img src=x onerror=alert(1)>',
    "]]></style><h1>",
    "&lt;b&gt;",
    "$\\frac{",
    "日本語",
    "a" * 400,
    "x\u202egnp.exe",
    "\x1b[31mred\x00",
    "",
    "\ud800",
    "two\nlines",
]


def answered(count: int, samples: int = 3000, wrong: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, and the top classes of a float32 model and of an artifact that differs a little."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, count, samples)
    top = np.where(rng.random(samples) < wrong, rng.integers(0, count, samples), y)
    return y, top, np.where(rng.random(samples) < 0.01, (top + 1) % count, top)


def compared(count: int, **changes: Any) -> tuple[list[Comparison], dict[str, scores.Confusion]]:
    y, wide, narrow = answered(count, **changes)
    one_hot = np.eye(count, dtype=np.float32)
    one = comparison(one_hot[wide], one_hot[narrow], y, LOOSE)
    return [one], {classes.FLOAT32: scores.confusion(y, wide), "savedmodel": one.confusion}


def comparison(wide: np.ndarray, narrow: np.ndarray, y: np.ndarray, limits: Limits) -> Comparison:
    """Probabilities [N, classes] of a SavedModel."""
    outputs = compare_outputs({"p": wide}, {"p": narrow}, ["p"], limits, (), y)
    return Comparison("savedmodel", "TensorFlow 2.21.0, CPU", len(y), outputs, 1.5)


def manifest(labels: list[str], **more: Any) -> Manifest:
    """A manifest as one is read from JSON; labels that JSON's readers refuse are put in afterwards."""
    facts = {
        "name": "job",
        "version": 3,
        "created": "2026-11-29",
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 8, 8, 1]}],
        "outputs": [{"name": "p", "dtype": "float32", "shape": ["batch", max(len(labels), 1)], "classes": True}],
        "artifacts": [{"format": "onnx", "files": ["model.onnx"], "bytes": 2048, "details": {}}],
        "limits": {},
        "reference": {},
        "cast": {"total": 5000, "clamped": 12, "flushed": 34, "subnormal": 56},
        "parameters": {"float16": {"count": 5000, "bytes": 10_000}},
        "training": {"policy": "mixed_float16", "epochs": 3, "test_accuracy": 0.75, "loss_scale": 32768.0},
        "files": {"model.onnx": {"bytes": 2048, "sha256": "ab" * 32}},
        **more,
    }
    return Manifest.read(facts).model_copy(update={"labels": tuple(labels)})


TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "div", "span", "p", "ul"),
    *("li", "table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "details", "summary", "figure", "img"),
    *("figcaption", "code", "strong"),
}
ATTRIBUTES = {"charset", "class", "content", "http-equiv", "lang", "name", "scope", "src", "style", "title", "alt"}


# --- the page ---------------------------------------------------------------------------------------------------------


def test_nothing_in_a_manifest_becomes_markup(tmp_path: Path) -> None:
    """Whatever names, labels, paths, reasons and unknown keys hold; the page neither runs nor fetches anything."""
    comparisons, answers = compared(len(HOSTILE))
    evil = "</style></title><script src='http://evil.test/x.js'></script><link rel=stylesheet href='//evil.test'>"
    found = manifest(
        HOSTILE,
        name=evil,
        pipeline_file=evil,
        created=evil,
        kept_float32=[evil],
        islands=[{"path": evil, "reason": SCRIPT}],
        not_covered=[evil],
        refused={evil: evil},
        source={evil: evil},
        inputs=[{"name": evil, "dtype": "float32", "shape": [evil, 3]}],
        reference={
            "origin": "given",
            "file": evil,
            "count": 9,
            "edges": {evil: 2},
            "how": {evil: evil},
            "other_sizes": [{"size": evil, "shapes": {evil: [3]}, "taken": False, "why": evil}],
            "sweep": {
                "inputs": [evil],
                "largest": 2.0,
                "up": 3,
                "down": -24,
                "above": evil,
                "below": evil,
                "up_to": 16,
            },
        },
        config={evil: {evil: [{evil: evil}]}},
        files={evil: {"bytes": 1, "sha256": "ab" * 32}},
        search={evil: [evil, {"deep": evil}]},
    )
    (tmp_path / "a.png").write_bytes(PNG + b"pixels")
    text = render.render(found, comparisons, answers=answers, pictures={evil: tmp_path / "a.png"})
    plain = Seen(text)
    assert set(plain.tags) <= TAGS
    assert plain.tags.count("style") == plain.tags.count("title") == plain.tags.count("img") == 1
    names = {name for name, _ in plain.attributes}
    assert names <= ATTRIBUTES
    assert [found for name, found in plain.attributes if name == "src"] == [
        "data:image/png;base64,iVBORw0KGgpwaXhlbHM="
    ]
    styles = {found for name, found in plain.attributes if name == "style"}
    assert all(one.startswith("--share: ") and len(one) <= 14 for one in styles)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in plain.attributes
    assert plain.said.count(SCRIPT) > 2  # it is there to be read
    for unseen in ("\x1b", "\x00", "\u202e", "\ud800"):
        assert unseen not in text
    text.encode()


def test_what_a_page_tells(tmp_path: Path) -> None:
    comparisons, answers = compared(3, wrong=0.1)
    kept = {"kept_float32": ["dense_1"], "islands": [{"path": "dense_1", "reason": "overflows at 1e5"}]}
    later = {"search": {"tests": 7, "magnitude": 0.25}}
    told = render.render(manifest(["cat", "dog", "eel"], **kept, **later), comparisons, answers=answers)
    plain = Seen(told)
    for text in ("job", "version 3", "every artifact answers like the float32 model", "TensorFlow 2.21.0, CPU"):
        assert text in plain.said
    for text in ("12", "34", "56", "overflows at 1e5", "75.00 %", "32,768", "ab" * 32, "2.05 kB", "0.25", "magnitude"):
        assert text in plain.said
    for name in table(comparisons)[0]:
        assert COLUMNS[name] in plain.said
    figures = scores.by_class(answers["savedmodel"], 3)
    for k, label in enumerate(("cat", "dog", "eel")):
        assert label in plain.said
        assert f"{figures.precision[k] * 100:.2f} %" in plain.said
        assert f"{figures.recall[k] * 100:.2f} %" in plain.said
    assert not set(plain.tags) & {"script", "link", "iframe", "object", "base"}


def test_a_page_of_little(tmp_path: Path) -> None:
    """A manifest that lacks what others have, a picture that was not drawn, nothing compared."""
    text = render.render(manifest([], name="bare", training=None), [], pictures={"Loss": tmp_path / "none.png"})
    assert "bare" in Seen(text).said
    assert "<img" not in text


def test_a_page_says_what_falls_short() -> None:
    y, wide, narrow = answered(3)
    one_hot = np.eye(3, dtype=np.float32)
    short = comparison(one_hot[wide], one_hot[narrow], y, Limits(None, None, 100.0))
    plain = Seen(render.render(manifest(["a", "b", "c"]), [short]))
    assert "falls short of the float32 model" in plain.said
    assert short.problems[0] in plain.said
    assert "every artifact answers" not in plain.said


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"smoke": True}, "smoke run: hardly trained, not to be used"),
        ({"training": {"chance": {"label": "cat", "better": False}}}, "no better than always answering 'cat'"),
    ],
)
def test_a_page_warns(more: dict[str, Any], text: str) -> None:
    assert text in Seen(render.render(manifest(["a"], **more), [])).said
    assert text not in Seen(render.render(manifest(["a"], training={"chance": {"better": True}}), [])).said


def test_a_page_of_a_float32_run_says_nothing_of_a_loss_scale() -> None:
    training = {"policy": "float32", "epochs": 3, "loss_scale": 1.0, "skipped": 0}
    training["last_epoch"] = {"loss": 0.5, "loss_scale": 1.0}
    said = Seen(render.render(manifest(["a"], training=training), [])).said
    assert "float32" in said
    assert "loss scale" not in said
    assert "skipped" not in said


def test_a_page_tells_what_a_comparison_rests_on() -> None:
    sweep = {"inputs": ["x"], "largest": 2.5, "up": 15, "down": -24, "above": "y: lost", "below": "", "up_to": 81920.0}
    samples = {"origin": "drawn", "seed": 0, "count": 37, "edges": {"zeros": 1, "padded tail": 2}, "sweep": sweep}
    said = Seen(render.render(manifest([], reference=samples), [])).said
    assert "34 samples and 3 edge rows (zeros, padded tail), compared apart" in said
    assert "Values up to 81,920 hold: 2^15 times those here, of which the largest is 2.5" in said
    assert "Beyond: y: lost." in said


def test_outputs_of_a_model_with_several() -> None:
    outputs = tuple(OutputParity(f"out{k}", 2.5, 0.01 * k, 0.001, 0, None, 1.0, ()) for k in range(2))
    found = Comparison("onnx", "onnxruntime 1", 8, outputs, 0.5)
    said = Seen(render.render(manifest([], name="two"), [found])).said
    for text in ("out0", "out1", "1.0e-02", "2.5"):
        assert text in said


def test_a_thousand_classes() -> None:
    """The commonest mistakes, not a million cells; classes that are recognised least come first."""
    labels = [f"n{k:08d} a long name of a class, and another" for k in range(1000)]
    y, wide, narrow = answered(1000, samples=20_000)
    answers = {classes.FLOAT32: scores.confusion(y, wide), "savedmodel": scores.confusion(y, narrow)}
    text = render.render(manifest(labels), [], answers=answers)
    assert len(text) < 600_000
    assert "The commonest mistakes" in text
    worst = scores.mistakes(answers["savedmodel"], 1)[0]
    assert all(labels[k] in text for k in worst[:2])
    recalls = [share for share in scores.by_class(answers["savedmodel"], 1000).recall if share is not None]
    assert text.index(f"{min(recalls) * 100:.2f} %") < text.rindex(f"{max(recalls) * 100:.2f} %")


def test_the_page_is_one_of_the_files(tmp_path: Path) -> None:
    """Its hash is in the manifest: a page that somebody changed is refused as an artifact is."""
    (tmp_path / "model.onnx").write_bytes(b"model")
    found = manifest(["a", "b", "c"]).model_copy(update={"files": manifests.file_hashes(tmp_path)})
    comparisons, answers = compared(3)
    found = render.write(tmp_path, found, comparisons, answers=answers)
    assert found.files == manifests.file_hashes(tmp_path)
    assert list(found.files) == ["model.onnx", "report.html"]
    manifests.check_files(tmp_path, found)
    with (tmp_path / "report.html").open("a") as file:
        file.write(SCRIPT)
    with pytest.raises(IntegrityError, match=r"report\.html"):
        manifests.check_files(tmp_path, found)


def test_a_version_without_a_page_is_whole(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    files = manifests.file_hashes(tmp_path)
    manifests.check_files(tmp_path, manifest([]).model_copy(update={"files": files}))


def test_values_are_bounded() -> None:
    many = page("x", "", [element("p", value([{"a": k} for k in range(100_000)]))])
    assert len(many) < 10_000
    assert "99,940 more" in many
    deep: Any = 1
    for _ in range(500):
        deep = {"d": deep}
    assert len(page("x", "", [element("p", value(deep))])) < 3000
    assert len(clean("a" * 10**6)) < 2100
    assert value(float("nan")) == "nan"
    assert value(32768.0) == "32,768"


# --- classes ----------------------------------------------------------------------------------------------------------


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    y, top, _ = answered(7)
    y = np.where(y == 5, 4, y)  # a class without samples
    top = np.where(top == 3, 2, top)  # and one that nothing is taken for
    cells = scores.confusion(y, top)
    np.testing.assert_array_equal(scores.matrix(cells, 7), confusion_matrix(y, top, labels=range(7)))
    precision, recall, _, support = precision_recall_fscore_support(y, top, labels=range(7), zero_division=np.nan)
    figures = scores.by_class(cells, 7)
    assert list(figures.support) == support.tolist()
    for mine, theirs in ((figures.precision, precision), (figures.recall, recall)):
        assert [share is None for share in mine] == np.isnan(theirs).tolist()
        np.testing.assert_allclose([share or 0.0 for share in mine], np.nan_to_num(theirs))


def test_answers_that_are_not_finite_are_no_class() -> None:
    """They count against recall, and for no class's precision."""
    cells = scores.confusion(np.array([0, 0, 1]), np.array([0, -1, -1]))
    assert cells == ((0, -1, 1), (0, 0, 1), (1, -1, 1))
    assert scores.by_class(cells, 2) == ((2, 1), (1.0, None), (0.5, 0.0))
    assert scores.mistakes(cells, 9) == [(0, -1, 1), (1, -1, 1)]
    said = Seen(render.render(manifest(["a", "b"]), [], answers={"onnx": cells})).said
    assert "2 of them have an answer that is not finite" in said


@pytest.mark.parametrize("labels", [HOSTILE, [f"class {k}" for k in range(60)], ["a", "b"]], ids=["hostile", "60", "2"])
def test_files_of_a_run(tmp_path: Path, labels: list[str]) -> None:
    _, answers = compared(len(labels))
    stream = io.StringIO()
    classes.save(tmp_path, "job", labels, answers, Progress(stream))
    assert stream.getvalue() == ""
    assert (tmp_path / "confusion.png").read_bytes().startswith(PNG)
    told = json.loads((tmp_path / "classes.json").read_text())
    assert told["labels"] == labels
    assert list(told["models"]) == [classes.FLOAT32, "savedmodel"]
    figures = scores.by_class(answers["savedmodel"], len(labels))
    assert told["models"]["savedmodel"]["recall"] == list(figures.recall)
    with (tmp_path / "classes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["support"]) for row in rows] == list(figures.support)
    assert [row["class"] for row in rows if row["class"] != "?"] == [one for one in labels if one != "\ud800"]
    with (tmp_path / "confusion.csv").open(newline="", encoding="utf-8") as file:
        cells = [row for row in csv.DictReader(file) if row["model"] == "savedmodel"]
    assert sum(int(row["count"]) for row in cells) == 3000


def test_a_run_that_takes_no_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").mkdir()
    stream = io.StringIO()
    classes.save(tmp_path, "job", ["a", "b"], compared(2)[1], Progress(stream))
    assert stream.getvalue().startswith("classes    the figures of each class are left out of ")


def test_no_mistakes(tmp_path: Path) -> None:
    y = np.arange(50)
    confusion_picture.draw(tmp_path / "a.png", "job", [str(k) for k in y], "onnx", scores.confusion(y, y))
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    assert "There are none." in str(render.render(manifest([""] * 50), [], answers={"a": scores.confusion(y, y)}))


# --- curves -----------------------------------------------------------------------------------------------------------


def epochs(count: int, **changes: Any) -> list[Epoch]:
    made = []
    for k in range(1, count + 1):
        row = {"loss": 2.0 / k**2, "accuracy": 1 - 0.5 / k, "val_accuracy": 1 - 0.6 / k, "val_loss": 2.5 / k}
        row |= {"epoch": k, "steps": 5, "images_per_s": 9.0, "loss_scale": 8.0, "skipped": 0, "seconds": 2.0}
        made.append(Epoch.from_dict({**row, "learning_rate": 0.1 / k, **changes}))
    return made


@pytest.mark.parametrize(
    "rows",
    [
        epochs(30),
        epochs(1),
        epochs(3, val_loss=None, val_accuracy=None),
        epochs(2, loss=float("nan"), val_loss=float("inf")),
        epochs(2, loss=-1.0),
    ],
    ids=["many", "one", "no validation", "not finite", "below 0"],
)
def test_curves(tmp_path: Path, rows: list[Epoch]) -> None:
    stream = io.StringIO()
    plot.draw_curves(tmp_path, "$\\frac{", rows, Classification("abc").metrics[0], Progress(stream))
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("values", "log"),
    [([0.01, 2.0], True), ([0.5, 2.0], False), ([0.0, 2.0], False), ([-1.0, 9.0], False), ([], False)],
)
def test_losses_that_are_far_apart_are_drawn_on_a_logarithmic_axis(values: list[float], log: bool) -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert curves.log_axis(axes, np.array(values)) == log
    assert axes.get_yscale() == ("log" if log else "linear")


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "curves.png").mkdir()
    stream = io.StringIO()
    plot.draw_beside(tmp_path, "job", epochs(2), Classification("abc").metrics[0], True, Progress(stream)).join()
    told = stream.getvalue().splitlines()
    assert told[0].startswith("picture    curves.png is left out: ")
    assert told[1].startswith("picture    loss_scale.png is left out: steps.npz cannot be read")


# --- the table of comparisons -----------------------------------------------------------------------------------------


def test_one_table_for_all_versions() -> None:
    images, _ = compared(3)
    output = OutputParity("y", 1.0, 0.001, 0.0002, 3, None, 1.0, ("x",))
    samples = [Comparison("onnx, first 2", "true float16, CPU", 2, (output,), 1.2)]
    head, model, first = table_lines(images)
    assert head.split()[:4] == ["artifact", "computed", "by", "samples"]
    assert model.startswith("float32 model  TensorFlow")
    assert first.endswith(" ok")
    assert not {"%"} & set(first)
    assert "acc. %" in head
    other, row = table_lines(samples)
    assert row.endswith(" FAILS")
    names = table(samples)[0]
    assert [name for name in COLUMNS if name in names] == names  # in one order, without what is not known
    assert "edge" not in names
    at_edges = replace(
        samples[0], outputs=(replace(output, edge_difference=0.125, edge_non_finite=2),), samples=6, edges=4
    )
    found = dict(zip(table([at_edges])[0], table([at_edges])[1][0], strict=True))
    assert (found["edge"], found["lost"], found["samples"]) == ("1.2e-01", "5", "2")
    (labelled,) = images[0].outputs
    at_edges = [replace(images[0], outputs=(replace(labelled, edge_difference=0.25, edge_non_finite=2, non_finite=1),))]
    found = dict(zip(table(at_edges)[0], table(at_edges)[1][1], strict=True))
    assert (found["edge"], found["lost"]) == ("2.5e-01", "3")
    assert "accuracy" not in names
    assert [len(one) for one in (head, other)] == [len(one.rstrip()) for one in (head, other)]
    assert len(markdown(*table(images))) == 4
    assert table_lines([]) == []


def test_the_table_fits() -> None:
    """A large test set, each runtime, a minute of it, one that fails; one line a row whatever comes."""
    images, _ = compared(3)
    (one,) = images
    wide = [
        {"artifact": "onnx, first 256", "runtime": "true float16, CPU", "seconds": 80.0},
        {"artifact": "litert-int8", "runtime": "onnxruntime 1.32.0, CPU"},
    ]
    one = replace(one, samples=50_000, outputs=(replace(one.outputs[0], edge_difference=0.1, problems=("x",)),))
    lines = table_lines([replace(one, **row) for row in wide])
    assert len(lines) == 4
    assert max(map(len, lines)) <= 110
