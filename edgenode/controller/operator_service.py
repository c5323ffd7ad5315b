"""The operators' desk: what they may ask for, and what they are told. Command line and page meet here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import structlog

from edgenode.controller.evidence import holding_up
from edgenode.controller.failure_detector import FailureDetector
from edgenode.controller.registry import NodeRegistry
from edgenode.core.protocol.cluster import Cluster
from edgenode.core.protocol.events import Evict, OperatorRequest, Pause, Reply, Resume, Rotate, Stop
from edgenode.core.protocol.status import ClusterStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.errors import ConfigError

log = structlog.get_logger()


class OperatorService:
    """Takes wishes, and answers them when the cluster has replied.

    Args:
        post: takes an event for the cluster.

    Attributes:
        page: URL of the dashboard, or "".
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: NodeRegistry,
        failure_detector: FailureDetector,
        post: Callable[[OperatorRequest], None],
    ) -> None:
        self._cluster, self._nodes, self._failure_detector, self._post = cluster, nodes, failure_detector, post
        self.page = ""
        self._request_ids = count()
        self._asked: dict[int, asyncio.Future[int]] = {}

    async def rotate(self, graphs: tuple[GraphSpec, ...], every: int, epochs: bool) -> int:
        """Use these graphs in turn; returns the round at which every node switches.

        Raises:
            ConfigError: the graphs do not fit the members, or the run takes no changes.
        """
        period = Period(every, "epochs" if epochs else "rounds")
        if not graphs:
            raise ConfigError("a rotation needs at least one graph")
        return await self._ask(Rotate(next(self._request_ids), graphs, period))

    async def stop(self) -> int:
        """Stop the run, a paused one too; returns the round before which every node stops."""
        return await self._ask(Stop(next(self._request_ids)))

    async def pause(self) -> int:
        """Let every node stand still before its next round; returns the newest round that one is known to be in."""
        return await self._ask(Pause(next(self._request_ids)))

    async def resume(self) -> int:
        """Let a paused run go on."""
        return await self._ask(Resume(next(self._request_ids)))

    async def evict(self, node: str, force: bool) -> int:
        """Go on without a member; returns the round from which it is out.

        Raises:
            ConfigError: it is no member, or too few would be left.
        """
        return await self._ask(Evict(next(self._request_ids), node, force))

    def reply(self, reply: Reply) -> None:
        """What the cluster says to a ticket."""
        asked = self._asked.pop(reply.request_id)
        if asked.done():  # whoever asked does not wait any more
            return
        if reply.start is None:
            asked.set_exception(ConfigError(reply.error))
        else:
            asked.set_result(reply.start)

    async def _ask(self, request: OperatorRequest) -> int:
        answer = self._await_reply(request.request_id)
        self._post(request)
        start = await answer
        log.info("an operator's wish is granted", request=type(request).__name__.lower(), at_round=start)
        return start

    def _await_reply(self, request_id: int) -> asyncio.Future[int]:
        self._asked[request_id] = answer = asyncio.get_running_loop().create_future()
        return answer

    def status(self) -> ClusterStatus:
        """The cluster as it is now."""
        cluster, now = self._cluster, time.monotonic()
        consensus = self._nodes.consensus(cluster.plan)
        holding, held = holding_up(self._nodes.heard()), self._failure_detector.held
        nodes = tuple(
            NodeView(
                node=node,
                address=a.address,
                connected=a.connected,
                last_seen_s=now - a.seen,
                status=a.status,
                holds_up=holding.get(node, ()),
                holds_up_s=held[node].straggling_s if node in held else 0.0,
            )
            for node, a in sorted(self._nodes.items())
        )
        status = ClusterStatus(
            cluster=cluster.run_spec.cluster,
            missing=cluster.missing(),
            leadership=cluster.leadership,
            nodes=nodes,
            rounds_per_epoch=cluster.rounds_per_epoch,
            unix_time_s=time.time(),
            paused=cluster.paused,
            evicting=tuple(sorted(cluster.evicting())),
            awaited=tuple(sorted(cluster.awaited())),
            consensus_distance=consensus[1] if consensus else None,
            consensus_round=consensus[0] if consensus else 0,
            page=self.page,
        )
        if cluster.plan is None:
            return status
        return replace(status, plan=cluster.plan.since(status.round))  # not all of a plan that has grown long

    def in_a_line(self) -> str:
        """How the run is, for systemd."""
        cluster, here = self._cluster, len(self._cluster.present)
        if cluster.plan is None:
            return f"{here} of {here + cluster.missing()} nodes are here"
        reports = [member.status for member in self._nodes.members(cluster.plan)]
        parts = [f"round {min((p.round for p in reports), default=0)}", f"nodes: {len(cluster.plan.latest.names)}"]
        if known := [p.accuracy for p in reports if p.accuracy is not None]:
            parts.append(f"accuracy {sum(known) / len(known):.1%}")
        if awaited := cluster.waits_for() or {n for n, h in self._failure_detector.held.items() if h.straggling_s}:
            parts.append(f"waiting for {', '.join(sorted(awaited))}")
        return ", ".join([*parts, *(["paused"] if cluster.paused else [])])
