"""A node's link and the controller's end of it, over real gRPC on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc.aio
import pytest

from edgenode.core.protocol.events import Disconnected, Reported
from edgenode.core.protocol.orders import (
    FenceAnswer,
    Halt,
    Hello,
    Join,
    Leadership,
    Leave,
    Offer,
    OfferAnswer,
    Order,
    Progress,
    Refuse,
    Standby,
    Welcome,
)
from edgenode.core.protocol.plan import Member, create_plan
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError, TransportError, first_cause
from edgenode.net import control_server, peer_server
from edgenode.net.control_client import ControlLink
from edgenode.net.control_server import ControlServer
from edgenode.net.peer_server import PeerServer
from edgenode.net.proto import control_pb2, control_pb2_grpc
from edgenode.net.rpc import channel, serving
from edgenode.net.wire import Identity
from tests.net.peer_ends import SOON_S, until

PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), every=1))
CHANGE = PLAN.successor(9)

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


@dataclass
class Controller:
    """The controller's end. It can be stopped and started again on its port."""

    port: int = 0
    events: list[object] = field(default_factory=list)
    reports: list[NodeStatus] = field(default_factory=list)
    planned: dict[str, str] = field(default_factory=dict)
    server: ControlServer = field(init=False)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        identity = Identity("home", "controller", "run")
        self.server = ControlServer(
            identity,
            self.events.append,
            lambda node, report: self.reports.append(report),
            lambda node: self.planned.get(node, ""),
        )
        async with serving(f"127.0.0.1:{self.port}", [(control_server.SERVICE, self.server.add_to)], 0.0) as self.port:
            yield f"127.0.0.1:{self.port}"

    def reported(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, Reported) and isinstance(event.report, kind)]

    @property
    def kinds(self) -> list[type]:
        """Of the reports, and Disconnected."""
        return [type(event.report) if isinstance(event, Reported) else type(event) for event in self.events]


@dataclass
class Node:
    """A node's end."""

    target: str
    name: str = "n0"
    address: str = "127.0.0.1:7600"
    cluster: str = "home"
    running: bool = False
    process: str = "p"
    follows: Leadership | None = None
    orders: list[object] = field(default_factory=list)
    standbys: list[Standby] = field(default_factory=list)
    link: ControlLink = field(init=False)

    def __post_init__(self) -> None:
        identity = Identity(self.cluster, self.name, "run", process=self.process)
        self.link = ControlLink(identity, self._find, self._join, self._ordered)

    async def _find(self) -> str:
        return self.target

    def _join(self, controller: str) -> Join:
        assert controller == self.target
        plan = PLAN if self.running else None
        return Join(self.address, "run", 20, frozenset({50}), plan, self.running, self.process, follows=self.follows)

    def _ordered(self, order: Order) -> None:
        if isinstance(order, Standby):
            self.standbys.append(order)
        else:
            self.orders.append(order)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Node]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.link.run(), name=f"link of {self.name}")
            yield self
            task.cancel()


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Controller, Node]]:
    """A controller, and a node that has joined it and has its answer."""
    controller = Controller()
    async with controller.up() as target, Node(target).up() as node:
        await until(lambda: bool(controller.events))
        controller.server.send("n0", Standby(("n0",), 1))
        await until(node.link.connected.is_set)
        yield controller, node


async def failure(node: Node) -> Exception:
    with pytest.raises((RemoteProtocolError, ExceptionGroup)) as caught:
        await asyncio.wait_for(node.link.run(), SOON_S)
    return first_cause(caught.value)  # type: ignore[return-value]


def progress(next_round: int, farewell: FenceAnswer | None = None, **fields: Any) -> tuple[Progress, NodeStatus]:
    """A report of n0 that has completed all rounds before ``next_round``."""
    return Progress(next_round, 0, "d", farewell), NodeStatus(round=next_round, **fields)


# --- reports and orders


