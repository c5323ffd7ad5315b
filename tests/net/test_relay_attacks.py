"""A relay that changes what it carries, and processes that ask it for what is not theirs.

Two members push through it with TLS between them. The relay harms the first connections, and is honest then. Each push
has to arrive whole and to be taken once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import grpc.aio
import pytest

from edgenode.net import door
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.relay_limits import RelayLimits
from edgenode.net.relay_server import RelayServer
from edgenode.net.rpc import channel
from edgenode.net.tls import MutualTls
from edgenode.security import certificates
from edgenode.security.subject import Subject
from tests.net.peer_ends import SOON_S, Receiver, a_message, until
from tests.net.test_relay import NOBODY, secured
from tests.net.test_relay_waiting import MEMBERS, a_pair, waiting

_HARMED, _PUSHES, _SPOILT = 3, 20, 4
Harm = Callable[[list[bytes]], list[bytes]]
"""Takes all chunks so far in one direction, and returns what is sent in place of the newest."""


def flip(chunks: list[bytes]) -> list[bytes]:
    newest = chunks[-1]
    return [newest] if len(chunks) < _SPOILT else [newest[:-9] + bytes([newest[-9] ^ 1]) + newest[-8:]]


def drop(chunks: list[bytes]) -> list[bytes]:
    return chunks[-1:] if len(chunks) < _SPOILT else []


def reorder(chunks: list[bytes]) -> list[bytes]:
    if len(chunks) < _SPOILT:
        return chunks[-1:]
    return [chunks[-1], chunks[-2]] if len(chunks) % 2 == 1 else []


def replay(chunks: list[bytes]) -> list[bytes]:
    return chunks[-1:] if len(chunks) < _SPOILT else [chunks[-1], chunks[-1]]


def a_meddler(harm: Harm) -> type[RelayServer]:
    class Meddler(RelayServer):
        harmed = 0

        async def _pass_on(
            self, requests: AsyncIterator[relay_pb2.RelayRequest], to: grpc.aio.ServicerContext, sender: str
        ) -> None:
            if sender == "n0":
                Meddler.harmed += 1
            chunks = list[bytes]()

            async def harmed() -> AsyncIterator[relay_pb2.RelayRequest]:
                async for request in requests:
                    chunks.append(request.chunk)
                    for chunk in harm(chunks):
                        yield relay_pb2.RelayRequest(chunk=chunk)

            await super()._pass_on(harmed() if Meddler.harmed <= _HARMED else requests, to, sender)

    return Meddler


@pytest.mark.slow
@pytest.mark.parametrize("harm", [flip, drop, reorder, replay])
async def test_relay_that_changes_bytes_only_ends_connections(harm: Harm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenode.net.peer_client._HELLO_S", 1.0)
    meddler = a_meddler(harm)
    async with a_pair(kind=meddler) as (receiver, sender, _, _), sender.running():
        for t in range(_PUSHES):
            sender.link.push(a_message(t, b"%02d" % t * 100))
            await asyncio.sleep(0.01)
        await until(lambda: len(sender.answered) == _PUSHES, 3 * SOON_S)
    assert meddler.harmed > _HARMED  # type: ignore[attr-defined]
    assert {m.round: m.payload for m in receiver.took} == {t: b"%02d" % t * 100 for t in range(_PUSHES)}
    assert receiver.server.faults.by_peer == ()


@pytest.mark.slow
async def test_relay_that_swaps_receivers_reaches_no_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """n3 is a member, and n0 means n1: the key in the plan is n1's."""

    class Swapper(RelayServer):
        async def _splice(self, requests, context, caller, to):  # type: ignore[no-untyped-def]
            await super()._splice(requests, context, caller, "n3" if self.is_waiting("n3") else to)

    n3 = secured("n3")
    other = Receiver(n3)
    monkeypatch.setitem(MEMBERS, "n3", NOBODY)
    async with a_pair(kind=Swapper) as (receiver, sender, relay, _), other.up() as address, sender.running():
        async with waiting(relay, n3, address):
            sender.link.push(a_message(0))
            await asyncio.sleep(3.0)
            assert receiver.took == other.took == []
        await until(lambda: len(sender.answered) == 1)
    assert receiver.rounds == [0] and other.took == []


async def test_stranger_at_the_port_of_a_relay_gets_nothing() -> None:
    """It has a certificate of another authority. A board of another cluster is such a stranger."""
    other = certificates.make_authority("home")
    own = certificates.make_credentials(other, Subject("node", "n0"))
    stranger = MutualTls(own, lambda subject, key_id: True)
    async with a_pair() as (_, _, relay, _), channel(relay.address, stranger, relay.server) as to_relay:
        stub = relay_pb2_grpc.RelayServiceStub(to_relay)
        call = stub.Relay(timeout=SOON_S)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await call.write(relay_pb2.RelayRequest(to="n1"))
            await call.read()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("name", ["n9", "n1"])
async def test_enrolled_board_that_is_no_member_gets_no_stream_of_the_run(name: str) -> None:
    """n9 has a certificate of the cluster, and no part in this run. It asks for n1, and waits in the place of n1."""
    n9 = secured("n9")
    async with a_pair() as (receiver, _, relay, _), channel(relay.address, n9.security, relay.server) as to_relay:
        stub = relay_pb2_grpc.RelayServiceStub(to_relay)
        call = stub.Relay()
        await call.write(relay_pb2.RelayRequest(to="n1"))
        with pytest.raises(grpc.aio.AioRpcError, match="relays between members only"):
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError, match=r"between members only|under its own name only"):
            await stub.Wait(relay_pb2.WaitRequest(node=name)).read()
        take = stub.Take()
        await take.write(relay_pb2.RelayRequest(to="0" * 32))
        with pytest.raises(grpc.aio.AioRpcError, match="no such connection"):
            await take.read()
    assert receiver.took == []


async def test_member_that_floods_holds_up_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """n3 opens all connections to itself that it may, and sends what it can. The pushes of n0 arrive meanwhile."""
    monkeypatch.setitem(MEMBERS, "n3", MEMBERS["n0"])
    n3, limits = secured("n3"), RelayLimits(of_a_member=4, bytes_per_s=200_000)

    async def flood(call: grpc.aio.StreamStreamCall) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            await call.write(relay_pb2.RelayRequest(to="n3"))
            await call.read()  # says that it is open, or refused
            while True:
                await call.write(relay_pb2.RelayRequest(chunk=bytes(64 * 1024)))

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()

    async with (
        a_pair(limits) as (receiver, sender, relay, _),
        await asyncio.start_server(swallow, "127.0.0.1", 0) as sink,
        waiting(relay, n3, "{}:{}".format(*sink.sockets[0].getsockname())),
        channel(relay.address, n3.security, relay.server) as it,
    ):
        calls = [relay_pb2_grpc.RelayServiceStub(it).Relay() for _ in range(door.MOST_OF_METHOD)]
        floods = [asyncio.create_task(flood(call)) for call in calls]
        async with sender.running():
            for t in range(_PUSHES):
                sender.link.push(a_message(t))
            await until(lambda: len(sender.answered) == _PUSHES, 3 * SOON_S)
        refused = [call for call in calls if call.done() and "of n3 already" in (await call.details() or "")]
        for one in floods:
            one.cancel()
        await asyncio.gather(*floods)
    assert len(refused) == len(calls) - limits.of_a_member
    assert receiver.rounds == list(range(_PUSHES))
