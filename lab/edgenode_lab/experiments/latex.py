"""A table of an experiment in LaTeX, to paste into a paper: booktabs, and a caption with what the runs are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from edgenode.config.schema import Config
from edgenode_lab.experiments.definitions import METRICS, Experiment, Metric
from edgenode_lab.experiments.report import Heading, RowOutcomes

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "²": r"\textsuperscript{2}", "±": r"$\pm$",
}  # fmt: skip
_LEFT_OUT = {"run.seed", "run.evaluate_every", "run.checkpoint_every"}


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def table(experiment: Experiment, heading: Heading, results: Sequence[RowOutcomes], configs: Sequence[Config]) -> str:
    """The table. Its caption has the conditions, and every setting in which the rows differ."""
    headings = [*experiment.labels, *(METRICS[name].heading for name in experiment.metrics)]
    lines = [[*map(escaped, result.row.labels), *(_cell(result, METRICS[name]) for name in experiment.metrics)]
             for result in results]  # fmt: skip
    seeds = max((len(result.by_seed) for result in results), default=0)
    spread = f" Mean $\\pm$ standard deviation of {seeds} seeds." if seeds > 1 else ""
    differing = "; ".join(f"{key}: {values}" for key, values in differences(configs).items())
    caption = f"{escaped(heading.title)}. {escaped(heading.conditions)}{spread}"
    caption += f" Rows differ in {escaped(differing)}." if differing else ""
    columns = "l" * len(experiment.labels) + "r" * len(experiment.metrics)
    return "\n".join(
        [
            f"% {heading.command}",
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {' & '.join(map(escaped, headings))} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(line)} \\\\" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def differences(configs: Sequence[Config]) -> Mapping[str, str]:
    """The keys in which configurations differ, with all their values."""
    keys = [config.as_keys() for config in configs]
    found: dict[str, str] = {}
    for key in keys[0] if keys else ():
        values = list(dict.fromkeys(_plain(each[key]) for each in keys))
        if len(values) > 1 and key not in _LEFT_OUT:
            found[key] = ", ".join(values)
    return found


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={_plain(part)}" for key, part in value.items()) or "none"
    return "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value) or "none"


def _cell(result: RowOutcomes, metric: Metric) -> str:
    values = result.values(metric)
    if not values:
        return "diverged" if result.diverged else "--"
    failed = f" ({result.diverged} of {len(result.by_seed)} diverged)" if result.diverged else ""
    if len(values) == 1 or not stdev(values):
        return f"${fmean(values):{metric.form}}${failed}"
    spread = stdev(values)
    digits = max(0, 1 - math.floor(math.log10(spread)))  # two significant digits of the spread, and as many of the mean
    return f"${fmean(values):.{digits}f} \\pm {spread:.{digits}f}${failed}"
