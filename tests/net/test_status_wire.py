"""Statuses through protobuf and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import (
    ClusterStatus,
    Fault,
    NodeState,
    NodeStatus,
    NodeView,
    OpenLink,
    PendingChange,
    Relayed,
    RelayView,
    Way,
)
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError
from edgenode.evaluation import Metric
from edgenode.net.proto import control_pb2, operator_pb2
from edgenode.net.status_wire import CLUSTER_STATUS, NODE_STATUS
from edgenode.observability.model_sketch import BUCKETS

FULL = NodeStatus(
    state=NodeState.RUNNING,
    round=7,
    rounds=9,
    loss=0.5,
    accuracy=0.75,
    metrics=(Metric("auc", 0.75), Metric("return", -187.5)),
    u=1.25,
    messages=8,
    payload_bytes=100,
    gossip_bytes=30,
    received_bytes=90,
    wire_bytes=120,
    dense_bytes=1000,
    round_s=0.5,
    waiting_for=("n1", "n2"),
    waiting_s=2.5,
    peak_memory_bytes=4096,
    joules_per_round=3.5,
    power_sensor="RAPL",
    sketch_round=6,
    sketch=(1.5, -2.0),
    error="none",
    faults=(Fault("n1", "push", 3), Fault("n2", "answer", 1)),
    alarms=3,
    save_error="the disk is full",
    save_error_s=12.5,
    ways=(Way("n1", "controller"), Way("n2", "n0")),
    open_links=(OpenLink("n1", 0.0625, 1500.0),),
)
PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), 1))


def through_the_wire(status: ClusterStatus) -> ClusterStatus:
    data = CLUSTER_STATUS.to_wire(status).SerializeToString()
    return CLUSTER_STATUS.from_wire(operator_pb2.ClusterStatus.FromString(data))


@pytest.mark.parametrize("status", [FULL, NodeStatus(), *(replace(FULL, state=state) for state in NodeState)])
def test_node_status_survives_the_wire(status: NodeStatus) -> None:
    data = NODE_STATUS.to_wire(status).SerializeToString()
    assert NODE_STATUS.from_wire(control_pb2.Progress.FromString(data)) == status


def test_every_field_of_a_cluster_status_survives_the_wire() -> None:
    node = NodeView("n0", "10.0.0.1:7600", True, 0.25, FULL, ("n1",), 12.5)
    leadership = Leadership(3, "beef", "10.0.0.5:7700")
    status = ClusterStatus(
        "home", 2, PLAN, (node, NodeView("n1")), 20, leadership, 1e9, True, ("n2",), ("n3",), 0.5, 6, "http://there",
        5, 700, 8000, 61.5, "mine", "graph a is used instead of mine",
        (PendingChange("graph b", "the run resumes", 12),), (), (Relayed("n0", 2, 900, "fra"),), True,
        (RelayView("fra", "there:7702", True, 0.5),),
    )  # fmt: skip
    assert through_the_wire(status) == status


def test_status_before_the_run_starts_has_no_plan() -> None:
    assert through_the_wire(ClusterStatus("home", missing=2)) == ClusterStatus("home", missing=2)


def test_state_of_a_later_version_is_unspecified() -> None:
    later = control_pb2.Progress(state=77, round=5)  # type: ignore[arg-type]
    assert NODE_STATUS.from_wire(later) == NodeStatus(round=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("u", -1.0),
        ("u", float("nan")),
        ("round_s", float("inf")),
        ("waiting_s", float("nan")),
        ("joules_per_round", float("nan")),
        ("save_error_s", float("inf")),
        ("save_error_s", -1.0),
        ("payload_bytes", 2**63),
        ("round", 2**64 - 1),
        ("u", 1e300),
        ("waiting_s", 1e16),
    ],
)
def test_report_with_an_impossible_figure_is_rejected(field: str, value: float) -> None:
    with pytest.raises(RemoteProtocolError, match=f"malformed report: {field} "):
        NODE_STATUS.from_wire(control_pb2.Progress(**{field: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [Fault("../n1", "push", 1), Fault("n1", "\x1b[2J", 1), Fault("n1", "push", 2**63)])
def test_report_with_an_impossible_fault_is_rejected(fault: Fault) -> None:
    with pytest.raises(RemoteProtocolError, match=r"malformed report: .* faults"):
        NODE_STATUS.from_wire(NODE_STATUS.to_wire(NodeStatus(faults=(fault,))))


@pytest.mark.parametrize("link", [OpenLink("../n1", 1, 1), OpenLink("n1", -1, 1), OpenLink("n1", 1, float("inf"))])
def test_report_with_an_impossible_link_is_rejected(link: OpenLink) -> None:
    with pytest.raises(RemoteProtocolError):
        NODE_STATUS.from_wire(NODE_STATUS.to_wire(NodeStatus(open_links=(link,))))


def test_report_has_a_limited_number_of_links() -> None:
    many = NodeStatus(open_links=(OpenLink("n1", 1, 1),) * 1_000)
    assert len(NODE_STATUS.from_wire(NODE_STATUS.to_wire(many)).open_links) == 64


@pytest.mark.parametrize("metric", [Metric("\x1b[2J", 1.0), Metric("auc", float("nan")), Metric("auc", float("inf"))])
def test_report_with_an_impossible_metric_is_rejected(metric: Metric) -> None:
    with pytest.raises(RemoteProtocolError, match=r"malformed report: a metric"):
        NODE_STATUS.from_wire(NODE_STATUS.to_wire(NodeStatus(metrics=(metric,))))


def test_metrics_beyond_the_most_are_ignored() -> None:
    metrics = tuple(Metric(f"m{i}", 0.5) for i in range(1000))
    assert NODE_STATUS.from_wire(NODE_STATUS.to_wire(NodeStatus(metrics=metrics))).metrics == metrics[:16]


def test_measures_of_a_training_loop_are_any_finite_numbers() -> None:
    wire = control_pb2.Progress(accuracy=31.5, loss=-2.0)
    assert (NODE_STATUS.from_wire(wire).accuracy, NODE_STATUS.from_wire(wire).loss) == (31.5, -2.0)
    for none in (float("nan"), float("inf"), -1e300):
        wire = control_pb2.Progress(accuracy=none, loss=none)
        assert (NODE_STATUS.from_wire(wire).accuracy, NODE_STATUS.from_wire(wire).loss) == (None, None)


def test_long_texts_are_cut_and_overflown_sketches_dropped() -> None:
    wire = control_pb2.Progress(
        error="x" * 9999, save_error="y" * 9998 + "\n", sketch=[1.0, float("inf")], waiting_for=["n"] * 5000
    )
    status = NODE_STATUS.from_wire(wire)
    assert len(status.save_error) == 1000
    assert (len(status.error), status.sketch, len(status.waiting_for)) == (1000, (), 1024)


def test_sketch_has_a_limited_length() -> None:
    longest = control_pb2.Progress(sketch=[1.0] * BUCKETS)
    assert NODE_STATUS.from_wire(longest).sketch == (1.0,) * BUCKETS
    assert NODE_STATUS.from_wire(control_pb2.Progress(sketch=[1.0] * 200_000)).sketch == ()


def test_one_status_that_cannot_be_hides_no_other() -> None:
    lies = NodeView("n0", "10.0.0.1:7600", status=replace(FULL, payload_bytes=1 << 60))
    shown = through_the_wire(ClusterStatus("home", nodes=(lies, NodeView("n1", status=FULL))))
    assert shown.nodes[1].status == FULL
    assert (shown.nodes[0].address, shown.nodes[0].status.state) == ("10.0.0.1:7600", NodeState.RUNNING)
    assert shown.nodes[0].status.error == f"malformed report: payload_bytes {1 << 60}, at most {1 << 53}"
