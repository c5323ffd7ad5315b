"""What a relay carries for each member at most: connections, bytes per second, and bytes in all.

A byte counts for the member that has sent it. A member over its rate is held up, and TCP and HTTP/2 hold its process up
in turn, so that nothing piles up here. A member that has sent all that it may gets no further connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgenode.core.protocol.status import Relayed
from edgenode.errors import TransportError

MOST_CALLS, MOST_OF_A_MEMBER = 32, 8
HOSTED_CALLS, HOSTED_OF_A_MEMBER = 1024, 32  # of a controller with --relay
BYTES_PER_S = 8_000_000
_AHEAD_S = 0.25  # a sleep for less costs more than it limits


@dataclass(frozen=True)
class RelayLimits:
    """The limits of one relay.

    Attributes:
        calls: connections at a time.
        of_a_member: of them, those that one member has opened.
        bytes_per_s: of one member.
        most_bytes: of one member, since the relay started. None for no limit.
    """

    calls: int = MOST_CALLS
    of_a_member: int = MOST_OF_A_MEMBER
    bytes_per_s: float = BYTES_PER_S
    most_bytes: int | None = None


ANY_MEMBER = RelayLimits()


class Traffic:
    """What one relay carries and has carried, by the name of the member. "" is every process without a certificate."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._calls, self._bytes = Counter[str](), Counter[str]()
        self._free_at: dict[str, float] = {}  # when the rate allows the next byte

    @property
    def relayed(self) -> tuple[Relayed, ...]:
        """What each member has sent by this relay."""
        names = sorted({*self._calls, *self._bytes} - {""})
        return tuple(Relayed(name, self._calls[name], self._bytes[name]) for name in names)

    @contextmanager
    def counted(self, caller: str) -> Iterator[None]:
        """Count a connection of a member as long as the body runs.

        Raises:
            TransportError: it would be one too many.
        """
        limits = self._limits
        if self._calls.total() >= limits.calls:
            raise TransportError(f"this process relays {limits.calls} connections already")
        if caller and self._calls[caller] >= limits.of_a_member:
            raise TransportError(f"this process relays {limits.of_a_member} connections of {caller} already")
        self._check_total(caller)
        self._calls[caller] += 1
        try:
            yield
        finally:
            self._calls -= Counter((caller,))  # which forgets callers without calls

    async def carry(self, sender: str, count: int) -> None:
        """Count bytes, and wait until the sender may send more.

        Raises:
            TransportError: it has sent all that it may.
        """
        self._bytes[sender] += count
        self._check_total(sender)
        now = asyncio.get_running_loop().time()
        free_at = self._free_at[sender] = max(self._free_at.get(sender, 0.0), now) + count / self._limits.bytes_per_s
        if free_at - now > _AHEAD_S:
            await asyncio.sleep(free_at - now - _AHEAD_S)

    def _check_total(self, sender: str) -> None:
        most = self._limits.most_bytes
        if sender and most is not None and self._bytes[sender] >= most:
            raise TransportError(f"this process has relayed {most} bytes of {sender}, which is all that it may")
