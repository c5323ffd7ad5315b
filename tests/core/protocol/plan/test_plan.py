"""The chain of records: which one counts in a round, and what can follow it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Epoch
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError

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


def test_eviction_supersedes_a_change_of_the_same_number() -> None:
    begun = a_plan("n0", "n1", "n2")
    changed = begun.extend(begun.successor(5, schedule=Schedule((B,), 1)))
    evicted = begun.extend(begun.successor(4, members=nodes("n0", "n1"), evictions=(("n2", 3),)))
    later = evicted.extend(evicted.successor(9))
    chains = [begun, changed, evicted, later]
    assert [[one.supersedes(other) for other in chains] for one in chains] == [
        [False, False, False, False],
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
    ]
    assert later.news(changed) == later.records[1:]
    assert later.news(evicted) == later.records[2:]
    assert begun.news(later) == later.news(later) == ()


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


def test_first_eviction_after_a_round_applies_to_it() -> None:
    """A regression: the second eviction of a name hid the first, and what was pushed to the first process was lost."""
    plan = a_plan("x", "y")
    for start, members, evictions in ((5, "x", (("y", 3),)), (9, "xy", ()), (12, "x", (("y", 10),))):
        named = tuple(Member(n, int(n == "y" and start > 5)) for n in members)
        plan = plan.extend(plan.successor(start, members=named, evictions=evictions))
    assert [plan.evicted_later(t) for t in (4, 8, 12)] == [{"y": 3}, {"y": 10}, {}]


# --- what can follow a record -----------------------------------------------------------------------

TRIO = a_plan("x", "y", "z")
STAYS = nodes("x", "y")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"handoffs": (("z", "nobody"),), "members": STAYS}, "hands over between nodes that are not members"),
        ({"handoffs": (("nobody", "x"),)}, "hands over between nodes that are not members"),
        ({"handoffs": (("z", "z"),), "members": STAYS}, "hands over between nodes that are not members"),
        ({"handoffs": (("z", "x"), ("z", "y")), "members": STAYS}, "removes a member twice"),
        ({"evictions": (("z", 3), ("z", 4)), "members": STAYS}, "removes a member twice"),
        ({"evictions": (("nobody", 3),)}, "evicts what was not a member"),
        ({"evictions": (("z", 9),), "members": STAYS}, "evicts what was not a member, or rounds that are to come"),
        ({"evictions": (("z", -2),), "members": STAYS}, "evicts what was not a member, or rounds that are to come"),
        ({"members": STAYS}, "drops a member, or admits a process of the past"),
        ({"members": (*STAYS, Member("z", 3))}, "changes the incarnation of a member"),
        ({"evictions": (("z", 3),)}, "drops a member, or admits a process of the past"),
        ({"term": 1}, "takes back the term or the end"),
        ({"end": None}, "takes back the term or the end"),
        ({"end": 8}, "takes back the term or the end"),
        ({"epoch": Epoch(9, 9)}, "is of another run"),
    ],
)
def test_record_that_contradicts_its_parent_is_refused(changes: dict[str, Any], text: str) -> None:
    plan = TRIO.extend(TRIO.successor(5, term=2, end=5))
    with pytest.raises(RemoteProtocolError, match=f"record 2 {text}"):
        plan.extend(plan.successor(9, **changes))


def test_members_change_by_name() -> None:
    left = TRIO.extend(TRIO.successor(9, members=STAYS, handoffs=(("z", "x"),), evictions=()))
    evicted = left.extend(left.successor(12, evictions=(("z", 7),)))  # it had left, and nobody has its last answer
    back = evicted.extend(evicted.successor(15, members=(*STAYS, Member("z", 1))))
    assert back.latest.incarnations == {"x": 0, "y": 0, "z": 1}
    with pytest.raises(RemoteProtocolError, match="admits a process of the past"):
        evicted.extend(evicted.successor(15, members=(*STAYS, Member("z", 0))))
