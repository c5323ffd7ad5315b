"""When a run ends with an allreduce, and how an eviction in it is survived."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.plan.last_phase import (
    end_of,
    is_inside,
    latest_change,
    most_rounds,
    phase_at,
    transfer,
    without_evicted,
)
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule, ScheduleSpec

T = 10  # training rounds
SCHEDULE = Schedule((GraphSpec("a"),), 1, last=GraphSpec("allreduce"), last_from=T)


def members(n: int) -> tuple[Member, ...]:
    return tuple(Member(f"n{i}") for i in range(n))


def a_plan(n: int, schedule: Schedule = SCHEDULE) -> Plan:
    return create_plan("test", members(n), schedule)


def without_last(plan: Plan, begun: int, by_all: int) -> Plan:
    """The plan after the eviction of its last member."""
    schedule, start = without_evicted(plan, plan.latest.schedule, begun + 1, by_all)
    evicted = plan.latest.names[-1]
    left = plan.latest.members[:-1]
    return plan.extend(plan.successor(start, members=left, schedule=schedule, evictions=((evicted, begun),)))


@pytest.mark.parametrize(("nodes", "rounds"), [(1, 0), (2, 3), (3, 6), (4, 6), (5, 9), (9, 12)])
def test_phase_takes_the_rounds_that_its_members_need(nodes: int, rounds: int) -> None:
    plan = a_plan(nodes)
    assert end_of(plan, 99) == T + rounds
    assert [t for t in range(99) if is_inside(plan, t)] == list(range(T + 1, T + rounds))
    assert phase_at(plan, T - 1) is None


def test_long_messages_of_the_phase_stay_inside_networks() -> None:
    """Two homes of four nodes. Names sort by home, so without networks it is the long hops that cross."""
    named = tuple(Member(f"{home}{i}") for home in "ab" for i in range(4))

    def parts_between(at: str) -> int:
        plan = create_plan("test", named, replace(SCHEDULE, last=GraphSpec(f"allreduce{at}")))
        sent = [(edge, transfer(plan, t, edge[0])) for t in range(T, end_of(plan, 99)) for edge in plan.graph(t).edges]
        return sum(one.count for (sender, receiver), one in sent if one and sender[0] != receiver[0])

    assert parts_between("") == 2 * (8 * 4 + 4 * 2 + 2 * 1)  # of eight parts a model
    assert parts_between("@a:b") == 2 * 8 * 1


def test_each_part_goes_where_the_graph_leads() -> None:
    plan = create_plan("test", members(5), replace(SCHEDULE, last=GraphSpec("allreduce@n3:n1")))
    phase = phase_at(plan, T)
    assert phase is not None and phase.nodes == plan.latest.schedule.last.positions(plan.latest.names)  # type: ignore[union-attr]
    assert phase.nodes != plan.latest.names
    for t in range(T, phase.end):
        ranks = {(phase.nodes.index(s), phase.nodes.index(r)) for s, r in plan.graph(t).edges}
        assert len({(r - s) % 5 for s, r in ranks}) == 1  # one hop, as `Allreduce` assumes


def test_other_last_phases_have_the_rounds_of_the_run() -> None:
    halving = a_plan(4, replace(SCHEDULE, last=GraphSpec("halving")))
    assert end_of(halving, 12) == 12
    assert latest_change(halving, 12) == 11
    assert transfer(halving, T, "n0") is None
    assert not is_inside(halving, T + 1)


def test_a_graph_of_the_run_sums_nothing_before_the_last_phase() -> None:
    plan = a_plan(4, Schedule((GraphSpec("allreduce"),), 1))
    assert all(transfer(plan, t, "n1") is None for t in range(20))


def test_members_of_the_first_round_of_the_phase_take_part() -> None:
    plan = a_plan(4)
    plan = plan.extend(plan.successor(T, members=members(5)))
    assert end_of(plan, 99) == T + 9
    first = transfer(plan, T, "n4")
    assert first is not None
    assert first.parts == 5


def test_eviction_before_the_phase_leaves_its_beginning() -> None:
    plan = without_last(a_plan(5), begun=T - 1, by_all=T - 2)
    assert plan.latest.start == plan.latest.schedule.last_from == T
    assert end_of(plan, 99) == T + 6


def test_eviction_within_the_phase_begins_it_again() -> None:
    plan = without_last(a_plan(5), begun=T + 7, by_all=T + 5)
    assert plan.latest.start == plan.latest.schedule.last_from == T + 8
    assert end_of(plan, 99) == T + 8 + 6
    before, again = transfer(plan, T + 7, "n0"), transfer(plan, T + 8, "n0")
    assert before is not None and (before.parts, before.begins) == (5, False)
    assert again is not None and (again.parts, again.begins) == (4, True)
    assert is_inside(plan, T + 8)  # x is what it was
    twice = without_last(plan, begun=T + 9, by_all=T + 8)
    assert twice.latest.schedule.last_from == T + 10
    assert end_of(twice, 99) == T + 10 + 6


def test_eviction_after_all_have_all_parts_changes_nothing() -> None:
    plan = without_last(a_plan(5), begun=T + 7, by_all=T + 6)
    assert (plan.latest.start, plan.latest.schedule.last_from) == (T + 9, T)
    assert end_of(plan, 99) == T + 9
    assert end_of(without_last(plan, begun=T + 9, by_all=T + 8), 99) == T + 9


def test_lone_survivor_is_at_its_end() -> None:
    plan = without_last(a_plan(2), begun=T, by_all=T)
    assert end_of(plan, 99) == plan.latest.start == T + 1


def test_run_that_resumes_from_its_end_is_over() -> None:
    plan = Plan((replace(a_plan(3).latest, start=T + 9, number=4),))
    assert end_of(plan, 99) == T + 9


def test_no_change_but_an_eviction_starts_within_the_phase() -> None:
    assert latest_change(a_plan(4), 99) == T


def test_controller_expects_the_rounds_of_restarts() -> None:
    assert most_rounds(ScheduleSpec((GraphSpec("a"),), last=GraphSpec("allreduce"), last_from=T), 16) > 16
    assert most_rounds(ScheduleSpec((GraphSpec("a"),)), 16) == 16
