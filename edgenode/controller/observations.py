"""Names to the nodes of a cluster where this controller sees the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.observed import Observed, ObservedAddress
from edgenode.core.protocol.orders import Order

_EVERY_S = 0.5


class Observations:
    """The addresses at which a controller sees the nodes that are connected.

    Args:
        send: takes (node, order).
    """

    def __init__(self, cluster: Cluster, send: Callable[[str, Order], None]) -> None:
        self._cluster, self._send = cluster, send
        self._named = dict[str, str]()

    def name_to(self, node: str) -> None:
        """Name all of them to a node that has joined."""
        if addresses := self._addresses():
            self._send(node, _order(addresses.items()))

    async def run(self) -> None:
        """Name new ones to all nodes, until cancelled. Those of nodes that join at once make one order."""
        while True:
            await asyncio.sleep(_EVERY_S)
            addresses = self._addresses()
            if new := addresses.items() - self._named.items():
                for node in self._cluster.state.membership.present:
                    self._send(node, _order(new))
            self._named = addresses

    def _addresses(self) -> dict[str, str]:
        return {node: join.observed for node, join in self._cluster.state.membership.present.items() if join.observed}


def _order(addresses: Iterable[tuple[str, str]]) -> Observed:
    return Observed(tuple(ObservedAddress(*one) for one in sorted(addresses)))
