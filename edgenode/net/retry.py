"""Connect again for as long as it takes, and log what cannot be reached and since when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import stamina

from edgenode.errors import TransportError

CONNECT_S, PATIENT_CONNECT_S = 1.0, 4.0  # TCP, TLS and HTTP/2 take three round trips, by satellite 2 s
_LOG_EVERY_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait between two attempts: it doubles from ``initial_s`` to ``max_s``, plus a random part up to ``jitter_s``.

    ``max_s`` bounds the sum of both.
    """

    initial_s: float
    max_s: float
    jitter_s: float


class Outage:
    """Measures for how long something cannot be reached.

    Args:
        log: takes (seconds since the outage began, reason), every ten seconds of an outage.
        first_s: seconds from the beginning of an outage to its first log line.
    """

    def __init__(self, log: Callable[[int, str], None], first_s: float = _LOG_EVERY_S) -> None:
        self._log, self._first_s = log, first_s
        self._since: float | None = None
        self._next = 0.0

    @property
    def connect_s(self) -> float:
        """The time that the next connection may take.

        Most links are fast. What does not answer on them is off, or blocked, and another way is tried soon.
        """
        lasts_s = 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since
        return min(PATIENT_CONNECT_S, max(CONNECT_S, 2 * lasts_s))

    def end(self) -> None:
        """The other side answered."""
        self._since = None

    def note(self, why: str) -> None:
        """An attempt failed."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            self._since, self._next = now, now + self._first_s
        if now >= self._next:
            self._next = now + _LOG_EVERY_S
            self._log(round(now - self._since), why)


async def retry(
    attempt: Callable[[], Awaitable[T]], outage: Outage, backoff: Backoff, timeout_s: float | None = None
) -> T:
    """The result of the first attempt that succeeds. A TransportError means another attempt, after a wait.

    Raises:
        TransportError: an attempt failed later than ``timeout_s`` after the start. None means no limit.
    """
    async for context in stamina.retry_context(
        on=TransportError,
        attempts=None,
        timeout=timeout_s,
        wait_initial=backoff.initial_s,
        wait_max=backoff.max_s,
        wait_jitter=backoff.jitter_s,
    ):
        with context:
            try:
                return await attempt()
            except TransportError as exc:
                outage.note(str(exc))
                raise
    raise AssertionError("unreachable: the last attempt raises")


async def stay_connected(
    connect: Callable[[], Awaitable[None]], is_done: Callable[[], bool], outage: Outage, backoff: Backoff
) -> None:
    """Open connections one after the other until ``is_done``. No failure counts after that.

    Args:
        connect: one connection, from its start to its end. Raises TransportError if it fails or breaks.
    """

    async def connection() -> None:
        try:
            await connect()
        except TransportError:
            if not is_done():
                raise

    while not is_done():
        await retry(connection, outage, backoff)