async def test_node_joins_and_receives_standby() -> None:
    async with both() as (controller, node):
        assert controller.events == [Reported("n0", Join(node.address, "run", 20, frozenset({50}), None, False, "p"))]
        assert node.standbys == [Standby(("n0",), 1)]


async def test_returning_node_reports_its_plan() -> None:
    controller = Controller()
    follows = Leadership(3, "beef", "10.0.0.5:7700")
    async with controller.up() as target, Node(target, running=True, follows=follows).up():
        await until(lambda: bool(controller.events))
    join = Join("127.0.0.1:7600", "run", 20, frozenset({50}), PLAN, True, "p", follows=follows)
    assert controller.events[0] == Reported("n0", join)


async def test_hello_gets_the_address_that_was_dialled() -> None:
    async with both() as (controller, node):
        controller.server.send("n0", Hello(Leadership(3, "beef", "0.0.0.0:7700"), paused=True))
        await until(lambda: bool(node.orders))
        assert node.orders == [Hello(Leadership(3, "beef", node.target), paused=True)]


async def test_pause_and_resume_arrive_in_order() -> None:
    async with both() as (controller, node):
        for halted in (True, False):
            controller.server.send("n0", Halt(halted))
        await until(lambda: len(node.orders) >= 2)
    assert node.orders == [Halt(True), Halt(False)]


async def test_controller_that_is_not_followed_is_dialled_again() -> None:
    class Loyal(Node):
        def _ordered(self, order: Order) -> None:
            super()._ordered(order)
            if isinstance(order, Hello) and order.leadership.term < 3:
                raise TransportError("not the one we follow")

    controller = Controller()
    async with controller.up() as target, Loyal(target).up() as node:
        await until(lambda: bool(controller.events))
        controller.server.send("n0", Hello(Leadership(2)))
        controller.server.send("n0", Welcome(PLAN, 0))
        await until(lambda: len(controller.reported(Join)) == 2)
        assert not node.link.connected.is_set()
        assert [type(order) for order in node.orders] == [Hello]
        controller.server.send("n0", Hello(Leadership(3)))
        await until(node.link.connected.is_set)


async def test_welcome_delivers_the_plan_and_the_round() -> None:
    async with both() as (controller, node):
        plan = PLAN.extend(CHANGE)
        controller.server.send("n0", Welcome(plan, 7))
        await until(lambda: bool(node.orders))
        assert node.orders == [Welcome(plan, 7)]


async def test_offer_is_answered() -> None:
    async with both() as (controller, node):
        controller.server.send("n0", Offer(CHANGE))
        await until(lambda: bool(node.orders))
        assert node.orders == [Offer(CHANGE)]
        answer = OfferAnswer(CHANGE.number, CHANGE.digest, accepted=True, next_round=8)
        node.link.report(answer)
        await until(lambda: bool(controller.reported(OfferAnswer)))
        assert controller.reported(OfferAnswer) == [Reported("n0", answer)]


async def test_progress_reaches_the_cluster_and_the_status() -> None:
    async with both() as (controller, node):
        node.link.progress(*progress(4, loss=0.5, waiting_for=("n1",)))
        await until(lambda: bool(controller.reports))
        assert controller.reported(Progress) == [Reported("n0", Progress(4, 0, "d"))]
        assert controller.reports == [NodeStatus(round=4, loss=0.5, waiting_for=("n1",))]


async def test_farewell_reaches_the_cluster_and_not_the_status() -> None:
    farewell = FenceAnswer(0, 0, 3, (("n1", 2),), PLAN.records)
    async with both() as (controller, node):
        node.link.progress(*progress(4, farewell))
        await until(lambda: bool(controller.reports))
        assert controller.reported(Progress) == [Reported("n0", Progress(4, 0, "d", farewell))]
        assert controller.reports == [NodeStatus(round=4)]


async def test_unsent_progress_is_replaced_by_newer_progress() -> None:
    async with both() as (controller, node):
        for t in range(100):
            node.link.progress(*progress(t))
        await until(lambda: bool(controller.reports) and controller.reports[-1].round == 99)
        assert len(controller.reports) < 100


