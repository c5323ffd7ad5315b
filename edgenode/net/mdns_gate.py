"""Judges each mDNS packet before anything parses it. Anybody in the network can send packets of any kind, without end.

1. A packet counts if it is no larger than zeroconf makes them, and contains the name of one of our service types. All
   others, such as those of printers and phones, are dropped.
2. A packet costs as many entries as it says that it has: parsing takes time for each. In a second, one source may send
   `EACH` entries, and all together `ALL`. What exceeds a limit is dropped. Nothing is lost by that, because questions
   are repeated, and answered again. What this machine sends is not limited: it may have many nodes.
3. zeroconf gets the questions, and answers them. It gets only those answers that this machine has sent, because it does
   not repeat them within a second. The answers of others go to the listener, and never into zeroconf's cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import unpack_from

EACH, ALL = 200, 1000
_SIZES = range(12, 1460 + 1)
_OURS = (b"_edgenode", b"_dns-sd")  # the latter to list all types of services
_IS_RESPONSE = 0x80


class Budget:
    """The entries that may still arrive in the present second."""

    def __init__(self) -> None:
        self._second = self._total = 0
        self._taken: dict[str, int] = {}  # by source

    def take(self, source: str, entries: int, now_s: float) -> bool:
        """Return whether a packet with so many entries is within the limits. If so, they are taken."""
        if int(now_s) != self._second:
            self._second, self._total = int(now_s), 0
            self._taken.clear()
        taken, total = self._taken.get(source, 0) + entries, self._total + entries
        if taken > EACH or total > ALL:
            return False
        self._taken[source], self._total = taken, total
        return True


class MdnsGate(asyncio.DatagramProtocol):
    """The protocol of a socket, in front of zeroconf's.

    Args:
        zeroconf: zeroconf's protocol of the socket.
        own: the addresses of this machine. The system accepts no packet from outside that claims to come from one.
        answered: takes each response, and the address that it comes from.
        dropped: takes the address of each packet that exceeds a limit.
    """

    def __init__(
        self,
        zeroconf: asyncio.DatagramProtocol,
        own: frozenset[str],
        budget: Budget,
        answered: Callable[[bytes, str], None],
        dropped: Callable[[str], None],
    ) -> None:
        self._zeroconf, self._own, self._budget = zeroconf, own, budget
        self._answered, self._dropped = answered, dropped

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        """Drop a packet, or pass it on."""
        source = str(addr[0]).removeprefix("::ffff:")  # which a socket for both families puts before IPv4
        if len(data) not in _SIZES or not any(name in data.lower() for name in _OURS):
            return
        entries = max(1, sum(unpack_from("!4H", data, 4)))
        is_own = source in self._own
        if not is_own and not self._budget.take(source, entries, asyncio.get_running_loop().time()):
            self._dropped(source)
            return
        is_response = data[2] & _IS_RESPONSE
        if is_response:
            self._answered(data, source)
        if not is_response or is_own:
            self._zeroconf.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        """Pass on an error of the socket."""
        self._zeroconf.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that the socket is closed."""
        self._zeroconf.connection_lost(exc)
