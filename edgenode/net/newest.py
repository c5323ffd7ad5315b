"""One call of each caller: a newer one ends the older, so a device that restarts does not wait for its dead call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edgenode.errors import TransportError


class NewestCalls:
    """The newest call of each caller."""

    def __init__(self) -> None:
        self._calls: dict[str, asyncio.Timeout] = {}

    @asynccontextmanager
    async def only(self, caller: str, why: str, most_s: float | None = None) -> AsyncIterator[None]:
        """Let the body be the only call of a caller, for some seconds at most.

        Raises:
            TransportError: with the text `why`, the caller has called again, or the time is over.
        """
        if (older := self._calls.get(caller)) and not older.expired():
            older.reschedule(asyncio.get_running_loop().time())
        call = self._calls[caller] = asyncio.timeout(most_s)
        try:
            async with call:
                yield
        except TimeoutError:
            raise TransportError(why) from None
        finally:
            if self._calls.get(caller) is call:  # a newer one may have come and gone
                del self._calls[caller]
