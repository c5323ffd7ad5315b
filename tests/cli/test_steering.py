"""`edgenode pause` says what it waits for. The controller is real gRPC, and the command a process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.status import ClusterStatus, LinkView, NodeState, NodeStatus, NodeView
from edgenode.net import operator_server
from edgenode.net.operator_server import OperatorServer
from edgenode.net.rpc import serving
from tests.cli.test_connect import ended, started

HELD = ClusterStatus(
    "home",
    paused=True,
    nodes=(
        NodeView("n0", connected=True, status=NodeStatus(round=7, state=NodeState.RUNNING)),
        NodeView("n1", connected=True, status=NodeStatus(round=7, state=NodeState.PAUSED)),
    ),
    links=(
        LinkView("n0", BlockedLink("n1", 0, "10.0.0.3:7600", "no answer", 40.0)),
        LinkView("n1", BlockedLink("n2", 0, "10.0.0.4:7600", "no answer", 40.0, by="n0")),
        LinkView("n2", BlockedLink("n0", 0, "10.0.0.2:7600", "no answer", 40.0), left_out=True),
    ),
)
PAUSED = replace(
    HELD,
    nodes=tuple(replace(node, status=replace(node.status, state=NodeState.PAUSED)) for node in HELD.nodes),
    links=(),
)


class HeldRun:
    """A run that is paused while a link holds a node in its round. The link works when its status was read twice."""

    def __init__(self) -> None:
        self.reads = 0

    async def pause(self, by: str) -> int:
        return 7

    def status(self) -> ClusterStatus:
        self.reads += 1
        return HELD if self.reads <= 2 else PAUSED


@pytest.mark.slow
async def test_pause_names_the_link_that_holds_a_node_in_its_round() -> None:
    server = OperatorServer(HeldRun())  # type: ignore[arg-type]  # it gets no other request
    async with serving("127.0.0.1:0", [(operator_server.SERVICE, server.add_to)], 0.0) as port:
        code, out, errors = await ended(await started("pause", "--controller", f"127.0.0.1:{port}"))
    assert (code, out) == (0, "every node is paused: round 7\n")
    assert errors == [
        "edgenode: waiting for n0 to finish the round: n0 cannot reach n1 (10.0.0.3:7600): no answer; "
        "check firewall, port and address"
    ]
