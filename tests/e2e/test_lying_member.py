"""An enrolled member lies, with its own certificate: it changes no plan and no leadership, and the run goes on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from edgenode.addresses import free_ports
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.orders import Join, Leadership
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.topology.period import DataSize
from edgenode.net.order_wire import join_to_wire
from edgenode.net.peer_calls import probe
from edgenode.net.proto import control_pb2, control_pb2_grpc, peer_pb2, peer_pb2_grpc
from edgenode.net.push_wire import PushWriter
from edgenode.net.rpc import channel
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.security.certificates import make_authority
from edgenode.security.secret_files import read_credentials
from edgenode.security.signing import AuthoritySigner
from edgenode.security.subject import CONTROLLER, Subject
from tests.e2e.fleet import Fleet, until

TERM_OF_A_LIAR = 1_000_000


def status(fleet: Fleet, *where: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fleet.command("status", "--json", *where).stdout)
    return found


class Liar:
    """Speaks as node-2, next to the process of that name, with its credentials and its process id."""

    def __init__(self, fleet: Fleet, run_digest: str, record: Record) -> None:
        own = read_credentials(fleet.state("node-2") / "credentials.pem")
        assert own is not None
        self._security = MutualTls(own, lambda subject, key_id: True)
        self._record = record
        self._addresses = {member.node: member.address for member in record.members}
        self.identity = Identity(
            fleet.cluster, "node-2", run_digest, plan_digest=record.digest, process="liar", security=self._security
        )

    async def push(self, forged: Record, t: int) -> str:
        """Why node-0 refuses a push that carries a record."""
        while True:  # the process of that name connects again, and ends this stream
            with suppress(grpc.aio.AioRpcError):
                if why := await self._refusal(forged, t):
                    return why

    async def _refusal(self, forged: Record, t: int) -> str:
        message = Message("node-2", 0, t, self._record.number, self._record.digest, 1 / 3, (1.0,), b"", (forged,))
        async with channel(self._addresses["node-0"], self._security, Subject("node", "node-0").dns_name) as there:
            stream = peer_pb2_grpc.PeerServiceStub(there).Push()
            await stream.write(peer_pb2.PushRequest(hello=self.identity.to_wire()))
            await stream.read()
            for frame in PushWriter().frames(message):
                await stream.write(peer_pb2.PushRequest.FromString(frame))
            while (response := await stream.read()) is not grpc.aio.EOF:
                for answer in response.answers:
                    if answer.verdict == peer_pb2.VERDICT_ERROR:  # others are for the process of that name
                        stream.cancel()
                        return str(answer.detail)
        return ""

    async def claim(self, controller: str, follows: Leadership) -> control_pb2.AttendResponse:
        """What the controller answers to a node in the run that claims to follow another one."""
        there = await probe(self._addresses["node-2"], self.identity, 5)
        assert there is not None
        identity = replace(self.identity, process=there.process)  # every member may ask for it
        address, plan = self._addresses["node-2"], Plan((self._record,))
        join = Join(
            address, identity.run_digest, DataSize(10, 1), frozenset(), plan, True, there.process, frozenset(), follows
        )
        async with self._link(controller) as stream:
            await stream.write(join_to_wire(identity, join))
            order = await asyncio.wait_for(stream.read(), 20)
            assert isinstance(order, control_pb2.AttendResponse)
            return order

    @asynccontextmanager
    async def _link(self, controller: str) -> AsyncIterator[grpc.aio.StreamStreamCall]:
        async with channel(controller, self._security, CONTROLLER.dns_name) as there:
            stream = control_pb2_grpc.ControlServiceStub(there).Attend()
            yield stream
            stream.cancel()


def lies(record: Record, t: int) -> dict[str, Record]:
    """Records that a lying member would like to see in force."""
    stop = replace(record, number=1, parent=record.digest, start=t + 50, end=t + 50, signature="")
    members = tuple(m for m in record.members if m.node != "node-0")
    handoff = replace(stop, end=None, members=members, handoffs=(("node-0", "node-2"),))
    evict = replace(stop, end=None, members=members, evictions=(("node-0", t),))
    other = AuthoritySigner(make_authority(record.cluster))
    return {
        "a stop": stop,
        "a stop, signed by another authority": replace(stop, signature=other.sign(stop.statement)),
        "a stop, with the signature of another record": replace(stop, signature=record.signature),
        "a hand-over": handoff,
        "an eviction": evict,
    }


@pytest.mark.slow
def test_member_cannot_forge_a_record_or_a_leader(fleet: Fleet) -> None:
    config = fleet.configure({"run.nodes": 3, "run.rounds": 1_000_000, "topology.graphs": ["complete"]})
    where = f"127.0.0.1:{free_ports(1)[0]}"
    controller = fleet.controller(listen=where)
    nodes = fleet.nodes(3, "--controller", where)
    for node in nodes:
        node.logs("epoch done")
    before = status(fleet, "--controller", where)
    record = Record.from_json(json.dumps(before["record"]))
    t = (
        max(node["round"] for node in before["nodes"].values())
        if isinstance(before["nodes"], dict)
        else max(node["round"] for node in before["nodes"])
    )
    liar = Liar(fleet, config.digest(), record)

    for name, forged in lies(record, t).items():
        assert "authority" in asyncio.run(asyncio.wait_for(liar.push(forged, t + 1), 30)), name
    claimed = Leadership(TERM_OF_A_LIAR, "liar", "127.0.0.1:1", record.run_id)
    refusal = asyncio.run(liar.claim(where, claimed)).refusal.reason
    assert "without the signature" in refusal

    begun = len(re.findall("epoch done", nodes[0].stderr))
    until(lambda: len(re.findall("epoch done", nodes[0].stderr)) > begun + 1, "the run goes on")
    after = status(fleet, "--controller", where)
    assert after["record"] == before["record"] and after["term"] == before["term"]
    assert re.search("refused what a peer sent.*kind=push.*peer=node-2", nodes[0].stderr)
    fleet.stop([*nodes, controller], "--controller", where)
