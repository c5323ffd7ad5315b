"""Connect again, for as long as it takes, and log what cannot be reached and since when."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import stamina

from edgenode.errors import TransportError

_LOG_EVERY_S = 10.0


class Outage:
    """How long something cannot be reached.

    Args:
        log: takes (seconds since the outage began, why), every ten seconds of an outage.
        first_s: seconds until the first time.
    """

    def __init__(self, log: Callable[[int, str], None], first_s: float = _LOG_EVERY_S) -> None:
        self._log, self._first_s = log, first_s
        self._since: float | None = None
        self._next = 0.0

    def end(self) -> None:
        """It was reached."""
        self._since = None

    def note(self, why: str) -> None:
        """An attempt failed."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._next = now, now + self._first_s
        if now >= self._next:
            self._next = now + _LOG_EVERY_S
            self._log(round(now - self._since), why)


async def retry_until_connected(
    connect: Callable[[], Awaitable[None]],
    is_done: Callable[[], bool],
    outage: Outage,
    wait_initial_s: float,
    wait_max_s: float,
) -> None:
    """Open connections until ``is_done``, one after the other, each for as long as it lasts.

    Args:
        connect: one connection, from its start to its end. A TransportError means another attempt, after a wait that
            doubles from attempt to attempt. Other errors are raised.
    """
    while not is_done():
        async for attempt in stamina.retry_context(
            on=TransportError,
            attempts=None,
            timeout=None,
            wait_initial=wait_initial_s,
            wait_max=wait_max_s,
            wait_jitter=wait_max_s / 4,
        ):
            with attempt:
                try:
                    await connect()
                except TransportError as exc:
                    if is_done():
                        return
                    outage.note(str(exc))
                    raise
