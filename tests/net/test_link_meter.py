"""The figures of an open connection."""

from __future__ import annotations

import pytest

from edgenode.net.link_meter import LinkMeter, measuring
from edgenode.net.rpc import channel
from tests.net.peer_ends import N1, Receiver, until


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_is_that_of_a_young_connection_and_falls_when_it_is_silent() -> None:
    clock = Clock()
    meter = LinkMeter(clock)
    assert meter.bytes_per_s == 0
    rates = []
    for _ in range(60):
        clock.now += 0.5
        meter.sent(1_000)
        rates.append(meter.bytes_per_s)
    assert all(1_700 < rate < 2_700 for rate in rates[5:])
    clock.now += 10
    assert meter.bytes_per_s == pytest.approx(rates[-1] / 2.718, rel=0.1)
    clock.now += 1e6
    assert meter.bytes_per_s == 0


def test_one_slow_answer_does_not_count_for_much() -> None:
    meter = LinkMeter()
    assert meter.round_trip_s is None
    meter.answered(0.04)
    assert meter.round_trip_s == 0.04
    meter.answered(0.84)
    assert meter.round_trip_s == pytest.approx(0.14)


async def test_meter_calls_the_other_end_over_the_connection() -> None:
    async with Receiver(N1).up() as address, channel(address) as to_peer, measuring(to_peer) as meter:
        await until(lambda: meter.round_trip_s is not None)
        assert 0 < (meter.round_trip_s or 0) < 5


async def test_call_without_an_answer_has_no_round_trip() -> None:
    async with channel("127.0.0.1:1") as to_peer, measuring(to_peer) as meter:
        assert meter.round_trip_s is None
