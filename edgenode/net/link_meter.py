"""Measures an open connection to a receiver: what a call takes there and back, and the bytes a second that go out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_RATE_OVER_S = 10.0  # time constant of the rate
_SHORTEST_S = 1.0
_CALL_EVERY_S = 10.0
_CALL_S = 10.0


class LinkMeter:
    """The figures of one connection.

    Args:
        now: the monotonic clock.

    Attributes:
        round_trip_s: a moving average, as TCP takes one. None before the first answer.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = self._at = now()
        self._rate = 0.0
        self.round_trip_s: float | None = None

    def sent(self, size: int) -> None:
        """Count bytes."""
        self._rate = self._decayed() + size / _RATE_OVER_S
        self._at = self._now()

    def answered(self, took_s: float) -> None:
        """Note what a call took."""
        before = took_s if self.round_trip_s is None else self.round_trip_s
        self.round_trip_s = before + (took_s - before) / 8

    @property
    def bytes_per_s(self) -> float:
        """The recent rate. A connection that is younger than the average counts from its start."""
        age_s = max(self._now() - self._began, _SHORTEST_S)
        return self._decayed() / -math.expm1(-age_s / _RATE_OVER_S)

    def _decayed(self) -> float:
        return self._rate * math.exp((self._at - self._now()) / _RATE_OVER_S)


@asynccontextmanager
async def measuring(channel: grpc.aio.Channel) -> AsyncIterator[LinkMeter]:
    """A meter of a connection, which calls its other end now and then as long as the body runs."""
    meter = LinkMeter()
    task = asyncio.create_task(_keep_calling(meter, channel), name="round trips")
    try:
        yield meter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_calling(meter: LinkMeter, channel: grpc.aio.Channel) -> None:
    """A call without an answer does not count: the pushes find out what is wrong."""
    stub = health_pb2_grpc.HealthStub(channel)
    while True:
        began = time.monotonic()
        with suppress(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
            meter.answered(time.monotonic() - began)
        await asyncio.sleep(_CALL_EVERY_S)
