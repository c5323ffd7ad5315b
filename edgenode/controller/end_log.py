"""Logs how a run ended, and what an operator can do next."""

from __future__ import annotations

from pathlib import Path

import structlog

from edgenode.core.protocol.status import ClusterStatus
from edgenode.observability.reply_words import to_show_run
from edgenode.observability.run_events import ending, outcome_of

log = structlog.get_logger()

_RESUME = "start the controller and all nodes again"


def log_end(status: ClusterStatus, ended_well: bool, state_dir: Path) -> None:
    """Log the last line of a controller: the outcome, and the command that shows the record of the run."""
    outcome = outcome_of(status, ended_well)
    known = [node.status.accuracy for node in status.nodes if node.status.accuracy is not None]
    facts: dict[str, object] = {"round": status.round}
    if known:
        facts["mean_accuracy"] = round(sum(known) / len(known), 4)
    if outcome == "failed":
        facts["reason"] = ending(outcome, status).text
    if outcome == "stopped":
        facts["to_resume"] = _RESUME
    facts["to_look"] = to_show_run(state_dir)
    (log.error if outcome == "failed" else log.info)(f"the run is over: {outcome}", **facts)
