"""Which way the first pushes take, when the receiver may wait at a relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc.aio
import pytest

from edgenode.core.protocol.status import Way
from edgenode.net.peer_client import _DIALLED_BY_RELAYS_AFTER_S
from edgenode.net.proto import relay_pb2
from edgenode.net.relay_client import Relay
from edgenode.net.relay_server import RelayServer
from tests.net.peer_ends import Receiver, a_long_way, a_message, until
from tests.net.test_relay import Sender, a_relay, secured
from tests.net.test_relay_waiting import waiting

asked = list[str]()
"""What the relay was asked, and what it dialled."""


class Counting(RelayServer):
    """A relay that counts."""

    async def Relay(self, requests: AsyncIterator[relay_pb2.RelayRequest], context: grpc.aio.ServicerContext) -> None:
        asked.append("asked")
        await super().Relay(requests, context)

    async def _open(self, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        asked.append("dialled")
        return await super()._open(to)


@asynccontextmanager
async def hosting(**members: str) -> AsyncIterator[Relay]:
    """n2, where members wait."""
    asked.clear()
    async with a_relay(members, secured("n2"), kind=Counting) as relay:
        yield replace(relay, only_waiting=True)


def a_sender(address: str, relay: Relay, pace: float = 1.0) -> Sender:
    """n0, whose clock is right, or slow."""
    return Sender(address, relay, identity=secured("n0"), clock=lambda: pace * time.monotonic())


@pytest.mark.slow
async def test_first_push_does_not_wait_for_an_address_that_is_silent(full: str) -> None:
    receiver = Receiver(secured("n1"))
    async with receiver.up() as address, hosting(n0=full, n1=full) as relay, waiting(relay, receiver.identity, address):
        sender = a_sender(full, relay, pace=0.1)
        async with sender.running():
            sender.link.push(a_message(0))
            await until(lambda: len(sender.answered) == 1)
            assert (asked, sender.watch.ways) == (["asked"], (Way("n1", "n2"),))
            assert sender.watch.failing_s("n1") < _DIALLED_BY_RELAYS_AFTER_S


async def test_receiver_that_can_be_dialled_is_not_asked_for_at_relays() -> None:
    receiver = Receiver(secured("n1"))
    async with (
        receiver.up() as address,
        hosting(n0=address, n1=address) as relay,
        waiting(relay, receiver.identity, address),
    ):
        sender = a_sender(address, relay)
        async with sender.running():
            sender.link.push(a_message(0))
            await until(lambda: len(sender.answered) == 1)
            assert (asked, sender.watch.ways) == ([], ())


@pytest.mark.slow
async def test_receiver_that_starts_again_is_hardly_asked_for_at_relays() -> None:
    receiver = Receiver(secured("n1"))
    async with receiver.up() as address:
        pass
    async with hosting(n0=address, n1=address) as relay:
        sender = a_sender(address, relay)
        async with sender.running():
            sender.link.push(a_message(0))
            await asyncio.sleep(0.75 * _DIALLED_BY_RELAYS_AFTER_S)
            assert asked in (["asked"], ["asked"] * 2, ["asked"] * 3)
            async with receiver.up():
                await until(lambda: len(sender.answered) == 1)
                assert sender.watch.ways == ()


@pytest.mark.slow
async def test_direct_way_that_is_slower_to_open_than_a_relay_is_preferred() -> None:
    receiver = Receiver(secured("n1"))
    async with (
        receiver.up() as near,
        a_long_way(near, 0.3) as address,
        hosting(n0=address, n1=address) as relay,
        waiting(relay, receiver.identity, near) as inbound,
    ):

        def is_direct() -> bool:
            senders = receiver.server.senders()
            return "n0" in senders and senders["n0"] not in inbound.by

        sender = a_sender(address, relay)
        async with sender.running():
            sender.link.push(a_message(0))
            await until(lambda: len(sender.answered) == 1)
            assert sender.watch.ways == (Way("n1", "n2"),)
            await until(is_direct, 15.0)
            sender.link.push(a_message(1))
            await until(lambda: len(sender.answered) == 2)
            assert (is_direct(), asked.count("dialled"), sender.watch.ways) == (True, 0, ())
