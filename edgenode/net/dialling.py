"""Finds the controller among announced addresses. Anybody can announce any number of them.

1. Many addresses are dialled at once, in the order in which they were found.
2. A dial is short, because a process that accepts and says nothing costs all of it. An address that failed is dialled
   again after all new ones, with twice the time, because the process may be busy.
3. An address counts when the whole handshake has succeeded, with the certificates of both sides.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import count

from edgenode.addresses import is_ipv6
from edgenode.errors import TransportError
from edgenode.net.reasons import unreachable
from edgenode.net.rpc import accepts
from edgenode.net.tls import Security
from edgenode.security.subject import CONTROLLER

_AT_ONCE = 128
_MOST = 1024
_MOST_EXPLAINED = 3
_FIRST_DIAL_S, _LONGEST_DIAL_S = 2.0, 16.0

Targets = AsyncIterator[Iterable[str]]
"""The addresses (host:port) that are known, from time to time."""


async def first_to_answer(targets: Targets, securities: Sequence[Security], timeout_s: float) -> tuple[str, Security]:
    """The first address where a controller answers, and the credentials that it takes.

    Args:
        securities: the credentials to try at each address.

    Raises:
        TransportError: none answers in time. The text says why, for the first ones.
    """
    search = _Search(securities)
    tasks = [asyncio.create_task(search.collect(targets), name="announced addresses")]
    tasks += [asyncio.create_task(search.dial_all(), name="dials addresses") for _ in range(_AT_ONCE)]
    try:
        async with asyncio.timeout(timeout_s):
            return await search.answered
    except TimeoutError:
        raise await _none_answers(search.found, securities[0], timeout_s) from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ipv4_first(targets: Targets, head_start_s: float) -> Targets:
    """Show the addresses of IPv4 some time before the others.

    The family in which a node finds its controller is that of its address in the plan, and most devices have IPv4.
    """
    async for found in targets:
        both = [*found]
        if 0 < len(first := [target for target in both if not is_ipv6(target)]) < len(both):
            yield first
            await asyncio.sleep(head_start_s)
        yield both


class _Search:
    """Dials addresses until one answers.

    Attributes:
        found: those that were found so far, in order.
        answered: the first one that answers, and the credentials.
    """

    def __init__(self, securities: Sequence[Security]) -> None:
        self.found: dict[str, None] = {}
        self.answered: asyncio.Future[tuple[str, Security]] = asyncio.get_running_loop().create_future()
        self._securities = securities
        self._serial = count()
        self._next: asyncio.PriorityQueue[tuple[int, int, str]] = asyncio.PriorityQueue()  # failures, serial, address

    async def collect(self, targets: Targets) -> None:
        """Add what is found."""
        async for found in targets:
            for target in found:
                if target not in self.found and len(self.found) < _MOST:
                    self.found[target] = None
                    self._next.put_nowait((0, next(self._serial), target))

    async def dial_all(self) -> None:
        """Dial one address after the other, without end."""
        while True:
            failures, _, target = await self._next.get()
            dial_s = min(_FIRST_DIAL_S * 2**failures, _LONGEST_DIAL_S)
            await asyncio.gather(*(self._dial(target, dial_s, security) for security in self._securities))
            self._next.put_nowait((failures + 1, next(self._serial), target))

    async def _dial(self, target: str, dial_s: float, security: Security) -> None:
        if await accepts(target, dial_s, security, CONTROLLER.dns_name) and not self.answered.done():
            self.answered.set_result((target, security))


async def _none_answers(found: Iterable[str], security: Security, waited_s: float) -> TransportError:
    explained = (unreachable(t, t, CONTROLLER.dns_name, security.credentials) for t in [*found][:_MOST_EXPLAINED])
    reasons = "; ".join(map(str, await asyncio.gather(*explained)))
    return TransportError(f"no controller that mDNS found answers (waited {waited_s:g} s): {reasons}")
