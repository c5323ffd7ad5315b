"""Runs with fixed members: who is turned away, who restarts, and what the others resume from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgenode.core.protocol.events import (
    UNREQUESTED,
    Avoid,
    ClusterAction,
    Disconnected,
    Evict,
    Extend,
    Reply,
    Reported,
    Rotate,
    Send,
    Stop,
)
from edgenode.core.protocol.orders import (
    Ended,
    FenceAnswer,
    Leave,
    Offer,
    Progress,
    Refuse,
    Restart,
    TrainingEnded,
    Welcome,
)
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec
from tests.core.protocol.cluster_driver import QuietCluster, a_started_cluster, join, node_names, progress, the_plan

FIXED = Requirements("diloco", fixed=True, spans_period=True)
DOUBLING = ScheduleSpec((GraphSpec("doubling"),))


def a_fixed_cluster(nodes: int = 3) -> QuietCluster:
    cluster = a_started_cluster(nodes, requirements=FIXED, schedule=DOUBLING)
    for name in node_names(nodes):
        progress(cluster, name, 1)
    return cluster


def orders(actions: list[ClusterAction], kind: type[Any]) -> list[str]:
    """The nodes that get such an order."""
    return [action.node for action in actions if isinstance(action, Send) and isinstance(action.order, kind)]


def restarts(cluster: QuietCluster, name: str, process: str, *saved: int) -> list[ClusterAction]:
    """A process ends, and the next one connects."""
    gone = cluster.handle(Disconnected(name))
    plan = the_plan(cluster) if saved else None
    return [*gone, *cluster.handle(join(name, process=process, saved=frozenset(saved), plan=plan))]


def test_member_that_restarts_restarts_the_others_once_per_link() -> None:
    cluster = a_fixed_cluster()
    assert orders(restarts(cluster, "n1", "second", 0, 40), Restart) == ["n0", "n2"]
    assert orders(progress(cluster, "n2", 2), Restart) == []
    cluster.handle(Disconnected("n2"))
    running = Reported("n2", replace(join("n2").report, running=True, plan=the_plan(cluster)))
    assert orders(cluster.handle(running), Restart) == ["n2"]


def test_all_resume_from_the_newest_round_that_all_have_saved() -> None:
    cluster = a_fixed_cluster()
    assert not orders(restarts(cluster, "n1", "second", 40, 50), Welcome)
    assert not orders(restarts(cluster, "n0", "second", 50, 60), Welcome)
    cluster.handle(Disconnected("n2"))
    assert cluster.state.waits_for == {"n2"}
    welcomed = restarts(cluster, "n2", "second", 40, 50)
    assert orders(welcomed, Welcome) == ["n0", "n1", "n2"]
    assert the_plan(cluster).latest.start == 50
    assert set(the_plan(cluster).latest.incarnations.values()) == {1}


def test_member_without_the_round_of_the_others_resumes_nothing() -> None:
    """SCSP would take it for a newcomer. Here, the others need what it has lost."""
    cluster = a_fixed_cluster()
    restarts(cluster, "n0", "second", 40, 50)
    restarts(cluster, "n1", "second", 40, 50)
    refused = restarts(cluster, "n2", "second", 10, 20)
    assert orders(refused, Refuse) == ["n0", "n1", "n2"]
    assert not orders(refused, Welcome)


def test_members_that_have_not_gone_beyond_round_0_start_again() -> None:
    cluster = a_fixed_cluster()
    restarts(cluster, "n0", "second", 0)
    restarts(cluster, "n1", "second")
    assert orders(restarts(cluster, "n2", "second", 0), Welcome) == ["n0", "n1", "n2"]
    assert the_plan(cluster).latest.start == 0


def test_strangers_are_turned_away() -> None:
    cluster = a_fixed_cluster()
    (refused,) = cluster.handle(join("n9"))
    assert refused == Send("n9", Refuse("the members of this run are fixed: n0, n1, n2"))
    assert "n9" not in cluster.state.membership.present


@pytest.mark.parametrize("force", [False, True])
def test_no_member_is_evicted(force: bool) -> None:
    cluster = a_fixed_cluster()
    (reply,) = cluster.handle(Evict(7, "n1", force))
    assert reply == Reply(7, None, "n1 stays: the members and the graph of this run are fixed, as diloco needs")
    (reply,) = cluster.handle(Evict(UNREQUESTED, "n1"))
    assert isinstance(reply, Reply)
    for name in node_names(3):
        cluster.handle(Disconnected(name))
    (reply,) = cluster.handle(Evict(8, "n1", force=True))
    assert isinstance(reply, Reply)
    assert reply.error.startswith("n1 stays")


def test_nobody_waits_for_the_answers_of_a_member_that_ended() -> None:
    cluster = a_fixed_cluster()
    latest = the_plan(cluster).latest
    farewell = FenceAnswer(0, 0, 999, (), the_plan(cluster).records)
    cluster.handle(Reported("n0", Progress(1000, latest.number, latest.digest, farewell)))
    cluster.handle(Disconnected("n0"))
    actions = cluster.handle(Evict(UNREQUESTED, "n0"))
    assert [a for a in actions if isinstance(a, Send)] == [Send("n1", Ended("n0")), Send("n2", Ended("n0"))]


def end(cluster: QuietCluster, name: str) -> list[ClusterAction]:
    """A member ends, and stays."""
    latest = the_plan(cluster).latest
    farewell = FenceAnswer(0, 0, 999, (), the_plan(cluster).records)
    return cluster.handle(Reported(name, Progress(1000, latest.number, latest.digest, farewell)))


def test_member_that_has_ended_stays_for_one_that_returns() -> None:
    cluster = a_fixed_cluster()
    for name in ("n0", "n2"):
        assert orders(end(cluster, name), Ended) == []
    assert orders(restarts(cluster, "n1", "second", 40, 50), Restart) == ["n0", "n2"]
    restarts(cluster, "n0", "second", 40, 50, 1000)
    assert orders(restarts(cluster, "n2", "second", 40, 50, 1000), Welcome) == ["n0", "n1", "n2"]
    assert the_plan(cluster).latest.start == 50
    for name in ("n0", "n1"):
        assert orders(end(cluster, name), Ended) == []


def test_all_are_let_go_once_all_have_ended() -> None:
    cluster = a_fixed_cluster()
    for name in ("n0", "n1"):
        assert orders(end(cluster, name), Ended) == []
    assert [a for a in end(cluster, "n2") if isinstance(a, Send)] == [Send(n, Ended(n)) for n in node_names(3)]
    assert orders(end(cluster, "n2"), Ended) == []
    cluster.handle(Disconnected("n1"))  # before the order came
    running = Reported("n1", replace(join("n1").report, running=True, plan=the_plan(cluster)))
    assert orders(cluster.handle(running), Ended) == ["n1"]


def test_neither_leave_nor_other_graph_nor_broken_link_changes_anything() -> None:
    cluster = a_fixed_cluster()
    (refused,) = cluster.handle(Reported("n1", Leave()))
    assert isinstance(refused, Send)
    assert "n1 cannot leave: the members and the graph of this run are fixed" in str(refused.order)
    (reply,) = cluster.handle(Rotate(3, (GraphSpec("complete"),), Period(1)))
    assert isinstance(reply, Reply)
    assert "the graph stays" in reply.error
    assert cluster.handle(Reported("n1", TrainingEnded())) == []
    cluster.state.broken = frozenset({("n0", "n2")})
    assert cluster.handle(Avoid(frozenset({("n0", "n2")}))) == []
    assert cluster.state.adapted(("n0", "n1", "n2")).schedule == the_plan(cluster).latest.schedule


@pytest.mark.parametrize("t", range(1, 9))
def test_changes_start_with_an_exchange(t: int) -> None:
    cluster = a_fixed_cluster()
    for name in node_names(3):
        progress(cluster, name, t)
    (offer,) = [a.order for a in cluster.handle(Stop(1)) if isinstance(a, Send) and isinstance(a.order, Offer)]
    assert offer.record.end == offer.record.start
    assert offer.record.start % 2 == 0


def test_run_is_extended_by_whole_exchanges() -> None:
    cluster = a_fixed_cluster()
    (reply,) = cluster.handle(Extend(1, 1001))
    assert reply == Reply(1, None, "an exchange takes 2 rounds, so 1001 must be a multiple of 2")
    assert orders(cluster.handle(Extend(2, 1002)), Offer) == ["n0"]
