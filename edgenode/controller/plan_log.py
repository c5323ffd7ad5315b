"""Logs where the plan departs from what was requested: another graph, or more rounds than run.toml has."""

from __future__ import annotations

import structlog

from edgenode.core.protocol.controller.cluster import Cluster

log = structlog.get_logger()


class PlanLog:
    """Logs each change once."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._logged = cluster, cluster.state.difference
        self._rounds = self._configured = cluster.state.run_spec.training_rounds  # the most that were logged

    def update(self) -> None:
        """Log the changes since the last call."""
        plan, difference = self._cluster.state.plan, self._cluster.state.difference
        if plan is None:
            return
        latest = plan.latest
        if latest.rounds is not None and latest.rounds > self._rounds:
            self._rounds = latest.rounds
            log.info("the run has more rounds than run.toml", rounds=latest.rounds, in_run_toml=self._configured)
        if difference == self._logged:
            return
        self._logged = difference
        if difference:
            log.warning("another graph than the requested one is used", used=difference, from_round=latest.start)
        else:
            log.info("the requested graph is used", graph=latest.schedule.name, from_round=latest.start)
