"""The relays that a node knows besides the controller: those that the controller has named, but for revoked ones.

A relay stays known when the controller names it no more. A controller that starts again knows only the relays that have
found it by then, and members wait at the others all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgenode.core.protocol.orders import Hello, Order, Revoked
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.net.order_wire import MOST_RELAYS

_MOST_KNOWN = 2 * MOST_RELAYS


class KnownRelays:
    """The relays of one node. Iterates over them."""

    def __init__(self) -> None:
        self._known: dict[str, RelayAddress] = {}
        self._revoked = frozenset[str]()

    def __iter__(self) -> Iterator[RelayAddress]:
        return iter(self._known.values())

    def take(self, order: Order | None) -> None:
        """Take note of what an order says of relays. Those that were named first are forgotten if there are many."""
        match order:
            case Relays(relays):
                for relay in relays:
                    self._known.pop(relay.name, None)
                    self._known[relay.name] = relay
            case Hello(revoked=keys) | Revoked(keys):
                self._revoked |= keys
            case _:
                return
        allowed = [relay for relay in self._known.values() if relay.key not in self._revoked]
        self._known = {relay.name: relay for relay in allowed[-_MOST_KNOWN:]}
