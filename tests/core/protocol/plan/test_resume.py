"""What a stopped run resumes from."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.plan.resume import restore_plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError

A, B, C = GraphSpec("a"), GraphSpec("b"), GraphSpec("c")
FOUR = ("0", "1", "2", "3")


def nodes(*names: str) -> tuple[Member, ...]:
    return tuple(Member(name) for name in names)


def a_plan(*names: str, schedule: Schedule | None = None) -> Plan:
    return create_plan("home", nodes(*(names or FOUR)), schedule or Schedule((A,), every=1))


def offers(plan: Plan, **rounds: set[int]) -> dict[str, tuple[frozenset[int], Plan]]:
    return {node: (frozenset(saved), plan) for node, saved in rounds.items()}


def test_cluster_resumes_from_the_newest_common_round() -> None:
    plan = a_plan("x", "y")
    back = (Member("y", 0, "host:2"), Member("x", 0, "host:1"))
    resumed, start = restore_plan(plan, back, offers(plan, x={10, 20, 30}, y={20, 10}))
    assert start == 20
    (record,) = resumed.records
    assert (record.number, record.parent, record.start) == (1, plan.latest.digest, 20)
    assert record.members == (Member("x", 0, "host:1"), Member("y", 0, "host:2"))
    assert record.schedule == plan.latest.schedule


def test_resumed_plan_keeps_the_schedule_and_counts_on() -> None:
    old = a_plan("x", "y")
    new = old.extend(old.successor(25, schedule=Schedule((B,), 1), end=40))
    resumed, start = restore_plan(new, nodes("x", "y"), offers(old, x={20}, y={20, 30}))
    assert (start, resumed.latest.schedule, resumed.latest.end) == (20, old.latest.schedule, None)
    assert (resumed.latest.number, resumed.latest.parent) == (2, new.latest.digest)


def test_without_a_common_round_the_error_lists_all_rounds() -> None:
    with pytest.raises(GraphError, match=r"x has \[10\]; y has \[20\]"):
        restore_plan(a_plan("x", "y"), nodes("x", "y"), offers(a_plan("x", "y"), x={10}, y={20}))


@pytest.mark.parametrize("names", [["x"], ["x", "y", "z"], ["x", "z"]])
def test_checkpoints_of_other_members_are_refused(names: list[str]) -> None:
    with pytest.raises(GraphError, match="the checkpoints are of x, y, not of"):
        restore_plan(a_plan("x", "y"), nodes(*names), offers(a_plan("x", "y"), **{name: {10} for name in names}))


def test_member_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(GraphError, match="the checkpoints are of x, y"):
        restore_plan(a_plan("x", "y"), nodes("x", "y", "z"), offers(a_plan("x", "y"), x={10}, y={10}))


def test_half_of_the_members_may_be_enough_to_resume() -> None:
    plan = a_plan("w", "x", "y", "z")
    resumed, start = restore_plan(
        plan, nodes("w", "x", "y", "z"), offers(plan, x={10, 20}, y={10, 20}, z={10}), least=1
    )
    assert (start, resumed.latest.names) == (10, ("x", "y", "z"))
    with pytest.raises(GraphError, match=r"w has none; x has \[10\]; y has none"):
        restore_plan(plan, nodes("w", "x", "y", "z"), offers(plan, x={10}), least=1)
    with pytest.raises(GraphError, match="enough members"):
        restore_plan(plan, nodes("w", "x", "y", "z"), offers(plan, x={10}, y={10}), least=3)


def test_checkpoints_after_the_last_round_do_not_count() -> None:
    plan = a_plan("x", "y")
    plan = plan.extend(plan.successor(25, members=nodes("x"), evictions=(("y", 19),)))
    assert restore_plan(plan, nodes("x", "y"), offers(plan, x={10, 20}, y={10, 20}), least=1)[1] == 10
    assert restore_plan(plan, nodes("x", "y"), offers(plan, x={10, 19}, y={10, 19}), least=1)[1] == 19


def test_checkpoints_from_before_a_resume_do_not_count() -> None:
    """One node had saved 20, the other had not. Both resumed from 10, and one died before it could remove its 20."""
    old = a_plan("x", "y")
    new, _ = restore_plan(old, nodes("x", "y"), offers(old, x={10, 20}, y={10}))
    again = {"x": (frozenset({10, 20}), old), "y": (frozenset({10, 20}), new)}
    assert restore_plan(new, nodes("x", "y"), again)[1] == 10
