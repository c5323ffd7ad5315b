"""Members, enrolled devices and revoked ones that report, call and enrol as often as they like, to real processes."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import ssl
from pathlib import Path

import grpc
import grpc.aio
import pytest

from edgenode.addresses import split_address
from edgenode.core.protocol.orders import Progress
from edgenode.core.protocol.status import COUNTERS, ClusterStatus, NodeStatus
from edgenode.net.order_wire import progress_to_wire
from edgenode.net.proto import control_pb2_grpc
from edgenode.net.rpc import channel
from edgenode.net.tls import Security
from edgenode.security.subject import CONTROLLER, Subject
from edgenode.storage.run_history import RunHistory
from tests.e2e.attacker import Attacker, Cluster, member, read_status
from tests.e2e.fleet import Fleet, Process, until

pytestmark = pytest.mark.slow

_CALLS = 200
_MOST = 1 << 53


class Target:
    """A run of two nodes, and a device that is enrolled and in no run."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        settings = {"run.nodes": 2, "run.rounds": 1_000_000, "algorithm.name": "sp", "topology.graphs": ["complete"]}
        self.config = fleet.configure(settings)
        self.controller = fleet.controller()
        self.nodes = fleet.nodes(2)
        self.address = self.controller.logs(r"controller ready .*listen=(\S+)")[1]
        self.operator = member(fleet.folder, "operator.pem")
        for node in self.nodes:
            node.logs("epoch done")

    async def status(self) -> ClusterStatus:
        return await read_status(self.address, self.operator)

    async def attacker(self, name: str, process: str = "attacker") -> Attacker:
        return Attacker(Cluster(self.config, self.address, await self.status()), self.enrolled(name), name, process)

    def enrolled(self, name: str) -> Security:
        folder: Path = self.fleet.folder / name
        self.fleet.authority().keep(folder / "credentials.pem", Subject("node", name))
        return member(folder)


async def test_counts_of_a_device_in_no_run_reach_no_operator(fleet: Fleet) -> None:
    target = Target(fleet)
    before = await target.status()
    absurd = NodeStatus(round=3, rounds=9, **dict.fromkeys(COUNTERS, _MOST))
    for process in ("first", "second", "third"):
        attacker = await target.attacker("node-9", process)
        reports = [progress_to_wire(Progress(3, 0, ""), status) for status in (NodeStatus(round=1), absurd)]
        await attacker.attend(attacker.join(), attacker.identity(), *reports)
    after = await target.status()
    assert before.payload_bytes < after.payload_bytes < _MOST
    assert [view.status.error for view in after.nodes] == [""] * len(after.nodes)
    shown = json.loads(fleet.command("status", "--json", "--controller", target.address).stdout)
    assert shown["payload_bytes"] < _MOST
    history = RunHistory(fleet.state("controller"))
    recorded = len(history.samples(1))
    until(lambda: len(history.samples(1)) > recorded, "the history goes on")
    assert "without a history" not in target.controller.stderr


async def test_refused_devices_take_a_line_and_not_one_for_each_call(fleet: Fleet) -> None:
    target = Target(fleet)
    revoked = await target.attacker("node-8")
    fleet.command("revoke", "node-8", "--yes", "--controller", target.address)
    async with channel(target.address, revoked.security, CONTROLLER.dns_name) as there:
        for _ in range(_CALLS):
            with pytest.raises(grpc.aio.AioRpcError, match="is not valid"):
                await control_pb2_grpc.ControlServiceStub(there).Attend(timeout=10).read()
    assert lines(target.controller, "refused a call .*node-8") == 1
    address = target.controller.logs(r"devices enrol here .*listen=(\S+)")[1]
    answers = await asyncio.gather(*(asyncio.to_thread(guess, address) for _ in range(40)))
    assert answers.count(http.client.FORBIDDEN) > 20
    assert lines(target.controller, "refused to enrol a device") == 1
    assert (await target.status()).plan is not None


def guess(address: str) -> int:
    """Try to enrol with an invite that is none. The status of the answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(*split_address(address), timeout=60, context=context)
    try:
        connection.request("POST", "/enrol", json.dumps({"secret": "ab" * 10, "name": "x", "request": ""}))
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def lines(process: Process, pattern: str) -> int:
    return len(re.findall(pattern, process.stderr))
