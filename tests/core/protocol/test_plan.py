"""The chain of records, the reach of a flood, and what a stopped run resumes from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.protocol.plan import Member, Plan, create_plan, reach, restore_plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError, RemoteProtocolError

A, B, C = GraphSpec("a"), GraphSpec("b"), GraphSpec("c")
FOUR = ("0", "1", "2", "3")


def nodes(*names: str) -> tuple[Member, ...]:
    return tuple(Member(name) for name in names)


def a_plan(*names: str, schedule: Schedule | None = None) -> Plan:
    return create_plan("home", nodes(*(names or FOUR)), schedule or Schedule((A,), every=1))


def edge_spec(text: str) -> GraphSpec:
    return GraphSpec(text, tuple((pair[0], pair[1]) for pair in text.split()))


# --- the chain --------------------------------------------------------------------------------------


def test_since_keeps_the_record_in_force_and_what_follows() -> None:
    plan = a_plan("n0", "n1")
    for start in (10, 20, 30):
        plan = plan.extend(plan.successor(start))
    left = [[record.start for record in plan.since(t).records] for t in (0, 9, 10, 25, 30, 99)]
    assert left == [[0, 10, 20, 30], [0, 10, 20, 30], [10, 20, 30], [20, 30], [30], [30]]
    resumed = Plan((replace(plan.latest, number=9),))
    assert resumed.since(0) == resumed


def test_record_in_force_is_the_newest_that_has_started() -> None:
    plan = a_plan()
    plan = plan.extend(plan.successor(5, schedule=Schedule((B,), 1)))
    plan = plan.extend(plan.successor(9, schedule=Schedule((C,), 1)))
    assert [plan.at(t).number for t in (0, 4, 5, 8, 9, 99)] == [0, 0, 1, 1, 2, 2]
    assert [plan.graph(t).out_neighbours("0") for t in (4, 5, 9)] == [("1",), ("3",), ("2",)]
    assert plan.latest.number == 2


def test_oldest_record_counts_for_all_rounds_before_it() -> None:
    record = a_plan().successor(11)
    assert Plan((record,)).at(0) == record


def test_record_follows_only_its_parent() -> None:
    plan = a_plan()
    good = plan.successor(5)
    assert plan.extend(good).records == (plan.latest, good)
    bad = [
        replace(good, number=2),
        replace(good, number=0),
        replace(good, parent="f00d"),
        replace(good, cluster="away"),
        replace(good, start=0),
    ]
    for record in bad:
        with pytest.raises(RemoteProtocolError):
            plan.extend(record)
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        plan.extend(good).extend(good)


def test_create_plan_sorts_the_members() -> None:
    plan = create_plan("home", nodes("b", "a"), Schedule((A,), 1))
    assert (plan.latest.names, plan.latest.number, plan.latest.start) == (("a", "b"), 0, 0)


# --- reach ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "chord", "one-peer-exponential", "complete"]), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(2, 7),
    st.integers(0, 12),
    st.integers(1, 20),
)
def test_reach_is_how_long_a_flood_takes(names: list[str], every: int, n: int, first: int, change: int) -> None:
    """Against brute force: every path of pushes, across a change of plan."""
    members = tuple(f"n{i}" for i in range(n))
    plan = a_plan(*members, schedule=Schedule(tuple(map(GraphSpec, names)), every))
    plan = plan.extend(plan.successor(change, schedule=Schedule((C,), 1, origin=change)))

    def holds(node: str, rounds: int) -> bool:
        """Whether the record is at a node after so many rounds."""
        if rounds == 0:
            return node == members[0]
        senders = plan.graph(first + rounds - 1).in_neighbours(node)
        return any(holds(sender, rounds - 1) for sender in (node, *senders))

    needed = reach(plan, members[0], first)
    assert all(holds(node, needed) for node in members)
    assert not all(holds(node, needed - 1) for node in members)


def test_reach_of_a_single_node_is_zero() -> None:
    assert reach(a_plan("0"), "0", 7) == 0


def test_reach_on_a_ring_counts_all_other_nodes() -> None:
    assert reach(a_plan(*"abcdefgh"), "c", 5) == 7


def test_first_eviction_after_a_round_applies_to_it() -> None:
    """A regression: the second eviction of a name hid the first, and what was pushed to the first process was lost."""
    plan = a_plan("x", "y")
    for start, members, evictions in ((5, "x", (("y", 3),)), (9, "xy", ()), (12, "x", (("y", 10),))):
        named = tuple(Member(n, int(n == "y" and start > 5)) for n in members)
        plan = plan.extend(plan.successor(start, members=named, evictions=evictions))
    assert [plan.evicted_later(t) for t in (4, 8, 12)] == [{"y": 3}, {"y": 10}, {}]


# --- resume -----------------------------------------------------------------------------------------


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
