"""Writes privacy.md: the tables of `edgenode experiment privacy`, of the cells that all runs are there for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgenode.config.sections import PrivacySection
from edgenode_lab.privacy.first_round import FirstRound
from edgenode_lab.privacy.gradient_inversion import STARTS
from edgenode_lab.privacy.hops import NODES, HopCell
from edgenode_lab.privacy.membership import Rate, likelihood_ratios, loss_scores, true_positives
from edgenode_lab.privacy.shadows import MOMENTS, Cell, Seen

_FALSE_POSITIVES = (0.01, 0.001)
_DELTA = PrivacySection().delta
_HEAD = ("Algorithm", "Graph", "Skew", "Test accuracy", "Sent, kB", "Who sees it", "Attack", "1 % false", "0.1 % false")
_FIRST_HEAD = (
    "Algorithm", "Batch", "Digits", "Identified from the first layer", "Identified by optimisation", "Best correlation",
    "Classes right", "Without message",
)  # fmt: skip


_HOP_HEAD = (
    "Algorithm", "Graph", "Learning rate", "Batch", "Pushes between", "Digits", "Identified from the first layer",
    "Identified by optimisation", "Best correlation", "Classes right",
)  # fmt: skip


@dataclass
class Tables:
    """The rows of the tables."""

    membership: list[tuple[str, ...]] = field(default_factory=list)
    first: list[tuple[str, ...]] = field(default_factory=list)
    hops: list[tuple[str, ...]] = field(default_factory=list)


def membership_rows(cell: Cell, runs: Sequence[Seen]) -> Iterator[tuple[str, ...]]:
    """Attack the runs of a cell for each holder, and yield the rows of the table."""
    members = np.array([seen.members for seen in runs])
    accuracy = f"{np.mean([seen.accuracy for seen in runs]):.1%}"
    sent = f"{np.mean([seen.sent for seen in runs]) / 1000:,.1f}"
    final = np.array([seen.final for seen in runs])[:, :, None]
    copies = np.array([seen.copies for seen in runs])
    reports = np.array([seen.reports for seen in runs])
    moments = copies.shape[2]
    seen_by = {
        ("final model", "loss"): loss_scores(final),
        ("final model", "LiRA"): likelihood_ratios(final, members),
        ("neighbour", "loss"): loss_scores(copies),
        ("neighbour", "LiRA"): likelihood_ratios(copies, members),
        ("controller, losses", "LiRA"): likelihood_ratios(reports[:, :, :moments], members),
        ("controller, sketch", "LiRA"): likelihood_ratios(reports[:, :, moments:], members),
    }
    for (holder, attack), scores in seen_by.items():
        found = [_shown(true_positives(scores, members, share)) + _at_most(cell, share) for share in _FALSE_POSITIVES]
        yield (*cell.labels, accuracy, sent, holder, attack, *found)


def first_round_row(cell: Cell, result: FirstRound) -> tuple[str, ...]:
    """Return the row of a first round."""
    shares = f"{result.correlation:.2f}", f"{result.classes:.0%}", f"{result.without:.0%}"
    return (*cell.labels[:2], str(result.digits), str(result.analytic), str(result.optimised), *shares)


def hop_rows(cell: HopCell, results: Mapping[int, FirstRound]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of an attack across nodes."""
    for hops, result in results.items():
        found = str(result.digits), str(result.analytic), str(result.optimised)
        shares = f"{result.correlation:.2f}", f"{result.classes:.0%}"
        yield (*cell.labels, f"{cell.learning_rate:g}", str(cell.batch), str(hops), *found, *shares)


def text(command: str, draws: int, tables: Tables) -> str:
    """Return the whole page."""
    return f"""# What leaks

`{command}`, on digits: {draws} runs of each row, each on another random half of the digits.

## Membership

The share of training samples that are found when 1 % and 0.1 % of the others are taken for one, in percent, with the
95 % interval (Clopper-Pearson, as if all samples and runs were independent). An attack at chance finds 1.0 and 0.1. The
final model is that of the node that has the sample. The neighbour keeps a copy of that node's model, and looks at it
{MOMENTS} times. "At most" is what epsilon permits any attack on the node that has the sample. A private node reports no
loss. "Sent" is what each node sends in a run.

{_table(_HEAD, tables.membership)}
## First push

One step of plain SGD on all that a node has. The neighbour guesses the classes, from the change of the last layer, and
as many digits as there are: from the change of the first layer, and as the batch whose gradient is most like the
message (the best of {STARTS} starts).

{_table(_FIRST_HEAD, tables.first)}
## Across nodes

Each of {NODES} nodes has one batch, and takes one step of plain SGD on it per round. Each attacks the first step of all
others, with what it knows of the graph and of its own steps. With one push between, a node pushes to its attacker.

{_table(_HOP_HEAD, tables.hops)}"""


def _shown(rate: Rate) -> str:
    return f"{100 * rate.share:.1f} ({100 * rate.low:.1f}-{100 * rate.high:.1f})"


def _at_most(cell: Cell, false_positives: float) -> str:
    """What differential privacy permits: e^epsilon times the false positives, and delta (Kairouz et al. 2015)."""
    if cell.epsilon is None:
        return ""
    return f", at most {100 * min(1.0, math.exp(cell.epsilon) * false_positives + _DELTA):.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