async def test_order_to_a_node_without_a_link_is_dropped() -> None:
    async with both() as (controller, node):
        controller.server.send("n9", Welcome(PLAN, 0))
        controller.server.send("n0", Welcome(PLAN, 0))
        await until(lambda: bool(node.orders))


async def test_request_to_leave_reaches_the_cluster() -> None:
    async with both() as (controller, node):
        node.link.report(Leave())
        await until(lambda: bool(controller.reported(Leave)))
        assert controller.reported(Leave) == [Reported("n0", Leave())]


# --- the end


async def test_flush_waits_until_the_last_report_is_read() -> None:
    for _ in range(10):
        async with both() as (controller, node):
            node.link.progress(*progress(5, state=NodeState.DONE))
            await asyncio.wait_for(node.link.flush(SOON_S), SOON_S)
            assert controller.reports[-1].state == NodeState.DONE
            assert controller.events[-1] == Disconnected("n0")


async def test_flushed_link_ends() -> None:
    controller = Controller()
    async with controller.up() as target:
        node = Node(target)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(node.link.run(), name="link")
            await until(lambda: bool(controller.events))
            controller.server.send("n0", Standby((), 1))
            await until(node.link.connected.is_set)
            await node.link.flush(SOON_S)
            await asyncio.wait_for(running, SOON_S)


async def test_flush_does_not_wait_for_an_absent_controller() -> None:
    node = Node("127.0.0.1:1")
    async with node.up():
        node.link.progress(*progress(5))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(node.link.flush(60), 0.1)


async def test_flush_waits_at_most_its_timeout() -> None:
    class Stalled(ControlServer):
        async def Attend(self, requests: object, context: grpc.aio.ServicerContext) -> None:
            standby = control_pb2.Standby(present=["n0"], missing=1)
            await context.write(control_pb2.AttendResponse(standby=standby))
            await asyncio.sleep(SOON_S)

    stalled = Stalled(Identity("home", "controller", "run"), lambda event: None, lambda node, report: None, str)
    async with (
        serving("127.0.0.1:0", [(control_server.SERVICE, stalled.add_to)], 0.0) as port,
        Node(f"127.0.0.1:{port}").up() as node,
    ):
        await until(node.link.connected.is_set)
        node.link.progress(*progress(5))
        async with asyncio.timeout(1):
            await node.link.flush(0.1)


async def test_node_that_ends_is_disconnected_once() -> None:
    controller = Controller()
    async with controller.up() as target:
        async with Node(target).up():
            await until(lambda: bool(controller.events))
        await until(lambda: controller.events[-1] == Disconnected("n0"))
    assert controller.kinds.count(Disconnected) == 1


# --- the link breaks


async def test_restarted_controller_gets_the_newest_progress_again() -> None:
    controller = Controller()
    async with AsyncExitStack() as first:
        target = await first.enter_async_context(controller.up())
        async with Node(target).up() as node:
            await until(lambda: bool(controller.events))
            node.link.progress(*progress(4))
            await until(lambda: bool(controller.reports))
            await first.aclose()
            await until(lambda: controller.events[-1] == Disconnected("n0"))
            node.running = True
            async with controller.up():
                await until(lambda: len(controller.reports) == 2)
            assert controller.reports[1].round == 4
            assert controller.kinds[:5] == [Join, Progress, Disconnected, Join, Progress]
            assert controller.reported(Join)[1].report.plan == PLAN  # type: ignore[attr-defined]


async def test_unsent_answer_waits_for_the_repeated_offer() -> None:
    controller = Controller()
    async with controller.up() as target:
        pass
    async with Node(target).up() as node:
        node.link.report(OfferAnswer(1, "d", accepted=True, next_round=3))
        async with controller.up():
            await until(lambda: bool(controller.events))
            controller.server.send("n0", Offer(CHANGE))
            await until(lambda: bool(node.orders))
            assert controller.reported(OfferAnswer) == []


