"""What the controller makes of poison alarms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.events import Accused, ClusterAction, Reported, Resume
from edgenode.core.protocol.orders import Accusation, EvictionCommitted, Halt, Refuse
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import ScheduleSpec
from tests.core.protocol.cluster_driver import (
    QuietCluster,
    a_started_cluster,
    all_of,
    answer_fence,
    fences,
    join,
    kinds,
    only,
    the_plan,
)

COMPLETE = ScheduleSpec((GraphSpec("complete"),))
CHARGE = Accusation("n2", 0, 7, "its message is 300 times as long as expected")
COLLAPSE = Accusation("", 0, 7, "the own score fell from 0.9 to 0.1 since round 5")


def a_cluster(on_poison: str, nodes: int = 4) -> QuietCluster:
    return a_started_cluster(nodes, on_poison=on_poison, schedule=COMPLETE)


def accuse(cluster: QuietCluster, accuser: str, accusation: Accusation = CHARGE) -> list[ClusterAction]:
    return cluster.handle(Reported(accuser, accusation))


@pytest.mark.parametrize("accusation", [CHARGE, COLLAPSE], ids=["charge", "collapse"])
def test_report_notes_every_accuser_and_does_nothing(accusation: Accusation) -> None:
    cluster = a_cluster("report")
    for accuser in ("n0", "n1", "n3"):
        assert accuse(cluster, accuser, accusation) == [Accused(accuser, accusation)]
    assert not cluster.state.paused


def test_repeats_are_noted_ever_less_often() -> None:
    cluster = a_cluster("report")
    assert [len(accuse(cluster, "n0")) for _ in range(8)] == [1, 1, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("accusation", [CHARGE, COLLAPSE], ids=["charge", "collapse"])
def test_one_accuser_pauses_the_run_at_pause(accusation: Accusation) -> None:
    cluster = a_cluster("pause")
    actions = accuse(cluster, "n0", accusation)
    assert kinds(actions) == ["Accused", "Persist", "Halt", "Halt", "Halt", "Halt"]
    assert (cluster.state.paused, cluster.state.halted_by) == (True, "after a poison alarm")
    cluster.handle(Resume(1))
    assert (cluster.state.paused, cluster.state.halted_by) == (False, "by an operator")


def test_two_accusers_evict_a_member_of_four() -> None:
    cluster = a_cluster("evict")
    assert kinds(accuse(cluster, "n0")) == ["Accused"]
    assert kinds(accuse(cluster, "n0")) == ["Accused"]  # the same accuser counts once
    actions = accuse(cluster, "n3", replace(CHARGE, round=9))
    assert cluster.evictions.evicted == {"n2"}
    for fence in fences(actions):
        actions = answer_fence(cluster, fence, 9, ("n2", 9))
    assert "n2" not in the_plan(cluster).latest.names
    assert len(all_of(EvictionCommitted, actions)) == 4  # the evicted one learns of it, too


def test_one_accuser_evicts_a_member_of_three() -> None:
    cluster = a_cluster("evict", nodes=3)
    accuse(cluster, "n0")
    assert cluster.evictions.evicted == {"n2"}


def test_evicted_node_may_not_join_again() -> None:
    cluster = a_cluster("evict", nodes=3)
    for fence in fences(accuse(cluster, "n0")):
        answer_fence(cluster, fence, 9)
    cluster.handle(join("n2", process="new"))
    refusal = only(Refuse, cluster.handle(join("n2", process="new")))
    assert refusal.reason.startswith("n2 was evicted, because its message of round 7 raised the poison alarm")
    assert all_of(Refuse, cluster.handle(join("n7"))) == []


def test_collapses_at_two_of_four_pause_the_run_at_evict() -> None:
    cluster = a_cluster("evict")
    accuse(cluster, "n0", COLLAPSE)
    assert not cluster.state.paused
    assert len(all_of(Halt, accuse(cluster, "n1", COLLAPSE))) == 4
    assert (cluster.state.paused, cluster.evictions.evicted) == (True, frozenset())


def test_a_liar_accuses_only_whom_it_receives_from() -> None:
    cluster = a_started_cluster(4, on_poison="pause")  # graph a: n1 pushes to n2
    for liar in ("n0", "n1", "n3", "stranger"):
        assert accuse(cluster, liar, replace(CHARGE, member="n1" if liar != "n1" else "n2")) in ([],)
    assert not cluster.state.paused
    assert accuse(cluster, "n2", replace(CHARGE, member="n1")) != []


@pytest.mark.parametrize("changes", [{"member": "n9"}, {"incarnation": 3}, {"member": "n0"}], ids=str)
def test_an_accusation_of_no_such_process_does_nothing(changes: dict[str, object]) -> None:
    cluster = a_cluster("pause")
    assert accuse(cluster, "n0", replace(CHARGE, **changes)) == []  # type: ignore[arg-type]


def test_an_eviction_that_would_leave_too_few_is_not_a_ban() -> None:
    cluster = a_started_cluster(3, on_poison="evict", schedule=COMPLETE, min_nodes=3)
    assert kinds(accuse(cluster, "n0")) == ["Accused", "Reply"]
    assert cluster.evictions.evicted == frozenset()
    assert cluster._membership.banned == {}
