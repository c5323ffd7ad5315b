"""The controller's end of the links, over real gRPC on loopback: refusals, and which of two links counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest

from edgenode.core.protocol.events import Disconnected
from edgenode.core.protocol.orders import FenceAnswer, Fetched, Join, Progress, Refuse, Standby, Welcome
from edgenode.core.protocol.status import Fault, NodeStatus
from edgenode.errors import RemoteProtocolError
from edgenode.net import control_server, peer_server
from edgenode.net.order_wire import REPORTS, progress_to_wire
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


async def test_node_with_the_name_of_a_relay_is_refused() -> None:
    controller = Controller(relays={"n0": "fra.example.org:7702"})
    async with controller.up() as target:
        error = await failure(Node(target, address="127.0.0.1:7699"))
    assert TAKEN.format("the relay at fra.example.org:7702") in str(error)
    assert controller.events == []


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
        assert controller.faults.of("n0") == (Fault("n0", "report", 1),)
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


# --- what a node can leave in the memory of the controller

_JOIN = control_pb2.AttendRequest(join=control_pb2.Join(identity=Identity("home", "n0", "run").to_wire()))
_WITH_A_PLAN = progress_to_wire(Progress(3, 0, "", FenceAnswer(0, 0, 3, (), PLAN.records)), NodeStatus())


@pytest.mark.parametrize(
    ("report", "most"),
    [(REPORTS.to_wire(Fetched()), control_server._MOST_WAITING), (_WITH_A_PLAN, 1)],
    ids=["without a plan", "with a plan"],
)
async def test_limited_number_of_reports_waits_to_be_handled(report: control_pb2.AttendRequest, most: int) -> None:
    controller = Controller()
    async with controller.up() as target, channel(target) as there:
        stream = control_pb2_grpc.ControlServiceStub(there).Attend()
        await stream.write(_JOIN)
        await until(lambda: bool(controller.events))
        controller.is_busy = True
        for _ in range(2 * most + 1):
            await stream.write(report)
        await until(lambda: len(controller.events) == 1 + most)
        await asyncio.sleep(0.1)
        assert len(controller.events) == 1 + most
        controller.server.handled("n0")
        await until(lambda: len(controller.events) == 2 + most)
        controller.is_busy = False
        for _ in range(most):
            controller.server.handled("n0")
        await until(lambda: len(controller.events) == 2 + 2 * most)


async def test_new_link_waits_until_the_reports_of_the_old_one_are_handled() -> None:
    controller = Controller(is_busy=True)
    async with controller.up() as target, channel(target) as there:
        for _ in range(10):  # a member that connects again and again
            await control_pb2_grpc.ControlServiceStub(there).Attend().write(_JOIN)
        await until(lambda: bool(controller.events))
        await asyncio.sleep(0.1)
        assert controller.kinds == [Join]
        controller.server.handled("n0")
        await until(lambda: controller.kinds[1:3] == [Disconnected, Join])


async def test_report_above_a_mebibyte_ends_the_link() -> None:
    controller = Controller()
    async with controller.up() as target, channel(target) as there:
        large = progress_to_wire(Progress(3, 0, ""), NodeStatus(error="x" * control_server.MOST_REPORTED))
        stream = control_pb2_grpc.ControlServiceStub(there).Attend(iter([_JOIN, large]))
        with pytest.raises(grpc.aio.AioRpcError, match=r"a report of \d+ bytes, at most 1048576"):
            await asyncio.wait_for(anext(aiter(stream)), SOON_S)
        await until(lambda: controller.kinds == [Join, Disconnected])
        assert controller.faults.of("n0") == (Fault("n0", "report", 1),)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("process", "x" * (1 << 21), "beside the records of a plan"),
        ("workload", "x" * 70_000, "a workload of 70000 letters"),
        ("rounds", range(1025), "1025 saved rounds"),
        ("rounds", [1 << 60], "1 saved rounds: at most 1024 up to"),
        ("rounds", [7] * 2_000_000, "beside the records of a plan"),
    ],
)
async def test_first_report_is_limited_as_well(field: str, value: Any, reason: str) -> None:
    controller, join = Controller(), control_pb2.AttendRequest()
    join.CopyFrom(_JOIN)
    if field == "rounds":
        join.join.saved.rounds.extend(value)
    else:
        setattr(join.join.identity, field, value)
    async with controller.up() as target, channel(target) as there:
        stream = control_pb2_grpc.ControlServiceStub(there).Attend(iter([join]))
        with pytest.raises(grpc.aio.AioRpcError, match=reason):
            await asyncio.wait_for(anext(aiter(stream)), SOON_S)
    assert controller.events == []


async def test_texts_of_a_first_report_are_lines() -> None:
    controller, join = Controller(), control_pb2.AttendRequest()
    join.CopyFrom(_JOIN)
    join.join.identity.process = "\x1b" + "p" * 1000
    join.join.identity.workload_digest = "d" * 1000
    join.join.follows.signature = "s" * 1000
    async with controller.up() as target, channel(target) as there:
        await control_pb2_grpc.ControlServiceStub(there).Attend().write(join)
        await until(lambda: bool(controller.events))
    (event,) = controller.reported(Join)
    taken = event.report  # type: ignore[attr-defined]
    assert (taken.process, taken.workload_digest) == ("?" + "p" * 254, "d" * 255)
    assert taken.follows.signature == "s" * 255


async def test_link_without_a_report_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "_HELLO_S", 0.1)
    async with Controller().up() as target, channel(target) as there:
        stream = control_pb2_grpc.ControlServiceStub(there).Attend()
        with pytest.raises(grpc.aio.AioRpcError, match=r"no report in 0\.1 s"):
            await asyncio.wait_for(anext(aiter(stream)), SOON_S)


async def test_second_link_without_a_report_ends_the_first() -> None:
    controller = Controller()
    async with controller.up() as target, channel(target) as there:
        first, second = (control_pb2_grpc.ControlServiceStub(there).Attend() for _ in range(2))
        await asyncio.gather(first.wait_for_connection(), second.wait_for_connection(), return_exceptions=True)
        ended = await asyncio.wait(
            [asyncio.create_task(stream.read(), name="read") for stream in (first, second)],
            timeout=SOON_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [len(each) for each in ended] == [1, 1]
        for task in ended[1]:
            task.cancel()


async def test_node_that_reads_no_order_is_held_to_some_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "_MOST_ORDERS", 8)
    identity = Identity("home", "n0", "run").to_wire()
    join = control_pb2.AttendRequest(join=control_pb2.Join(identity=identity, address="there:1"))
    order = Standby(("n" * 500_000,) * 4, 1)  # HTTP/2 lets some of these through to one that reads none
    controller, streams = Controller(), []
    async with controller.up() as target, channel(target) as there:
        for _ in range(control_server._MOST_CALLS):
            streams.append(control_pb2_grpc.ControlServiceStub(there).Attend())
            await streams[-1].write(join)
            await until(lambda: controller.kinds[-1:] == [Join])
            while controller.kinds[-1] is Join:
                controller.server.send("n0", order)
                await asyncio.sleep(0.01)
            assert controller.kinds[-1] is Disconnected
        streams.append(control_pb2_grpc.ControlServiceStub(there).Attend())
        await streams[-1].write(join)
        with pytest.raises(grpc.aio.AioRpcError, match="4 earlier links have not ended"):
            await streams[-1].read()
        for stream in streams:
            stream.cancel()
        await until(lambda: not controller.server._calls)
