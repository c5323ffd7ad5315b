"""What an experiment is: rows, each of which is a run with the paper's numbers beside it, and what is read off them.

Values only: nothing here trains, reads a disk or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgenode.experiments.presets import Scale, Settings

Outcome = Mapping[str, Any]
"""What is kept of a run: its result.json, with ``before_gossip`` (that of SP) beside it in a run of SCSP; or, where it
failed, ``error``."""


@dataclass(frozen=True)
class Measure:
    """A number that is read off an outcome; None where the run has none of the kind."""

    heading: str
    of: Callable[[Outcome], float | None]
    form: str = ".2f"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        settings: keys of run.toml, but for the seed; None if the scale has nothing of the kind.
        paper: what the paper prints, by the name of the measure.
    """

    labels: tuple[str, ...]
    settings: Settings | None
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """How a table is drawn.

    Attributes:
        x: a label; or, where ``over`` has a measure of bytes for each of ``y``, what the axis is called.
        y: measures of accuracy.
        lines: the labels that tell one line from another.
    """

    x: str
    y: tuple[str, ...]
    lines: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of the paper, or one of our own.

    Attributes:
        labels: headings of the columns that name a row.
        measures: names in MEASURES, the columns that are measured.
        says: what the paper, or a claim, expects to be seen.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    measures: tuple[str, ...]
    rows: Callable[[Scale], tuple[Row, ...]]
    figure: Figure
    says: str


def _training(outcome: Outcome) -> Outcome:
    """The training phase alone: SP, of a run of SCSP."""
    before: Outcome = outcome.get("before_gossip") or outcome
    return before


def _percent(outcome: Outcome) -> float:
    return 100 * float(outcome["mean_test_accuracy"])


def _scsp(outcome: Outcome) -> float | None:
    return _percent(outcome) if outcome["algorithm"] == "scsp" else None


def _gain(outcome: Outcome) -> float | None:
    return _percent(outcome) - _percent(_training(outcome)) if outcome["algorithm"] == "scsp" else None


def _sent(outcome: Outcome) -> float:
    return float(sum(node["payload_bytes"] for node in outcome["nodes"]))


def _per_message(outcome: Outcome) -> float | None:
    messages = sum(node["messages"] for node in outcome["nodes"])
    return _sent(outcome) / messages / 1e6 if messages else None


def _factor(outcome: Outcome) -> float | None:
    if outcome["algorithm"] == "local":
        return None  # of empty messages
    factor: float | None = outcome["compression_factor"]
    return factor


MEASURES: dict[str, Measure] = {
    "accuracy": Measure("test accuracy, %", lambda o: _percent(_training(o))),
    "sp": Measure("SP accuracy, %", lambda o: _percent(_training(o))),
    "scsp": Measure("SCSP accuracy, %", _scsp),
    "gain": Measure("gain of SCSP", _gain),
    "message": Measure("MB per message", lambda o: _per_message(_training(o)), ".3g"),
    "factor": Measure("compression per message", lambda o: _factor(_training(o)), ".4g"),
    "run_factor": Measure("compression of the whole run", _factor, ".4g"),
    "divergence": Measure("divergence (mean square)", lambda o: _training(o)["parameter_divergence_mse"], ".2g"),
    "sp_sent": Measure("SP sent per node, MB", lambda o: _sent(_training(o)) / len(o["nodes"]) / 1e6, ".3g"),
    "sent": Measure("sent per node, MB", lambda o: _sent(o) / len(o["nodes"]) / 1e6, ".3g"),
}
