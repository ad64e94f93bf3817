"""What a model answers as pictures, by matplotlib: numbers beside the true ones, masks beside the true masks.

Each has what an artifact answers, and what of that differs from the float32 model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfhalf.tasks.answers import Meaning, number_words
from tfhalf.tasks.colours import colours

NUMBERS, MASKS = "predicted.png", "masks.png"
_POINTS = 4000
_COLUMNS = 4
_IMAGES = 4
_TRUE, _WRONG, _OTHER = "#222222", (213, 94, 0), (0, 158, 255)
_IGNORED = (255, 255, 255)


@dataclass(frozen=True)
class Answers:
    """Answers to test items: ``true`` ones, the float32 model's, and those of the ``artifact`` called ``who``; each
    [N, K] of numbers; of pixels ``true`` [N, H, W], below 0 where it does not count, and probabilities [N, H, W, K]."""

    meaning: Meaning
    true: np.ndarray
    float32: np.ndarray
    artifact: np.ndarray
    who: str


def draw_numbers(path: Path, title: str, answers: Answers) -> None:
    """Predicted numbers against true ones, residuals, and the artifact's differences from the float32 model.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    columns = min(answers.true.shape[1], _COLUMNS)
    figure = Figure((12, 3.9 * columns), layout="constrained")
    axes = figure.subplots(columns, 3, squeeze=False)
    rows = np.random.default_rng(0).permutation(len(answers.true))[:_POINTS]
    for k in range(columns):
        _numbers_of(axes[k], answers, k, rows)
    of = f", {len(rows):,} of {len(answers.true):,} test items" if len(rows) < len(answers.true) else ""
    figure.suptitle(f"{title}, {answers.who}{of}", fontsize=11, parse_math=False)
    figure.savefig(path, dpi=110)


def _numbers_of(axes: Sequence[Any], answers: Answers, k: int, rows: np.ndarray) -> None:
    true, float32, ours = (
        array[:, k].astype(np.float64) for array in (answers.true, answers.float32, answers.artifact)
    )
    names, unit = answers.meaning.columns, answers.meaning.unit
    name = names[k] if k < len(names) else "value"
    in_unit = f", {unit}" if unit else ""
    rmse = [number_words(float(np.sqrt(np.mean((one - true) ** 2)))) for one in (float32, ours)]
    errors = (("predicted", ours), ("predicted - true", ours - true), ("artifact - float32 model", ours - float32))
    for panel, (words, values) in zip(axes, errors, strict=True):
        panel.scatter(true[rows], values[rows], s=6, alpha=0.35, linewidths=0, color="#0072b2")
        panel.set_xlabel(f"true {name}{in_unit}", parse_math=False)
        panel.set_ylabel(f"{words}{in_unit}", parse_math=False)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    low, high = true.min(), true.max()
    axes[0].plot([low, high], [low, high], color=_TRUE, linewidth=1)
    for panel in axes[1:]:
        panel.axhline(0, color=_TRUE, linewidth=1)
    axes[0].set_title("on the line: right", fontsize=9)
    axes[1].set_title(f"residuals: rmse {rmse[1]}, float32 {rmse[0]}", fontsize=9)
    axes[2].set_title("what float16 changes", fontsize=9)


def draw_masks(path: Path, title: str, images: np.ndarray, answers: Answers) -> None:
    """A few test ``images`` [N, H, W, C], from the one answered worst to the one answered best: true mask, predicted
    mask, and where they differ.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    ours, theirs = answers.artifact.argmax(-1), answers.float32.argmax(-1)
    right = _share_right(answers.true, ours)
    count = min(_IMAGES, len(ours))
    chosen = np.argsort(right, kind="stable")[np.linspace(0, len(right) - 1, count).round().astype(int)]
    classes = answers.artifact.shape[-1]
    figure = Figure((11, 2.9 * count + 1), layout="constrained")
    panels = figure.subplots(count, 4, squeeze=False)
    for row, index in zip(panels, chosen, strict=True):
        grey = _plain(images[index])
        shown = (
            ("image", grey),
            ("true", _coloured(answers.true[index], classes)),
            ("predicted", _coloured(ours[index], classes)),
            (f"{right[index] * 100:.1f} % right", _differences(grey, answers.true[index], ours[index], theirs[index])),
        )
        for panel, (words, picture) in zip(row, shown, strict=True):
            panel.imshow(picture, interpolation="nearest")
            panel.set_title(words, fontsize=9)
            panel.set_axis_off()
    known = [*zip(answers.meaning.labels, colours(classes), strict=False)][:12]
    known += [("wrong", _WRONG), ("other than the float32 model", _OTHER)]
    patches = [
        Patch(color=(red / 255, green / 255, blue / 255), label=_short(name)) for name, (red, green, blue) in known
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(
        f"{title}, {answers.who}: the worst of {len(ours):,} test images first", fontsize=11, parse_math=False
    )
    figure.savefig(path, dpi=110)


def _share_right(true: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Of each image the share of its pixels that count and are right, [N]."""
    counted = true >= 0
    axes = tuple(range(1, true.ndim))
    share: np.ndarray = ((ours == true) & counted).sum(axes) / np.maximum(counted.sum(axes), 1)
    return share


def _plain(image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] of whatever range as uint8 [H, W, 3]."""
    values = image[..., :3].astype(np.float64) if image.shape[-1] >= 3 else image[..., :1].repeat(3, -1).astype(float)
    low, high = (0, 255) if image.dtype == np.uint8 else (values.min(), values.max())
    plain: np.ndarray = ((values - low) * (255 / max(high - low, 1e-12))).clip(0, 255).astype(np.uint8)
    return plain


def _coloured(mask: np.ndarray, classes: int) -> np.ndarray:
    table = np.array([*colours(classes), _IGNORED], np.uint8)
    return table[np.where((mask >= 0) & (mask < classes), mask, classes)]


def _differences(grey: np.ndarray, true: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The image, paler, with the pixels that are wrong, and those that the float32 model has otherwise."""
    picture = (grey // 2 + 120).astype(np.uint8)
    picture[(true >= 0) & (ours != true)] = _WRONG
    picture[ours != theirs] = _OTHER
    return picture


def _short(name: str) -> str:
    return (name if name.isprintable() and name.isascii() else "class").replace("$", r"\$")[:40]
