"""The controller as a relay, and its own calls to members that nobody can dial.

Every controller relays past a firewall. With `--relay`, nodes may also wait at it, and it relays more. It is then part
of the path of the data, for members that have no shorter way.
"""

from __future__ import annotations

from edgenode.addresses import join_address
from edgenode.controller.controller_options import ControllerOptions
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.errors import TransportError
from edgenode.net.interfaces import WILDCARDS
from edgenode.net.peer_calls import probe
from edgenode.net.relay_client import Relay, called_by
from edgenode.net.relay_limits import ANY_MEMBER, HOSTED_CALLS, HOSTED_OF_A_MEMBER, RelayLimits
from edgenode.net.relay_server import RelayServer
from edgenode.net.wire import Identity
from edgenode.security.subject import CONTROLLER


class ControllerRelay:
    """The relay of one controller.

    Attributes:
        server: the service.
    """

    def __init__(self, options: ControllerOptions, identity: Identity, cluster: Cluster) -> None:
        self._identity, self._cluster, self._own = identity, cluster, ""
        limits = ANY_MEMBER
        if options.relay:
            most = None if options.relay_gb is None else round(options.relay_gb * 1e9)
            limits = RelayLimits(HOSTED_CALLS, HOSTED_OF_A_MEMBER, most_bytes=most)
        self.server = RelayServer(identity, self.address_of, self._is_known, limits, hosts=options.relay)

    def listens(self, host: str, port: int) -> None:
        """The server of the controller listens."""
        self._own = join_address("127.0.0.1" if host in WILDCARDS else host, port)

    def address_of(self, node: str) -> str:
        """The address of a member in the plan, or ""."""
        members = self._cluster.state.plan.latest.members if self._cluster.state.plan else ()
        return next((m.address for m in members if m.node == node), "")

    def _is_known(self, node: str) -> bool:
        return node in self._cluster.state.membership.present or bool(self.address_of(node))

    async def probe(self, address: str, node: str, timeout_s: float) -> Identity | None:
        """The identity of the process at the address of a node, or of that which waits here. None if none answers."""
        found = await probe(address, self._identity, timeout_s)
        if (found and found.is_of(self._identity, node)) or not self.server.is_waiting(node):
            return found

        async def call(address: str) -> Identity:
            if (waiting := await probe(address, self._identity, timeout_s, node)) is None:
                raise TransportError("it does not answer")
            return waiting

        own = Relay(CONTROLLER.name, self._own, CONTROLLER.dns_name)
        try:
            return await called_by(own, self._identity.security, node, call)
        except TransportError:
            return found