@pytest.mark.parametrize("turns", [0, 1, 2, 4, 8, 100])
async def test_link_that_breaks_while_cancelled_does_not_redial(turns: int) -> None:
    controller = Controller()
    async with AsyncExitStack() as first, asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        node = Node(await first.enter_async_context(controller.up()))
        link = group.create_task(node.link.run(), name="link")
        await until(lambda: bool(controller.events))
        stopping = group.create_task(first.aclose(), name="stopping")
        while turns and not stopping.done():
            await asyncio.sleep(0)
            turns -= 1
        link.cancel()
        await stopping


async def test_controller_that_is_not_found_is_searched_again() -> None:
    controller, tries = Controller(), []

    class Seeking(Node):
        async def _find(self) -> str:
            tries.append(self)
            if len(tries) < 3:
                raise TransportError("no controller found")
            return self.target

    async with controller.up() as target, Seeking(target).up():
        await until(lambda: bool(controller.events))
    assert len(tries) == 3


async def test_running_node_replaces_its_own_half_open_link() -> None:
    async with both() as (controller, _), channel(f"127.0.0.1:{controller.port}") as there:
        identity = Identity("home", "n0", "run").to_wire()
        again = control_pb2.AttendRequest(join=control_pb2.Join(identity=identity, address="new:1", running=True))
        stream = control_pb2_grpc.ControlServiceStub(there).Attend()
        await stream.write(again)
        await until(lambda: len(controller.events) >= 3)
        assert controller.kinds[:3] == [Join, Disconnected, Join]


# --- refusals


@asynccontextmanager
async def a_process(process: str, name: str = "n0", run: str = "run") -> AsyncIterator[str]:
    """A process that answers probes. Yields its address."""
    server = PeerServer(Identity("home", name, run, process=process), (frozenset(), None))
    async with serving("127.0.0.1:0", [(peer_server.SERVICE, server.add_to)], 0.0) as port:
        yield f"127.0.0.1:{port}"


TAKEN = "node id 'n0' is taken by {}; give the process at 127.0.0.1:7699 another --name"


@pytest.mark.parametrize("link", ["up", "down"])
@pytest.mark.parametrize("running", [False, True])
async def test_second_process_of_a_name_is_refused_with_addresses(link: str, running: bool) -> None:
    controller = Controller()
    async with controller.up() as target, a_process("first") as address, AsyncExitStack() as of_first:
        first = await of_first.enter_async_context(Node(target, address=address, process="first").up())
        await until(lambda: bool(controller.events))
        if link == "down":
            await of_first.aclose()
            await until(lambda: controller.events[-1] == Disconnected("n0"))
        error = await failure(Node(target, address="127.0.0.1:7699", process="second", running=running))
        assert isinstance(error, RemoteProtocolError)
        assert TAKEN.format(address) in str(error)
        assert len(controller.reported(Join)) == 1
        if link == "up":
            controller.server.send("n0", Welcome(PLAN, 0))
            await until(lambda: bool(first.orders))


async def test_restarted_controller_checks_the_address_in_the_plan() -> None:
    async with a_process("first") as address:
        controller = Controller(planned={"n0": address})
        async with controller.up() as target:
            error = await failure(Node(target, address="127.0.0.1:7699", process="second"))
        assert TAKEN.format(address) in str(error)


@pytest.mark.parametrize(
    ("process", "name", "run"),
    [("second", "n0", "run"), ("other", "n1", "run"), ("other", "n0", "another run"), ("", "", "")],
    ids=["the same process, at a new address", "another node", "a node of another run", "none"],
)
async def test_other_process_at_the_old_address_is_not_a_duplicate(process: str, name: str, run: str) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(a_process(process, name, run))
        if not name:
            await stack.aclose()
        controller = Controller(planned={"n0": address})
        async with controller.up() as target, Node(target, address="127.0.0.1:7699", process="second").up():
            await until(lambda: bool(controller.events))


