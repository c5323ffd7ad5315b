"""Which nodes are involved in a run, which can be evicted, and which are waited for."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.controller.membership import Membership
from edgenode.core.protocol.orders import FenceAnswer, Join
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import Schedule

PLAN = create_plan("lab", [Member(f"n{i}") for i in range(3)], Schedule((GraphSpec("a"),), 1))
WITHOUT_N2 = PLAN.extend(PLAN.successor(8, members=PLAN.latest.members[:2], handoffs=(("n2", "n0"),)))
FAREWELL = FenceAnswer(0, 0, 99, (), PLAN.records)


def join(node: str, process: str = "first") -> Join:
    return Join(f"{node}:1", "digest", DataSize(1, 1), process=process)


def running(plan: Plan = PLAN, start: int = 0) -> Membership:
    """All members of a plan are connected, and have been welcomed."""
    membership = Membership(present={name: join(name) for name in plan.latest.names})
    membership.begin(plan, start)
    return membership


def test_begin_turns_newcomers_into_members_and_resets_the_rest() -> None:
    membership = Membership(present={name: join(name) for name in ("n0", "n1", "n2", "x")})
    membership.newcomers = dict(membership.present)
    membership.next_rounds, membership.given_up, membership.farewells = {"n9": 40}, {"n1"}, {"n2": FAREWELL}
    membership.begin(PLAN, 20)
    assert set(membership.newcomers) == {"x"}
    assert membership.next_rounds == {"n0": 20, "n1": 20, "n2": 20}
    assert membership.known == dict.fromkeys(PLAN.latest.names, PLAN.latest.number)
    assert membership.welcomed == dict.fromkeys(PLAN.latest.names, (20, "first"))
    assert (membership.given_up, membership.farewells) == (set(), {})


@pytest.mark.parametrize(("waiting", "admitted"), [("first", True), ("second", False), (None, False)])
def test_only_the_process_that_waits_is_admitted(waiting: str | None, admitted: bool) -> None:
    membership = running()
    if waiting:
        membership.newcomers["x"] = join("x", waiting)
        membership.sponsored.add("x")
    assert membership.is_waiting("x", "first") is admitted
    record = PLAN.successor(12)
    assert membership.admit("x", "first", record) is admitted
    assert (membership.next_rounds["x"], membership.known["x"]) == (12, record.number)
    assert membership.welcomed["x"] == (12, "first")
    assert ("x" in membership.newcomers) is ("x" in membership.sponsored) is (waiting == "second")


def test_disconnected_newcomer_has_to_be_sponsored_again() -> None:
    membership = running()
    membership.present["x"] = membership.newcomers["x"] = join("x")
    membership.sponsored.add("x")
    membership.disconnect("x")
    membership.disconnect("x")
    assert set(membership.present) == {"n0", "n1", "n2"}
    assert (membership.newcomers, membership.sponsored) == ({}, set())


def test_evicted_node_is_not_welcomed_again() -> None:
    membership = running()
    membership.farewells["n1"] = FAREWELL
    membership.forget("n1")
    membership.forget("n1")
    assert set(membership.welcomed) == {"n0", "n2"}
    assert membership.farewells == {}


def test_only_connected_members_that_have_not_ended_take_part() -> None:
    membership = running()
    membership.present["x"] = membership.newcomers["x"] = join("x")
    membership.farewells["n1"] = FAREWELL
    membership.disconnect("n2")
    assert [n for n in ("n0", "n1", "n2", "x", "n9") if membership.takes_part(n)] == ["n0"]


def test_leaver_is_involved_until_its_leave_is_in_force() -> None:
    membership = running()
    assert membership.involved(WITHOUT_N2) == {"n0", "n1", "n2"}
    membership.next_rounds["n2"] = 7
    assert membership.involved(WITHOUT_N2) == {"n0", "n1", "n2"}
    membership.next_rounds["n2"] = 8
    assert membership.involved(WITHOUT_N2) == {"n0", "n1"}


def test_leaver_that_is_done_can_be_evicted_once() -> None:
    membership = running()
    membership.next_rounds["n2"] = 8
    assert membership.evictable(WITHOUT_N2) == {"n0", "n1", "n2"}
    evicted = WITHOUT_N2.extend(WITHOUT_N2.successor(12, evictions=(("n2", 7),)))
    assert membership.evictable(evicted) == {"n0", "n1"}


def test_leaver_that_comes_back_can_leave_again() -> None:
    back = WITHOUT_N2.extend(WITHOUT_N2.successor(12, members=(*WITHOUT_N2.latest.members, Member("n2", 1))))
    again = back.extend(back.successor(20, members=PLAN.latest.members[:2], handoffs=(("n2", "n1"),)))
    membership = running()
    membership.next_rounds["n2"] = 19
    assert membership.involved(again) == {"n0", "n1", "n2"}
    membership.next_rounds["n2"] = 20
    assert membership.involved(again) == {"n0", "n1"}


def test_farewell_takes_a_node_out_of_the_run() -> None:
    membership = running()
    membership.farewells |= {"n0": FAREWELL, "n2": FAREWELL}
    assert membership.running(PLAN) == {"n1"}
    assert membership.anyone_runs(PLAN)
    membership.disconnect("n1")
    assert not membership.anyone_runs(PLAN)


def test_missing_members_are_waited_for_only_if_no_node_runs() -> None:
    membership = running()
    membership.disconnect("n0")
    assert membership.waited_for(PLAN) == frozenset()
    membership.disconnect("n1")
    membership.disconnect("n2")
    assert membership.waited_for(PLAN) == {"n0", "n1", "n2"}
    membership.present["n1"] = membership.newcomers["n1"] = join("n1", "second")
    membership.given_up.add("n2")
    assert membership.waited_for(PLAN) == {"n0"}
    membership.farewells["n0"] = FAREWELL
    assert membership.waited_for(PLAN) == frozenset()


def test_record_is_settled_once_every_member_is_in_its_rounds() -> None:
    membership = running()
    plan = PLAN.extend(PLAN.successor(5))
    assert membership.is_settled(PLAN)
    membership.known = dict.fromkeys(plan.latest.names, plan.latest.number)
    membership.next_rounds |= {"n0": 5, "n1": 9, "n2": 4}
    assert not membership.is_settled(plan)
    membership.next_rounds["n2"] = 5
    assert membership.is_settled(plan)
    membership.known["n1"] = PLAN.latest.number  # a fence holds it at round 5, and it does not know why yet
    assert not membership.is_settled(plan)
    membership.known["n1"] = plan.latest.number
    del membership.next_rounds["n1"]
    assert not membership.is_settled(plan)
    assert not membership.has_reports_of_all(plan)
    membership.next_rounds["n1"] = 0
    assert membership.has_reports_of_all(plan)
