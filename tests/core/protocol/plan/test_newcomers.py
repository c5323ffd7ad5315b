"""What a node that joins a run of exchanges believes, and what it brings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.plan.newcomers import is_confirmed, is_unsent, members_before
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule

SCHEDULE = Schedule((GraphSpec("complete"),), every=1)


def members(*names: str) -> tuple[Member, ...]:
    return tuple(Member(name) for name in sorted(names))


def joined(plan: Plan, start: int, *new: Member) -> Plan:
    return plan.extend(plan.successor(start, members=tuple(sorted([*plan.latest.members, *new]))))


def resumed(plan: Plan, start: int, *names: str) -> Plan:
    """Only these members resume."""
    number, parent = plan.latest.number + 1, plan.latest.digest
    renewed = tuple(Member(name, plan.processes.next_incarnation(name)) for name in sorted(names))
    return Plan((replace(plan.latest, number=number, parent=parent, start=start, members=renewed),))


def test_those_that_join_together_know_no_more_than_each_other() -> None:
    plan = joined(create_plan("home", members("a", "b"), SCHEDULE), 10, *members("c", "d"))
    assert members_before(plan, 10) == ("a", "b")
    later = joined(plan, 20, Member("e"))
    assert members_before(later, 20) == ("a", "b", "c", "d")
    assert members_before(later, 10) == ("a", "b")


def test_member_that_comes_back_is_a_newcomer() -> None:
    plan = resumed(create_plan("home", members("a", "b", "c"), SCHEDULE), 10, "a", "b")
    back = joined(plan, 14, Member("c", 1))
    assert members_before(back, 14) == ("a", "b")
    assert members_before(back, 15) == ("a", "b", "c")


@pytest.mark.parametrize(("alike", "of", "is_true"), [(1, 1, True), (1, 2, False), (2, 2, True), (1, 3, False),
                                                      (2, 3, True), (2, 4, False), (3, 4, True)])  # fmt: skip
def test_copy_is_believed_if_most_have_it(alike: int, of: int, is_true: bool) -> None:
    assert is_confirmed(alike, of) is is_true


def test_what_was_not_sent_counts_once_the_others_have_resumed_without_it() -> None:
    before = create_plan("home", members("a", "b", "c"), SCHEDULE)
    plan = joined(resumed(before, 40, "a", "b"), 46, Member("c", 1))
    assert is_unsent("c", 40, before, plan)
    assert not is_unsent("c", 20, before, plan), "it sent that in the exchanges of 20 to 40"
    assert not is_unsent("a", 40, before, plan), "it has resumed from there, and sent it"


def test_what_was_not_sent_counts_no_more_after_another_resume() -> None:
    """It may have joined and sent it in between."""
    before = create_plan("home", members("a", "b", "c"), SCHEDULE)
    plan = joined(resumed(resumed(before, 40, "a", "b"), 40, "a", "b"), 46, Member("c", 1))
    assert not is_unsent("c", 40, before, plan)
