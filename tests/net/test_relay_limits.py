"""What a relay carries for a member, and how it counts that."""

from __future__ import annotations

import asyncio
import time

import pytest

from edgenode.core.protocol.status import Relayed
from edgenode.errors import TransportError
from edgenode.net.relay_limits import RelayLimits, Traffic


def test_connections_of_one_member_and_of_all_are_limited() -> None:
    traffic = Traffic(RelayLimits(calls=3, of_a_member=2))
    with traffic.counted("n0"), traffic.counted("n0"):
        with pytest.raises(TransportError, match="relays 2 connections of n0 already"), traffic.counted("n0"):
            pass
        with traffic.counted("n1"):
            assert traffic.relayed == (Relayed("n0", 2, 0), Relayed("n1", 1, 0))
            with pytest.raises(TransportError, match="relays 3 connections already"), traffic.counted("n2"):
                pass
    assert traffic.relayed == ()


async def test_member_over_its_rate_is_held_up_and_others_are_not() -> None:
    traffic = Traffic(RelayLimits(bytes_per_s=1_000))
    began = time.monotonic()
    await traffic.carry("n0", 250)  # what it may send ahead
    await traffic.carry("n1", 250)
    assert time.monotonic() - began < 0.2
    await traffic.carry("n0", 500)
    assert time.monotonic() - began >= 0.45
    assert traffic.relayed == (Relayed("n0", 0, 750), Relayed("n1", 0, 250))


async def test_flood_on_many_connections_gets_one_rate() -> None:
    traffic = Traffic(RelayLimits(bytes_per_s=1_000))
    began = time.monotonic()
    await asyncio.gather(*(traffic.carry("n0", 100) for _ in range(10)))
    assert time.monotonic() - began >= 0.7


async def test_member_that_has_sent_all_that_it_may_gets_no_connection() -> None:
    traffic = Traffic(RelayLimits(most_bytes=100))
    await traffic.carry("n0", 99)
    with traffic.counted("n0"), pytest.raises(TransportError, match="relayed 100 bytes of n0, which is all"):
        await traffic.carry("n0", 1)
    with pytest.raises(TransportError, match="all that it may"), traffic.counted("n0"):
        pass
    with traffic.counted("n1"):
        await traffic.carry("n1", 50)
