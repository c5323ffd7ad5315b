"""Writes outcomes as NAME.md, NAME.csv and NAME.png: mean and spread over the seeds next to the paper's numbers.

Rows without outcomes keep empty cells, so a report can be written while trials still run.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from edgenode.observability import plotting
from edgenode.storage.filesystem import write_atomically
from edgenode_lab.experiments import labels
from edgenode_lab.experiments.definitions import METRICS, Experiment, Metric, Outcome, Row
from edgenode_lab.experiments.runner import OutcomeStore, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Point = tuple[Any, float, float]  # x, mean, standard deviation
_MARKERS, _STYLES = ("o", "s"), ("-", "--")  # of the first and the second metric of a figure
_Filling = Literal["full", "none", "left"]
_FILLINGS: tuple[_Filling, ...] = ("full", "none", "left")  # of markers, one for each series


@dataclass(frozen=True)
class RowOutcomes:
    """The outcomes of one row, by seed."""

    row: Row
    by_seed: Mapping[int, Outcome]

    def values(self, metric: Metric) -> list[float]:
        """The metric of every trial that has it and did not diverge, in the order of the seeds."""
        numbers = (metric.of(outcome) for outcome in self.by_seed.values() if "error" not in outcome)
        return [number for number in numbers if number is not None]

    @property
    def diverged(self) -> int:
        return sum("error" in outcome for outcome in self.by_seed.values())


@dataclass(frozen=True)
class Heading:
    """What stands above a table: its title, the command that wrote it, and the conditions of the measurement."""

    title: str
    command: str
    conditions: str

    @classmethod
    def of(cls, experiment: Experiment, trials: Sequence[Trial], command: str, settings: Sequence[str]) -> Heading:
        """The heading of these trials, with the ``settings`` that they have in common."""
        played = [(trial.row, trial.config) for trial in trials]
        conditions = labels.conditions(played)
        if settings:
            conditions += f" With {', '.join(settings)} in every run."
        if all(config.task.validation for _, config in played):
            conditions += " Accuracy is that on held-out training data, and no test data was used."
        return cls(labels.title(experiment, *played[0]), command, conditions)


def other_command(experiment: Experiment, heading: Heading, out: Path) -> str:
    """The command that wrote the report in ``out``, if it measured something else. Empty otherwise.

    The seeds do not matter: finished runs are kept.
    """
    try:
        lines = (out / f"{experiment.name}.md").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    command = next((line.strip() for line in lines if line.startswith("    ")), "")
    ours, theirs = (re.sub(r" --seeds [\d-]+", "", text) for text in (heading.command, command))
    return "" if ours == theirs else command


def collect(rows: Sequence[Row], trials: Sequence[Trial], store: OutcomeStore) -> list[RowOutcomes]:
    """The outcomes so far, row by row."""
    known = [(trial, outcome) for trial in trials if (outcome := store.get(trial)) is not None]
    return [RowOutcomes(row, {trial.seed: outcome for trial, outcome in known if trial.row is row}) for row in rows]


def write(experiment: Experiment, heading: Heading, results: Sequence[RowOutcomes], out: Path) -> None:
    """Write NAME.md, NAME.csv and, with matplotlib, NAME.png and NAME.pdf into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{experiment.name}.md", markdown(experiment, heading, results))
    write_atomically(out / f"{experiment.name}.csv", comma_separated(experiment, results))
    if plotting.available():
        draw(experiment, results, [out / f"{experiment.name}.png", out / f"{experiment.name}.pdf"])


# tables ------------------------------------------------------------------------------------------------


def markdown(experiment: Experiment, heading: Heading, results: Sequence[RowOutcomes]) -> str:
    """The table, between the conditions of the measurement and the expected result."""
    headings, printed = list(experiment.labels), []
    for name in experiment.metrics:
        headings.append(METRICS[name].heading)
        if any(name in result.row.paper for result in results):
            printed.append(name)
            headings.append("paper")
    lines = [[*result.row.labels, *_cells(experiment, result, printed)] for result in results]
    return "\n".join(
        [
            f"# {heading.title}",
            "",
            f"    {heading.command}",
            "",
            f"{heading.conditions} {_seeds(results)} Empty cells were not measured. "
            "SP and SCSP come from the same run, before and after its last phase.",
            "",
            table(headings, lines),
            "",
            *([f"Expected: {experiment.expected}", ""] if experiment.expected else []),
            *([f"![{heading.title}]({experiment.name}.png)", ""] if plotting.available() else []),
            *([f"[Learning curves]({experiment.name}-curves.pdf)", ""] if _has_curves(experiment) else []),
        ]
    )


def _has_curves(experiment: Experiment) -> bool:
    return bool(experiment.curves.every) and plotting.available()


def _seeds(results: Sequence[RowOutcomes]) -> str:
    seeds = max((len(result.by_seed) for result in results), default=0)
    if seeds > 1:
        return f"Each cell has the mean ± the standard deviation of up to {seeds} runs."
    return "Each row is one run." if seeds else "No run has finished."


