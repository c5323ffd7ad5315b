"""A receiver that nobody can dial waits at a relay, with a call of its own. A sender reaches it there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from edgenode.addresses import split_address
from edgenode.core.protocol.observed import Observed, ObservedAddress
from edgenode.core.protocol.orders import Join
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.core.protocol.status import Way
from edgenode.core.topology.period import DataSize
from edgenode.errors import TransportError
from edgenode.net import relay_server
from edgenode.net.control_client import ControlLink
from edgenode.net.link_watch import LinkWatch
from edgenode.net.peer_calls import probe
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.relay_client import Inbound, Relay, ask, called_by, wait_at, way_by
from edgenode.net.relay_limits import ANY_MEMBER, RelayLimits
from edgenode.net.relay_server import RelayServer
from edgenode.net.rpc import channel, serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.security import certificates
from edgenode.security.certificates import public_key_id
from edgenode.security.subject import Subject
from tests.net.peer_ends import SOON_S, Receiver, a_message, until
from tests.net.test_relay import CA, NOBODY, Kind, Sender, a_relay, secured

MEMBERS = {"n0": NOBODY, "n1": NOBODY}


@asynccontextmanager
async def waiting(relay: Relay, identity: Identity, address: str) -> AsyncIterator[Inbound]:
    """A process that waits at a relay as long as the block runs."""
    inbound, waits = Inbound(address), asyncio.Event()
    task = asyncio.create_task(wait_at(relay, identity, inbound, waits.set), name="waits")
    await asyncio.wait_for(waits.wait(), SOON_S)
    try:
        yield inbound
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, TransportError):
            await task


@asynccontextmanager
async def a_pair(
    limits: RelayLimits = ANY_MEMBER, kind: Kind = RelayServer
) -> AsyncIterator[tuple[Receiver, Sender, Relay, Inbound]]:
    """n1, which waits at n2, and n0, which pushes to it."""
    n0, n1, n2 = map(secured, ("n0", "n1", "n2"))
    assert isinstance(n1.security, MutualTls)
    key, receiver = public_key_id(n1.security.credentials.certificate), Receiver(n1)
    async with (
        receiver.up() as address,
        a_relay(MEMBERS, n2, limits, kind) as relay,
        waiting(relay, n1, address) as inbound,
    ):
        yield receiver, Sender(NOBODY, relay, identity=n0, keys=frozenset({key})), relay, inbound


async def test_receiver_that_waits_at_a_relay_is_no_blocked_link() -> None:
    async with a_pair() as (receiver, sender, _, inbound), sender.running():
        sender.link.push(a_message(0, b"x" * 1_000))
        await until(lambda: len(sender.answered) == 1)
        assert sender.watch.ways == (Way("n1", "n2"),)
        assert sender.watch.blocked == ()
        (dialled_from,) = receiver.server.senders().values()
        assert inbound.by[dialled_from] == "n2"  # the receiver knows that the sender did not dial it
        await until(lambda: len(sender.watch.open_links) == 1)
        (link,) = sender.watch.open_links
        assert link.receiver == "n1" and link.round_trip_s > 0 and link.bytes_per_s > 50
    assert receiver.rounds == [0]
    assert sender.watch.open_links == ()


@pytest.mark.slow
async def test_sender_goes_direct_from_a_relay_at_which_the_receiver_waits() -> None:
    async with a_pair() as (receiver, sender, _, inbound), sender.running():
        receiver.answers = False
        sender.link.push(a_message(0))
        await until(lambda: receiver.rounds == [0])
        sender.address = inbound.own
        await until(lambda: receiver.rounds == [0, 0])  # the repeat comes directly
        assert sender.watch.ways == ()
        receiver.answer(0)
        await until(lambda: len(sender.answered) == 1)


@pytest.mark.slow
async def test_sender_moves_to_a_connection_that_its_receiver_has_opened() -> None:
    n0 = secured("n0")
    async with a_pair() as (receiver, sender, relay, inbound), a_relay(MEMBERS, n0) as at_n2s_name:
        own = Relay("n0", at_n2s_name.address, Subject("node", "n0").dns_name)
        relays: list[Relay] = [relay]
        sender.link._relays = lambda: relays
        async with sender.running():
            receiver.answers = False
            sender.link.push(a_message(0))
            await until(lambda: receiver.rounds == [0])
            async with waiting(own, receiver.identity, inbound.own):
                relays.insert(0, own)
                await until(lambda: receiver.rounds == [0, 0])
                assert sender.watch.ways == (Way("n1", "n0"),)
                receiver.answer(0)
                await until(lambda: len(sender.answered) == 1)


def test_lost_relay_is_a_blocked_link_from_then_on() -> None:
    now = 0.0
    watch = LinkWatch(secured("n0"), lambda to: ("there:1", 3), lambda: now)
    watch.failed("n1", "there:1", "no answer")
    now = 100.0
    watch.relayed("n1", "controller", waits=True)
    assert watch.blocked == () and watch.ways == (Way("n1", "controller"),)
    watch.relayed("n1", "")
    now = 104.0
    (link,) = watch.blocked
    assert (link.blocked_s, link.reason) == (4.0, "the way by controller has ended")
    assert watch.ways == ()


@asynccontextmanager
async def a_relay_process() -> AsyncIterator[Relay]:
    """A process that only relays, with its certificate."""
    subject = Subject("relay", "fra")
    security = MutualTls(certificates.make_credentials(CA, subject), lambda subject, key_id: True)
    async with a_relay(MEMBERS, Identity("home", "fra", "", security=security)) as relay:
        yield Relay("fra", relay.address, subject.dns_name)


def a_control_link(identity: Identity, *relays: Relay) -> ControlLink:
    """A link to a controller that has named these relays."""

    async def find() -> str:
        raise TransportError("there is no controller")

    link = ControlLink(identity, find, lambda _: Join("", "", DataSize(1, 1)), lambda _: None)
    link.relays.take(Relays(tuple(RelayAddress(relay.name, relay.address) for relay in relays)))
    return link


async def test_call_goes_to_an_address_or_else_to_a_relay() -> None:
    n0, n1 = map(secured, ("n0", "n1"))
    receiver = Receiver(n1)

    async def meet(address: str) -> str:
        if (found := await probe(address, n0, SOON_S, "n1")) is None:
            raise TransportError("nobody is there")
        return found.node

    async with receiver.up() as address, a_relay_process() as relay:
        link = a_control_link(n0, relay)
        assert await ask("n1", (NOBODY, address), None, n0.security, meet) == "n1"
        with pytest.raises(TransportError, match="nobody is there"):
            await ask("n1", (NOBODY,), link, n0.security, meet)
        async with waiting(relay, n1, address):
            assert await ask("n1", (NOBODY,), link, n0.security, meet) == "n1"


async def test_call_goes_last_to_where_the_controller_sees_a_node() -> None:
    n0, n1 = map(secured, ("n0", "n1"))
    asked = list[str]()

    async def meet(address: str) -> None:
        asked.append(address)
        if await probe(address, n0, SOON_S, "n1") is None:
            raise TransportError(f"nobody is at {address}")

    async with Receiver(n1).up() as address, a_relay_process() as relay:
        link = a_control_link(n0, relay)
        link.observed.take(Observed((ObservedAddress("n1", "127.0.0.1:2"),)))
        with pytest.raises(TransportError, match=f"nobody is at {NOBODY}$"):
            await ask("n1", (NOBODY,), link, n0.security, meet)
        link.observed.take(Observed((ObservedAddress("n1", address),)))
        asked.clear()
        await ask("n1", (NOBODY,), link, n0.security, meet)
        assert len(asked) == 3 and (asked[0], asked[-1]) == (NOBODY, address)
        async with waiting(relay, n1, address):
            await ask("n1", (NOBODY,), link, n0.security, meet)
        assert asked[-1] != address


async def test_relayed_call_to_a_member_that_does_not_wait_is_refused() -> None:
    """A newcomer would otherwise be admitted whose pushes need a relay that the run does not have."""
    n0, n1, n2 = map(secured, ("n0", "n1", "n2"))

    async def meet(address: str) -> None:
        if not await probe(address, n0, SOON_S, "n1"):
            raise TransportError("nobody is there")

    async with Receiver(n1).up() as address, a_relay({"n0": NOBODY, "n1": address}, n2) as relay:
        with pytest.raises(TransportError, match="by way of n2: n1 does not wait at n2"):
            await called_by(relay, n0.security, "n1", meet)


async def test_newer_call_of_a_member_ends_the_older() -> None:
    n1, n2 = secured("n1"), secured("n2")
    async with Receiver(n1).up() as address, a_relay(MEMBERS, n2) as relay:
        first = asyncio.create_task(wait_at(relay, n1, Inbound(address), lambda: None))
        await asyncio.sleep(0.2)
        async with waiting(relay, n1, address):
            with pytest.raises(TransportError, match="n1 waits here again"):
                await asyncio.wait_for(first, SOON_S)


async def test_member_that_takes_nothing_costs_its_sender_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_server, "_TAKE_S", 0.2)
    n0, n1, n2 = map(secured, ("n0", "n1", "n2"))
    async with a_relay(MEMBERS, n2) as relay, channel(relay.address, n1.security, relay.server) as of_n1:
        call = relay_pb2_grpc.RelayServiceStub(of_n1).Wait(relay_pb2.WaitRequest(node="n1"))
        await call.read()
        async with way_by(relay, n0.security, "n1") as way:
            reader, writer = await asyncio.open_connection(*split_address(way.address))
            assert await asyncio.wait_for(reader.read(), SOON_S) == b""
            writer.close()
            assert way.why == "n1 waits here, but took no connection in 0.2 s"


@asynccontextmanager
async def a_controller(hosts: bool, known: Sequence[str]) -> AsyncIterator[Relay]:
    identity = secured("n2")
    server = RelayServer(identity, lambda node: "", lambda node: node in known, hosts=hosts)
    services = [(relay_server.SERVICE, server.add_to)]
    async with serving("127.0.0.1:0", services, 0.0, security=identity.security) as port:
        yield Relay("n2", f"127.0.0.1:{port}", Subject("node", "n2").dns_name)


@pytest.mark.parametrize(
    ("hosts", "known", "why"),
    [(False, ["n1"], "started without --relay"), (True, ["n0"], "between members only")],
    ids=["no host", "stranger"],
)
async def test_relay_says_who_may_not_wait(hosts: bool, known: list[str], why: str) -> None:
    async with a_controller(hosts, known) as relay:
        with pytest.raises(TransportError, match=why):
            await wait_at(relay, secured("n1"), Inbound(NOBODY), lambda: None)
