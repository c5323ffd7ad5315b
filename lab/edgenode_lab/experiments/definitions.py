"""The parts of an experiment: rows with their settings and the paper's numbers, metrics, and a figure.

Values only: nothing here trains, reads or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgenode.entry_points import Group, is_in_module
from edgenode.errors import ConfigError, one_of
from edgenode_lab.algorithms.attacked import liars_of
from edgenode_lab.experiments.scales import Scale, Settings

Outcome = Mapping[str, Any]
"""What a trial leaves: its result.json. A trial of SCSP adds ``before_gossip``, the result of SP. A trial that diverged
has ``error`` and ``config`` only."""


@dataclass(frozen=True)
class Metric:
    """A number computed from an outcome. ``of`` returns None where the outcome does not have it.

    Attributes:
        heading: that of its column.
        of: returns the number, given what is in the run's result.json.
        form: how a table prints it, as in ``format(number, ".2f")``.
    """

    heading: str
    of: Callable[[Outcome], float | None]
    form: str = ".2f"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        settings: keys of run.toml without the seed, or None if the scale does not include this row.
        paper: the paper's numbers, by the name of the metric.
        network: the paper's network that the row stands for.
        epochs_per_graph: after how many of the paper's 200 epochs the graph changes, or 0 if that does not depend on
            the length of the run.
        length: how many times as long as the scale's runs.
    """

    labels: tuple[str, ...]
    settings: Settings | None
    paper: Mapping[str, float] = field(default_factory=dict)
    network: str = ""
    epochs_per_graph: int = 0
    length: int = field(default=1, compare=False)  # of rows with the same settings, one is enough


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a table is drawn.

    Attributes:
        x: the label on the x axis. With ``x_metrics``, the title of the axis.
        y: metrics of accuracy.
        series: the labels that separate one line from another.
        x_metrics: one metric of bytes for each of ``y``, drawn on a log axis.
        nominal: whether the labels on the x axis are names, which no line joins.
        kinds: a label whose words before the first comma name a kind of row. If given, each kind has a colour, and no
            line joins any points.
    """

    x: str
    y: tuple[str, ...]
    series: tuple[str, ...] = ()
    x_metrics: tuple[str, ...] = ()
    nominal: bool = False
    kinds: str = ""


class Curves(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The learning curves of an experiment: the mean over the nodes of each run, over the seeds.

    Attributes:
        every: rounds between two measurements. 0 for no curves.
        x: one panel for each, of "round", "steps", "payload_bytes" and "wall_s".
        y: a column of the history, as "accuracy", "loss", "consensus_distance" or "test/NAME".
    """

    every: Annotated[int, Meta(ge=0)] = 0
    x: tuple[Literal["round", "steps", "payload_bytes", "wall_s"], ...] = ("round", "payload_bytes")
    y: str = "accuracy"


NO_CURVES = Curves()


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of the paper, one of edgenode's own, or one of the user's own.

    Attributes:
        title: may have the fields {network}, {graph} and {data}, for what all rows have in common.
        labels: headings of the columns that name a row.
        metrics: names in METRICS, one measured column each.
        expected: the result that the paper, or edgenode's own claim, predicts. Empty if nothing does.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: Callable[[Scale], tuple[Row, ...]]
    figure: Figure
    expected: str
    curves: Curves = NO_CURVES


def _training(of: Callable[[Outcome], float | None]) -> Callable[[Outcome], float | None]:
    """A number of the result after the training rounds: for a trial of SCSP, that of SP, if SP was measured."""

    def number(outcome: Outcome) -> float | None:
        result = outcome.get("before_gossip") if outcome["algorithm"] == "scsp" else outcome
        return None if result is None else of(result)

    return number


def _percent(outcome: Outcome) -> float:
    return 100 * float(outcome["mean_test_accuracy"])


def _scsp(outcome: Outcome) -> float | None:
    return _percent(outcome) if outcome["algorithm"] == "scsp" else None


def _gain(outcome: Outcome) -> float | None:
    after, before = _scsp(outcome), _training(_percent)(outcome)
    return None if after is None or before is None else after - before


def _sent(outcome: Outcome) -> float:
    return float(sum(node["payload_bytes"] for node in outcome["nodes"]))


