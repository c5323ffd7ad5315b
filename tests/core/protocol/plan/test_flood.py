"""How far the pushes of a plan carry a record, and which pushes a begun round needs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.protocol.plan.flood import must_have_mixed, must_have_pushed, reach
from edgenode.core.protocol.plan.lag import Lag
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule

A, B, C = GraphSpec("a"), GraphSpec("b"), GraphSpec("c")
FOUR = ("0", "1", "2", "3")


def nodes(*names: str) -> tuple[Member, ...]:
    return tuple(Member(name) for name in names)


def a_plan(*names: str, schedule: Schedule | None = None) -> Plan:
    return create_plan("home", nodes(*(names or FOUR)), schedule or Schedule((A,), every=1))


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


# --- backwards --------------------------------------------------------------------------------------


def newest_needed(plan: Plan, node: str, t: int, other: str) -> int:
    """Brute force: the newest round whose push of ``other`` round t of ``node`` needs; -1 for none."""
    if t == 0:
        return -1
    senders = plan.graph(t - 1).in_neighbours(node)
    if other in senders:
        return t - 1
    return max(newest_needed(plan, sender, t - 1, other) for sender in (node, *senders))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "chord", "one-peer-exponential", "complete"]), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(2, 5),
    st.integers(0, 7),
    st.integers(1, 9),
)
def test_begun_round_proves_the_pushes_that_it_needs(names: list[str], every: int, n: int, t: int, since: int) -> None:
    members = tuple(f"n{i}" for i in range(n))
    plan = a_plan(*members, schedule=Schedule(tuple(map(GraphSpec, names)), every))
    newest = newest_needed(plan, "n1", t, "n0")
    assert must_have_pushed(plan, "n1", t, "n0", since) == (newest >= since)


def test_far_round_is_judged_in_a_few_steps() -> None:
    assert must_have_pushed(a_plan("x", "y", "z"), "x", 1 << 40, "y", 5)


def test_evicted_process_proves_nothing() -> None:
    plan = a_plan("x", "y", "z")  # x -> y -> z -> x
    assert must_have_pushed(plan, "x", 8, "y", 6)
    assert not must_have_pushed(plan, "x", 8, "y", 7)
    without = plan.extend(plan.successor(9, members=nodes("x", "y"), evictions=(("z", 3),)))
    assert not must_have_pushed(without, "x", 8, "y", 0)  # x needs none of the evicted, and so nothing of y
    assert must_have_pushed(without, "x", 11, "y", 10)
    again = without.extend(without.successor(12, members=(*nodes("x", "y"), Member("z", 1))))
    assert not must_have_pushed(again, "z", 12, "x", 0)  # it was no member before
    assert must_have_pushed(again, "z", 13, "y", 12)


def test_evicted_processes_prove_what_they_needed() -> None:
    plan = a_plan(*"wxyz")  # w -> x -> y -> z -> w
    assert must_have_mixed(plan, {"y": 9, "x": 2, "w": 1}) == {"y": 9, "x": 8, "w": 7}
    assert must_have_mixed(plan, {"x": 9, "z": 5}) == {"x": 9, "z": 5}  # w between them survives, and has evidence
    without = plan.extend(plan.successor(10, members=nodes("w", "x", "z"), evictions=(("y", 9),)))
    assert must_have_mixed(without, {"x": 2}) == {"x": 8}
    again = without.extend(without.successor(20, members=(*nodes("w", "x"), Member("y", 1), Member("z"))))
    assert must_have_mixed(again, {"y": 19, "x": 2}) == {"y": 19, "x": 8}  # not of the process that came again
    assert must_have_mixed(again, {"y": 25, "x": 2}) == {"y": 25, "x": 24}
    assert must_have_mixed(plan, {"y": 9, "x": 2}, Lag(overlap=2)) == {"y": 9, "x": 6}


# --- with an overlap ----------------------------------------------------------------------------------


def test_hop_takes_one_more_round_for_each_of_the_overlap() -> None:
    plan = a_plan(*"abcd")
    assert [reach(plan, "a", 5, overlap) for overlap in range(4)] == [3, 6, 9, 12]


@settings(deadline=None)
@given(st.sampled_from(["a", "chord", "one-peer-exponential"]), st.integers(0, 3), st.integers(2, 5))
def test_flood_is_as_fast_as_rounds_are_mixed(name: str, overlap: int, n: int) -> None:
    """Against a simulation in which every node mixes as late as it may."""
    members = tuple(f"n{i}" for i in range(n))
    plan = a_plan(*members, schedule=Schedule((GraphSpec(name),), 1))
    knows = {members[0]: 3}  # node -> the first round that it begins with the record
    for t in range(3, 60):
        for sender, receiver in plan.graph(t).edges:
            if knows.get(sender, 99) <= t:
                knows[receiver] = min(knows.get(receiver, 99), t + overlap + 1)
    assert reach(plan, members[0], 3, overlap) == max(knows.values()) - 3


def test_node_may_lead_by_the_overlap_at_every_hop() -> None:
    """On a ring 0 -> 1 -> 2 -> 3: a node that has mixed round 9 needs round 9 of 2, 7 of 1 and 5 of 0."""
    plan, lag = a_plan(), Lag(1)
    for node, pushed in (("2", 9), ("1", 7), ("0", 5)):
        assert must_have_pushed(plan, "3", 10, node, pushed, lag)
        assert not must_have_pushed(plan, "3", 10, node, pushed + 1, lag)
    assert must_have_pushed(plan, "3", 10, "0", 7)  # in lock-step
