"""Where a node waits for connections, and by whom its pushes may go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.observed import Observed, ObservedAddress
from edgenode.core.protocol.orders import Join
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.core.topology.period import DataSize
from edgenode.net import peer_server, relay_server
from edgenode.net.control_client import ControlLink
from edgenode.net.peer_server import PeerServer
from edgenode.net.relay_server import RelayServer
from edgenode.net.rpc import serving
from edgenode.net.wire import Identity
from edgenode.node import meeting as module
from edgenode.node.meeting import Meeting
from edgenode.node.peer_directory import PeerDirectory
from edgenode.node.progress import NodeSnapshot
from edgenode.node.routes import Routes
from tests.net.peer_ends import until

NOBODY = "127.0.0.1:1"


class Neighbours:
    """n1, and the relays of n0, its in-neighbour, and of a controller.

    Attributes:
        is_outside: n0 answers where the controller sees it, and not at its own address.
    """

    def __init__(self) -> None:
        identity = Identity("home", "n1", "run")
        self.server, self.senders = PeerServer(identity, (frozenset(), None)), dict[str, str]()
        self.server.senders = lambda: self.senders  # type: ignore[method-assign]
        self.link = ControlLink(identity, self._find, lambda _: Join("", "", DataSize(1, 1)), lambda _: None)
        self.meeting = Meeting(identity, self.server)
        self.n0 = RelayServer(Identity("home", "n0", "run"), lambda node: "somewhere:1")
        self.peer0, self.is_outside = PeerServer(Identity("home", "n0", "run"), (frozenset(), None)), False
        self.hosts = RelayServer(Identity("home", "controller", "run"), lambda node: "somewhere:1")
        self.missing: tuple[str, ...] = ()

    async def _find(self) -> str:
        return ""

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        of_n0 = (relay_server.SERVICE, self.n0.add_to), (peer_server.SERVICE, self.peer0.add_to)
        async with (
            serving("127.0.0.1:0", of_n0, 0.0) as port,
            serving("127.0.0.1:0", [(relay_server.SERVICE, self.hosts.add_to)], 0.0) as controller,
        ):
            at = f"127.0.0.1:{port}"
            members = [
                Member("n0", 0, NOBODY if self.is_outside else at),
                Member("n1", 0, "own:1"),
                Member("n2", 0, NOBODY),
            ]
            if self.is_outside:
                self.link.observed.take(Observed((ObservedAddress("n0", at),)))
            plan = create_plan("home", members, factory.schedule(Config()))
            self.link.target = f"127.0.0.1:{controller}"
            routes = Routes(
                "n1",
                PeerDirectory(observed=self.link.observed.of),
                lambda: NodeSnapshot(3, 3, 9, plan, self.missing),
                2,
            )
            self.meeting.listens("0.0.0.0", 7600)
            self.meeting.begin(routes)
            task = asyncio.create_task(self.meeting.run(self.link))
            await asyncio.sleep(0)
            try:
                yield
            finally:
                task.cancel()

    def relays_to(self, peer: str) -> list[str]:
        """Their names, with a question mark if they do not dial the peer."""
        return [relay.name + "?" * relay.only_waiting for relay in self.meeting.relays_to(peer)]


@pytest.fixture
def neighbours(monkeypatch: pytest.MonkeyPatch) -> Neighbours:
    monkeypatch.setattr(module, "_CHECK_EVERY_S", 0.02)
    monkeypatch.setattr(module, "_MISSING_S", 0.3)
    return Neighbours()


async def test_node_waits_at_a_neighbour_whose_pushes_do_not_arrive(neighbours: Neighbours) -> None:
    async with neighbours.up():
        neighbours.missing = ("n0",)
        await asyncio.sleep(0.1)
        assert not neighbours.n0.is_waiting("n1")  # n0 may only be slow
        await until(lambda: neighbours.n0.is_waiting("n1"))
        neighbours.missing = ()
        await asyncio.sleep(0.1)
        assert neighbours.n0.is_waiting("n1")  # its next push may come by this way
        neighbours.senders["n0"] = "192.0.2.1:5"
        await until(lambda: not neighbours.n0.is_waiting("n1"))  # n0 dials it


async def test_node_with_a_direct_stream_waits_for_a_slow_neighbour_only(neighbours: Neighbours) -> None:
    async with neighbours.up():
        neighbours.missing, neighbours.senders["n0"] = ("n0",), "192.0.2.1:5"
        await asyncio.sleep(0.6)
        assert not neighbours.n0.is_waiting("n1")


async def test_node_waits_at_a_neighbour_whose_pushes_come_by_a_relay(neighbours: Neighbours) -> None:
    async with neighbours.up():
        neighbours.meeting._inbound.by["127.0.0.1:5"] = "controller"
        neighbours.senders["n0"] = "127.0.0.1:5"
        await until(lambda: neighbours.n0.is_waiting("n1"))


async def test_node_waits_at_a_neighbour_where_the_controller_sees_it(neighbours: Neighbours) -> None:
    neighbours.is_outside = True
    async with neighbours.up():
        neighbours.missing = ("n0",)
        await until(lambda: neighbours.n0.is_waiting("n1"))


async def test_controller_where_nodes_wait_is_tried_before_members(neighbours: Neighbours) -> None:
    async with neighbours.up():
        assert neighbours.relays_to("n2") == ["n0", "controller"]
        neighbours.link.connected.set()
        await until(lambda: neighbours.hosts.is_waiting("n1"))
        await until(lambda: neighbours.relays_to("n2") == ["controller?", "controller", "n0"])
        neighbours.link.connected.clear()
        await until(lambda: neighbours.relays_to("n2") == ["n0", "controller"])


async def test_relay_that_answers_soonest_is_tried_before_the_controller(neighbours: Neighbours) -> None:
    async with neighbours.up():
        assert neighbours.meeting._routes
        address = neighbours.meeting._routes.address_of("n0")  # where another process relays
        neighbours.link.relays.take(Relays((RelayAddress("far", "127.0.0.1:1"), RelayAddress("fra", address))))
        neighbours.link.connected.set()
        await until(lambda: neighbours.relays_to("n2") == ["fra?", "controller?", "fra", "controller", "n0", "far"])
        assert neighbours.n0.is_waiting("n1") and neighbours.hosts.is_waiting("n1")
        neighbours.meeting._met["far"] = 0.0
        assert neighbours.relays_to("n2")[:3] == ["far?", "fra?", "controller?"]


async def test_node_waits_at_a_relay_while_no_controller_is_there(neighbours: Neighbours) -> None:
    async with neighbours.up():
        assert not neighbours.link.connected.is_set()
        neighbours.link.relays.take(Relays((RelayAddress("fra", neighbours.link.target),)))
        await until(lambda: neighbours.hosts.is_waiting("n1"))


async def test_own_relay_is_the_first_to_a_peer_that_waits_there(neighbours: Neighbours) -> None:
    async with neighbours.up():
        neighbours.meeting.relay._queues["n2"] = asyncio.Queue()
        first, *_ = neighbours.meeting.relays_to("n2")
        assert (first.name, first.address) == ("n1", "127.0.0.1:7600")
        assert neighbours.relays_to("n0") == ["n2", "controller"]
