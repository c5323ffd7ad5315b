"""Draws a table: one line for each measure and each value of the labels that tell lines apart, with the spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from edgenode.experiments.table import MEASURES, Experiment

if TYPE_CHECKING:
    from edgenode.experiments.report import Measured

_Point = tuple[Any, float, float]  # x, mean, standard deviation
_STYLES = ("o-", "s--", "^:", "v-.")


def draw(experiment: Experiment, measured: Sequence[Measured], path: Path) -> None:
    """Write the picture; rows without a number are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    wanted = experiment.figure
    for name, style in zip(wanted.y, _STYLES, strict=False):
        for place, (line, points) in enumerate(_lines(experiment, measured, name).items()):
            label = ", ".join(filter(None, (MEASURES[name].heading.split()[0] if len(wanted.y) > 1 else "", line)))
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(x, y, yerr=spread, fmt=style, color=f"C{place}", capsize=3, label=label, alpha=0.9)
    axes.set_xlabel(MEASURES[wanted.x].heading if wanted.x in MEASURES else wanted.x)
    axes.set_ylabel("test accuracy, %")
    if wanted.log:
        axes.set_xscale("log")
    axes.tick_params("x", rotation=40 if wanted.x == "method" else 0)
    if axes.get_legend_handles_labels()[1] not in ([], [""]):
        axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _lines(
    experiment: Experiment, measured: Sequence[Measured], name: str
) -> dict[str, list[tuple[Any, float, float]]]:
    """Line -> its points: x, mean, standard deviation."""
    wanted = experiment.figure
    lines: dict[str, list[tuple[Any, float, float]]] = {}
    for m in measured:
        values = m.values(MEASURES[name])
        labels = dict(zip(experiment.labels, m.row.labels, strict=True))
        if not values:
            continue
        x = fmean(m.values(MEASURES[wanted.x])) if wanted.x in MEASURES else labels[wanted.x]
        if wanted.x == "skew":
            x = float(x)
        line = ", ".join(f"{heading} {labels[heading]}" for heading in wanted.lines)
        spread = stdev(values) if len(values) > 1 else 0.0
        lines.setdefault(line, []).append((x, fmean(values), spread))
    return lines
