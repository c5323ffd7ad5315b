"""Draws a table: one line for each measure and each value of the labels that tell lines apart, with the spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from edgenode.experiments.definitions import MEASURES, Experiment

if TYPE_CHECKING:
    from edgenode.experiments.report import Measured

_Point = tuple[Any, float, float]  # x, mean, standard deviation
_MARKERS, _STYLES = ("o", "s"), ("-", "--")


def draw(experiment: Experiment, measured: Sequence[Measured], path: Path) -> None:
    """Write the picture; rows without a number are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    wanted = experiment.figure
    for number, name in enumerate(wanted.y):
        for place, (line, points) in enumerate(_lines(experiment, measured, number).items()):
            phase = MEASURES[name].heading.removesuffix(", %") if len(wanted.y) > 1 else ""
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(
                x, y, yerr=spread, capsize=3, alpha=0.9, label=", ".join(filter(None, (phase, line))),
                color=f"C{place if wanted.lines else number}", marker=_MARKERS[number],
                linestyle=_STYLES[number] if wanted.x != "method" else "",
            )  # fmt: skip
    axes.set_xlabel(wanted.x)
    axes.set_ylabel("test accuracy, %")
    if wanted.over:
        axes.set_xscale("log")
    if wanted.x == "method":
        for label in axes.get_xticklabels():
            label.set(rotation=40, horizontalalignment="right")
    if any(axes.get_legend_handles_labels()[1]):
        figure.legend(loc="outside right upper", fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _lines(experiment: Experiment, measured: Sequence[Measured], number: int) -> dict[str, list[_Point]]:
    """Line -> its points, of one of the measures that are drawn."""
    wanted = experiment.figure
    lines: dict[str, list[_Point]] = {}
    for m in measured:
        values = m.values(MEASURES[wanted.y[number]])
        labels = dict(zip(experiment.labels, m.row.labels, strict=True))
        if not values:
            continue
        x = fmean(m.values(MEASURES[wanted.over[number]])) if wanted.over else labels[wanted.x]
        spread = stdev(values) if len(values) > 1 else 0.0
        line = ", ".join(f"{heading} {labels[heading]}" for heading in wanted.lines)
        lines.setdefault(line, []).append((float(x) if wanted.x == "skew" else x, fmean(values), spread))
    return lines
