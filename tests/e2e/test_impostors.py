"""False controllers, announced by mDNS under names that sort before the true one: nobody follows them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio
import pytest

from edgenode.core.protocol.orders import Hello, Leadership, Sponsor
from edgenode.net import control_server
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_service import Service
from edgenode.net.order_wire import ORDERS
from edgenode.net.proto import control_pb2, control_pb2_grpc
from edgenode.net.rpc import serving
from edgenode.net.wire import PROTOCOL
from edgenode.security.subject import Subject
from tests.e2e.attacker import member, strangers
from tests.e2e.fleet import Fleet
from tests.e2e.test_simulate import models


class FalseController(control_pb2_grpc.ControlServiceServicer):
    """Takes whoever comes, and sends it to a sponsor of its own."""

    def __init__(self) -> None:
        self.joined = list[str]()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)

    async def Attend(
        self, requests: AsyncIterator[control_pb2.AttendRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """Receive the first report, and give the orders that lead a node away."""
        async for request in requests:
            self.joined.append(request.join.identity.node)
            for order in (Hello(Leadership(1 << 40, "evil")), Sponsor("127.0.0.1:1", ())):
                await context.write(ORDERS.to_wire(order))


@asynccontextmanager
async def announced(fleet: Fleet) -> AsyncIterator[FalseController]:
    """Impostors: one that says nothing, one of each stranger, and a member. They come first in the alphabet."""
    false = FalseController()
    services = [(control_server.SERVICE, false.add_to)]
    kinds = [*strangers().values(), member(fleet.state("node-3"))]
    async with AsyncExitStack() as stack:
        servers = [serving("127.0.0.1:0", services, 0.0, security=security) for security in kinds]
        silent = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        ports = [silent.getsockname()[1], *[await stack.enter_async_context(server) for server in servers]]
        discovery = await stack.enter_async_context(Discovery(fleet.cluster, (LOOPBACK,)))
        for i, port in enumerate(ports):
            await discovery.announce(Service("controller", fleet.cluster, f"a{i}", (), port, PROTOCOL))
        yield false


@pytest.mark.slow
async def test_nobody_follows_an_announced_impostor(fleet: Fleet) -> None:
    fleet.configure({"run.rounds": 60})
    fleet.authority().keep(fleet.state("node-3") / "credentials.pem", Subject("node", "node-3"))
    async with announced(fleet) as false:
        await asyncio.to_thread(run, fleet)
    assert false.joined == []
    fleet.command("simulate", "--config", "run.toml", "--out", "clean")
    assert models(fleet.folder) == models(fleet.folder / "clean")


def run(fleet: Fleet) -> None:
    """A whole run whose processes and commands find each other by mDNS."""
    controller = fleet.controller()
    controller.logs("controller ready")
    fleet.command("status", "--cluster", fleet.cluster)
    for process in (*fleet.nodes(4), controller):
        process.exits(0)
