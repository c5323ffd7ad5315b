"""Evicts members that stop reporting and fail a direct probe, and slow members where the configuration says so.
Lets the graphs do without links that do not work.

`edgenode.controller.liveness` decides, as pure functions. This module has the clock and the probes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from edgenode.config.schema import Config
from edgenode.controller.liveness import (
    Straggling,
    are_delayed,
    holding_up,
    lasting,
    most_blocked,
    suspects,
    too_slow,
    update_straggling,
)
from edgenode.controller.registry import NodeRegistry
from edgenode.controller.standby import NO_LINKS, TOO_SLOW, Probation
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.controller.links import describe
from edgenode.core.protocol.events import UNREQUESTED, Avoid, Evict
from edgenode.core.protocol.status import LinkView
from edgenode.core.topology.schedule import Link
from edgenode.net.peer_calls import Probe, direct_probe
from edgenode.net.wire import Identity

log = structlog.get_logger()

_CHECK_EVERY_S = 0.5
_PROBE_S = 2.0


class FailureDetector:
    """Watches the members of one run.

    Args:
        post: takes what this detector requests.
        probe: finds out which process answers for a node. None for what is at its address.

    Attributes:
        straggling: nodes that hold others up. Empty while the run is paused, as no node waits for another then.
        probation: the nodes that it has evicted for their links, or as too slow.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        cluster: Cluster,
        nodes: NodeRegistry,
        post: Callable[[Evict | Avoid], None],
        probe: Probe | None = None,
    ) -> None:
        self._config, self._identity, self._cluster, self._nodes, self._post = config, identity, cluster, nodes, post
        self._probe = probe or direct_probe(identity)
        self.straggling: dict[str, Straggling] = {}
        self.probation = Probation(config.run.evict_after_s)
        self._links_logged: frozenset[Link] = frozenset()
        # When a node could last be evicted for its links. Those that this controller relays need time after its start.
        self._links_judged = time.monotonic()

    async def watch(self) -> None:
        """Watch until cancelled."""
        checked = time.monotonic()
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            now = time.monotonic()
            reports = self._nodes.last_reports()
            holding = holding_up(reports) if are_delayed(reports) else ()
            self.straggling = (
                {} if self._cluster.state.paused else update_straggling(self.straggling, holding, now - checked)
            )
            checked = now
            self._evict_slow()
            await self._avoid_broken_links()
            for name in self._suspects():
                # the probe takes time: the node may have reported, or left, in the meantime
                if not await self._answers(name) and name in self._suspects():
                    self._evict_silent(name)

    def _suspects(self) -> list[str]:
        running = sum(not member.status.state.ended for member in self._nodes.members(self._cluster.state.plan))
        limit_s = self._config.run.evict_after_s
        return suspects(self._nodes.last_reports(), running, limit_s, self._cluster.awaited)

    async def _answers(self, name: str) -> bool:
        """Return whether the last known process of a node answers at its address. Another process does not count."""
        there, last = await self._probe(self._nodes[name].address, name, _PROBE_S), self._nodes.get(name)
        return bool(there and last and there.is_of(self._identity, name) and last.process in ("", there.process))

    def _evict_silent(self, name: str) -> None:
        silent_s = time.monotonic() - self._nodes[name].last_seen
        log.warning("node does not answer", node=name, silent_s=round(silent_s))
        self._nodes[name].last_seen = time.monotonic()  # if the eviction is rejected, try again after another limit
        self._post(Evict(UNREQUESTED, name))

    def _evict_slow(self) -> None:
        if self._config.run.straggler == "wait":
            return
        for name in too_slow(self._nodes.last_reports(), self.straggling, self._config.run.evict_after_s):
            holds_up_s = self.straggling.pop(name).straggling_s
            wait_s = round(self.probation.begin(name, TOO_SLOW))
            log.warning("node is too slow", node=name, holds_up_s=round(holds_up_s), evicted_for_s=wait_s)
            self._post(Evict(UNREQUESTED, name))

    async def _avoid_broken_links(self) -> None:
        """Leave out links that have not worked for long. Without a way around them, evict a node if one is to blame."""
        links, fixed = self._cluster.links.views, self._cluster.state.has_fixed_members
        self._log(links)
        broken, cut_off = self._lasting()
        new = broken - {(view.sender, view.blocked.receiver) for view in links if view.left_out}
        if new and not fixed:
            self._post(Avoid(new))
        limit_s, judged_s = self._config.run.evict_after_s, time.monotonic() - self._links_judged
        if not cut_off or self._cluster.state.paused or judged_s <= limit_s:
            return
        self._links_judged = time.monotonic()
        receivers = sorted({receiver for _, receiver in cut_off})
        answers = await asyncio.gather(*map(self._answers, receivers))
        cut_off &= self._lasting()[1]  # the probes take time
        node = most_blocked(cut_off, {receiver for receiver, there in zip(receivers, answers, strict=True) if there})
        shown = [f"{sender}->{receiver}" for sender, receiver in sorted(cut_off)]
        if node and not fixed:
            wait_s = round(self.probation.begin(node, NO_LINKS))
            log.warning("nothing relays to or from a node", node=node, links=shown, evicted_for_s=wait_s)
            self._post(Evict(UNREQUESTED, node))
        elif shown:
            remedy = "repair it, as the members are fixed" if fixed else "evict one of them"
            log.warning("a link stops the run, and either end may be at fault", links=shown, remedy=remedy)

    def _lasting(self) -> tuple[frozenset[Link], frozenset[Link]]:
        return lasting(self._cluster.links.views, self._nodes.last_reports(), self._config.run.evict_after_s)

    def _log(self, links: tuple[LinkView, ...]) -> None:
        now = frozenset((view.sender, view.blocked.receiver) for view in links)
        for view in links:
            if (view.sender, view.blocked.receiver) not in self._links_logged:
                log.warning("a link does not work", link=describe(view.sender, view.blocked))
        plan = self._cluster.state.plan
        members = frozenset() if plan is None else frozenset(plan.latest.names)
        for sender, receiver in sorted(self._links_logged - now):
            if {sender, receiver} <= members:  # else it ended with one of them
                log.info("a link works again", sender=sender, receiver=receiver)
        self._links_logged = now
