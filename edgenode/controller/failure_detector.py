"""The controller's lookout: it takes for dead who is silent and does not answer a call either, and sees who is slow.

What that means is decided in `edgenode.controller.evidence`; here are the clock and the calls. A run that is paused has neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from edgenode.config.schema import Config
from edgenode.controller.evidence import Straggling, holding_up, silent, straggling, too_slow
from edgenode.controller.registry import NodeRegistry
from edgenode.core.protocol.cluster import Cluster
from edgenode.core.protocol.events import UNREQUESTED, Evict
from edgenode.net.peer_client import probe
from edgenode.net.wire import Identity

log = structlog.get_logger()

_LOOK_EVERY_S = 0.5
_PROBE_S = 2.0


class FailureDetector:
    """Watches over the members of one run.

    Args:
        post: takes an Evict for everyone who must go.

    Attributes:
        held: who holds the others up, and for how long.
    """

    def __init__(
        self, config: Config, identity: Identity, cluster: Cluster, nodes: NodeRegistry, post: Callable[[Evict], None]
    ) -> None:
        self._config, self._identity, self._cluster, self._nodes, self._post = config, identity, cluster, nodes, post
        self.held: dict[str, Straggling] = {}

    async def watch(self) -> None:
        """Watch until cancelled."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            holding = holding_up(self._nodes.heard())
            self.held = {} if self._cluster.paused else straggling(self.held, holding, now - looked_at)
            looked_at = now
            self._drop_slow()
            for name in self._silent():
                if not await self._answers(name) and name in self._silent():
                    self._take_for_dead(name)

    def _silent(self) -> list[str]:
        running = sum(not member.ended for member in self._nodes.members(self._cluster.plan))
        return silent(self._nodes.heard(), running, self._config.run.evict_after_s, self._cluster.awaited())

    def _take_for_dead(self, name: str) -> None:
        seen = self._nodes[name].seen
        log.warning("a node is silent", node=name, since_s=round(time.monotonic() - seen))
        self._nodes[name].seen = time.monotonic()  # if it may not go, we say so again after a while
        self._post(Evict(UNREQUESTED, name))

    async def _answers(self, name: str) -> bool:
        """Whether the process that was last seen under a name answers where it was; another one there is no proof."""
        there, last = await probe(self._nodes[name].address, self._identity, _PROBE_S), self._nodes.get(name)
        return bool(there and last and there.is_of(self._identity, name) and last.process in ("", there.process))

    def _drop_slow(self) -> None:
        if self._config.run.straggler == "wait":
            return
        for name in too_slow(self._nodes.heard(), self.held, self._config.run.evict_after_s):
            log.warning("a node is too slow", node=name, holds_up_s=round(self.held.pop(name).straggling_s))
            self._post(Evict(UNREQUESTED, name))
