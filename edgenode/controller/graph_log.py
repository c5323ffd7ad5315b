"""Logs when another graph than the requested one comes into the plan, and when the requested one returns."""

from __future__ import annotations

import structlog

from edgenode.core.protocol.cluster import Cluster

log = structlog.get_logger()


class GraphLog:
    """What was logged last."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._logged = cluster, cluster.difference

    def update(self) -> None:
        """Log a change since the last call."""
        plan, difference = self._cluster.plan, self._cluster.difference
        if plan is None or difference == self._logged:
            return
        self._logged, latest = difference, plan.latest
        if difference:
            log.warning("another graph than the requested one is used", used=difference, from_round=latest.start)
        else:
            log.info("the requested graph is used", graph=latest.schedule.name, from_round=latest.start)
