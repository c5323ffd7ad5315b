"""How this node meets peers that cannot dial it, or that it cannot dial: it relays, and it waits at relays.

1. It waits at every relay, and at the controller, if that lets nodes do so (`edgenode controller --relay`). A relay
   that is lost is replaced by another at which both ends are.
2. It waits at an in-neighbour from which no push arrives, and at one whose pushes come by way of a relay. If that
   works, the sender uses the connection that this node has opened: the pair needs no third process, and one side that
   can be dialled is enough. It stays there until the sender dials this node directly. Like a receiver, the in-neighbour
   may also answer where the controller sees it.
3. Members may wait at it in turn. Its own pushes to them use its own relay like any other.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from math import inf

import structlog

from edgenode.addresses import join_address
from edgenode.errors import EdgenodeError
from edgenode.net.control_client import ControlLink
from edgenode.net.interfaces import WILDCARDS
from edgenode.net.peer_calls import reach_any
from edgenode.net.peer_server import PeerServer
from edgenode.net.relay_client import Inbound, Relay, controller_as_relay, relay_processes, wait_at
from edgenode.net.relay_server import RelayServer
from edgenode.net.wire import Identity
from edgenode.node.routes import Routes
from edgenode.security.subject import Subject

log = structlog.get_logger()

_CHECK_EVERY_S = 0.5
_MISSING_S = 3.0  # a sender that starts again is back by then
_FIRST_WAIT_S, _LAST_WAIT_S = 1.0, 30.0
_REACH_S = 2.0


class Meeting:
    """The relay of one node, and the relays at which it waits.

    Attributes:
        relay: relays for the other members.
    """

    def __init__(self, identity: Identity, server: PeerServer) -> None:
        self._identity, self._server = identity, server
        self.relay = RelayServer(identity, lambda node: self._routes.address_of(node) if self._routes else "")
        self._link: ControlLink | None = None
        self._inbound = Inbound("")
        self._routes: Routes | None = None  # of a member
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._met: dict[str, float] = {}  # the relays that know that this node waits, and seconds until they did
        self._missing: dict[str, float] = {}  # in-neighbours without a push, since when

    def listens(self, host: str, port: int) -> None:
        """The server of this node listens."""
        self._inbound = Inbound(join_address("127.0.0.1" if host in WILDCARDS else host, port))

    def begin(self, routes: Routes) -> None:
        """The node is a member from now on."""
        self._routes = routes
        routes.relays_to = self.relays_to

    def relays_to(self, peer: str) -> list[Relay]:
        """The processes that may relay to a peer, the best first: this one, if the peer waits here.

        Relays follow, the one first that was quickest to answer this node, and the controller if nodes wait there. They
        dial a peer only after none of them has it waiting. At the end are those that do not answer this node, and the
        controller if it is not in the data path.
        """
        assert self._routes is not None
        own = [self._relay(self._identity.node, self._inbound.own)] if self.relay.is_waiting(peer) else []
        others = [self._relay(node, address) for node, address in self._routes.others(peer)]
        quick = sorted(relay_processes(self._link), key=lambda relay: self._met.get(relay.name, inf))
        hosts = [*quick, *controller_as_relay(self._link)]
        met = [relay for relay in hosts if relay.name in self._met]
        waited_at = [replace(relay, only_waiting=True) for relay in (*own, *met)]
        return [*waited_at, *met, *others, *(relay for relay in hosts if relay.name not in self._met)]

    async def run(self, link: ControlLink) -> None:
        """Wait where that helps, until cancelled."""
        self._link = link
        try:
            while True:
                wanted = {relay.name: relay for relay in self._wanted()}
                for name in self._tasks.keys() - wanted.keys():
                    self._tasks.pop(name).cancel()
                for name in wanted.keys() - self._tasks.keys():
                    self._tasks[name] = asyncio.create_task(self._wait_at(wanted[name]), name=f"waits at {name}")
                await asyncio.sleep(_CHECK_EVERY_S)
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _wanted(self) -> list[Relay]:
        wanted = relay_processes(self._link)
        if self._link is not None and self._link.connected.is_set():
            wanted += controller_as_relay(self._link)
        if self._routes is None:
            return wanted
        snapshot, streams, now = self._routes.snapshot(), self._server.senders(), time.monotonic()
        self._missing = {peer: self._missing.get(peer, now) for peer in snapshot.missing}
        by_relay = {peer for peer, dialled_from in streams.items() if dialled_from in self._inbound.by}
        for peer in sorted(by_relay | self._missing.keys() | self._tasks.keys()):
            if self._is_met_by(peer, streams.get(peer), now) and (address := self._routes.address_of(peer)):
                wanted.append(self._relay(peer, address))
        return wanted

    def _is_met_by(self, peer: str, dialled_from: str | None, now: float) -> bool:
        """Return whether a peer does not reach this node directly, as far as that shows."""
        if dialled_from is not None:
            return dialled_from in self._inbound.by
        return peer in self._tasks or now - self._missing.get(peer, now) >= _MISSING_S

    async def _wait_at(self, relay: Relay) -> None:
        """Wait at one relay, again and again."""
        wait_s, began = _FIRST_WAIT_S, 0.0

        def met() -> None:
            nonlocal wait_s
            wait_s = _FIRST_WAIT_S
            self._met[relay.name] = time.monotonic() - began
            log.info("waits for connections at a relay", relay=relay.name)

        while True:
            began = time.monotonic()
            try:
                await wait_at(await self._reachable(relay), self._identity, self._inbound, met)
            except EdgenodeError as exc:
                log.debug("cannot wait at a relay", relay=relay.name, reason=str(exc))
            finally:
                self._met.pop(relay.name, None)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LAST_WAIT_S)

    async def _reachable(self, relay: Relay) -> Relay:
        """A relay at the address where it answers.

        Raises:
            EdgenodeError: it has several, and answers at none.
        """
        observed = self._routes.observed_of(relay.name) if self._routes is not None else ""
        if not observed:
            return relay
        addresses = (relay.address, observed)
        return replace(relay, address=await reach_any(addresses, relay.name, self._identity, _REACH_S))

    @staticmethod
    def _relay(node: str, address: str) -> Relay:
        return Relay(node, address, Subject("node", node).dns_name)
