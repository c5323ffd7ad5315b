"""The controller as a relay, and its relays: whom they know, and calls to nodes that nobody can dial."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.controller.controller_options import ControllerOptions
from edgenode.controller.relay import ControllerRelay
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import Reported
from edgenode.core.protocol.orders import Join, Leadership, Order
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.core.protocol.status import Relayed
from edgenode.core.topology.period import DataSize
from edgenode.net.relay_client import Inbound, Relay, wait_at
from edgenode.net.relay_registration import register
from edgenode.net.relay_server import RelayServer
from edgenode.net.rpc import serving
from edgenode.net.wire import Identity
from tests.net.peer_ends import Receiver, until

ANY, NOBODY = "127.0.0.1:0", "127.0.0.1:1"


@asynccontextmanager
async def a_controller(
    folder: Path,
    hosts: bool = False,
    send: Callable[[str, Order], None] = lambda node, order: None,
    observed: str = "",
) -> AsyncIterator[tuple[ControllerRelay, str]]:
    config = Config()
    cluster = Cluster(factory.run_spec(config), Leadership(0))
    join = Join(NOBODY, config.digest(), DataSize(8, 1), process="p", observed=observed)
    cluster.handle(Reported("n0", join))
    options = ControllerOptions(config, ANY, folder, insecure=True, relay=hosts)
    relay = ControllerRelay(options, Identity("home", "controller", "run"), cluster, send)
    async with serving(ANY, relay.services, 0.0) as port:
        relay.listens("127.0.0.1", port)
        yield relay, f"127.0.0.1:{port}"


async def test_controller_reaches_a_node_that_waits_at_a_relay(tmp_path: Path) -> None:
    named = list[tuple[str, Order]]()
    began = a_controller(tmp_path, send=lambda *one: named.append(one))
    async with began as (controller, target), Receiver(Identity("home", "n0", "run")).up() as address:
        assert await controller.probe(NOBODY, "n0", 1.0) is None and not controller.is_there
        fra = Identity("home", "fra", "")
        server, known = RelayServer(fra, lambda node: "", lambda node: node == "n0"), list[frozenset[str]]()
        services = [("edgenode.v1.RelayService", server.add_to)]
        async with serving(ANY, services, 0.0) as port:
            at = f"127.0.0.1:{port}"
            tasks = [
                asyncio.create_task(
                    register(target, fra, at, lambda: server.traffic.relayed, lambda nodes, _: known.append(nodes))
                ),
                asyncio.create_task(
                    wait_at(Relay("fra", at, ""), Identity("home", "n0", "run"), Inbound(address), lambda: None)
                ),
            ]
            try:
                await until(lambda: server.is_waiting("n0") and controller.is_there and known)
                assert known == [frozenset({"n0"})]
                assert named == [("n0", Relays((RelayAddress("fra", at),)))]
                found = await controller.probe(NOBODY, "n0", 1.0)
                assert found is not None and found.node == "n0"
                controller.server.traffic._bytes["n0"] = 7
                assert Relayed("n0", 0, 7, "controller") in controller.traffic
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: not controller.is_there)


async def test_controller_reaches_a_node_where_it_sees_it(tmp_path: Path) -> None:
    n0, n1 = Receiver(Identity("home", "n0", "run")), Receiver(Identity("home", "n1", "run"))
    async with n0.up() as address, n1.up() as other, a_controller(tmp_path, observed=address) as (controller, _):
        for at in (NOBODY, other):  # in its own network, the controller may find another one at the address
            found = await controller.probe(at, "n0", 1.0)
            assert found is not None and found.node == "n0"
        assert await controller.probe(NOBODY, "n1", 1.0) is None


async def test_another_node_where_the_controller_sees_a_node_does_not_count(tmp_path: Path) -> None:
    n1 = Receiver(Identity("home", "n1", "run"))
    async with n1.up() as address, a_controller(tmp_path, observed=address) as (controller, _):
        assert await controller.probe(NOBODY, "n0", 1.0) is None


async def test_controller_that_hosts_needs_no_relay(tmp_path: Path) -> None:
    async with a_controller(tmp_path, hosts=True) as (controller, _):
        assert controller.is_there and controller.registry.order.relays == ()
