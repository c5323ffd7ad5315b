"""Which node is refused when two train different workloads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.canonical import canonical, digest
from edgenode.core.protocol.events import Disconnected, Reported, Send
from edgenode.core.protocol.orders import Join, Refuse
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.workloads import refusals
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from tests.core.protocol.cluster_driver import QuietCluster, a_run_spec

SCHEDULE = Schedule((GraphSpec("a"),), 10)
PLAN = create_plan("home", [Member("n0"), Member("n1")], SCHEDULE)


def training(shape: str, **changes: object) -> Join:
    text = canonical({"parameter fc.weight": shape, "parameter fc.bias": "10"})
    return replace(Join("host:1", "run", 1, workload=text, workload_digest=digest(text)), **changes)


def test_the_first_of_two_new_nodes_counts() -> None:
    refused = refusals({"n0": training("64x10")}, "n1", training("64x12"))
    assert refused == {"n1": 'n1 trains something else than n0: parameter fc.weight is "64x12", not "64x10"'}


def test_equal_workloads_are_accepted() -> None:
    assert refusals({"n0": training("64x10"), "n2": training("64x10")}, "n1", training("64x10")) == {}


@pytest.mark.parametrize("rank", [{"plan": PLAN}, {"plan": PLAN, "running": True}])
def test_a_member_outranks_a_newcomer_that_came_first(rank: dict[str, object]) -> None:
    refused = refusals({"n9": training("64x12"), "n1": training("64x10", **rank)}, "n0", training("64x10", **rank))
    assert list(refused) == ["n9"]
    assert refusals({"n0": training("64x10", **rank)}, "n9", training("64x12")).keys() == {"n9"}


def test_a_running_member_outranks_one_that_resumes() -> None:
    refused = refusals({"n1": training("64x12", plan=PLAN)}, "n0", training("64x10", plan=PLAN, running=True))
    assert list(refused) == ["n1"]


def test_an_unknown_workload_is_not_compared() -> None:
    assert refusals({"n0": Join("host:1", "run", 1)}, "n1", training("64x10")) == {}
    assert refusals({"n1": training("64x10")}, "n0", Join("host:1", "run", 1)) == {}


@pytest.mark.parametrize("text", ["", "{", '{"parameter fc.weight": "64x10"}', "x" * 100_000])
def test_a_text_that_is_not_credible_is_not_shown(text: str) -> None:
    refused = refusals({"n0": training("64x10", workload=text)}, "n1", training("64x12"))
    assert refused == {"n1": "n1 trains something else than n0: its workload has another digest"}


def test_the_controller_refuses_a_node_that_trains_something_else() -> None:
    cluster = QuietCluster(a_run_spec(2))
    ours, other = (replace(training(shape), run_digest="digest") for shape in ("64x10", "64x12"))
    cluster.handle(Reported("n0", ours))
    (refused,) = cluster.handle(Reported("n1", other))
    assert isinstance(refused, Send)
    assert isinstance(refused.order, Refuse)
    assert "parameter fc.weight" in refused.order.reason
    assert set(cluster.state.membership.present) == {"n0"}
    cluster.handle(Disconnected("n0"))
    cluster.handle(Reported("n1", other))
    assert set(cluster.state.membership.present) == {"n1"}


def test_a_member_that_returns_turns_a_newcomer_away() -> None:
    cluster = QuietCluster(a_run_spec(2))
    ours, other = (replace(training(shape), run_digest="digest") for shape in ("64x10", "64x12"))
    cluster.handle(Reported("n9", other))
    saved = replace(ours, plan=create_plan("lab", [Member("n0"), Member("n1")], SCHEDULE), saved=frozenset({50}))
    actions = cluster.handle(Reported("n0", saved))
    assert [(a.node, type(a.order)) for a in actions if isinstance(a, Send)] == [("n9", Refuse)]
    assert set(cluster.state.membership.present) == {"n0"}
