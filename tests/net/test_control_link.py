"""A node's link to the controller, over real gRPC on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio
import pytest

from edgenode.core.protocol.events import Disconnected, Reported
from edgenode.core.protocol.observed import Observed, ObservedAddress
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
    Standby,
    Welcome,
)
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.core.topology.period import DataSize
from edgenode.errors import TransportError
from edgenode.net import control_server
from edgenode.net.control_client import ControlLink
from edgenode.net.control_server import ControlServer
from edgenode.net.faults import Faults
from edgenode.net.proto import control_pb2
from edgenode.net.rpc import serving
from edgenode.net.wire import Identity
from tests.net.control_ends import CHANGE, PLAN, Controller, Node, both, progress
from tests.net.peer_ends import SOON_S, a_long_way, until

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


# --- reports and orders


async def test_node_joins_and_receives_standby() -> None:
    async with both() as (controller, node):
        join = Join(node.address, "run", DataSize(640, 32), frozenset({50}), None, False, "p")
        assert controller.events == [Reported("n0", join)]
        assert node.standbys == [Standby(("n0",), 1)]


@pytest.mark.slow
async def test_round_trip_may_be_that_of_satellites() -> None:
    controller = Controller()
    async with controller.up() as near, a_long_way(near) as target, Node(target).up():
        await until(lambda: bool(controller.events), 60)


async def test_returning_node_reports_its_plan() -> None:
    controller = Controller()
    follows = Leadership(3, "beef", "10.0.0.5:7700")
    async with controller.up() as target, Node(target, running=True, follows=follows).up():
        await until(lambda: bool(controller.events))
    join = Join("127.0.0.1:7600", "run", DataSize(640, 32), frozenset({50}), PLAN, True, "p", follows=follows)
    assert controller.events[0] == Reported("n0", join)


async def test_hello_gets_the_address_that_was_dialled() -> None:
    async with both() as (controller, node):
        controller.server.send("n0", Hello(Leadership(3, "beef", "0.0.0.0:7700"), paused=True))
        await until(lambda: bool(node.orders))
        assert node.orders == [Hello(Leadership(3, "beef", node.target), paused=True)]


async def test_node_is_seen_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "peer_of", lambda context: "203.0.113.20:41234")
    async with both() as (controller, node):
        (event,) = controller.reported(Join)
        assert event.report.observed == "203.0.113.20:7600"  # type: ignore[attr-defined]
        controller.server.send("n0", Observed((ObservedAddress("n1", "203.0.113.21:7600"),)))
        await until(lambda: bool(node.orders))
        assert node.link.observed.of("n1") == "203.0.113.21:7600"


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
            await asyncio.wait_for(node.link.flush(SOON_S, SOON_S), SOON_S)
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
            await node.link.flush(SOON_S, SOON_S)
            await asyncio.wait_for(running, SOON_S)


async def test_flush_connects_again_if_the_link_has_just_broken() -> None:
    async with both() as (controller, node):
        controller.server.hang_up("n0")
        await until(lambda: not node.link.connected.is_set())
        node.link.progress(*progress(5, state=NodeState.DONE))
        await node.link.flush(SOON_S, SOON_S)
        assert controller.reports[-1].state == NodeState.DONE


async def test_flush_does_not_wait_for_an_absent_controller() -> None:
    node = Node("127.0.0.1:1")
    async with node.up():
        node.link.progress(*progress(5))
        await asyncio.sleep(0.05)
        flushed = asyncio.create_task(node.link.flush(60, 60))
        await asyncio.sleep(0)
        assert flushed.done()


async def test_flush_does_not_wait_long_for_a_controller_that_is_gone() -> None:
    controller = Controller()
    async with AsyncExitStack() as first:
        target = await first.enter_async_context(controller.up())
        async with Node(target).up() as node:
            await until(lambda: bool(controller.events))
            controller.server.send("n0", Standby((), 1))
            await until(node.link.connected.is_set)
            await first.aclose()
            await asyncio.wait_for(node.link.flush(60, 0.1), SOON_S)


class Stalled(ControlServer):
    """Reads no report before ``resume``, and then ends the link."""

    def __init__(self) -> None:
        controller = Identity("home", "controller", "run")
        super().__init__(controller, lambda event: None, lambda node, report: None, str, Faults())
        self.resume = asyncio.Event()

    async def Attend(self, requests: object, context: grpc.aio.ServicerContext) -> None:
        standby = control_pb2.Standby(present=["n0"], missing=1)
        await context.write(control_pb2.AttendResponse(standby=standby))
        await self.resume.wait()


@asynccontextmanager
async def stalled() -> AsyncIterator[tuple[Stalled, ControlLink]]:
    server = Stalled()
    async with (
        serving("127.0.0.1:0", [(control_server.SERVICE, server.add_to)], 0.0) as port,
        Node(f"127.0.0.1:{port}").up() as node,
    ):
        await until(node.link.connected.is_set)
        node.link.progress(*progress(5))
        yield server, node.link


async def test_flush_waits_at_most_its_timeout() -> None:
    async with stalled() as (_, link), asyncio.timeout(1):
        await link.flush(0.1, 60)


async def test_flush_waits_longer_for_a_slow_controller_than_for_an_absent_one() -> None:
    """A controller needed more than 2 s to read 64 last reports. The nodes were gone, and it waited for them."""
    async with stalled() as (server, link):
        flushed = asyncio.create_task(link.flush(60, 0.05))
        await asyncio.sleep(0.3)
        assert not flushed.done()
        server.resume.set()
        await asyncio.wait_for(flushed, SOON_S)


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
