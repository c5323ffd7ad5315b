"""Keeps the receivers that a node cannot reach directly, since when and why, and probes them.

Probes continue while pushes go through a relay, and while the graphs do without the link. They become rare: one after
2 s, the next after 4 s, and so on up to one in 30 s.

A receiver may also answer where the controller sees it. That address is probed with the own one, the first time at
once, and dialled after a probe has succeeded: routers forward few ports, and drop the rest without a word.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice

import grpc.aio
import structlog

from edgenode.core.protocol.controller.links import CHECK, MOST_LINKS
from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.status import OpenLink, Way
from edgenode.errors import EdgenodeError
from edgenode.net.link_meter import LinkMeter, measuring
from edgenode.net.peer_calls import reach_any
from edgenode.net.wire import Identity

log = structlog.get_logger()

_SHOWN_FROM_S = 3.0  # a shorter outage is that of a receiver that starts again
_FIRST_PROBE_S, _LAST_PROBE_S = 2.0, 30.0
_PROBE_S = 2.0
_CHECK_EVERY_S = 0.5


@dataclass
class _Outage:
    """One link that does not work.

    Attributes:
        by: the relay in use, or "".
        waits: the receiver waits there for connections, so that the link is no blocked one.
        probe_at: when it is tried next.
        observed: the observed address that has been tried, or "".
    """

    since: float
    address: str
    why: str
    by: str = ""
    waits: bool = False
    wait_s: float = _FIRST_PROBE_S
    probe_at: float = 0.0
    observed: str = ""


class LinkWatch:
    """The links of one node to its receivers.

    Args:
        target_of: returns (host:port, incarnation) of a receiver, or None for what is not a member.
        now: the monotonic clock.
        observed_of: returns the address at which the controller sees a receiver, or "".
    """

    def __init__(
        self,
        identity: Identity,
        target_of: Callable[[str], tuple[str, int] | None],
        now: Callable[[], float] = time.monotonic,
        observed_of: Callable[[str], str] = lambda to: "",
    ) -> None:
        self._identity, self._target_of, self._now, self._observed_of = identity, target_of, now, observed_of
        self._found: dict[str, str] = {}  # observed addresses at which receivers have answered
        self._outages: dict[str, _Outage] = {}
        self._meters: dict[str, LinkMeter] = {}
        self._tried: set[str] = set()  # receivers that answered since they failed last
        self.left_out: Callable[[], Iterable[str]] = tuple
        self.works_again: Callable[[str], None] = lambda to: None

    def failed(self, to: str, address: str, why: str, for_s: float = 0.0) -> None:
        """A direct attempt failed, and the link had done nothing for ``for_s`` before."""
        if address != self._found.get(to, address):
            return  # a probe has found the receiver elsewhere meanwhile
        now, found = self._now(), self._found.pop(to, "")
        self._tried.discard(to)
        new = _Outage(now - for_s, address, why, probe_at=now + _FIRST_PROBE_S, observed=found)
        outage = self._outages.setdefault(to, new)
        outage.address, outage.why = address, why or "unknown"

    def relayed(self, to: str, by: str, waits: bool = False) -> None:
        """Note that the pushes go through a relay from now on. With "", they do not any more.

        Args:
            waits: the receiver waits there. The link is blocked from the moment when it loses this way.
        """
        if (outage := self._outages.get(to)) is None:
            return
        if outage.waits and not by:
            outage.since, outage.why = self._now(), f"the way by {outage.by} has ended"
        outage.by, outage.waits = by, waits
        if waits:
            log.info("pushes go by way of a relay at which the receiver waits", peer=to, relay=by)
        elif by:
            log.warning(
                "pushes go by way of a relay", peer=to, relay=by, address=outage.address, why=outage.why, check=CHECK
            )

    def works(self, to: str) -> None:
        """A receiver was reached directly."""
        self._tried.add(to)
        outage = self._outages.pop(to, None)
        if outage is not None and self._is_shown(outage):
            log.info("reaches a receiver again", peer=to, after_s=round(self._now() - outage.since))

    def forget(self, to: str) -> None:
        """A node is not a receiver any more."""
        self._outages.pop(to, None)
        self._found.pop(to, None)
        self._tried.discard(to)

    def found(self, to: str) -> str:
        """The address besides its own at which a receiver has answered, or ""."""
        return self._found.get(to, "")

    def failing_s(self, to: str) -> float:
        """The seconds since a receiver could be reached directly. 0 if it can."""
        return self._now() - self._outages[to].since if to in self._outages else 0.0

    @property
    def blocked(self) -> tuple[BlockedLink, ...]:
        """The links that do not work, and those that the plan does without and that have not been tried yet."""
        found = []
        for to in sorted(self._known()):
            outage, target = self._outages[to], self._target_of(to)
            if target is not None and not outage.waits and (self._is_shown(outage) or to in self._untried()):
                blocked_s = self._now() - outage.since
                found.append(BlockedLink(to, target[1], outage.address, outage.why, blocked_s, outage.by))
        return tuple(found)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The receivers that wait at a relay which the pushes use."""
        return tuple(Way(to, outage.by) for to, outage in sorted(self._outages.items()) if outage.waits)

    @asynccontextmanager
    async def measured(self, to: str, channel: grpc.aio.Channel) -> AsyncIterator[LinkMeter]:
        """Measure a connection to a receiver as long as the body runs."""
        async with measuring(channel) as meter:
            self._meters[to] = meter
            try:
                yield meter
            finally:
                if self._meters.get(to) is meter:  # the link of a receiver that is back may be open already
                    del self._meters[to]

    @property
    def open_links(self) -> tuple[OpenLink, ...]:
        """The connections that are open and measured."""
        known = ((to, meter) for to, meter in sorted(self._meters.items()) if meter.round_trip_s is not None)
        found = (OpenLink(to, meter.round_trip_s or 0.0, meter.bytes_per_s) for to, meter in known)
        return tuple(islice(found, MOST_LINKS))

    async def run(self) -> None:
        """Probe what does not work, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            for to in [to for to in self._known() if self._is_due(to, self._outages[to])]:
                if (outage := self._outages.get(to)) is not None:  # it may have ended during another probe
                    await self._probe(to, outage)

    def _is_due(self, to: str, outage: _Outage) -> bool:
        return outage.probe_at <= self._now() or self._observed_of(to) not in ("", outage.observed)

    async def _probe(self, to: str, outage: _Outage) -> None:
        if (target := self._target_of(to)) is None:
            self.forget(to)
            return
        outage.observed = self._observed_of(to)
        addresses = [target[0], outage.observed] if outage.observed else [target[0]]
        try:
            reached = await reach_any(addresses, to, self._identity, _PROBE_S)
        except EdgenodeError as exc:
            outage.why, outage.address = str(exc), target[0]
            outage.wait_s = min(2 * outage.wait_s, _LAST_PROBE_S)
            outage.probe_at = self._now() + outage.wait_s
            return
        if self._outages.get(to) is outage:
            if reached != target[0]:
                self._found[to] = reached
            self.works(to)
            self.works_again(to)

    def _known(self) -> list[str]:
        """The receivers with an outage. A link that the plan does without counts as one until it is tried."""
        now = self._now()
        for to in self._untried() - self._outages.keys():
            if target := self._target_of(to):
                self._outages[to] = _Outage(now, target[0], "not tried yet", probe_at=now)
        return list(self._outages)

    def _untried(self) -> set[str]:
        return set(self.left_out()) - self._tried

    def _is_shown(self, outage: _Outage) -> bool:
        return self._now() - outage.since >= _SHOWN_FROM_S
