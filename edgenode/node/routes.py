"""The routes of a member to the others: their addresses, and the processes that may relay to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgenode.net.peer_client import PeerAddresses
from edgenode.net.relay_client import Relay
from edgenode.node.peer_directory import PeerDirectory
from edgenode.node.progress import NodeSnapshot


class Routes:
    """The ways from one member to the others.

    Args:
        window: the number of pushes to a peer that may be unanswered.

    Attributes:
        snapshot: returns the member after its last event.
        relays_to: returns the processes that may relay to a peer.
    """

    def __init__(
        self,
        name: str,
        directory: PeerDirectory,
        snapshot: Callable[[], NodeSnapshot],
        window: int,
    ) -> None:
        self._name, self._directory, self._window = name, directory, window
        self.snapshot = snapshot
        self.relays_to: Callable[[str], Sequence[Relay]] = lambda peer: ()

    def addresses_of(self, peer: str) -> PeerAddresses:
        """Return a receiver's addresses and keys. It may be two windows behind: one of rounds, one with its old key."""
        snapshot = self.snapshot()
        return self._directory.find(peer, snapshot.plan, max(0, snapshot.round - 2 * self._window))

    def target_of(self, peer: str) -> tuple[str, int] | None:
        """The likeliest address of a member, and its incarnation. None for any other name."""
        plan = self.snapshot().plan
        addresses = self.addresses_of(peer).addresses if peer in plan.latest.names else ()
        return (addresses[0], plan.latest.incarnations[peer]) if addresses else None

    def address_of(self, node: str) -> str:
        """The likeliest address of a member. "" for any other name."""
        target = self.target_of(node)
        return target[0] if target else ""

    def observed_of(self, node: str) -> str:
        """The address at which the controller sees a node, or ""."""
        return self._directory.observed(node)

    def all_addresses(self) -> list[str]:
        """Every address of every other member."""
        plan = self.snapshot().plan
        others = (name for name in plan.latest.names if name != self._name)
        return [address for name in others for address in self._directory.find(name, plan).addresses]

    def left_out(self) -> list[str]:
        """The receivers that the plan does without, because pushes to them did not arrive."""
        without = self.snapshot().plan.latest.schedule.without
        return [receiver for sender, receiver in without if sender == self._name]

    def others(self, peer: str) -> list[tuple[str, str]]:
        """The members besides this one and a peer, each with an address."""
        others = (name for name in self.snapshot().plan.latest.names if name not in (peer, self._name))
        return [(node, address) for node in others if (address := self.address_of(node))]