async def test_device_rejoins_before_its_old_link_is_found_dead() -> None:
    controller = Controller()
    async with controller.up() as target, channel(target) as there:
        identity = Identity("home", "n0", "run").to_wire()
        old = control_pb2_grpc.ControlServiceStub(there).Attend()
        join = control_pb2.Join(identity=identity, address="127.0.0.1:7600")
        await old.write(control_pb2.AttendRequest(join=join))
        await until(lambda: len(controller.events) == 1)
        async with Node(target).up() as node:
            await until(lambda: len(controller.events) == 3)
            assert controller.kinds == [Join, Disconnected, Join]
            assert await asyncio.wait_for(old.read(), SOON_S) is grpc.aio.EOF
            controller.server.send("n0", Welcome(PLAN, 0))
            await until(lambda: bool(node.orders))


async def test_refusal_is_final_and_contains_the_reason() -> None:
    controller = Controller()
    async with controller.up() as target, asyncio.TaskGroup() as group:
        failing = group.create_task(failure(Node(target)), name="refused")
        await until(lambda: bool(controller.events))
        controller.server.send("n0", Refuse("the run is full"))
        error = await failing
        await until(lambda: controller.events[-1] == Disconnected("n0"))
    assert str(error) == f"refused by the controller at {target}: the run is full"
    assert len(controller.reported(Join)) == 1


async def test_link_of_a_refused_node_is_ended() -> None:
    controller = Controller()
    async with controller.up() as target, channel(target) as there:
        stream = control_pb2_grpc.ControlServiceStub(there).Attend()
        join = control_pb2.Join(identity=Identity("home", "n0", "run").to_wire())
        await stream.write(control_pb2.AttendRequest(join=join))
        await until(lambda: bool(controller.events))
        controller.server.send("n0", Refuse("no"))
        assert (await stream.read()).refusal.reason == "no"
        assert await asyncio.wait_for(stream.read(), SOON_S) is grpc.aio.EOF


async def test_another_cluster_is_refused_with_both_names() -> None:
    async with Controller().up() as target:
        error = await failure(Node(target, cluster="away"))
    assert "cluster differs from n0" in str(error)
    assert "ours is home, theirs is away" in str(error)


@pytest.mark.parametrize("bad", [control_pb2.AttendRequest(), control_pb2.AttendRequest(join=control_pb2.Join())])
async def test_unknown_report_is_refused_for_good(bad: control_pb2.AttendRequest) -> None:
    controller = Controller()
    async with controller.up() as target, channel(target) as there:
        stream = control_pb2_grpc.ControlServiceStub(there).Attend()
        join = control_pb2.Join(identity=Identity("home", "n0", "run").to_wire())
        await stream.write(control_pb2.AttendRequest(join=join))
        await stream.write(bad)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(stream.read(), SOON_S)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "unexpected report" in (caught.value.details() or "")
        await until(lambda: controller.events[-1] == Disconnected("n0"))


async def test_join_with_a_malformed_plan_is_refused_for_good() -> None:
    async with Controller().up() as target, channel(target) as there:
        join = control_pb2.Join(identity=Identity("home", "n0", "run").to_wire())
        join.saved.records.append(b"{")
        stream = control_pb2_grpc.ControlServiceStub(there).Attend(iter([control_pb2.AttendRequest(join=join)]))
        with pytest.raises(grpc.aio.AioRpcError, match="malformed plan record"):
            await asyncio.wait_for(anext(aiter(stream)), SOON_S)


async def test_welcome_without_a_plan_ends_the_link() -> None:
    controller = Controller()
    async with controller.up() as target, asyncio.TaskGroup() as group:
        failing = group.create_task(failure(Node(target)), name="refused")
        await until(lambda: bool(controller.events))
        controller.server.send("n0", Welcome(replace(PLAN, records=()), 0))
        assert "a welcome without a plan" in str(await failing)