def _cells(experiment: Experiment, result: RowOutcomes, printed: Sequence[str]) -> list[str]:
    cells = []
    for name in experiment.metrics:
        cells.append(_mean_and_spread(result, METRICS[name]))
        if name in printed:
            paper = result.row.paper.get(name)
            cells.append("" if paper is None else f"{paper:g}")
    return cells


def _mean_and_spread(result: RowOutcomes, metric: Metric) -> str:
    values = result.values(metric)
    failed = f"{result.diverged} of {len(result.by_seed)} diverged" if result.diverged else ""
    if not values:
        return failed
    spread = f" ± {stdev(values):{metric.form}}" if len(values) > 1 else ""
    return f"{fmean(values):{metric.form}}{spread}{f' ({failed})' if failed else ''}"


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def comma_separated(experiment: Experiment, results: Sequence[RowOutcomes]) -> str:
    """One line for every row and seed, unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*experiment.labels, "seed", *experiment.metrics, "error"])
    for result in results:
        for seed, outcome in result.by_seed.items():
            error = outcome.get("error", "")
            numbers = ["" if error else _unrounded(METRICS[name].of(outcome)) for name in experiment.metrics]
            writer.writerow([*result.row.labels, seed, *numbers, error])
    return text.getvalue()


def _unrounded(number: float | None) -> str:
    return "" if number is None else repr(number)


# the figure --------------------------------------------------------------------------------------------


def draw(experiment: Experiment, results: Sequence[RowOutcomes], paths: Sequence[Path]) -> None:
    """Draw one line for each metric and each series, with the spread, or points for each kind of row.

    Rows without a number are left out.
    """
    canvas = plotting.new_figure(8, 4.2)
    axes = canvas.add_subplot()
    figure = experiment.figure
    if figure.kinds:
        _draw_kinds(axes, experiment, results)
    else:
        _draw_lines(axes, experiment, results)
    axes.set_xlabel(figure.x)
    axes.set_ylabel("test accuracy, %")
    if figure.x_metrics:
        axes.set_xscale("log")
    if figure.nominal:
        for label in axes.get_xticklabels():
            label.set(rotation=40, horizontalalignment="right")
    if any(axes.get_legend_handles_labels()[1]):
        canvas.legend(loc="outside right upper", fontsize="small")
    axes.grid(alpha=0.3)
    for path in paths:
        canvas.savefig(path, dpi=110, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)


def _draw_lines(axes: Axes, experiment: Experiment, results: Sequence[RowOutcomes]) -> None:
    figure = experiment.figure
    for number, name in enumerate(figure.y):
        for place, (series, points) in enumerate(_series(experiment, results, number).items()):
            phase = METRICS[name].heading.removesuffix(", %") if len(figure.y) > 1 else ""
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(
                x, y, yerr=spread, capsize=3, alpha=0.9, label=", ".join(filter(None, (phase, series))),
                color=f"C{place if figure.series else number}", marker=_MARKERS[number],
                linestyle="" if figure.nominal else _STYLES[number],
            )  # fmt: skip


def _draw_kinds(axes: Axes, experiment: Experiment, results: Sequence[RowOutcomes]) -> None:
    """Points with a colour for each kind of row, a marker for each metric and a filling for each series."""
    from matplotlib import colormaps

    figure, fillings = experiment.figure, dict[str, _Filling]()
    place = experiment.labels.index(figure.kinds)
    of_kind: dict[str, list[RowOutcomes]] = {}
    for result in results:
        of_kind.setdefault(result.row.labels[place].partition(", ")[0], []).append(result)
    for at, (kind, rows) in enumerate(of_kind.items()):
        color = colormaps["tab20"](at % 20)
        axes.plot([], [], color=color, linewidth=5, label=kind)
        for number in range(len(figure.y)):
            for series, points in _series(experiment, rows, number).items():
                filling = fillings.setdefault(series, _FILLINGS[len(fillings) % len(_FILLINGS)])
                x, y, spread = zip(*points, strict=True)
                axes.errorbar(
                    x, y, yerr=spread, capsize=3, linestyle="", color=color, marker=_MARKERS[number], fillstyle=filling
                )
    for (number, name), (series, filling) in product(enumerate(figure.y), fillings.items()):
        label = f"{METRICS[name].heading.removesuffix(', %')}, {series}"
        axes.plot([], [], color="grey", linestyle="", marker=_MARKERS[number], fillstyle=filling, label=label)


def _series(experiment: Experiment, results: Sequence[RowOutcomes], number: int) -> dict[str, list[_Point]]:
    """The points of each series for one of the figure's metrics."""
    figure = experiment.figure
    series: dict[str, list[_Point]] = {}
    for result in results:
        values = result.values(METRICS[figure.y[number]])
        labels = dict(zip(experiment.labels, result.row.labels, strict=True))
        if not values:
            continue
        x = fmean(result.values(METRICS[figure.x_metrics[number]])) if figure.x_metrics else labels[figure.x]
        spread = stdev(values) if len(values) > 1 else 0.0
        name = ", ".join(f"{heading} {labels[heading]}" for heading in figure.series)
        if figure.x == "skew":
            with suppress(ValueError):  # of a Dirichlet distribution, the label is not a number
                x = float(x)
        series.setdefault(name, []).append((x, fmean(values), spread))
    return series
