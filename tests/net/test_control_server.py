"""The controller's end of the links, over real gRPC on loopback: refusals, and which of two links counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc.aio
import pytest

from edgenode.core.protocol.events import Disconnected
from edgenode.core.protocol.orders import Join, Refuse, Welcome
from edgenode.errors import RemoteProtocolError
from edgenode.net import peer_server
from edgenode.net.peer_server import PeerServer
from edgenode.net.proto import control_pb2, control_pb2_grpc
from edgenode.net.rpc import channel, serving
from edgenode.net.wire import Identity
from tests.net.control_ends import PLAN, Controller, Node, both, failure
from tests.net.peer_ends import SOON_S, until

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


async def test_running_node_replaces_its_own_half_open_link() -> None:
    async with both() as (controller, _), channel(f"127.0.0.1:{controller.port}") as there:
        identity = Identity("home", "n0", "run").to_wire()
        again = control_pb2.AttendRequest(join=control_pb2.Join(identity=identity, address="new:1", running=True))
        stream = control_pb2_grpc.ControlServiceStub(there).Attend()
        await stream.write(again)
        await until(lambda: len(controller.events) >= 3)
        assert controller.kinds[:3] == [Join, Disconnected, Join]


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


@pytest.mark.parametrize("known", ["by its link", "by the plan"])
async def test_join_with_a_members_name_and_address_is_refused(known: str) -> None:
    async with a_process("first") as address:
        controller = Controller(planned={"n0": address} if known == "by the plan" else {})
        async with controller.up() as target, AsyncExitStack() as of_first:
            if known == "by its link":
                await of_first.enter_async_context(Node(target, address=address, process="first").up())
                await until(lambda: bool(controller.events))
            before = list(controller.events)
            error = await failure(Node(target, address=address, process="second", running=True))
            assert f"node id 'n0' is taken by {address}" in str(error)
            assert controller.events == before


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
