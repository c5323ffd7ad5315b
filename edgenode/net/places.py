"""Which connections a server keeps when more arrive than it has places for.

A connection is a stranger's from the moment when it is accepted until its owner proves who it is.

1. Strangers have a number of places in all, and a smaller one at each address.
2. A new stranger takes the place of the oldest, at its address or of all. A stranger keeps its place for LEAST_S at
   least. Until then, new ones are refused. A true handshake takes milliseconds, so strangers who connect again and
   again neither end it nor cost the server more than a few places a second.
3. An address at which somebody has proven who it is, has as many places again. So a member that connects again does not
   compete with strangers elsewhere.
4. A proven connection makes no room for strangers. Its owner has a number of connections too, and its newest takes the
   place of its oldest. When all places are taken, a new connection takes that of the oldest of the owner that has most.
   So a few owners keep no other out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

LEAST_S = 0.5
MOST_OF_ONE = 64
_KNOWN_ADDRESSES = 4096


class Place:
    """The place of one connection.

    Attributes:
        hang_up: ends the connection. It is called when the connection has to make room.
    """

    __slots__ = ("_leave", "_places", "address", "hang_up", "since")

    def __init__(self, places: Places, address: str, since: float, hang_up: Callable[[], object]) -> None:
        self._places, self.address, self.since, self.hang_up = places, address, since, hang_up
        self._leave: Callable[[Place], None] | None = None

    def move(self, leave: Callable[[Place], None] | None) -> None:
        """Leave the group of connections that it is in, for another one."""
        if self._leave is not None:
            self._leave(self)
        self._leave = leave

    def leave(self) -> None:
        """Free the place: the connection has ended. Further calls do nothing."""
        self.move(None)

    def prove(self, who: str) -> None:
        """State that the owner of the connection has proven who it is. Further calls do nothing."""
        self._places.prove(self, who)

    def make_room(self) -> None:
        """Free the place, and end the connection."""
        self.leave()
        self.hang_up()


class Places:
    """The places of one server.

    Args:
        strangers: how many connections of strangers there may be.
        proven: how many proven connections there may be in all.
        of_one: how many of them may have one owner.
    """

    def __init__(
        self, strangers: int, proven: int, of_one: int = MOST_OF_ONE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._strangers, self._returning = _Crowd(strangers), _Crowd(strangers)
        self._most_proven, self._of_one, self._clock = proven, of_one, clock
        self._proven: dict[str, dict[Place, None]] = {}
        self._count = 0  # of proven connections
        self._known: dict[str, None] = {}  # addresses, the one that was proven last at the end

    def take(self, host: str, hang_up: Callable[[], object]) -> Place | None:
        """Give a place to a new connection from an IP address. None if there is none now."""
        place = Place(self, network_of(host), self._clock(), hang_up)
        crowd = self._returning if place.address in self._known else self._strangers
        return place if crowd.admit(place) else None

    def prove(self, place: Place, who: str) -> None:
        """Count a connection as proven, and its address as known."""
        mine = self._proven.setdefault(who, {})
        if place in mine:
            return
        place.move(lambda gone: self._forget(gone, who))
        mine[place] = None
        self._count += 1
        self._known.pop(place.address, None)
        self._known[place.address] = None
        if len(self._known) > _KNOWN_ADDRESSES:
            del self._known[next(iter(self._known))]
        if len(mine) > self._of_one:
            next(iter(mine)).make_room()
        elif self._count > self._most_proven:
            most = max((mine, *self._proven.values()), key=len)
            next(iter(most)).make_room()

    def _forget(self, place: Place, who: str) -> None:
        mine = self._proven[who]
        del mine[place]
        self._count -= 1
        if not mine:
            del self._proven[who]


class _Crowd:
    """Connections of strangers, the oldest first."""

    def __init__(self, most: int) -> None:
        self._most, self._most_at_one = most, max(1, most * 2 // 3)
        self._all: dict[Place, None] = {}
        self._at: dict[str, dict[Place, None]] = {}

    def admit(self, place: Place) -> bool:
        """Let a connection in if there is room, or the oldest has had its time."""
        here = self._at.get(place.address, {})
        full = here if len(here) >= self._most_at_one else self._all if len(self._all) >= self._most else None
        if full is not None:
            oldest = next(iter(full))
            if place.since - oldest.since < LEAST_S:
                return False
            oldest.make_room()
        self._all[place] = None
        self._at.setdefault(place.address, {})[place] = None
        place.move(self._forget)
        return True

    def _forget(self, place: Place) -> None:
        here = self._at[place.address]
        del self._all[place], here[place]
        if not here:
            del self._at[place.address]


def network_of(host: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 address, which one host has whole."""
    if ":" not in host:
        return host
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ip_network((address, 64), strict=False))