def _per_node(outcome: Outcome) -> float:
    return _sent(outcome) / len(outcome["nodes"]) / 1e6


def _per_message(outcome: Outcome) -> float | None:
    messages = sum(node["messages"] for node in outcome["nodes"])
    return _sent(outcome) / messages / 1e6 if messages else None


def _factor(outcome: Outcome) -> float | None:
    factor: float | None = outcome["compression_factor"]
    return factor


def _divergence(outcome: Outcome) -> float:
    return float(outcome["parameter_divergence_mse"])


def _liars(outcome: Outcome) -> frozenset[str] | None:
    """The nodes that lie. None where no node can."""
    if outcome["algorithm"] != "attacked":
        return None
    options = outcome["config"]["algorithm"]["options"]
    names = [node["node"] for node in outcome["nodes"]]
    return frozenset(liars_of(names, 0 if options.get("attack", "none") == "none" else options["liars"]))


def _honest(outcome: Outcome) -> float | None:
    """The mean accuracy of the nodes that do not lie."""
    if (liars := _liars(outcome)) is None:
        return None
    return 100 * fmean(node["test_accuracy"] for node in outcome["nodes"] if node["node"] not in liars)


def _alarms(outcome: Outcome, false: bool) -> float | None:
    """The number of honest nodes with an alarm. A false one names an honest node, or none where nobody lies."""
    if (liars := _liars(outcome)) is None:
        return None
    raised = [(alarm["node"], alarm["member"]) for alarm in outcome["alarms"] if alarm["node"] not in liars]
    return len({node for node, member in raised if (member in liars or (not member and bool(liars))) is not false})


def _tested(outcome: Outcome, name: str, factor: float = 1) -> float | None:
    """The mean over the nodes of what their test calls by this name."""
    number = outcome.get("mean_metrics", {}).get(name)
    return None if number is None else factor * number


class _Metrics(Group[Metric]):
    """Metrics by name, those of modules too. test/NAME is the mean over the nodes of a metric that their test names."""

    def _load(self, name: str) -> Metric:
        if named := name.removeprefix(_TEST) if name.startswith(_TEST) else "":
            return Metric(named, lambda outcome: _tested(outcome, named), ".4g")
        if not is_in_module(name):
            raise ConfigError(
                f"it must be {one_of(self.own)}, test/NAME of a task's test, or module:OBJECT of your own"
            )
        metric = super()._load(name)
        return replace(metric, of=lambda outcome: _number(name, metric, outcome))


def _number(name: str, metric: Metric, outcome: Outcome) -> float | None:
    """The number of a metric of the user's own, whose function may return or raise anything."""
    try:
        number = metric.of(outcome)
        return None if number is None else float(number)
    except Exception as exc:
        raise ConfigError(f"metric {name}: {type(exc).__name__}: {exc}; the finished runs are saved") from exc


_TEST = "test/"
METRICS = _Metrics("edgenode.metrics", Metric, {
    "accuracy": Metric("test accuracy, %", _training(_percent)),
    "sp": Metric("SP accuracy, %", _training(_percent)),
    "scsp": Metric("SCSP accuracy, %", _scsp),
    "gain": Metric("gain of SCSP", _gain),
    "message": Metric("MB per message", _training(_per_message), ".3g"),
    "factor": Metric("compression per message", _training(_factor), ".4g"),
    "run_factor": Metric("compression of the whole run", _factor, ".4g"),
    "divergence": Metric("divergence (mean square)", _training(_divergence), ".2g"),
    "sp_sent": Metric("SP sent per node, MB", _training(_per_node), ".3g"),
    "sent": Metric("sent per node, MB", _per_node, ".3g"),
    "honest": Metric("accuracy of honest nodes, %", _honest),
    "alarms": Metric("nodes with an alarm", lambda outcome: _alarms(outcome, False), ".3g"),
    "false_alarms": Metric("with a false one", lambda outcome: _alarms(outcome, True), ".3g"),
    "epsilon": Metric("epsilon spent", lambda outcome: _tested(outcome, "epsilon")),
    "found": Metric("training samples found at 1 % false, %", lambda outcome: _tested(outcome, "found", 100)),
})  # fmt: skip
"""What a table can show. module:OBJECT names one of a module beside the experiment's file."""
