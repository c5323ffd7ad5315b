"""A requested schedule over other members: kept, kept in part, or replaced, and the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm.d2 import D2
from edgenode.core.topology.adaptation import Adapted, adapt
from edgenode.core.topology.graph import PRESETS, GraphSpec, Preset
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError

ANY = Requirements()
EXCHANGES = Requirements("diloco", fixed=True, spans_period=True)


def mine(edges: str, name: str = "mine") -> GraphSpec:
    """An edge list: "01 12" is 0->1, 1->2."""
    return GraphSpec(name, tuple((pair[0], pair[1]) for pair in edges.split()))


EXCHANGES = Requirements("diloco", fixed=True, spans_period=True)


def test_list_of_edges_over_all_members_is_used_as_requested() -> None:
    requested = Schedule((mine("01 12 20"),), every=1)
    assert adapt(requested, ("0", "1", "2"), ANY) == Adapted(requested)


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_fits_any_members(preset: str) -> None:
    requested, of = Schedule((GraphSpec(preset),), every=1), EXCHANGES if preset == "doubling" else ANY
    for n in range(1, 9):
        assert adapt(requested, tuple(map(str, range(n))), of) == Adapted(requested)


def test_connected_rest_of_a_list_is_used_without_the_absent() -> None:
    requested = Schedule((mine("01 12 20 23 30"),), every=2, origin=7)
    adapted = adapt(requested, ("0", "1", "2"), ANY)
    assert adapted.schedule == Schedule((mine("01 12 20"),), every=2, origin=7)
    assert adapted.difference == "graph mine is used without the edges of 3"


def test_unconnected_rest_is_replaced_by_a_ring_with_the_reason() -> None:
    requested = Schedule((mine("01 12 23 30"),), every=5, origin=7, last=GraphSpec("complete"), last_from=90)
    adapted = adapt(requested, ("0", "1", "2"), ANY)
    assert adapted.schedule == Schedule((GraphSpec("a"),), 1, 7, GraphSpec("complete"), 90)
    assert adapted.difference == (
        "graph a is used instead of mine: without 3, mine is not strongly connected: no path 1->0, 2->0, 2->1"
    )


def test_newcomer_that_a_list_does_not_name_gets_a_ring() -> None:
    adapted = adapt(Schedule((mine("01 10"),), every=1), ("0", "1", "9"), ANY)
    assert adapted.schedule.graphs == (GraphSpec("a"),)
    assert adapted.difference == "graph a is used instead of mine: mine has no edge of 9"


def test_rotation_is_kept_while_its_union_is_connected() -> None:
    parts = mine("01 12 34", "x"), mine("20 23 40 41", "y")
    kept = adapt(Schedule(parts, every=3), ("0", "1", "2"), ANY)
    assert kept.schedule.graphs == (mine("01 12", "x"), mine("20", "y"))
    assert kept.difference == "graph x+y is used without the edges of 3, 4"
    assert adapt(Schedule(parts, every=3), ("0", "2", "4"), ANY).schedule.graphs == (GraphSpec("a"),)


def test_rest_must_meet_the_requirements_of_the_algorithm() -> None:
    """A regression: evictions let d-psgd run on an unbalanced graph, and d2 diverge on a ring."""
    requested = Schedule((mine("01 12 20 03 30 13 31 23 32"),), every=1)
    without_1 = ("0", "2", "3")
    assert adapt(requested, without_1, ANY).schedule.graphs == (mine("20 03 30 23 32"),)
    balanced = adapt(requested, without_1, Requirements("d-psgd", doubly_stochastic=True))
    assert balanced.schedule.graphs == (GraphSpec("a"),)
    assert "without 1, d-psgd cannot use mine: its weights are not doubly stochastic" in balanced.difference
    stable = Requirements("d2", doubly_stochastic=True, averaging_rate=0.5, check_graph=D2.check_graph)
    assert adapt(requested, without_1, stable).schedule.graphs == (GraphSpec("two-way"),)
    assert adapt(requested, ("0", "1", "2", "3"), stable).schedule.graphs == (GraphSpec("two-way"),)


def test_preset_that_does_not_fit_the_number_of_members_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(n: int) -> list[list[tuple[int, int]]]:
        if n % 2:
            raise GraphError("pairs needs an even number of nodes")
        return [[(i, i ^ 1) for i in range(n)], [(i, (i + 1) % n) for i in range(n)]]

    monkeypatch.setitem(PRESETS, "pairs", Preset(pairs, "of a test"))
    requested = Schedule((GraphSpec("pairs"),), every=1)
    assert adapt(requested, ("0", "1", "2", "3"), ANY) == Adapted(requested)
    adapted = adapt(requested, ("0", "1", "2"), ANY)
    assert adapted.schedule.graphs == (GraphSpec("a"),)
    assert adapted.difference == "graph a is used instead of pairs: pairs needs an even number of nodes"
    gossip = Schedule((GraphSpec("b"),), every=1, last=GraphSpec("pairs"), last_from=9)
    assert adapt(gossip, ("0", "1"), ANY) == Adapted(gossip)
    complete = GraphSpec("complete")
    assert adapt(gossip, ("0", "1", "2"), ANY).schedule == replace(gossip, graphs=(complete,), last=complete)


edges = st.sets(st.tuples(st.sampled_from("012345"), st.sampled_from("012345")).filter(lambda e: e[0] != e[1]))
requirements = st.sampled_from(
    [
        ANY,
        Requirements("d-psgd", doubly_stochastic=True),
        Requirements("d2", doubly_stochastic=True, check_graph=D2.check_graph),
    ]
)


@settings(deadline=None)
@given(st.lists(edges, min_size=1, max_size=3), st.sets(st.sampled_from("012345"), min_size=1), requirements)
def test_any_schedule_over_any_members_carries_the_run(
    lists: list[set[tuple[str, str]]], names: set[str], required: Requirements
) -> None:
    members = tuple(sorted(names))
    requested = Schedule(tuple(GraphSpec(f"g{i}", tuple(sorted(e))) for i, e in enumerate(lists)), every=2)
    adapted = adapt(requested, members, required)
    adapted.schedule.check(members)
    required.check(adapted.schedule, members)
    assert (adapted.schedule == requested) == (not adapted.difference)
    try:
        requested.check(members)
        required.check(requested, members)
    except GraphError:
        assert adapted.difference
    else:
        assert adapted.schedule == requested


FOUR = ("n0", "n1", "n2", "n3")


def schedule_of(*graphs: str) -> Schedule:
    return Schedule(tuple(map(GraphSpec, graphs)), 1)


def test_broken_link_is_left_out_of_the_requested_graph() -> None:
    adapted = adapt(schedule_of("complete"), FOUR, Requirements(), (("n1", "n2"),))
    assert (adapted.schedule.name, adapted.schedule.without) == ("complete", (("n1", "n2"),))
    assert adapted.difference == "graph complete is used without the broken link n1->n2"


def test_broken_link_that_no_graph_has_changes_nothing_but_is_named() -> None:
    adapted = adapt(schedule_of("a"), FOUR, Requirements(), (("n1", "n3"),))
    assert (adapted.schedule.without, adapted.difference) == ((("n1", "n3"),), "")


@pytest.mark.parametrize("broken", [(a, b) for a in FOUR for b in FOUR if a != b], ids=str)
def test_four_nodes_do_without_any_link_and_stay_balanced(broken: tuple[str, str]) -> None:
    """A ring in the other direction, if nothing else."""
    for graphs in (("a",), ("b",), ("c",), ("a", "b", "c"), ("exponential",), ("two-way",)):
        adapted = adapt(schedule_of(*graphs), FOUR, Requirements("d-psgd", doubly_stochastic=True), (broken,))
        assert adapted.schedule.without == (broken,)
        adapted.schedule.check(FOUR)
        for t in range(12):
            graph = adapted.schedule.graph(t, FOUR)
            assert broken not in graph.edges
            assert graph.is_doubly_stochastic


def test_links_are_left_out_one_after_the_other_as_far_as_a_graph_fits() -> None:
    """A node without any receiver would keep all that it learns."""
    three = FOUR[:3]
    adapted = adapt(schedule_of("complete"), three, Requirements(), (("n2", "n1"), ("n2", "n0")))
    assert adapted.schedule.without == (("n2", "n1"),)
    assert adapted.difference.endswith("; no graph fits without the broken link n2->n0")


def test_last_phase_keeps_its_edges() -> None:
    schedule = Schedule((GraphSpec("complete"),), 1, last=GraphSpec("complete"), last_from=10, without=(("n0", "n1"),))
    assert ("n0", "n1") not in schedule.graph(9, FOUR).edges
    assert ("n0", "n1") in schedule.graph(10, FOUR).edges


def test_exchange_that_is_too_short_for_all_in_pairs_is_of_all_at_once() -> None:
    """Of four nodes in pairs it has two rounds. A fifth one has joined."""
    five, requested = (*FOUR, "n4"), replace(schedule_of("doubling"), exchange=2)
    requirements = Requirements("diloco", fixed=True, spans_period=True)
    assert adapt(requested, FOUR, requirements) == Adapted(requested)
    adapted = adapt(requested, five, requirements)
    assert adapted.difference.startswith("graph complete is used instead of doubling: doubling takes 3 rounds")
    idle, complete = (adapted.schedule.graph(t, five).edges for t in (0, 1))
    assert (len(idle), len(complete)) == (0, 20)


def test_links_of_absent_nodes_do_not_matter() -> None:
    assert adapt(schedule_of("a"), FOUR, Requirements(), (("n1", "n9"),)) == Adapted(schedule_of("a"))
