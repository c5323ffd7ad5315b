"""Pushes that go by way of a third process, because a sender cannot reach its receiver, and the way back."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import grpc.aio
import pytest
from structlog.testing import capture_logs

from edgenode.addresses import split_address
from edgenode.core.protocol.events import Answered
from edgenode.net import peer_client, relay_server, retry
from edgenode.net.link_watch import LinkWatch
from edgenode.net.peer_client import PeerAddresses, PeerLink
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.relay_client import Relay, way_by
from edgenode.net.relay_limits import ANY_MEMBER, RelayLimits
from edgenode.net.relay_server import RelayServer
from edgenode.net.retry import Outage
from edgenode.net.rpc import channel, serving
from edgenode.net.tls import INSECURE, MutualTls
from edgenode.net.wire import Identity
from edgenode.security import certificates
from edgenode.security.certificates import public_key_id
from edgenode.security.subject import Subject
from tests.net.peer_ends import N0, SOON_S, Receiver, a_message, until

Kind = Callable[..., RelayServer]
N2 = Identity("home", "n2", "run")
NOBODY = "127.0.0.1:1"  # refuses every connection
CA = certificates.make_authority("home")


def secured(name: str) -> Identity:
    own = certificates.make_credentials(CA, Subject("node", name))
    return replace(Identity("home", name, "run"), security=MutualTls(own, lambda subject, key_id: True))


@asynccontextmanager
async def a_relay(
    members: dict[str, str], identity: Identity = N2, limits: RelayLimits = ANY_MEMBER, kind: Kind = RelayServer
) -> AsyncIterator[Relay]:
    """n2, which relays to these members."""
    relay = kind(identity, lambda node: members.get(node, ""), limits=limits)
    services = [(relay_server.SERVICE, relay.add_to)]
    async with serving("127.0.0.1:0", services, 0.0, security=identity.security) as port:
        yield Relay("n2", f"127.0.0.1:{port}", Subject("node", "n2").dns_name)


class Sender:
    """n0, which dials ``address`` to reach n1 directly. Without a clock, each look at its own takes a second."""

    def __init__(
        self, address: str, *relays: Relay, identity: Identity = N0, keys: frozenset[str] = frozenset(),
        clock: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        self.address, self.observed, self.answered, self._now = address, "", list[Answered](), 0.0
        self.watch = LinkWatch(identity, lambda to: (self.address, 0), clock or self._clock, lambda to: self.observed)
        self.link = PeerLink(
            "n1", identity, lambda: PeerAddresses((self.address,), keys=keys), self.answered.append,
            watch=self.watch, relays=lambda: relays,
        )  # fmt: skip
        self.watch.works_again = lambda to: self.link.go_direct()

    def _clock(self) -> float:
        self._now += 1.0
        return self._now

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.timeout(4 * SOON_S), asyncio.TaskGroup() as group:
            group.create_task(self.link.run(), name="link")
            watching = group.create_task(self.watch.run(), name="watch")
            yield
            self.link.close()
            watching.cancel()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    return Receiver()


async def test_pushes_go_by_a_relay_while_the_receiver_cannot_be_reached(receiver: Receiver) -> None:
    async with receiver.up() as address, a_relay({"n1": address}) as relay:
        sender = Sender(NOBODY, relay)
        async with sender.running():
            sender.link.push(a_message(0, b"x" * 1_000))
            sender.link.push(a_message(1))
            await until(lambda: len(sender.answered) == 2)
            (blocked,) = sender.watch.blocked
            assert (blocked.receiver, blocked.address, blocked.by) == ("n1", NOBODY, "n2")
            assert "connection refused" in blocked.reason.lower()  # in the words of gRPC, or of a probe
    assert receiver.rounds == [0, 1]


async def test_sender_leaves_the_relay_when_the_receiver_can_be_reached(receiver: Receiver) -> None:
    async with receiver.up() as address, a_relay({"n1": address}) as relay:
        sender = Sender(NOBODY, relay)
        async with sender.running():
            receiver.answers = False
            sender.link.push(a_message(0))
            await until(lambda: receiver.rounds == [0])
            sender.address = address
            await until(lambda: receiver.rounds == [0, 0])  # the repeat comes directly
            assert sender.watch.blocked == ()
            receiver.answer(0)
            await until(lambda: len(sender.answered) == 1)


async def test_sender_leaves_the_relay_for_where_the_controller_sees_the_receiver(receiver: Receiver) -> None:
    async with receiver.up() as address, a_relay({"n1": address}) as relay:
        sender = Sender(NOBODY, relay)
        async with sender.running():
            receiver.answers = False
            sender.link.push(a_message(0))
            await until(lambda: receiver.rounds == [0])
            sender.observed = address  # its router has a new one
            await until(lambda: receiver.rounds == [0, 0])  # the repeat comes directly
            assert sender.watch.blocked == () and sender.watch.found("n1") == address
            receiver.answer(0)
            await until(lambda: len(sender.answered) == 1)


async def test_sender_needs_no_relay_if_the_receiver_answers_where_it_is_seen(receiver: Receiver) -> None:
    async with receiver.up() as address:
        sender = Sender(NOBODY)
        sender.observed = address
        async with sender.running():
            for t in range(3):
                sender.link.push(a_message(t))
            await until(lambda: len(sender.answered) == 3)
    assert receiver.rounds == [0, 1, 2]


async def test_relay_carries_tls_between_the_two_ends(receiver: Receiver) -> None:
    """The receiver must show its own key, and the sender its own certificate. The relay shows neither."""
    n0, n1, n2 = map(secured, ("n0", "n1", "n2"))
    assert isinstance(n1.security, MutualTls)
    key = public_key_id(n1.security.credentials.certificate)
    receiver.identity = n1
    async with receiver.up() as address, a_relay({"n0": NOBODY, "n1": address}, n2) as relay:
        sender = Sender(NOBODY, relay, identity=n0, keys=frozenset({key}))
        async with sender.running():
            sender.link.push(a_message(0))
            await until(lambda: len(sender.answered) == 1)
    assert receiver.rounds == [0]


async def test_failure_by_way_of_a_relay_names_the_receiver(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason with the loopback port of the way would send its reader to the wrong machine."""
    monkeypatch.setattr(peer_client, "Outage", partial(Outage, first_s=0.0))
    monkeypatch.setattr(retry, "_LOG_EVERY_S", 0.0)
    n0, n1, n2 = map(secured, ("n0", "n1", "n2"))
    receiver.identity = n1
    async with receiver.up() as address, a_relay({"n0": NOBODY, "n1": address}, n2) as relay:
        sender = Sender(NOBODY, relay, identity=n0, keys=frozenset({"another"}))
        sender.link.push(a_message(0))
        with capture_logs() as logs:
            pushing = asyncio.create_task(sender.link.run())
            await until(lambda: any("by way of n2" in line.get("why", "") for line in logs))
            pushing.cancel()
    assert [line["why"] for line in logs if "by way of n2" in line.get("why", "")] == [
        f"by way of n2: {NOBODY} shows a key that the plan does not have"
    ]


