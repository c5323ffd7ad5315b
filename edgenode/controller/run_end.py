"""Logs how a run ended, and what an operator can do next."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import structlog

from edgenode.controller.registry import NodeRegistry
from edgenode.core.protocol.controller.cluster import Cluster
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


async def until_over(cluster: Cluster, nodes: NodeRegistry, abandoned_s: float) -> None:
    """Wait until every member has ended, or all have been gone for so long."""
    since = None
    while True:
        await asyncio.sleep(0.1)
        plan = cluster.state.plan
        if plan is None:
            continue
        members, membership = nodes.members(plan), cluster.state.membership
        if membership.out:  # members that have ended are about to resume without it
            since = None
            continue
        if len(members) >= len(plan.latest.names) and all(member.status.state.ended for member in members):
            return
        abandoned = nodes.is_abandoned(plan, membership.present)
        since = (since or time.monotonic()) if abandoned else None
        if since is not None and time.monotonic() - since > abandoned_s:
            return
