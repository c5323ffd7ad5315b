"""When a controller ends, and its last line: how the run ended, and which command shows it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgenode.controller.registry import NodeRegistry
from edgenode.controller.run_end import log_end, until_over
from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import UNREQUESTED, Disconnected, Evict, Reported
from edgenode.core.protocol.orders import Join, Leadership
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec


@pytest.mark.parametrize(
    ("state", "ended_well", "event", "level"),
    [
        (NodeState.DONE, True, "the run is over: done", "info"),
        (NodeState.STOPPED, True, "the run is over: stopped", "info"),
        (NodeState.FAILED, False, "the run is over: failed", "error"),
    ],
)
def test_last_line_has_the_outcome_and_the_command(state: NodeState, ended_well: bool, event: str, level: str) -> None:
    nodes = tuple(
        NodeView(f"n{i}", status=NodeStatus(state, round=7, accuracy=0.5 + i / 10, error="disk" * (i == 0)))
        for i in range(2)
    )
    with capture_logs() as logged:
        log_end(ClusterStatus("home", nodes=nodes), ended_well, Path("/srv/my runs"))
    (line,) = logged
    assert (line["event"], line["log_level"], line["round"], line["mean_accuracy"]) == (event, level, 7, 0.55)
    assert line["to_look"] == "edgenode runs show last --state-dir '/srv/my runs'"
    assert line.get("reason") == ("n0: disk" if state is NodeState.FAILED else None)
    assert ("to_resume" in line) == (state is NodeState.STOPPED)


@pytest.mark.parametrize("evicted", [False, True])
async def test_members_that_are_about_to_resume_without_another_one_have_not_abandoned_the_run(evicted: bool) -> None:
    requirements = Requirements("diloco", fixed=True, spans_period=True, admits=True)
    schedule = ScheduleSpec((GraphSpec("complete"),))
    cluster = Cluster(RunSpec("home", 3, "run", schedule, rounds=99, requirements=requirements), Leadership(0))
    nodes = NodeRegistry()
    for node in ("n0", "n1", "n2"):
        cluster.handle(Reported(node, Join("127.0.0.1:1", "run", DataSize(1, 1), process="p")))
        nodes.connected(node, "127.0.0.1:1", "p")
    if evicted:
        cluster.handle(Evict(UNREQUESTED, "n2"))
    for node in ("n0", "n1", "n2"):
        cluster.handle(Disconnected(node))
        if node != "n2":
            nodes.reported(node, NodeStatus(NodeState.FAILED, error="n2 was evicted, and the others restart"))
    over = asyncio.create_task(until_over(cluster, nodes, abandoned_s=0.1))
    await asyncio.wait([over], timeout=1)
    assert over.done() is not evicted
    over.cancel()
