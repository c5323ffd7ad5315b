"""Addresses at which the controller sees nodes, for peers outside their networks.

A node cannot know the address that its router, or its cloud, gives it outside. The controller can: it is where the link
of the node comes from. The node answers there if the router forwards its port.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import islice

from edgenode.addresses import join_address, split_address
from edgenode.core.protocol.observed import Observed
from edgenode.core.protocol.orders import Hello, Order
from edgenode.core.protocol.plan.record import MAX_MEMBERS
from edgenode.errors import ConfigError

_MOST_KNOWN = 2 * MAX_MEMBERS


def observed_address(own: str, seen: str) -> str:
    """The address at which the controller sees a node. "" if it tells peers nothing.

    Args:
        own: host:port where the node says that peers dial it.
        seen: host:port from which it has connected.
    """
    try:
        (own_host, port), (host, _) = split_address(own), split_address(seen)
        ip = ip_address(host)
    except (ConfigError, ValueError):  # the node says what it likes
        return ""
    tells_nothing = host == own_host or port == 0 or ip.is_loopback or ip.is_link_local
    return "" if tells_nothing else join_address(host, port)


class ObservedAddresses:
    """The observed addresses that the controller has named to a node.

    Args:
        own: the name of the node.
    """

    def __init__(self, own: str) -> None:
        self._own, self._known = own, dict[str, str]()

    def take(self, order: Order | None) -> None:
        """Take note of what an order says of them. Those that were named first are forgotten if there are many."""
        match order:
            case Hello():  # this node may be in another network now
                self._known.pop(self._own, None)
            case Observed(addresses):
                for one in addresses:
                    self._known.pop(one.node, None)
                    self._known[one.node] = one.address
                for node in [*islice(self._known, max(0, len(self._known) - _MOST_KNOWN))]:
                    del self._known[node]

    def of(self, node: str) -> str:
        """host:port of a node, or "".

        It is "" behind the same router, too: routers need not pass on what comes from inside.
        """
        address, own = self._known.get(node, ""), self._known.get(self._own, "")
        if address and own and split_address(address)[0] == split_address(own)[0]:
            return ""
        return address
