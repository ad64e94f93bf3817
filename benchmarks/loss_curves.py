"""Loss and loss scale of several runs in one picture.

    python benchmarks/loss_curves.py --out FILE [--title TEXT] LABEL=RUN ...

RUN is a folder of runs/NAME; what is drawn is what its ``steps.npz`` recorded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

_STYLES = (("#ee6677", "-"), ("#4477aa", "-"), ("#222222", ":"), ("#228833", "--"), ("#aa3377", "-."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    if len(arguments.runs) > len(_STYLES):
        parser.error(f"{len(arguments.runs)} runs; accepted: at most {len(_STYLES)}")
    figure = Figure((8.8, 4.9), layout="constrained")
    loss, scale = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for text, (colour, line) in zip(arguments.runs, _STYLES, strict=False):
        label, equals, run = text.rpartition("=")
        if not equals or not (Path(run) / "steps.npz").is_file():
            parser.error(f"{text}: give LABEL=RUN with a run folder that has steps.npz")
        with np.load(Path(run) / "steps.npz", allow_pickle=False) as data:
            steps = dict(data)
        skipped, applied = int(steps["skipped"].sum()), int(steps["applied"].sum())
        caption = f"{label}: {applied:,} steps applied, {skipped:,} skipped"
        loss.plot(steps["step"], steps["loss"], line, color=colour, linewidth=1.5, label=caption)
        if skipped or (steps["scale"] != 1).any():  # not of a policy without one
            scale.plot(steps["step"], steps["scale"], line, color=colour, linewidth=1.5, drawstyle="steps-post")
        if not applied:
            scale.plot(steps["step"][-1], steps["scale"][-1], "x", color=colour, markersize=8)
    loss.set_ylabel("training loss")
    loss.set_ylim(bottom=0)
    scale.set_ylabel("loss scale")
    scale.set_yscale("log", base=2)
    scale.set_xlabel("step")
    for axes in (loss, scale):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    loss.set_title(arguments.title, fontsize=11)
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    figure.savefig(arguments.out, dpi=100)


if __name__ == "__main__":
    main()
