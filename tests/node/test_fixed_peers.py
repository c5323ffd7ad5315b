"""When a fixed peer dies and is back, all others meet it again, and nobody begins before that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from edgenode.addresses import free_ports
from edgenode.config.load import load
from edgenode.core.topology.period import DataSize
from edgenode.errors import PeerRestarted
from edgenode.net import peer_server
from edgenode.net.peer_calls import probe
from edgenode.net.peer_server import PeerServer
from edgenode.net.rpc import serving
from edgenode.net.wire import Identity
from edgenode.node.fixed_peers import Agreement, agree_with_peers, watch_for_restarts
from edgenode.node.local_node import LocalNode
from edgenode.node.node_options import NodeOptions
from tests.net.peer_ends import SOON_S, until

CONFIG = load(None, {"run.nodes": 3}, {})
NAMES = ("n0", "n1", "n2")


class Peer:
    """The process of a node: it serves, and meets the others when it is told to."""

    def __init__(self, name: str, process: str, targets: list[str], listen: str = "") -> None:
        identity = Identity("edgenode", name, CONFIG.digest(), process=process)
        self.local = LocalNode(identity, (frozenset(), None), DataSize(100, 10), 0)
        self.server = PeerServer(identity, self.local.saved)
        self.waits: list[str] = []
        own = targets[NAMES.index(name)]
        self._listen = listen or own
        others = tuple(target for target in targets if target != own)
        self._options = NodeOptions(CONFIG, name, self._listen, others, "none", Path("unused"), wait_s=SOON_S)
        self._up = AsyncExitStack()

    async def start(self) -> None:
        await self._up.enter_async_context(serving(self._listen, [(peer_server.SERVICE, self.server.add_to)], 0.0))

    async def agree(self) -> Agreement:
        return await agree_with_peers(self._options, self.local, self.server, self.waits.append)

    async def restart_of_a_peer(self, agreement: Agreement) -> str:
        with pytest.raises(PeerRestarted) as caught:
            await watch_for_restarts(self.server, self.local.identity, agreement)
        return str(caught.value)

    async def die(self) -> None:
        await self._up.aclose()


class Ring:
    """Three nodes."""

    def __init__(self) -> None:
        self.targets = [f"127.0.0.1:{port}" for port in free_ports(3)]
        self.up: list[Peer] = []

    async def start(self, name: str, process: str, listen: str = "") -> Peer:
        peer = Peer(name, process, self.targets, listen)
        self.up.append(peer)
        await peer.start()
        return peer


@pytest.fixture
async def ring() -> AsyncIterator[Ring]:
    ring = Ring()
    yield ring
    for peer in ring.up:
        await peer.die()


async def test_all_survivors_learn_that_a_peer_is_back(ring: Ring) -> None:
    n0, n1, n2 = [await ring.start(name, "first") for name in NAMES]
    agreed = await asyncio.gather(*(peer.agree() for peer in (n0, n1, n2)))
    assert agreed[0].processes == {"n1": "first", "n2": "first"}
    await n1.die()
    back = await ring.start("n1", "second")
    async with asyncio.TaskGroup() as group:
        again = group.create_task(back.agree(), name="back")
        for survivor, agreement in ((n0, agreed[0]), (n2, agreed[2])):
            said = await asyncio.wait_for(survivor.restart_of_a_peer(agreement), SOON_S)
            assert said == f"n1 at {ring.targets[1]} has restarted"
        assert not again.done()  # it waits until the others have ended their part
        await n0.die()
        await n2.die()
        new = [await ring.start(name, "third") for name in ("n0", "n2")]
        here, there = await asyncio.gather(*(peer.agree() for peer in new))
        assert (here.processes, there.processes) == (
            {"n1": "second", "n2": "third"},
            {"n0": "third", "n1": "second"},
        )
        assert (await again).start == here.start == there.start


@pytest.mark.slow
async def test_nobody_begins_with_a_peer_that_died_meanwhile(ring: Ring) -> None:
    n0, n1 = [await ring.start(name, "first") for name in ("n0", "n1")]
    async with asyncio.TaskGroup() as group:
        here = group.create_task(n0.agree(), name="n0")
        there = group.create_task(n1.agree(), name="n1")
        await until(lambda: len(n0.waits) > 0)
        await n1.die()
        there.cancel()
        n1 = await ring.start("n1", "second")
        n2 = await ring.start("n2", "first")
        agreed = await asyncio.gather(n1.agree(), n2.agree())
        assert (await here).processes == {"n1": "second", "n2": "first"}
        assert agreed[1].processes == {"n0": "first", "n1": "second"}


async def test_another_process_of_a_name_elsewhere_is_no_restart(ring: Ring) -> None:
    peers = [await ring.start(name, "first") for name in NAMES]
    agreed = await asyncio.gather(*(peer.agree() for peer in peers))
    twin = await ring.start("n1", "twin", "127.0.0.1:0")
    watching = asyncio.create_task(peers[0].restart_of_a_peer(agreed[0]), name="watching")
    assert await probe(ring.targets[0], twin.local.identity, SOON_S) is not None
    await asyncio.sleep(0.3)
    assert not watching.done()
    watching.cancel()