async def test_without_a_relay_the_reason_is_that_of_the_direct_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "Outage", partial(Outage, first_s=0.0))
    monkeypatch.setattr(retry, "_LOG_EVERY_S", 0.0)
    sender = Sender(NOBODY)
    sender.link.push(a_message(0))
    with capture_logs() as logs:
        pushing = asyncio.create_task(sender.link.run())
        await until(lambda: len([line for line in logs if "why" in line]) > 3)
        pushing.cancel()
    reasons = {line["why"] for line in logs if "why" in line}
    assert reasons == {f"{NOBODY}: connection refused: nothing listens there, or a firewall rejects it"}


@pytest.mark.slow
async def test_relay_that_waits_in_vain_says_so(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes longer to know that than gRPC would wait for a direct connection."""
    monkeypatch.setattr(peer_client, "Outage", partial(Outage, first_s=0.0))
    monkeypatch.setattr(retry, "_LOG_EVERY_S", 0.0)
    n0, n2 = secured("n0"), secured("n2")
    async with a_relay({"n0": NOBODY, "n1": full}, n2) as relay:
        sender = Sender(NOBODY, relay, identity=n0)
        sender.link.push(a_message(0))
        with capture_logs() as logs:
            pushing = asyncio.create_task(sender.link.run())
            await until(lambda: any("by way of n2" in line.get("why", "") for line in logs))
            pushing.cancel()
    (why,) = [line["why"] for line in logs if "by way of n2" in line.get("why", "")]
    assert why == "by way of n2: no answer: it is off, or a firewall drops what is sent to this port"


@pytest.mark.parametrize(
    ("members", "why"),
    [({}, "relays between members only"), ({"n1": NOBODY}, "connection refused")],
    ids=["no member", "not there"],
)
async def test_relay_says_why_it_cannot(members: dict[str, str], why: str) -> None:
    async with a_relay(members) as relay, way_by(relay, INSECURE, "n1") as way:
        reader, writer = await asyncio.open_connection(*split_address(way.address))
        assert await asyncio.wait_for(reader.read(), SOON_S) == b""
        writer.close()
        assert why in way.why.lower()


async def test_member_cannot_take_the_places_of_the_others(receiver: Receiver) -> None:
    n0, n1, n2, n3 = map(secured, ("n0", "n1", "n2", "n3"))
    receiver.identity = n1

    async def begin(to_relay: grpc.aio.Channel) -> grpc.aio.StreamStreamCall:
        """Begin a call. It is relayed when this returns."""
        call = relay_pb2_grpc.RelayServiceStub(to_relay).Relay()
        await call.write(relay_pb2.RelayRequest(to="n1"))
        await call.read()
        return call

    async with (
        asyncio.timeout(4 * SOON_S),
        receiver.up() as address,
        a_relay({"n0": NOBODY, "n1": address, "n3": NOBODY}, n2, RelayLimits(of_a_member=2)) as relay,
        channel(relay.address, n0.security, relay.server) as of_n0,
        channel(relay.address, n3.security, relay.server) as of_n3,
    ):
        first, _ = await begin(of_n0), await begin(of_n0)
        with pytest.raises(grpc.aio.AioRpcError, match="relays 2 connections of n0 already"):
            await begin(of_n0)
        await begin(of_n3)  # the others have their places
        first.cancel()
        while True:  # the relay notices the end of a call a little later
            try:
                await begin(of_n0)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)


async def test_relay_opens_no_connection_to_another_service() -> None:
    """A member can give a false address: that of a service on the relay's own machine."""
    asked = []

    def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(reader)
        writer.close()

    async with await asyncio.start_server(note, "127.0.0.1", 0) as service:
        address = "{}:{}".format(*service.sockets[0].getsockname())
        async with a_relay({"n1": address}) as relay, way_by(relay, INSECURE, "n1") as way:
            reader, writer = await asyncio.open_connection(*split_address(way.address))
            writer.write(b"GET /secrets HTTP/1.1\r\n\r\n")
            assert await asyncio.wait_for(reader.read(), SOON_S) == b""
            writer.close()
    assert way.why


@pytest.mark.parametrize("turns", [3, 4])
async def test_connection_that_arrives_as_the_way_ends_is_no_error(turns: int) -> None:
    loop, errors = asyncio.get_running_loop(), list[dict[str, object]]()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    async with a_relay({}) as relay, way_by(relay, INSECURE, "n1") as way:
        with socket.create_connection(split_address(way.address)):
            for _ in range(turns):
                await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()  # nothing is left open
    assert errors == []
