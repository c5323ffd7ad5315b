"""The service for operators. The requests of the command line and of the page arrive here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count

import structlog

from edgenode.controller.audit import Audit
from edgenode.controller.failure_detector import FailureDetector
from edgenode.controller.liveness import holding_up
from edgenode.controller.page_server import Page
from edgenode.controller.registry import NodeRegistry
from edgenode.controller.relay import ControllerRelay
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import Evict, Extend, OperatorRequest, Pause, Reply, Resume, Rotate, Stop
from edgenode.core.protocol.status import ClusterStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import MAX_GRAPHS
from edgenode.errors import ConfigError
from edgenode.security.subject import Caller

log = structlog.get_logger()

_ANSWER_S = 2.0  # from then on, a change that a member was offered counts as queued


class OperatorService:
    """Passes requests to the cluster, and returns when it has replied.

    Args:
        post: puts a request into the controller's mailbox.
        page: names the page, and makes links to it.
        audit: records who requests what.
        relay: knows what is relayed, and by which process.

    Attributes:
        state: of the cluster.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: NodeRegistry,
        failure_detector: FailureDetector,
        post: Callable[[OperatorRequest], None],
        page: Page,
        audit: Audit,
        relay: ControllerRelay,
    ) -> None:
        self._cluster, self._nodes, self._failure_detector, self._post = cluster, nodes, failure_detector, post
        self._page, self._audit, self._relay, self.state = page, audit, relay, cluster.state
        self._request_ids = count()
        self._replies: dict[int, asyncio.Future[Reply]] = {}

    def open_page(self, who: Caller | None) -> str:
        """A link to the page that signs somebody in, once.

        Raises:
            ConfigError: there is no page.
        """
        return self._page.link(who)

    async def rotate(self, by: str, graphs: tuple[GraphSpec, ...], period: Period, wait: bool = False) -> Reply:
        """Use these graphs in turn. The reply names the round at which every node switches, or the reason to wait.

        Args:
            by: the operator, in words.
            wait: return only when the round is known.

        Raises:
            ConfigError: the graphs do not fit the members or are too many, or the run cannot change now.
        """
        if not graphs:
            raise ConfigError("a rotation needs at least one graph")
        if len(graphs) > MAX_GRAPHS:
            raise ConfigError(f"a rotation has at most {MAX_GRAPHS} graphs, not {len(graphs)}")
        return await self._request(by, Rotate(next(self._request_ids), graphs, period, wait))

    async def stop(self, by: str, wait: bool = False) -> Reply:
        """Stop the run, paused or not. The reply names the round before which every node stops."""
        return await self._request(by, Stop(next(self._request_ids), wait))

    async def extend(self, by: str, rounds: int, wait: bool = False) -> Reply:
        """Train for so many rounds. The reply names the round from which every node does, or what that waits for.

        Raises:
            ConfigError: the run has as many rounds already, or it is too late.
        """
        return await self._request(by, Extend(next(self._request_ids), rounds, wait))

    async def pause(self, by: str) -> int:
        """Pause every node before its next round. Return the newest round that a node has reported."""
        return _round(await self._request(by, Pause(next(self._request_ids))))

    async def resume(self, by: str) -> int:
        """Continue a paused run. Return the newest round that a node has reported."""
        return _round(await self._request(by, Resume(next(self._request_ids))))

    async def evict(self, by: str, node: str, force: bool) -> Reply:
        """Evict a member. The reply names the first round without it.

        Raises:
            ConfigError: the node is not a member, or too few members would be left.
        """
        return await self._request(by, Evict(next(self._request_ids), node, force))

    def reply(self, reply: Reply) -> None:
        """Return the cluster's reply to the operator that waits for it."""
        waiting = self._replies.pop(reply.request_id, None)
        if waiting is None or waiting.done():  # the operator knows that the change is queued, or has disconnected
            log.info("change settled", at_round=reply.start, **({"reason": reply.error} if reply.error else {}))
        elif reply.error:
            waiting.set_exception(ConfigError(reply.error))
        else:
            waiting.set_result(reply)

    async def _request(self, by: str, request: OperatorRequest) -> Reply:
        async with self._audit.noting(by, _words(request)) as conclude:
            reply = await self._replied(request)
            conclude(f"round {reply.start}" if reply.start is not None else f"queued, after {reply.waits_for}")
            return reply

    async def _replied(self, request: OperatorRequest) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._replies[request.request_id] = future
        self._post(request)
        queues = isinstance(request, Rotate | Stop | Extend) and not request.wait
        done, _ = await asyncio.wait([future], timeout=_ANSWER_S if queues else None)
        return future.result() if done else self._unsettled(request)

    def _unsettled(self, request: OperatorRequest) -> Reply:
        """The reply to a change that was offered to a member which does not answer. It stays in force."""
        del self._replies[request.request_id]
        waits = self._cluster.pending()
        return Reply(
            request.request_id,
            None,
            waits_for=waits[0].waits_for if waits else "an answer of the members",
            earliest=waits[0].earliest if waits else None,
            held_by=self._cluster.links.held_by(),
        )

    def restore(self, reached: int, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Continue from the round, and from the counts of the nodes, that an earlier controller recorded."""
        self._nodes.restore(reached, counts)

    def status(self) -> ClusterStatus:
        """The current status of the run."""
        cluster, now = self._cluster, time.monotonic()
        time_left_s = self._observe_progress(now)
        progress, consensus = self._nodes.progress, self._nodes.consensus_distance(self.state.plan)
        gathers = self.state.membership.to_gather(self.state.plan) if self.state.plan else ()
        holding, straggling = holding_up(self._nodes.last_reports()), self._failure_detector.straggling
        nodes = tuple(
            NodeView(
                node=node,
                address=entry.address,
                connected=node in self.state.membership.present,
                last_seen_s=now - entry.last_seen,
                status=self._nodes.status(node),
                holds_up=holding.get(node, ()),
                holds_up_s=straggling[node].straggling_s if node in straggling else 0.0,
            )
            for node, entry in sorted(self._nodes.items())
        )
        status = ClusterStatus(
            cluster=self.state.run_spec.cluster,
            missing=self.state.missing,
            leadership=self.state.leadership,
            nodes=nodes,
            rounds_per_epoch=self.state.epoch.rounds,
            unix_time_s=time.time(),
            paused=self.state.paused,
            evicting=tuple(sorted(cluster.evictions.evicted | self.state.membership.out)),
            awaited=tuple(sorted(cluster.evictions.awaited or gathers)),
            consensus_distance=consensus[1] if consensus else None,
            consensus_round=consensus[0] if consensus else 0,
            page=self._page.url,
            requested=self.state.requested.name if self.state.requested else "",
            difference=self.state.difference,
            pending=cluster.pending() if self.state.plan else (),
            links=cluster.links.views,
            relayed=self._relay.traffic,
            relays=self._relay.is_there,
            relay_processes=self._relay.registry.views,
            reached=progress.reached,
            departed_payload_bytes=progress.counts.departed("payload_bytes", self._nodes),
            departed_dense_bytes=progress.counts.departed("dense_bytes", self._nodes),
            time_left_s=time_left_s,
        )
        if self.state.plan is None:
            return status
        return replace(status, plan=self.state.plan.since(status.round))  # the plan of a long run has many records

    def _observe_progress(self, now: float) -> float | None:
        """Bring the progress of the run up to date. Return the time that is left, if it is known."""
        plan, progress = self.state.plan, self._nodes.progress
        if plan is None:
            return None
        members = [member.status for member in self._nodes.members(plan)]
        progress.observe(plan, members, self.state.paused, now)
        end = plan.latest.end
        return progress.time_left_s(self.state.rounds if end is None else end)

    def summary(self) -> str:
        """The status in one line, for systemd."""
        connected = len(self.state.membership.present)
        if self.state.plan is None:
            return f"{connected} of {connected + self.state.missing} nodes are connected"
        reports = [member.status for member in self._nodes.members(self.state.plan)]
        parts = [f"round {self._nodes.progress.reached}", f"nodes: {len(self.state.plan.latest.names)}"]
        if known := [r.accuracy for r in reports if r.accuracy is not None]:
            parts.append(f"accuracy {sum(known) / len(known):.1%}")
        slow = {node for node, s in self._failure_detector.straggling.items() if s.straggling_s}
        if awaited := self.state.waits_for or slow:
            parts.append(f"waiting for {', '.join(sorted(awaited))}")
        if self.state.paused:
            parts.append("paused")
        return ", ".join(parts)


def _words(request: OperatorRequest) -> str:
    match request:
        case Rotate(_, graphs, period):
            every = f", every {period}" if len(graphs) > 1 else ""
            return f"use graph {', '.join(spec.name for spec in graphs)}{every}"
        case Extend(_, rounds):
            return f"train for {rounds} rounds"
        case Evict(_, node, force):
            return f"evict {node}{', with force' if force else ''}"
    return type(request).__name__.lower()


def _round(reply: Reply) -> int:
    assert reply.start is not None
    return reply.start
