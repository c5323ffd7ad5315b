"""The controller as a relay, its relays, and its own calls to members that nobody can dial.

Every controller relays past a firewall. With `--relay`, nodes may also wait at it, and it relays more. It is then part
of the path of the data, for members that have no shorter way. Relays (`edgenode relay`) take that off it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from edgenode.addresses import join_address
from edgenode.controller.controller_options import ControllerOptions
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.orders import Order
from edgenode.core.protocol.status import Relayed
from edgenode.errors import TransportError
from edgenode.net import relay_registry, relay_server
from edgenode.net.interfaces import WILDCARDS
from edgenode.net.peer_calls import probe
from edgenode.net.relay_client import Relay, called_by
from edgenode.net.relay_limits import ANY_MEMBER, HOSTED_CALLS, HOSTED_OF_A_MEMBER, RelayLimits
from edgenode.net.relay_registry import RelayRegistry
from edgenode.net.relay_server import RelayServer
from edgenode.net.rpc import Services
from edgenode.net.wire import Identity
from edgenode.security.subject import CONTROLLER


class ControllerRelay:
    """The relay of one controller.

    Args:
        send: takes (node, order).

    Attributes:
        server: the service.
        registry: the relays besides this controller.
    """

    def __init__(
        self, options: ControllerOptions, identity: Identity, cluster: Cluster, send: Callable[[str, Order], None]
    ) -> None:
        self._identity, self._cluster, self._send, self._own = identity, cluster, send, ""
        limits = ANY_MEMBER
        if options.relay:
            most = None if options.relay_gb is None else round(options.relay_gb * 1e9)
            limits = RelayLimits(HOSTED_CALLS, HOSTED_OF_A_MEMBER, most_bytes=most)
        self.server = RelayServer(identity, self.address_of, self._is_known, limits, hosts=options.relay)
        self.registry = RelayRegistry(self._nodes, lambda: cluster.state.revoked, self.name_to)

    @property
    def services(self) -> Services:
        """The services of the relay and the registry."""
        own = (relay_server.SERVICE, self.server.add_to)
        return [own, (relay_registry.SERVICE, self.registry.add_to)]

    @property
    def is_there(self) -> bool:
        """Whether nodes that nobody can dial may wait here, or at a relay that is connected."""
        return self.server.hosts or bool(self.registry.connected)

    @property
    def traffic(self) -> tuple[Relayed, ...]:
        """What each node has sent by this controller, and by its relays."""
        own = (replace(one, relay=CONTROLLER.name) for one in self.server.traffic.relayed)
        return (*own, *self.registry.traffic)

    def name_to(self, *nodes: str) -> None:
        """Name the relays to some nodes, or to all."""
        if (order := self.registry.order).relays:
            for node in nodes or self._cluster.state.membership.present:
                self._send(node, order)

    def listens(self, host: str, port: int) -> None:
        """The server of the controller listens."""
        self._own = join_address("127.0.0.1" if host in WILDCARDS else host, port)

    def address_of(self, node: str) -> str:
        """The address of a member in the plan, or ""."""
        members = self._cluster.state.plan.latest.members if self._cluster.state.plan else ()
        return next((m.address for m in members if m.node == node), "")

    def _nodes(self) -> frozenset[str]:
        """The nodes that may use relays."""
        plan = self._cluster.state.plan
        return frozenset(self._cluster.state.membership.present) | frozenset(plan.latest.names if plan else ())

    def _is_known(self, node: str) -> bool:
        return node in self._nodes()

    async def probe(self, address: str, node: str, timeout_s: float) -> Identity | None:
        """The identity of the process at the address of a node. None if none answers.

        If another one is there, or none: that of the node at its observed address, or at a relay where it waits.
        """
        joined = self._cluster.state.membership.present.get(node)
        probes = [probe(address, self._identity, timeout_s)]
        if joined is not None and joined.observed:
            probes.append(probe(joined.observed, self._identity, timeout_s, node))
        at_address, *observed = await asyncio.gather(*probes)
        found = next((one for one in (at_address, *observed) if one and one.is_of(self._identity, node)), at_address)
        own = [Relay(CONTROLLER.name, self._own, CONTROLLER.dns_name)] if self.server.is_waiting(node) else []
        relays = [*own, *self.registry.connected]
        if (found and found.is_of(self._identity, node)) or not relays:
            return found

        async def call(address: str) -> Identity:
            if (waiting := await probe(address, self._identity, timeout_s, node)) is None:
                raise TransportError("it does not answer")
            return waiting

        for relay in relays:
            with suppress(TransportError):
                return await called_by(relay, self._identity.security, node, call)
        return found
