"""The report of a comparison: what it says on a terminal, in Markdown and as a page, whatever texts it holds."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from compare_helpers import ACCURACY, POLICIES, RMSE, bare, compared
from seen_page import Seen

from tfhalf.compare.records import Comparison, MetricFacts, Result, Setting, Summary
from tfhalf.compare.report import terminal
from tfhalf.compare.report.cells import grid
from tfhalf.compare.report.html import html
from tfhalf.compare.report.markdown import code, markdown, plain
from tfhalf.compare.report.pictures import axes
from tfhalf.compare.report.pictures.styles import MARKERS, marker_path, series
from tfhalf.compare.report.write import write_reports
from tfhalf.progress import Progress

EVIL = (
    "</style></title></svg><script src='http://evil.test/x.js'></script>\"><img src=//evil.test onerror=alert(1)>"
    "|`x`\u202e\ud800\x1b[31m"
)
PICTURES = (
    "How accuracy develops",
    "What accuracy costs",
    "Whether it generalises",
    "Which classes",
    "Whether float16's range was enough",
    "How large the artifacts are",
    "How long an answer takes",
)


def drawings(page: str) -> Iterator[ElementTree.Element]:
    """The pictures of a page, each read as XML."""
    for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        yield ElementTree.fromstring(text)


def hostile() -> Comparison:
    """`EVIL` wherever a text is."""
    fact = MetricFacts(EVIL, True, True, EVIL)
    comparison = compared(facts=(fact, replace(fact, name=EVIL + "2")), epochs=8)
    rows = []
    for k, row in enumerate(comparison.rows):
        results = {
            seed: replace(one, classes={f"{EVIL}{name}": share for name, share in one.classes.items()}, noun=EVIL)
            for seed, one in row.results.items()
        }
        rows.append(
            replace(
                row,
                setting=Setting(f"{EVIL}{k}", (f"{EVIL}={EVIL}", EVIL)),
                failed={0: EVIL},
                problems={1: EVIL},
                noun=EVIL,
                memory_of=EVIL,
                differences={name: replace(one, words=EVIL) for name, one in row.differences.items()},
                artifacts=tuple(replace(one, format=EVIL) for one in row.artifacts),
                latency=tuple(replace(one, runtime=EVIL, computed_by=EVIL) for one in row.latency),
                results=results,
            )
        )
    more: dict[str, Any] = {"name": EVIL, "command": EVIL, "date": EVIL, "device": EVIL, "versions": {EVIL: EVIL}}
    return replace(comparison, rows=tuple(rows), **more)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_a_page_says_everything() -> None:
    comparison = compared()
    text = html(comparison)
    plain = Seen(text)
    for words in (
        *PICTURES,
        "mixed_float16 and mixed_bfloat16 are no worse than float32 in accuracy",
        "is worse than float32 in accuracy",
        "1.84 times the images per second of float32",
        "92.05 ± 0.20",
        "2 of 3",
        "loss became NaN at step 1,204; try mixed_float16",
        "onnx differs from the float32 model by 0.02",
        "1 cell is not finished",
        "not reached by 1 of 2",
        "target: accuracy 90.00 %",
        "non-inferiority",
        "MLPerf",
        comparison.command,
        comparison.device,
        comparison.date,
        "tensorflow 2.21.0",
        "macro_f1",
    ):
        assert words in plain.said, words
    for row in comparison.rows:
        for one in row.differences.values():
            assert one.words in plain.said
    assert len(text) < 300_000


def test_a_page_fetches_and_runs_nothing() -> None:
    text = html(compared(epochs=8))
    plain = Seen(text)
    assert not {"script", "link", "iframe", "object", "base", "img", "use", "a", "form"} & set(plain.tags)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in plain.attributes
    assert not {name for name, _ in plain.attributes if name.startswith("on") or name in ("src", "href", "style", "id")}
    assert not re.search(r"https?:|url\(|@import|//\w", text)


def test_pictures_are_xml_with_text_as_text() -> None:
    pictures = list(drawings(html(compared())))
    charts = [one for one in pictures if one.get("role") == "img"]
    assert len(charts) == 3 + 2 + 1 + 1 + 2 + 1 + 2
    for one in charts:
        assert one.get("aria-label")
        texts = [node.text for node in one.iter("text")]
        assert texts[0] == one.get("aria-label")
        assert len(texts) > 4
        assert not [node for node in one.iter() if re.search(r"nan|inf", " ".join([node.get("d", ""), *node.keys()]))]
    said = {node.text for one in charts for node in one.iter("text")}
    assert {"epoch", "validation accuracy (%)", "minutes of training", "training speed (images per second)"} <= said
    assert {"peak memory (GB)", "class 13", "loss scale (power of two)"} <= said


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    assert html(compared(epochs=12)) == html(compared(epochs=12))
    assert markdown(compared(epochs=12)) == markdown(compared(epochs=12))


def test_nothing_becomes_markup() -> None:
    comparison = hostile()
    text = html(comparison)
    seen = Seen(text)
    usual = Seen(html(compared(epochs=8)))
    assert set(seen.tags) <= set(usual.tags)
    assert seen.tags.count("style") == usual.tags.count("style") == 1
    assert {name for name, _ in seen.attributes} <= {name for name, _ in usual.attributes}
    assert len(list(drawings(text))) >= len([tag for tag in usual.tags if tag == "svg"]) - 1
    assert "<script src='http://evil.test/x.js'>" in seen.said  # it is there to be read
    for unseen in ("\x1b", "\u202e", "\ud800"):
        assert unseen not in text
    text.encode()


def test_a_metric_with_a_unit_of_one_seed() -> None:
    """Lower is better; there is no class, and no standard deviation."""
    text = html(compared(facts=(RMSE,), seeds=(0,), epochs=20))
    said = Seen(text).said
    for words in (
        "rmse m/s",
        "validation rmse (m/s)",
        "Lower is better",
        "best: bottom right",
        "rmse 5 m/s",
        "1 seed,",
    ):
        assert words in said, words
    for words in ("Which classes", "Other metrics", "macro_f1", "percentage"):
        assert words not in said
    assert 'whisker"' not in text.partition("What rmse costs")[2].partition("</figure>")[0]


def test_pictures_without_anything_to_show_are_left_out() -> None:
    said = Seen(html(bare(compared()))).said
    assert not [words for words in PICTURES if words in said]
    for heading in ("What ships", "Pictures", "not finished"):
        assert heading not in said
    text = html(replace(bare(compared()), rows=(), facts=()))
    assert "0 settings" in Seen(text).said


def test_what_is_not_finite_or_missing_is_not_drawn() -> None:
    comparison = compared(epochs=10)
    rows = []
    for row in comparison.rows:
        results = {}
        for seed, one in row.results.items():
            history = [dict(epoch) for epoch in one.history]
            history[3]["val_accuracy"] = math.nan
            history[4]["val_accuracy"] = None
            history[5]["loss_scale"] = math.inf
            history[6].pop("elapsed")
            results[seed] = replace(one, history=tuple(history[: 10 - seed]), classes={"a": math.nan})
        rows.append(replace(row, results=results))
    text = html(replace(comparison, rows=tuple(rows)))
    for one in drawings(text):
        assert not [node for node in one.iter("path") if re.search("nan|inf", node.get("d", ""))]
    assert "How accuracy develops" in text
    assert "Which classes" not in text


def test_a_metric_that_is_not_finite_is_no_point() -> None:
    first, *rows, last = compared(epochs=5).rows
    lost = Summary(math.nan, math.nan, (math.nan, 0.9))
    last = replace(last, metrics={"accuracy": lost}, differences={}, gap={"accuracy": math.nan})
    text = html(replace(compared(epochs=5), rows=(first, *rows, last)))
    assert "nan ± nan" in text
    assert not [node for one in drawings(text) for node in one.iter("path") if "nan" in node.get("d", "")]


def test_a_run_that_diverged_leaves_the_others_readable() -> None:
    comparison = compared(facts=(RMSE,), epochs=10, seeds=(0, 1))
    *rows, last = comparison.rows
    last = replace(last, metrics={}, failed={0: "NaN", 1: "NaN"}, results={0: Result("NaN"), 1: Result("NaN")}, gap={})
    last = replace(last, differences={}, items_per_s=None, memory_bytes=0, time_to=None, artifacts=(), latency=())
    comparison = replace(comparison, rows=(*rows, last))
    said = Seen(html(comparison)).said
    assert "Not compared: float16." in said
    assert "0 of 2" in said
    assert "Not compared: float16." in "\n".join(terminal.lines(comparison))


def test_many_settings_are_told_apart() -> None:
    first = compared(epochs=5)
    rows = [replace(first.rows[k % 4], setting=Setting("p", (f"a={k}",)), reference=k == 0) for k in range(43)]
    looks = [(one.style.colour, one.style.marker) for one in series(replace(first, rows=tuple(rows)))]
    assert len(set(looks)) == 43
    assert len({marker_path(marker, 0, 0) for marker in MARKERS}) == len(MARKERS)
    page = html(replace(first, rows=tuple(rows)))
    assert re.search(r"\d+ settings are no worse than", page)
    assert len(page) < 1_000_000


def test_a_long_run_stays_small() -> None:
    assert len(html(compared(epochs=3000)).encode()) < 1_000_000


# --- axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "zero", "words"),
    [
        ((0.0, 10.0), False, ["0.0", "2.5", "5.0", "7.5", "10.0"]),
        ((91.2, 92.9), False, ["91.5", "92.0", "92.5", "93.0"]),
        ((3.0, 40_000.0), True, ["0", "10,000", "20,000", "30,000", "40,000"]),
        ((0.0, 5e6), True, ["0", "2 M", "4 M"]),
        ((-2.0, 2.0), False, ["-2", "-1", "0", "1", "2"]),
        ((5.0, 5.0), True, ["0", "2", "4"]),
        ((), False, ["0.0000000"]),
    ],
)
def test_ticks_are_round(values: tuple[float, ...], zero: bool, words: list[str]) -> None:
    axis = axes.linear("x", values, zero=zero)
    if values:
        assert [text for _, text in axis.ticks] == words
    assert axis.ticks
    assert all(0 <= axis.share(value) <= 1 for value, _ in axis.ticks)


def test_other_axes() -> None:
    assert [text for _, text in axes.powers_of_two("x", (2.0**10, 2.0**15)).ticks] == [
        "2¹⁰",
        "2¹¹",
        "2¹²",
        "2¹³",
        "2¹⁴",
        "2¹⁵",
    ]
    assert axes.powers_of_two("x", (0.25, 0.25)).ticks[0] == (0.125, "2⁻³")
    assert [text for _, text in axes.logarithmic("x", (0.1, 30)).ticks] == [
        "0.1",
        "0.2",
        "0.5",
        "1",
        "2",
        "5",
        "10",
        "20",
    ]
    assert [value for value, _ in axes.whole("epoch", 100).ticks] == [1, 20, 40, 60, 80, 100]
    assert [value for value, _ in axes.whole("epoch", 1).ticks] == [1, 2]


# --- a terminal -------------------------------------------------------------------------------------------------------


def test_lines_of_a_terminal() -> None:
    stream = io.StringIO()
    terminal.show(compared(epochs=5), Progress(stream))
    text = stream.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= terminal.WIDTH
    for policy in POLICIES:
        assert len([line for line in lines if re.match(rf"{policy}  ", line)]) == 3  # two blocks, and other metrics
    for words in (
        "float32              3  92.05 ± 0.20  reference",
        "no loss: 0.07 ± 0.42 points worse",
        "failed     float16, seed 2: loss became NaN at step 1,204; try mixed_float16",
        "problem    float16, seed 1: onnx differs from the float32 model by 0.02 (limit 0.01)",
        "1 cell is not finished",
        "3.10 GB",
        "3.90 MB",
        "2 min 00 s",
        "macro_f1 %",
    ):
        assert words in text, words


def test_a_terminal_stays_within_its_width() -> None:
    long = compared(changes=("train.optimizer.learning_rate=0.01", "data.augmentation.mixup=0.2"), epochs=5)
    lines = terminal.lines(long)
    assert max(map(len, lines)) <= terminal.WIDTH
    assert "learning_rate=0.01, mixup=0.2" in " ".join(lines)
    assert "settings: train.optimizer.learning_rate, data.augmentation.mixup" in lines
    evil = terminal.lines(hostile())
    assert max(map(len, evil)) <= terminal.WIDTH
    assert not [line for line in evil if not line.isprintable()]


def test_each_setting_is_beside_the_reference_with_its_changes() -> None:
    """Where every varied value has a reference of its own, a ratio is to that one, and looks are crossed."""
    slow, fast = (compared(epochs=5, changes=(f"train.batch_size={size}",)) for size in (8, 64))
    rows = [replace(row, items_per_s=Summary(100.0 * (k + 1), 0.0, (1.0,))) for k, row in enumerate(fast.rows)]
    comparison = replace(slow, rows=(*slow.rows, *rows))
    content = grid(comparison)
    columns = {column.name: column.cells for column in content.columns}
    assert columns["x reference"] == ("1.00", "1.84", "1.78", "1.98", "1.00", "2.00", "3.00", "4.00")
    assert columns["difference to float32"][4] == "reference"
    looks = [(one.style.colour, one.style.marker) for one in series(comparison)]
    assert looks == [(k, marker) for marker in MARKERS[:2] for k in range(4)]
    assert "Differences to float32 with the same changes" in Seen(html(comparison)).said


def test_keys_that_end_alike_stay_whole() -> None:
    comparison = compared(changes=("a.rate=1", "b.rate=2"), epochs=5)
    assert "float32, a.rate=1, b.rate=2" in " ".join("\n".join(terminal.lines(comparison)).split())


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_markdown_has_tables_and_method() -> None:
    comparison = compared(epochs=5)
    text = markdown(comparison)
    lines = text.splitlines()
    assert lines[0] == "# cifar10"
    tables = [line for line in lines if line.startswith("|")]
    assert tables[0].startswith("| setting | seeds | accuracy % | difference to float32 | images/s |")
    assert [line for line in tables if line.startswith("| `mixed_bfloat16` | 3 | 92.15 ± 0.14 | no loss: ")]
    for words in (
        "## Other metrics",
        "## Failed",
        "- `float16`, seed 2: `loss became NaN",
        "## Method",
        "Student's t",
        "one-sided non-inferiority test at alpha 5 %",
        f"- command: `{comparison.command}`",
        "onnxruntime",
    ):
        assert words in text, words


def test_markdown_is_text_whatever_it_holds() -> None:
    text = markdown(hostile())
    outside = re.sub(r"`[^`]*`", "", text)
    assert "<" not in outside
    assert not re.search(r"(?<!\\)\*", outside)
    widths: dict[int, set[int]] = {}
    for block, lines in enumerate(text.split("\n\n")):
        for line in lines.splitlines():
            if line.startswith("|"):
                widths.setdefault(block, set()).add(len(re.findall(r"(?<!\\)\|", line)))
    assert widths
    assert all(len(counts) == 1 for counts in widths.values())
    text.encode()


def test_escapes() -> None:
    assert plain("a_b *c* <d> & [e](f) | g") == "a\\_b \\*c\\* &lt;d&gt; &amp; \\[e\\](f) \\| g"
    assert code("a`b|c\nd") == "`a'b\\|c d`"
    assert code("") == "-"


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_are_replaced(tmp_path: Path) -> None:
    comparison = replace(compared(facts=(ACCURACY,), epochs=5), name="job")
    (tmp_path / "report.html").write_text("old")
    paths = write_reports(comparison, tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md", "table.json"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html(comparison)
    table = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert table["name"] == "job"
    assert table["rows"][3]["failed"] == {"2": "loss became NaN at step 1,204; try mixed_float16"}
    assert "results" not in table["rows"][0]


def test_a_table_holds_no_number_that_json_lacks(tmp_path: Path) -> None:
    comparison = compared(facts=(RMSE,), seeds=(0,), epochs=3)  # intervals of one seed are infinite
    write_reports(comparison, tmp_path)
    table = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert table["rows"][1]["differences"]["rmse"]["half_width"] is None
    write_reports(hostile(), tmp_path)


def test_a_report_is_written_without_tensorflow() -> None:
    names = ("html", "markdown", "terminal", "write")
    code = "; ".join(f"import tfhalf.compare.report.{name}" for name in names)
    code += "; import sys; print([m for m in ('tensorflow', 'keras', 'matplotlib', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
