"""A member that fetches the model again and again, and reads nothing of it, while a newcomer joins."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from edgenode.net.proto import peer_pb2, peer_pb2_grpc
from edgenode.net.rpc import channel
from edgenode.security.subject import Subject
from tests.e2e.attacker import Attacker, Cluster, member, read_status
from tests.e2e.fleet import Fleet

pytestmark = pytest.mark.slow

_STALLED = 3
_BEGUN_S, _JOINED_S = 2.0, 30.0
_TASK = """
import time

from torch import nn

from edgenode.tasks.image_task import ImageTask


class Large(ImageTask):
    \"\"\"A model of 24 MB, which no buffer of a connection holds.\"\"\"

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 6000), nn.ReLU(), nn.Linear(6000, 900), nn.Linear(900, 10))

    def loss(self, model, batch):
        time.sleep(0.05)
        return super().loss(model, batch)
"""


async def stall(stack: AsyncExitStack, attacker: Attacker, node: str) -> None:
    """Begin fetches, and read nothing. gRPC itself reads what its window holds."""
    there = channel(attacker.cluster.address(node), attacker.security, Subject("node", node).dns_name)
    await stack.enter_async_context(there)
    request = peer_pb2.FetchModelRequest(identity=attacker.identity(plan_digest="").to_wire())
    fetches = [peer_pb2_grpc.PeerServiceStub(there).FetchModel(request) for _ in range(_STALLED)]
    await asyncio.sleep(_BEGUN_S)
    stack.callback(fetches.clear)  # a call without a reference is cancelled


async def test_newcomer_joins_beside_fetches_that_are_never_read(fleet: Fleet) -> None:
    (fleet.folder / "large.py").write_text(_TASK)
    settings = {"run.nodes": 3, "run.rounds": 1_000_000, "task.entry": "large:Large", "task.data": "cut",
                "algorithm.name": "sp", "topology.graphs": ["complete"]}  # fmt: skip
    config = fleet.configure(settings)
    address = fleet.controller().logs(r"controller ready .*listen=(\S+)")[1]
    nodes = fleet.nodes(3)
    for node in nodes:
        node.logs("epoch done")
    status = await read_status(address, member(fleet.folder, "operator.pem"))
    attacker = Attacker(Cluster(config, address, status), member(fleet.state("node-2")), "node-2")
    async with AsyncExitStack() as stack:
        for node in ("node-0", "node-1"):
            await stall(stack, attacker, node)
        began = time.monotonic()
        fleet.node("node-3").logs("fetched the model")
        seconds = time.monotonic() - began
    print(f"the newcomer had the model after {seconds:.1f} s")
    assert seconds < _JOINED_S
