"""The addresses at which a peer can be dialled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgenode.core.protocol.plan.plan import Plan
from edgenode.net.peer_client import PeerAddresses

if TYPE_CHECKING:
    from edgenode.net.discovery import Discovery


@dataclass(frozen=True)
class PeerDirectory:
    """The addresses of the peers.

    Attributes:
        fixed: host:port of each fixed peer, where it answered. No other address counts for such a peer.
        discovery: mDNS, if this node uses it.
        observed: returns the address at which the controller sees a node, or "".
    """

    fixed: Mapping[str, str] = field(default_factory=dict)
    discovery: Discovery | None = None
    observed: Callable[[str], str] = lambda node: ""

    def find(self, peer: str, plan: Plan, t: int = 0) -> PeerAddresses:
        """The addresses of a peer, the most likely one first: that of the plan, then those of mDNS.

        Args:
            t: the first round of which the peer may still show its key.
        """
        if peer in self.fixed:
            return PeerAddresses((self.fixed[peer],))
        # only an older record names a peer that was evicted or left
        member = next((m for record in reversed(plan.records) for m in record.members if m.node == peer), None)
        announced = self.discovery.targets("node", peer) if self.discovery is not None else ()
        addresses = [*([member.address] if member and member.address else []), *announced]
        if member is None:
            return PeerAddresses(tuple(dict.fromkeys(addresses)))
        named = [m for r in plan.since(t).records for m in r.members if m.node == peer]
        keys = {member.key, *(m.key for m in named if m.incarnation == member.incarnation)}
        return PeerAddresses(
            tuple(dict.fromkeys(addresses)), member.incarnation, frozenset() if "" in keys else frozenset(keys)
        )
