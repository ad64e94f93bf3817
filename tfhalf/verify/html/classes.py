"""What the float32 model and the artifacts do with each class, as a part of the page and as files of a run.

``answers`` are confusion matrices by what gave them, the float32 model first: `scores.Confusion` over the whole test
set.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from tfhalf.artifacts.comparison import Confusion
from tfhalf.progress import Progress
from tfhalf.verify.html import confusion_picture
from tfhalf.verify.html.elements import Child, element, folded, section, table
from tfhalf.verify.scores import ClassFigures, by_class, matrix, mistakes

FLOAT32 = "float32 model"
FEW = 25  # classes whose matrix can be read
PAIRS = 30  # of more classes, the mistakes that are shown
ROWS = 2000
_LONG = 60  # characters of a label

Answers = Mapping[str, Confusion]


def save(run: Path, name: str, labels: Sequence[str], answers: Answers, progress: Progress) -> None:
    """Write ``classes.json``, ``classes.csv``, ``confusion.csv`` and ``confusion.png`` into ``run``.

    A run does not fail for want of them: ``progress`` says so.
    """
    figures = {who: by_class(cells, len(labels)) for who, cells in answers.items()}
    try:
        models = {who: {**figures[who]._asdict(), "confusion": cells} for who, cells in answers.items()}
        (run / "classes.json").write_text(json.dumps({"labels": list(labels), "models": models}) + "\n")
        with (run / "classes.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
            _write_figures(csv.writer(file), labels, figures)
        with (run / "confusion.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
            rows = csv.writer(file)
            rows.writerow(("model", "true", "predicted", "count"))
            for who, cells in answers.items():
                rows.writerows((who, labels[true], _label(labels, top), count) for true, top, count in cells)
        confusion_picture.draw(run / confusion_picture.PICTURE, name, labels, *shipped(answers))
    except ImportError:
        progress.line(f"picture    {confusion_picture.PICTURE} is left out: matplotlib is not installed")
    except OSError as error:
        progress.line(f"classes    the figures of each class are left out of {run}: {error}")


def _write_figures(rows: Any, labels: Sequence[str], figures: Mapping[str, ClassFigures]) -> None:
    rows.writerow(("class", "support", *(f"{who} {what}" for who in figures for what in ("precision", "recall"))))
    for k, label in enumerate(labels):
        shares = [share for one in figures.values() for share in (one.precision[k], one.recall[k])]
        rows.writerow((label, next(iter(figures.values())).support[k], *shares))


def shipped(answers: Answers) -> tuple[str, Confusion]:
    """The first artifact; where there is none, the float32 model."""
    return list(answers.items())[min(1, len(answers) - 1)]


def part(labels: Sequence[str], answers: Answers) -> Element:
    """The confusion matrix of the first artifact, or the commonest mistakes of many classes; figures by class."""
    who, cells = shipped(answers)
    children: list[Child] = [element("p", _beside(who, answers))]
    if len(labels) <= FEW:
        children += [element("h3", f"Confusion matrix: {who}"), _matrix(labels, cells)]
    else:
        children += [element("h3", f"The commonest mistakes: {who}"), _mistakes(labels, cells)]
    children += [element("h3", "By class"), *_figures(labels, answers)]
    return section("Classes", *children)


def _beside(who: str, answers: Answers) -> str:
    samples = sum(count for *_, count in answers[who])
    text = f"Of the {who}, over {samples:,} test samples."
    if lost := sum(count for _, top, count in answers[who] if top < 0):
        text += f" {lost:,} of them have an answer that is not finite."
    if who == FLOAT32 or FLOAT32 not in answers:
        return text
    same = answers[who] == answers[FLOAT32]
    return f"{text} The float32 model's matrix {'is the same' if same else 'differs: see the figures by class'}."


def _matrix(labels: Sequence[str], cells: Confusion) -> Element:
    dense = matrix(cells, len(labels))
    whole = dense.sum(1)
    head = element(
        "tr",
        element("th"),
        *(element("th", element("div", _name(labels, k)), scope="col") for k in range(len(labels))),
    )
    rows = [
        element(
            "tr",
            element("th", _name(labels, true), scope="row"),
            *(_count(int(n), int(whole[true]), true == top) for top, n in enumerate(dense[true])),
        )
        for true in range(len(labels))
    ]
    note = element("p", "A row for each true class; a column for what it was taken for.", class_="note")
    body = element("table", element("thead", head), element("tbody", *rows), class_="matrix")
    return element("div", note, body, class_="scroll")


def _count(count: int, whole: int, hit: bool) -> Element:
    if not count:
        return element("td", "·", class_="none")
    share = count / whole
    # A mistake is coloured from a share of 2 % on, and fully from a third on.
    strength = 0.15 + 0.55 * share if hit else min(0.85, 0.25 + 1.8 * share)
    style = f"--share: {strength * 100:.0f}%"
    return element("td", f"{count:,}", class_="hit" if hit else "miss", style=style, title=f"{share * 100:.1f} %")


def _mistakes(labels: Sequence[str], cells: Confusion) -> Element:
    support = by_class(cells, len(labels)).support
    rows = [
        (_name(labels, true), _name(labels, top), f"{count:,}", f"{count / support[true] * 100:.1f} %")
        for true, top, count in mistakes(cells, PAIRS)
    ]
    if not rows:
        return element("p", "There are none.")
    return table(("true class", "was taken for", "samples", "of its class"), rows, numbers=(2, 3))


def _figures(labels: Sequence[str], answers: Answers) -> list[Element]:
    """Precision and recall of the float32 model and of the first artifact; of many classes the worst come first."""
    chosen = dict.fromkeys((FLOAT32, shipped(answers)[0]))
    figures = {who: by_class(answers[who], len(labels)) for who in chosen if who in answers}
    last = list(figures.values())[-1]
    order = list(range(len(labels)))
    if len(labels) > FEW:
        order.sort(key=lambda k: (last.recall[k] is None, last.recall[k]))
    rows: list[tuple[Child, ...]] = [
        (
            _name(labels, k),
            f"{last.support[k]:,}",
            *(_percent(share) for one in figures.values() for share in (one.precision[k], one.recall[k])),
        )
        for k in order[:ROWS]
    ]
    names = ["class", "samples", *(f"{what}, {who}" for who in figures for what in ("precision", "recall"))]
    rows_by_class = table(names, rows, numbers=range(1, len(names)))
    note = (
        "Precision: of the samples taken for a class, how many are of it. Recall: of the samples of a class, how many "
        "are recognised."
    )
    if len(labels) <= FEW:
        return [element("p", note, class_="note"), rows_by_class]
    more = f"; the first {ROWS:,}" if len(labels) > ROWS else ""
    return [
        element("p", note, class_="note"),
        folded(f"{len(labels):,} classes, those recognised least first{more}", rows_by_class),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.2f} %"


def _label(labels: Sequence[str], k: int) -> str:
    return (str(labels[k]) or "(no name)") if k >= 0 else "not finite"


def _name(labels: Sequence[str], k: int) -> Element:
    """A label, shortened where it is long; the whole one is shown when it is pointed at."""
    label = _label(labels, k)
    return element("span", label if len(label) <= _LONG else f"{label[: _LONG - 1]}…", title=label)
