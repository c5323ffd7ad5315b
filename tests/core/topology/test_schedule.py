"""Which graph each round uses, when that changes, and which schedules are refused."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.topology.graph import PRESETS, GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import Schedule, ScheduleSpec
from edgenode.core.topology.schedule_json import schedule_from_json, schedule_json
from edgenode.errors import GraphError

A, B, C = GraphSpec("a"), GraphSpec("b"), GraphSpec("c")
FOUR = ("0", "1", "2", "3")
MANY = tuple(f"n{i:04}" for i in range(1024))


def edge_spec(text: str) -> GraphSpec:
    return GraphSpec(text, tuple((pair[0], pair[1]) for pair in text.split()))


# --- from a spec


def test_spec_becomes_a_schedule_once_the_epoch_is_known() -> None:
    spec = ScheduleSpec((A, B), Period(6, "epochs"), last=C, last_from=90)
    assert spec.schedule(20) == Schedule((A, B), every=120, origin=0, last=C, last_from=90)
    assert ScheduleSpec((A, B), Period(6)).schedule(20) == Schedule((A, B), every=6)


def test_spec_changes_graphs_every_round_unless_given_a_period() -> None:
    assert ScheduleSpec((A, B)).schedule(20) == Schedule((A, B), every=1)


# --- the graph of a round


def test_graphs_rotate_with_their_period() -> None:
    schedule = Schedule((A, B, C), every=2)
    assert "".join(schedule.spec(t).name for t in range(9)) == "aabbccaab"


def test_rotation_counts_from_its_origin() -> None:
    schedule = Schedule((A, B, C), every=2, origin=5)
    assert "".join(schedule.spec(t).name for t in range(5, 14)) == "aabbccaab"


def test_last_graph_holds_from_its_round_on() -> None:
    schedule = Schedule((A, B), every=2, last=C, last_from=3)
    assert "".join(schedule.spec(t).name for t in range(7)) == "aabcccc"


def test_last_graph_from_round_zero_always_holds() -> None:
    assert Schedule((A,), every=1, last=C, last_from=0).spec(0) == C


def test_periodic_graph_starts_with_its_first_phase_at_origin() -> None:
    exponential = GraphSpec("one-peer-exponential")
    phases = exponential.period(FOUR)
    schedule = Schedule((exponential,), every=10, origin=3)
    assert [schedule.graph(t, FOUR) for t in (3, 4, 5)] == [phases[0], phases[1], phases[0]]


def test_periodic_last_graph_starts_with_its_first_phase() -> None:
    exponential = GraphSpec("one-peer-exponential")
    schedule = Schedule((A,), every=1, last=exponential, last_from=7)
    assert [schedule.graph(t, FOUR) for t in (7, 8)] == list(exponential.period(FOUR))


def test_next_switch_is_the_end_of_a_turn_or_the_last_graph() -> None:
    schedule = Schedule((A, B), every=5, origin=1, last=C, last_from=13)
    assert [schedule.next_switch(t) for t in (1, 5, 6, 11, 12, 13, 14)] == [6, 6, 11, 13, 13, None, None]


def test_schedule_of_one_graph_switches_at_most_once() -> None:
    assert Schedule((A,), every=5).next_switch(3) is None
    assert Schedule((A, A), every=5).next_switch(3) is None
    assert Schedule((A,), every=5, last=C, last_from=9).next_switch(3) == 9


@given(st.integers(1, 4), st.integers(0, 5), st.integers(0, 20), st.integers(0, 20))
def test_next_switch_is_where_the_named_graph_changes(every: int, origin: int, last_from: int, ahead: int) -> None:
    schedule = Schedule((A, B, C), every, origin, GraphSpec("complete"), last_from)
    t = origin + ahead
    changes = [r for r in range(t + 1, t + 40) if schedule.spec(r) != schedule.spec(r - 1)]
    assert schedule.next_switch(t) == (changes[0] if changes else None)


def test_schedule_needs_a_graph_and_a_turn_of_one_round() -> None:
    with pytest.raises(GraphError, match="at least one graph"):
        Schedule((), every=1)
    with pytest.raises(GraphError, match="not 0"):
        Schedule((A,), every=0)


def test_rotation_must_be_connected_only_as_a_whole() -> None:
    Schedule((edge_spec("01 12"), edge_spec("20")), every=3).check(("0", "1", "2"))
    with pytest.raises(GraphError, match=r"01 12\+21 is not strongly connected: no path 1->0, 2->0"):
        Schedule((edge_spec("01 12"), edge_spec("21")), every=3).check(("0", "1", "2"))


def test_last_graph_must_be_connected_on_its_own() -> None:
    Schedule((A,), every=1, last=C, last_from=5).check(FOUR)
    with pytest.raises(GraphError, match="01 is not strongly connected: no path 1->0"):
        Schedule((A,), every=1, last=edge_spec("01"), last_from=5).check(("0", "1"))


def test_last_graph_does_not_repair_a_rotation() -> None:
    with pytest.raises(GraphError, match="01 is not strongly connected"):
        Schedule((edge_spec("01"),), every=1, last=A, last_from=0).check(("0", "1"))


@pytest.mark.parametrize("every", [1, 10**6, 10**30])
def test_long_turn_is_checked_at_once(every: int) -> None:
    Schedule((edge_spec("01"), edge_spec("10")), every).check(("0", "1"))
    with pytest.raises(GraphError):
        Schedule((edge_spec("01"), edge_spec("01")), every).check(("0", "1"))


@given(st.integers(1, 7), st.lists(st.sampled_from(["01", "one-peer-exponential"]), min_size=1, max_size=3))
def test_schedule_is_refused_exactly_if_its_union_is_unconnected(every: int, names: list[str]) -> None:
    """Against brute force. A turn shorter than a period may meet the same phases for ever: here, hops of 2 only."""
    members = ("0", "1", "2", "3")
    schedule = Schedule(tuple(GraphSpec(n) if n in PRESETS else edge_spec(n) for n in names), every, origin=1)
    union = schedule.graph(1, members)
    for t in range(1, 1 + 2 * every * len(names)):
        union = union.union(schedule.graph(t, members))
    if union.unreachable_pairs():
        with pytest.raises(GraphError, match="not strongly connected"):
            schedule.check(members)
    else:
        schedule.check(members)


# --- exchanges of which the number of rounds stays


@pytest.mark.parametrize(("n", "idle"), [(1, 2), (2, 2), (3, 1), (4, 1), (5, 0), (8, 0)])
def test_period_follows_after_rounds_without_edges(n: int, idle: int) -> None:
    members = MANY[:n]
    whole = Schedule((GraphSpec("doubling"),), 1, exchange=3)
    whole.check(members)
    graphs = [whole.graph(t, members) for t in range(6)]
    assert [graph.edges for graph in graphs[:idle]] == [frozenset()] * idle
    assert graphs[idle:3] == list(GraphSpec("doubling").period(members)[: 3 - idle])
    assert graphs[3:] == graphs[:3]


def test_period_that_is_longer_than_an_exchange_is_refused() -> None:
    schedule = Schedule((GraphSpec("doubling"),), 1, exchange=2)
    schedule.check(FOUR)
    with pytest.raises(GraphError, match="doubling takes 3 rounds with 5 nodes, and an exchange of this run has 2"):
        schedule.check((*FOUR, "4"))


def test_exchange_stays_in_the_record_of_the_schedule() -> None:
    schedule = Schedule((GraphSpec("doubling"),), 1, exchange=3)
    assert schedule_from_json(json.loads(json.dumps(schedule_json(schedule)))) == schedule
    assert "exchange" not in schedule_json(Schedule((A,), 1))


@pytest.mark.parametrize("exchange", [-1, 65])
def test_exchange_of_so_many_rounds_is_refused(exchange: int) -> None:
    with pytest.raises(GraphError, match=f"an exchange of {exchange} rounds: at most 64 are allowed"):
        Schedule((A,), 1, exchange=exchange)


# --- what a peer can make a node expand -------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "complete"])
def test_presets_carry_a_thousand_nodes(name: str) -> None:
    Schedule((GraphSpec(name),), 1).check(MANY)


def test_complete_graph_has_a_limit_before_it_is_built() -> None:
    Schedule((GraphSpec("complete"),), 1).check(MANY[:180])
    with pytest.raises(GraphError, match="graph complete over 1024 nodes has 1047552 edges: at most 32768"):
        Schedule((GraphSpec("complete"),), 1).check(MANY)


def test_graphs_are_too_large_together() -> None:
    names = [name for name in PRESETS if name != "complete"]
    with pytest.raises(GraphError, match=r"the graphs over 1024 nodes are too large: \d+ edges and nodes"):
        Schedule(tuple(map(GraphSpec, names)), 1).check(MANY)
    with pytest.raises(GraphError, match="a schedule of 65 graphs: at most 64"):
        Schedule((GraphSpec("a"),) * 65, 1)


def test_widest_schedule_is_checked_in_little_time() -> None:
    schedule = Schedule((GraphSpec("one-peer-exponential"),) * 64, 1 << 40)
    started = time.process_time()
    schedule.check(MANY)
    assert time.process_time() - started < 1  # 25 to 50 ms on a quiet core
