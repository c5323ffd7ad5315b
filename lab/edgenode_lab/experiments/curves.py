"""Learning curves: what the runs of an experiment measured on their way, as a table and as a vector figure.

A curve is the mean over a row's runs of the mean over their nodes. Its band is the 95 % confidence interval of the
former (Student's t), so a row needs two seeds to have one.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from edgenode.observability import plotting
from edgenode.storage.filesystem import write_atomically
from edgenode_lab.experiments.definitions import Curves, Experiment, Row
from edgenode_lab.experiments.runner import OutcomeStore, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgenode.simulate.history import Row as HistoryRow

# of Student's t, for 1, 2, ... degrees of freedom; above these it is that of the normal distribution and a little more
_T_95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
         2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip
_AXES = {
    "round": ("round", 1.0),
    "steps": ("steps of a node", 1.0),
    "payload_bytes": ("sent per node, MB", 1e-6),
    "wall_s": ("seconds", 1.0),
    "accuracy": ("test accuracy, %", 100.0),
    "loss": ("training loss", 1.0),
    "consensus_distance": ("distance from the mean model (L2)", 1.0),
}
"""The label of a column of the history, and the factor of its numbers."""
_LABEL_ROOM = 0.055  # of the height of a panel, between two labels


@dataclass(frozen=True)
class RowHistories:
    """The histories of one row, by seed."""

    row: Row
    by_seed: Mapping[int, Sequence[HistoryRow]]

    @property
    def label(self) -> str:
        return ", ".join(filter(None, self.row.labels))


@dataclass(frozen=True)
class Point:
    """A point of a curve: x and y are means, and ``half`` is half of the confidence interval of y. None of one run."""

    x: float
    y: float
    half: float | None


def collect(rows: Sequence[Row], trials: Sequence[Trial], store: OutcomeStore) -> list[RowHistories]:
    """The histories so far, row by row."""
    known = [(trial, history) for trial in trials if (history := store.history(trial))]
    return [RowHistories(row, {t.seed: history for t, history in known if t.row is row}) for row in rows]


def confidence_half(values: Sequence[float]) -> float | None:
    """Half of the 95 % confidence interval of a mean. None of fewer than two values."""
    if len(values) < 2:
        return None
    freedom = len(values) - 1
    quantile = _T_95[freedom - 1] if freedom <= len(_T_95) else 1.96 + 2.5 / freedom
    return quantile * stdev(values) / math.sqrt(len(values))


def curve(histories: RowHistories, x: str, y: str) -> list[Point]:
    """The curve of a row: a point for each round that all of its runs have measured."""
    of_runs = [run for run in (_means(rows, x, y) for rows in histories.by_seed.values()) if run]
    common = sorted(set.intersection(*(set(run) for run in of_runs))) if of_runs else []
    points = []
    for t in common:
        xs, ys = zip(*(run[t] for run in of_runs), strict=True)
        points.append(Point(fmean(xs), fmean(ys), confidence_half(ys)))
    return points


def _means(rows: Sequence[HistoryRow], x: str, y: str) -> dict[int, tuple[float, float]]:
    """The means over the nodes of one run, by round. Rounds without a measurement are left out."""
    of_rounds: dict[int, list[HistoryRow]] = {}
    for row in rows:
        if row.get(y) is not None:
            of_rounds.setdefault(row["round"], []).append(row)
    scale_x, scale_y = _axis(x)[1], _axis(y)[1]
    return {
        t: (scale_x * fmean(row[x] for row in nodes), scale_y * fmean(row[y] for row in nodes))
        for t, nodes in of_rounds.items()
    }


def _axis(column: str) -> tuple[str, float]:
    return _AXES.get(column, (column.removeprefix("test/"), 1.0))


def write(experiment: Experiment, results: Sequence[RowHistories], out: Path) -> None:
    """Write NAME-history.csv and NAME-history.jsonl, and with matplotlib NAME-curves.pdf, into ``out``."""
    rows = table(experiment, results)
    if not rows:
        return
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(out / f"{experiment.name}-history.jsonl", lines)
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / f"{experiment.name}-history.csv", text.getvalue())
    if plotting.available():
        draw(experiment.curves, results, out / f"{experiment.name}-curves.pdf")


def table(experiment: Experiment, results: Sequence[RowHistories]) -> list[dict[str, Any]]:
    """Every measurement of every node, with the labels of its row and its seed."""
    return [
        {**dict(zip(experiment.labels, result.row.labels, strict=True)), "seed": seed, **measured}
        for result in results
        for seed, history in result.by_seed.items()
        for measured in history
    ]


# the figure --------------------------------------------------------------------------------------------


def draw(curves: Curves, results: Sequence[RowHistories], path: Path) -> None:
    """Draw a panel for each x. Each line has its label at its end, in its colour, in the last panel."""
    canvas = plotting.new_figure(1.2 + 3.4 * len(curves.x), 3.4)
    panels = canvas.subplots(1, len(curves.x), sharey=True, squeeze=False)[0]
    for x, axes in zip(curves.x, panels, strict=True):
        ends = []
        for number, result in enumerate(results):
            # on a logarithmic axis there is no place for what begins at 0
            points = [p for p in curve(result, x, curves.y) if x != "payload_bytes" or p.x > 0]
            if points:
                _draw_line(axes, points, f"C{number % 10}")
                ends.append((points[-1].y, result.label, f"C{number % 10}"))
        axes.set_xlabel(_axis(x)[0])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if x == "payload_bytes" and ends:
            axes.set_xscale("log")
    panels[0].set_ylabel(_axis(curves.y)[0])
    _label_ends(panels[-1], ends)
    canvas.savefig(path, metadata={"CreationDate": None})


def _draw_line(axes: Axes, points: Sequence[Point], color: str) -> None:
    x, y = [point.x for point in points], [point.y for point in points]
    axes.plot(x, y, color=color, linewidth=1.5)
    low = [point.y - (point.half or 0.0) for point in points]
    high = [point.y + (point.half or 0.0) for point in points]
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name each line at its height to the right of the panel, a little higher where two labels would overlap."""
    bottom, top = axes.get_ylim()
    lowest = -math.inf
    for y, label, color in sorted(ends):
        height = max((y - bottom) / (top - bottom), lowest + _LABEL_ROOM)
        lowest = height
        axes.annotate(label, (1.02, height), xycoords="axes fraction", color=color, fontsize="small", va="center")
