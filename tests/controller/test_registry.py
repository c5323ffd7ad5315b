"""The last reports of the nodes, and what is derived from them."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.controller.registry import NodeEntry, NodeRegistry, within
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import COUNTERS, NodeState, NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError
from edgenode.observability.model_sketch import BUCKETS

PLAN = create_plan("home", [Member("n0", 0, "10.0.0.1:7600"), Member("n1")], Schedule((GraphSpec("a"),), 1))
RUNNING, DONE, STOPPED, FAILED = NodeState.RUNNING, NodeState.DONE, NodeState.STOPPED, NodeState.FAILED


def report_sketch(nodes: NodeRegistry, name: str, t: int, value: float, buckets: int = BUCKETS) -> None:
    sketch = [value] + [0.0] * (buckets - 1)
    nodes.reported(name, NodeStatus(sketch_round=t, sketch=tuple(sketch)))


def test_member_without_a_link_is_known_by_its_planned_address() -> None:
    nodes = NodeRegistry()
    nodes.connected("n1", "10.0.0.9:7600", "p")
    nodes.add_members(PLAN)
    assert (nodes["n0"].address, nodes["n0"].process) == ("10.0.0.1:7600", "")
    assert (nodes["n1"].address, nodes["n1"].process) == ("10.0.0.9:7600", "p")


def test_disconnected_node_is_kept_only_after_the_start() -> None:
    nodes = NodeRegistry()
    for plan, known in ((None, False), (PLAN, True)):
        nodes.connected("n0", "here:1", "p")
        nodes.disconnected("n0", plan)
        assert ("n0" in nodes) is known
    nodes.disconnected("n7", PLAN)
    nodes.reported("n7", NodeStatus())
    assert "n7" not in nodes


def test_node_that_cannot_save_is_logged_once_until_it_can() -> None:
    nodes = NodeRegistry()
    nodes.add_members(PLAN)
    with capture_logs() as logged:
        for error, since_s in (("", 0.0), ("the disk is full", 2.0), ("still full", 62.0), ("", 0.0), ("", 0.0)):
            nodes.reported("n0", NodeStatus(RUNNING, save_error=error, save_error_s=since_s))
    assert [(line["event"], line["node"], line.get("since_s"), line.get("reason")) for line in logged] == [
        ("node cannot save", "n0", 2, "the disk is full"), ("node saves again", "n0", None, None),
    ]  # fmt: skip


def test_only_the_failure_of_a_member_is_logged_as_one() -> None:
    nodes = NodeRegistry()
    nodes.add_members(PLAN)
    with capture_logs() as logged:
        for _ in range(2):
            nodes.reported("n0", NodeStatus(FAILED, error="the loop ended early"))
            nodes.reported("n1", NodeStatus(FAILED, error="n1 was evicted"), is_member=False)
    assert [tuple(line.values()) for line in logged] == [
        ("n0", "the loop ended early", "node failed", "error"),
        ("n1", "n1 was evicted", "a node that is no member any more has ended", "info"),
    ]


def test_only_nodes_that_ended_well_count_as_ended() -> None:
    reports = {
        state: NodeEntry("10.0.0.1:7600", status=NodeStatus(state=state)).last_report(0.0)
        for state in (FAILED, DONE, STOPPED)
    }
    assert [report.ended for report in reports.values()] == [False, True, True]


@pytest.mark.parametrize(
    ("states", "connected", "abandoned"),
    [
        ((RUNNING, RUNNING, RUNNING), (), False),  # all down: they can return
        ((DONE, DONE, RUNNING), (), True),
        ((DONE, RUNNING), (), True),
        ((DONE, RUNNING, RUNNING), (), False),  # two of three can continue
        ((DONE, DONE, RUNNING), (2,), False),
        ((DONE, DONE, RUNNING), (0,), True),
        ((FAILED, RUNNING, RUNNING), (), True),
        ((FAILED, RUNNING, RUNNING), (1,), False),
    ],
)
def test_run_is_abandoned_if_the_rest_is_gone_and_too_few(
    states: tuple[NodeState, ...], connected: tuple[int, ...], abandoned: bool
) -> None:
    names = [f"n{i}" for i in range(len(states))]
    plan = create_plan("home", map(Member, names), factory.schedule(Config()))
    nodes = NodeRegistry()
    for name, state in zip(names, states, strict=True):
        nodes[name] = NodeEntry("", status=NodeStatus(state=state))
    nodes["newcomer"] = NodeEntry("")
    assert nodes.is_abandoned(plan, {"newcomer", *(names[i] for i in connected)}) == abandoned


def test_distance_is_of_the_newest_round_with_all_sketches() -> None:
    nodes = NodeRegistry()
    nodes.add_members(PLAN)
    assert nodes.consensus_distance(None) is None
    assert nodes.consensus_distance(PLAN) is None
    report_sketch(nodes, "n0", 50, 1.0)
    assert nodes.consensus_distance(PLAN) is None
    report_sketch(nodes, "n0", 100, 5.0)
    report_sketch(nodes, "n1", 50, 3.0)
    assert nodes.consensus_distance(PLAN) == (50, pytest.approx(1.0))
    report_sketch(nodes, "n1", 100, 5.0)
    assert nodes.consensus_distance(PLAN) == (100, 0.0)


def test_newest_sketches_of_the_expected_length_are_kept() -> None:
    nodes = NodeRegistry()
    nodes.add_members(PLAN)
    for t in range(100):
        report_sketch(nodes, "n0", t, 1.0)
    assert sorted(nodes["n0"].sketches) == list(range(92, 100))
    report_sketch(nodes, "n0", 100, 1.0, buckets=3)
    assert 100 not in nodes["n0"].sketches


def test_counts_of_a_node_continue_when_another_process_reports() -> None:
    nodes = NodeRegistry()
    nodes.add_members(PLAN)
    nodes.connected("n0", "here:1", "first")
    nodes.reported("n0", NodeStatus(RUNNING, payload_bytes=1000, messages=10))
    nodes.connected("n0", "here:2", "second")
    assert nodes["n0"].status.payload_bytes == 1000
    nodes.reported("n0", NodeStatus(RUNNING))
    nodes.reported("n0", NodeStatus(RUNNING, payload_bytes=50, messages=1))
    assert (nodes["n0"].status.payload_bytes, nodes["n0"].status.messages) == (1050, 11)
    nodes.forget(["n0"])
    assert nodes.progress.counts.departed("payload_bytes", nodes) == 1050


def test_status_of_a_round_that_the_run_does_not_have_is_refused() -> None:
    for absurd in (NodeStatus(RUNNING, round=101), NodeStatus(RUNNING, round=3, sketch_round=1 << 53)):
        with pytest.raises(RemoteProtocolError, match=r"a report of round \d+ of a run of 100 rounds"):
            within(100, absurd)
    assert within(100, NodeStatus(RUNNING, round=100, rounds=1 << 53)).rounds == 100


def test_counts_that_an_earlier_controller_recorded_are_shown_at_once() -> None:
    nodes = NodeRegistry()
    nodes.add_members(PLAN)
    nodes.restore(7, {"n1": dict.fromkeys(COUNTERS, 500)})
    assert (nodes["n1"].status.payload_bytes, nodes["n1"].status.state) == (500, NodeState.UNSPECIFIED)
    assert nodes.progress.reached == 7
