"""From outcomes to NAME.md, NAME.csv and NAME.png: mean and spread over the seeds, the paper's column beside ours.

What was not measured is left empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from edgenode.experiments.definitions import MEASURES, Experiment, Measure, Outcome, Row
from edgenode.experiments.presets import Scale
from edgenode.experiments.runner import Cell, Outcomes
from edgenode.storage.checkpoints import write_atomically


@dataclass(frozen=True)
class Measured:
    """The outcomes of one row, by seed."""

    row: Row
    by_seed: Mapping[int, Outcome]

    def values(self, measure: Measure) -> list[float]:
        """What the runs that came to an end say, in the order of their seeds."""
        numbers = (measure.of(outcome) for outcome in self.by_seed.values() if "error" not in outcome)
        return [number for number in numbers if number is not None]

    @property
    def diverged(self) -> int:
        return sum("error" in outcome for outcome in self.by_seed.values())


def gather(rows: Sequence[Row], runs: Sequence[Cell], outcomes: Outcomes) -> list[Measured]:
    """The outcomes that there are, row by row."""
    known = [(cell, outcome) for cell in runs if (outcome := outcomes.get(cell)) is not None]
    return [Measured(row, {cell.seed: outcome for cell, outcome in known if cell.row is row}) for row in rows]


def write(experiment: Experiment, scale: Scale, measured: Sequence[Measured], command: str, out: Path) -> None:
    """Write NAME.md, NAME.csv and NAME.png into ``out``."""
    from edgenode.experiments.picture import draw

    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{experiment.name}.md", markdown(experiment, scale, measured, command))
    write_atomically(out / f"{experiment.name}.csv", comma_separated(experiment, measured))
    draw(experiment, measured, out / f"{experiment.name}.png")


def markdown(experiment: Experiment, scale: Scale, measured: Sequence[Measured], command: str) -> str:
    """The table, with what was measured how above it and what is expected below."""
    headings, printed = list(experiment.labels), []
    for name in experiment.measures:
        headings.append(MEASURES[name].heading)
        if any(name in m.row.paper for m in measured):
            printed.append(name)
            headings.append("paper")
    lines = [[*m.row.labels, *_columns(experiment, m, printed)] for m in measured]
    seeds = max((len(m.by_seed) for m in measured), default=0)
    return "\n".join(
        [
            f"# {experiment.title}",
            "",
            f"    {command}",
            "",
            f"{scale.note} Mean ± standard deviation of up to {seeds} runs; what was not measured is empty. "
            "SP and SCSP are read off the same run, before and after its gossip.",
            "",
            table(headings, lines),
            "",
            f"Expected: {experiment.says}",
            "",
            f"![{experiment.title}]({experiment.name}.png)",
            "",
        ]
    )


def _columns(experiment: Experiment, measured: Measured, printed: Sequence[str]) -> list[str]:
    cells = []
    for name in experiment.measures:
        cells.append(_number(measured, MEASURES[name]))
        if name in printed:
            paper = measured.row.paper.get(name)
            cells.append("" if paper is None else f"{paper:g}")
    return cells


def _number(measured: Measured, measure: Measure) -> str:
    values = measured.values(measure)
    failed = f"{measured.diverged} of {len(measured.by_seed)} diverged" if measured.diverged else ""
    if not values:
        return failed
    spread = f" ± {stdev(values):{measure.form}}" if len(values) > 1 else ""
    return f"{fmean(values):{measure.form}}{spread}{f' ({failed})' if failed else ''}"


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def comma_separated(experiment: Experiment, measured: Sequence[Measured]) -> str:
    """One line for every row and seed, unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*experiment.labels, "seed", *experiment.measures, "error"])
    for m in measured:
        for seed, outcome in m.by_seed.items():
            error = outcome.get("error", "")
            numbers = ["" if error else _plain(MEASURES[name].of(outcome)) for name in experiment.measures]
            writer.writerow([*m.row.labels, seed, *numbers, error])
    return text.getvalue()


def _plain(number: float | None) -> str:
    return "" if number is None else repr(number)
